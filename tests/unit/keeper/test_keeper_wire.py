# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GET on a connection that stays: what it takes for an answer, and that no server holds it for longer than it may."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from vllm_keeper.watch.wire import Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Peer:
    """Answers each request with the next of what it was told to say; None: says nothing more, and keeps it open."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answers: list[bytes | None] = []
        self.connections, self.requests = 0, list[bytes]()
        self.close_after = False
        self.pause = 0.0
        self.parts = 0, 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                link, _address = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(link,), daemon=True).start()

    def _talk(self, link: socket.socket) -> None:
        with link, contextlib.suppress(ConnectionError):  # who asks may give up
            while request := link.recv(65536):
                self.requests.append(request)
                # As it was when it was asked: a test may change it once it has its answer.
                answer, closes = self.answers.pop(0), self.close_after
                if answer is None:
                    link.recv(1)
                    return
                if self.pause:
                    for number in range(len(answer)):
                        link.sendall(answer[number : number + 1])
                        time.sleep(self.pause)
                first, pause = self.parts
                if first:
                    link.sendall(answer[:first])
                    time.sleep(pause)
                link.sendall(b"" if self.pause else answer[first:])
                if closes:
                    return


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.listener.close()


@pytest.fixture
def wire(peer: Peer) -> Iterator[Wire]:
    made = Wire(peer.url)
    yield made
    made.close()


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\nTrailer: 1\r\n\r\n"


def test_one_connection_for_all(peer: Peer, wire: Wire) -> None:
    peer.answers = [OK, chunked(b"a" * 70000, b"b"), b"HTTP/1.1 204 No Content\r\n\r\n", OK]
    found = [wire.get("/x", 5) for _ in range(4)]
    assert [(one.kind, one.status) for one in found] == [("ok", 200), ("ok", 200), ("status", 204), ("ok", 200)]
    assert [one.body for one in found] == [b"hello", b"a" * 70000 + b"b", b"", b"hello"]
    assert peer.connections == 1
    assert peer.requests[0].startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
)
def test_the_server_s_close_is_heeded(peer: Peer, wire: Wire, answer: bytes) -> None:
    peer.answers, peer.close_after = [answer, answer], True
    assert [wire.get("/", 5).body for _ in range(2)] == [b"hello"] * 2
    assert peer.connections == 2


def test_a_connection_that_was_closed_meanwhile_is_made_anew(peer: Peer, wire: Wire) -> None:
    peer.answers, peer.close_after = [OK, OK, OK], True
    assert [wire.get("/", 5).kind for _ in range(3)] == ["ok"] * 3
    assert peer.connections == 3


def test_what_nobody_asked_for_is_nobody_s_answer(peer: Peer, wire: Wire) -> None:
    peer.answers = [OK + OK.replace(b"hello", b"other"), OK]
    assert wire.get("/", 5).body == b"hello"
    assert wire.get("/", 5).body == b"hello"
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status", "status 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "broken", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broken", "ValueError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n", "broken", "more than"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "broken", "headers longer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello", "timeout", "within 0.3 s"),
        (None, "timeout", "within 0.3 s"),
    ],
)
def test_what_is_no_good_answer(peer: Peer, wire: Wire, answer: bytes | None, kind: str, words: str) -> None:
    peer.answers = [answer]
    found = wire.get("/x", 0.3)
    assert found.kind == kind
    assert words in found.detail
    assert found.seconds < 2
    if kind != "status":
        peer.answers = [OK]
        assert wire.get("/x", 5).kind == "ok"


def test_a_server_that_drips_does_not_hold_it(peer: Peer, wire: Wire) -> None:
    peer.answers, peer.pause = [OK], 0.1
    found = wire.get("/", 0.5)
    assert found.kind == "timeout"
    assert found.seconds < 2


def test_nobody_listens(peer: Peer) -> None:
    url = peer.url
    peer.listener.shutdown(socket.SHUT_RDWR)
    peer.listener.close()
    assert Wire(url).get("/", 1).kind == "refused"


def test_a_path_that_cannot_be_asked_for(peer: Peer, wire: Wire) -> None:
    assert wire.get("/größe", 1).kind == "broken"


def plain(text: bytes) -> bytes:
    """As vLLM answers."""
    return chunked(text).replace(b"Trailer: 1\r\n", b"")


def test_a_quick_question_has_its_answer_where_the_connection_is_there(peer: Peer, wire: Wire) -> None:
    assert wire.quick("/x", 5) == b"", "no connection yet"
    peer.answers = [OK, plain(b"counter 1\n"), plain(b"counter 2\n"), OK]
    wire.get("/x", 5)
    assert [b"counter 1" in wire.quick("/x", 5), b"counter 2" in wire.quick("/x", 5)] == [True, True]
    assert wire.get("/x", 5).body == b"hello"
    assert peer.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        chunked(b"counter 1\n"),  # with trailers
        OK,  # not in chunks: where it ends is for get() to find
        plain(b"counter 1\n").replace(b"200 OK", b"503 Busy"),
        plain(b"counter 1\n")[:-2],
        b"garbled",
        None,
    ],
)
def test_what_is_not_plain_is_left_to_a_whole_question(peer: Peer, wire: Wire, answer: bytes | None) -> None:
    peer.answers = [OK, answer, OK]
    wire.get("/x", 5)
    begun = time.monotonic()
    assert wire.quick("/x", 0.3) == b""
    assert time.monotonic() - begun < 1.5
    assert wire.get("/x", 5).body == b"hello", "on a connection of its own"
    assert peer.connections == 2


def test_a_server_that_closes_after_a_quick_answer_is_connected_anew(peer: Peer, wire: Wire) -> None:
    peer.answers = [OK, plain(b"counter 1\n"), OK]
    wire.get("/x", 5)
    peer.close_after = True
    assert b"counter 1" in wire.quick("/x", 5)
    assert wire.quick("/x", 5) == b""
    assert wire.get("/x", 5).body == b"hello"
    assert peer.connections == 2


def test_a_quick_answer_may_come_in_parts_of_any_length(peer: Peer, wire: Wire) -> None:
    lengths = [2000, 2030, 20000, 100]
    peer.answers = [OK, *(plain(b"x" * length) for length in lengths), OK]
    wire.get("/x", 5)
    peer.parts = 100, 0.05  # bytes of the head, seconds until the rest
    for length in lengths:
        begun = time.monotonic()
        assert b"x" * length in wire.quick("/x", 1.0)
        assert time.monotonic() - begun < 0.9
    assert wire.get("/x", 5).body == b"hello"
    assert peer.connections == 1
