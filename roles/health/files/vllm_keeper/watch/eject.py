# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Out of AWS's target groups before a repair, and back once it serves again; in a thread, as AWS may take its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.log import Log

WAIT = 3.0  # seconds that a repair waits to be out: a hung server serves nobody, and longer would only prolong that
AGAIN = 30.0  # between two tries to be put back


class Ejector:
    """What was taken out is remembered by the tool itself, so that a restarted keeper puts it back."""

    def __init__(self, aws: Aws, log: Log, clock: Callable[[], float]) -> None:
        self.aws, self.log, self._clock = aws, log, clock
        self._lock = threading.Lock()
        self._busy = False
        self._tried = float("-inf")

    @property
    def out(self) -> bool:
        return (self.aws.memory / f"{self.aws.name}.json").exists()

    def leave(self) -> None:
        thread = self._begin("taken out of its target groups", self.aws.deregister)
        if thread is not None:
            thread.join(WAIT)

    def come_back(self) -> None:
        """To be called again and again while it serves."""
        if self.out and self._clock() - self._tried >= AGAIN:
            self._tried = self._clock()
            self._begin("put back into its target groups", self.aws.register)

    def _begin(self, words: str, ask: Callable[[], dict[str, Any]]) -> threading.Thread | None:
        with self._lock:
            if self._busy:
                return None
            self._busy = True
        thread = threading.Thread(target=self._run, args=(words, ask), name="aws", daemon=True)
        thread.start()
        return thread

    def _run(self, words: str, ask: Callable[[], dict[str, Any]]) -> None:
        try:
            answer = ask()
            if answer.get("changed"):
                self.log.notice(words)
            else:
                results = ", ".join(
                    f"{group.get('target_group', '?')}: {group.get('result', '?')}"
                    for group in answer.get("target_groups", [])
                )
                self.log.info(f"nothing to be {words} ({results or 'nothing was out'})")
        except AwsError as error:
            self.log.error(f"not {words}: {error}")
        finally:
            with self._lock:
                self._busy = False
