# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary: what is sent, what counts as refused, and that one is under way at most."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vllm_keeper.config import Instance
from vllm_keeper.probe import Server
from vllm_keeper.watch.canary import Canary, png
from vllm_keeper.watch.judgement import CanaryNews
from vllm_keeper.watch.settings import CanarySettings, WatchSettings

from tests.unit.keeper import support

TEXT, PICTURE, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/models"
KEY = "sk-secret-key"
WAIT = 20.0


class Api:
    """Answers by path; one that is changed while it runs answers the next request so."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[socket.socket], None]] = {}
        self.say(MODELS, 200, b'{"data": [{"id": "m"}]}')
        self.say(TEXT, 200, b'{"choices": [{"text": "x"}]}')
        self.say(PICTURE, 200, b'{"choices": [{"message": {"content": "x"}}]}')
        self.server = support.RawServer(lambda link, path: self.answers[path](link))

    def say(self, path: str, status: int, body: bytes = b"") -> None:
        self.answers[path] = lambda link: link.sendall(support.answer(status, body))

    @property
    def asked(self) -> list[str]:
        return [request.split(" ")[1] for request in self.server.requests]

    def body(self, number: int = -1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.requests[number].partition("\r\n\r\n")[2])
        return found


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.close()


class Woken:
    """A canary and whom it wakes."""

    def __init__(self, port: int, ready_check: str = "completion", **settings: Any) -> None:
        url = f"http://127.0.0.1:{port}"
        watch = WatchSettings(canary=CanarySettings(**settings))
        instance = Instance(name="q", unit="q.service", base_url=url, ready_check=ready_check, watch=watch)
        self.woken = threading.Semaphore(0)
        self.canary = Canary(instance, Server(url, KEY), self.woken.release)

    def send(self) -> CanaryNews:
        """One, until its end."""
        self.canary.send()
        assert self.woken.acquire(timeout=WAIT), "nobody was woken"
        return self.canary.news


def test_an_answer_is_news_and_wakes_the_watcher(api: Api) -> None:
    one = Woken(api.server.port, picture="never")
    before = time.monotonic()
    news = one.send()
    assert (news.since, news.kind, news.refused) == (None, "ok", "")
    assert news.done is not None
    assert before <= news.done <= time.monotonic()
    assert one.canary.sent == {"ok": 1}
    assert one.canary.seconds > 0


def test_it_is_one_token_of_the_servers_own_model_with_the_key(api: Api) -> None:
    Woken(api.server.port, picture="never").send()
    assert api.asked == [MODELS, TEXT]
    assert api.body() == {"model": "m", "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    assert all(f"Authorization: Bearer {KEY}" in request for request in api.server.requests)


def test_the_model_is_asked_for_once_and_again_of_another_process(api: Api) -> None:
    one = Woken(api.server.port, picture="never")
    one.send()
    one.send()
    assert api.asked == [MODELS, TEXT, TEXT]
    one.canary.reset()
    one.send()
    assert api.asked[3:] == [MODELS, TEXT]


def test_a_picture_goes_with_the_first_and_then_now_and_then(api: Api) -> None:
    at = [100.0]
    one = Woken(api.server.port, picture_every=60)
    one.canary._clock = lambda: at[0]
    for moment in (100.0, 101.0, 159.0, 161.0):
        at[0] = moment
        assert one.send().kind == "ok"
    assert api.asked == [MODELS, PICTURE, TEXT, TEXT, PICTURE]
    content = api.body()["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert content[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert api.body()["max_tokens"] == 1


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_model_that_takes_no_pictures_gets_text_alone_from_then_on(api: Api, status: int) -> None:
    api.say(PICTURE, status, b'{"error": {"message": "qwen3 is not a multimodal model"}}')
    one = Woken(api.server.port, picture_every=0)
    assert one.send() == CanaryNews(None, one.canary.news.done, "ok", one.canary.news.detail, "")
    one.send()
    assert api.asked == [MODELS, PICTURE, TEXT, TEXT]


def test_a_picture_that_must_be_taken_and_is_not_is_refused(api: Api) -> None:
    api.say(PICTURE, 400, b'{"error": {"message": "no pictures"}}')
    one = Woken(api.server.port, picture="always")
    assert "status 400 (no pictures)" in one.send().refused
    assert api.asked == [MODELS, PICTURE]


def test_a_server_error_of_a_picture_is_the_servers_and_no_missing_ability(api: Api) -> None:
    api.say(PICTURE, 500)
    one = Woken(api.server.port, picture_every=0)
    news = one.send()
    assert (news.kind, news.refused) == ("status", "")
    one.send()
    assert api.asked == [MODELS, PICTURE, PICTURE]


@pytest.mark.parametrize(("path", "status"), [(TEXT, 401), (TEXT, 403), (TEXT, 404), (MODELS, 401), (MODELS, 404)])
def test_what_will_never_be_answered_is_asked_once(api: Api, path: str, status: int) -> None:
    api.say(path, status, b'{"error": {"message": "no"}}')
    one = Woken(api.server.port, picture="never")
    news = one.send()
    assert f"{path}: status {status} (no)" in news.refused
    assert KEY not in str(news)
    asked = len(api.asked)
    one.canary.send()
    assert not one.woken.acquire(timeout=0.1)
    assert len(api.asked) == asked
    one.canary.reset()
    one.send()
    assert len(api.asked) > asked


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_what_another_try_may_mend_is_not_refused(api: Api, status: int) -> None:
    api.say(TEXT, status)
    one = Woken(api.server.port, picture="never")
    news = one.send()
    assert (news.kind, news.refused) == ("status", "")
    api.say(TEXT, 200, b"{}")
    assert one.send().kind == "ok"
    assert one.canary.sent == {"status": 1, "ok": 1}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data": []}', b"[1]", b'{"data": [{"name": "m"}]}', b"\xff"])
def test_a_server_that_names_no_model_is_broken(api: Api, body: bytes) -> None:
    api.say(MODELS, 200, body)
    news = Woken(api.server.port).send()
    assert (news.kind, news.detail, news.refused) == ("broken", "GET /v1/models: names no model", "")


def test_one_that_is_not_answered_in_time_is_a_timeout(api: Api) -> None:
    api.answers[TEXT] = lambda _link: time.sleep(WAIT)
    news = Woken(api.server.port, picture="never", timeout=0.2).send()
    assert (news.kind, news.refused) == ("timeout", "")


def test_a_server_that_is_gone_is_no_refusal() -> None:
    news = Woken(support.free_port()).send()
    assert (news.kind, news.refused) == ("refused", "")


def held(api: Api) -> tuple[threading.Event, threading.Event]:
    """The text's answer, held back: (it was asked, it may be answered)."""
    asked, answer = threading.Event(), threading.Event()

    def behave(link: socket.socket) -> None:
        asked.set()
        answer.wait(WAIT)
        link.sendall(support.answer(200, b"{}"))

    api.answers[TEXT] = behave
    return asked, answer


