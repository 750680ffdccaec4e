# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GET on a connection that stays: what it takes for an answer, and that no server holds it for longer than it may."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from vllm_keeper.watch.wire import Wire

from tests.unit.keeper.support import Peer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


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


def test_a_connection_is_lent_where_there_is_one_and_is_get_s_again(peer: Peer, wire: Wire) -> None:
    assert wire.lend("/x", 5) is None, "no connection yet"
    peer.answers = [OK, OK, OK]
    wire.get("/x", 5)
    lent = wire.lend("/y?name[]=z", 5)
    assert lent is not None
    link, question = lent
    link.send(question)
    assert link.recv(4096) == OK
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4096)  # as who waits for a longer answer does
    begun = time.monotonic()
    assert wire.get("/x", 5).body == b"hello"
    assert time.monotonic() - begun < 1
    assert peer.connections == 1
    assert peer.requests[1].startswith(b"GET /y?name[]=z HTTP/1.1\r\nHost: 127.0.0.1:")


def test_who_is_lent_it_waits_no_longer_than_agreed(peer: Peer, wire: Wire) -> None:
    peer.answers = [OK, None]
    wire.get("/x", 5)
    lent = wire.lend("/x", 0.2)
    assert lent is not None
    lent[0].send(lent[1])
    begun = time.monotonic()
    with pytest.raises(BlockingIOError):
        lent[0].recv(4096)
    assert 0.1 < time.monotonic() - begun < 1.5
