# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary: a real one-token completion, now and then with a picture, one at a time, in a thread of its own.

It is work that the watcher knows to be outstanding. It is sent when nothing else is, so it costs an idle GPU one step.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm_keeper.config import Instance
from vllm_keeper.probe import Answer, Server
from vllm_keeper.watch.judgement import CanaryNews
from vllm_keeper.watch.settings import CanarySettings

NOT_ITS_FAULT = (408, 425, 429)  # of the client errors: those that another try may mend
SIDE = 32  # pixels: one patch of the vision tower


class Canary:
    def __init__(
        self, instance: Instance, server: Server, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings: CanarySettings = instance.watch.canary
        self._server, self._wake, self._clock = server, wake, clock
        self._lock = threading.Lock()
        self._generation = 0
        self._needless = "it answers no completions (ready_check: health)" if instance.ready_check == "health" else ""
        self.sent: dict[str, int] = {}  # by outcome
        self.seconds = 0.0
        self.reset()

    def reset(self) -> None:
        """Another process is watched: what was asked of the last one says nothing of this one."""
        with self._lock:
            self._generation += 1
            self._news = CanaryNews(refused=self._needless)
            self._model, self._pictures, self._picture_at = "", self.settings.picture != "never", float("-inf")

    @property
    def news(self) -> CanaryNews:
        with self._lock:
            return self._news

    def send(self) -> None:
        """Unless one is under way."""
        with self._lock:
            if self._news.since is not None or self._news.refused:
                return
            self._news = replace(self._news, since=self._clock())
            generation = self._generation
        threading.Thread(target=self._ask, args=(generation,), name="canary", daemon=True).start()

    def _ask(self, generation: int) -> None:
        begun = self._clock()
        try:
            answer, refused = self._answer(begun)
        except Exception as error:  # a thread's trouble would be told nowhere, and the canary never be done
            answer, refused = Answer("broken", f"the canary itself: {type(error).__name__}: {error}"), ""
        done = self._clock()
        with self._lock:
            self.sent[answer.kind] = self.sent.get(answer.kind, 0) + 1
            self.seconds += done - begun
            if generation != self._generation:
                return
            self._news = CanaryNews(None, done, answer.kind, answer.detail, refused)
        self._wake()

    def _answer(self, begun: float) -> tuple[Answer, str]:
        if not self._model:
            models = self._server.get("/v1/models", self.settings.timeout, with_key=True)
            if models.kind != "ok":
                return models, _refused(models)
            try:
                self._model = str(json.loads(models.body)["data"][0]["id"])
            except (ValueError, KeyError, IndexError, TypeError):
                return Answer("broken", "GET /v1/models: names no model", models.status), ""
        if self._pictures and begun - self._picture_at >= self.settings.picture_every:
            answer = self._server.post("/v1/chat/completions", self._with_picture(), self.settings.timeout)
            if self.settings.picture == "always" or not _refused(answer):
                self._picture_at = begun
                return answer, _refused(answer)
            self._pictures = False  # a model for text alone
        answer = self._server.post("/v1/completions", self._request(prompt="Hello"), self.settings.timeout)
        return answer, _refused(answer)

    def _request(self, **what: Any) -> dict[str, Any]:
        priority = {"priority": self.settings.priority} if self.settings.priority else {}
        return {"model": self._model, "max_tokens": 1, "temperature": 0, **priority, **what}

    def _with_picture(self) -> dict[str, Any]:
        url = "data:image/png;base64," + base64.b64encode(png()).decode("ascii")
        content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
        return self._request(messages=[{"role": "user", "content": content}])


def _refused(answer: Answer) -> str:
    """Why this will never be answered: a wrong key, no such endpoint, a model without that ability."""
    definite = answer.status is not None and 400 <= answer.status < 500 and answer.status not in NOT_ITS_FAULT
    return answer.detail if definite else ""


def png(side: int = SIDE) -> bytes:
    """A grey square (PNG, 8 bit grey scale)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x80" * side) * side
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