def test_there_is_one_under_way_at_most(api: Api) -> None:
    asked, answer = held(api)
    one = Woken(api.server.port, picture="never")
    one.canary.send()
    assert asked.wait(WAIT)
    since = one.canary.news.since
    assert since is not None
    one.canary.send()
    one.canary.send()
    assert one.canary.news.since == since
    answer.set()
    assert one.woken.acquire(timeout=WAIT)
    assert api.asked == [MODELS, TEXT]


def test_an_answer_of_the_process_before_is_no_news_of_this_one(api: Api) -> None:
    asked, answer = held(api)
    one = Woken(api.server.port, picture="never")
    one.canary.send()
    assert asked.wait(WAIT)
    one.canary.reset()
    assert one.canary.news == CanaryNews()
    api.say(TEXT, 500)
    news = one.send()  # not held up by the first
    assert news.kind == "status"
    answer.set()
    end = time.monotonic() + WAIT
    while one.canary.sent != {"ok": 1, "status": 1}:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert one.canary.news == news
    assert not one.woken.acquire(timeout=0.05)


@pytest.mark.parametrize("priority", [0, -100])
def test_a_priority_is_sent_only_where_one_is_set(api: Api, priority: int) -> None:
    """vLLM refuses any but 0 where it does not schedule by priority."""
    one = Woken(api.server.port, priority=priority, picture_every=60)
    one.send()
    assert api.body().get("priority") == (priority or None)
    one.send()
    assert (api.asked[-1], api.body().get("priority")) == (TEXT, priority or None)


def test_a_model_without_completions_is_sent_none(api: Api) -> None:
    one = Woken(api.server.port, ready_check="health")
    assert "ready_check: health" in one.canary.news.refused
    one.canary.send()
    one.canary.reset()
    one.canary.send()
    assert not one.woken.acquire(timeout=0.1)
    assert api.asked == []


def test_its_own_fault_is_told_and_ends_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_keywords: object) -> None:
        raise ZeroDivisionError("x")

    one = Woken(api.server.port)
    monkeypatch.setattr(one.canary._server, "get", fail)
    assert one.send().detail == "the canary itself: ZeroDivisionError: x"
    assert one.canary.news.since is None


@pytest.mark.parametrize("side", [1, 32, 100])
def test_the_picture_is_a_valid_png(side: int) -> None:
    data = png(side)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        (check,) = struct.unpack(">I", data[place + 8 + size : place + 12 + size])
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    # Width, height, 8 bit, grey; no compression, filter or interlace but the usual.
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (side, side, 8, 0, 0, 0, 0)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == side * (side + 1)
    assert all(rows[number * (side + 1)] == 0 for number in range(side))  # of each row: no filter
