# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher does between two whole looks: which answers will do, and what it leaves to a whole look."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vllm_keeper.watch import watcher as watchers
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.settings import WatchSettings
from vllm_keeper.watch.watcher import Watcher

from tests.unit.keeper import support
from tests.unit.keeper.support import Peer, chunked

OK = support.answer(200, b"hello")


def metrics(steps: int, waiting: int = 0, more: int = 0) -> bytes:
    return (
        f'# HELP {"x" * more}\nvllm:iteration_tokens_total_count{{engine="0"}} {steps}.0\n'
        f'vllm:num_requests_running{{engine="0"}} 8.0\nvllm:num_requests_waiting{{engine="0"}} {waiting}.0\n'
    ).encode()


class Calm:
    """A watcher that has just seen a server of which all was well."""

    def __init__(self, folder: Path, peer: Peer) -> None:
        context = support.context_for(folder, port=int(peer.url.rpartition(":")[2]))
        context.instance = replace(context.instance, watch=WatchSettings(interval=0.02))
        self.peer, self.board = peer, Board()
        self.board.show("q", verdict="healthy")
        self.watcher = Watcher(context, self.board)
        self.watcher.family.wait(0)
        self.watcher._calm, self.watcher._said = True, metrics(0)

    def connect(self) -> None:
        self.peer.answers.insert(0, OK)
        assert self.get() == b"hello"

    def get(self) -> bytes:
        return self.watcher._server.get("/x", 5).body

    def glances(self, at_most: int = 99) -> int:
        """How many did; a whole look is due, or AT_MOST were had."""
        # It tells of each wait before it, and of one more than there are glances.
        return sum(1 for _number, _pause in zip(range(at_most + 1), self.watcher.rest(0))) - 1


@pytest.fixture
def calm(tmp_path: Path) -> Iterator[Calm]:
    peer = Peer()
    made = Calm(tmp_path, peer)
    yield made
    made.watcher._server.close()
    made.watcher.close()
    peer.listener.close()


def test_while_it_goes_on_one_connection_will_do(calm: Calm) -> None:
    calm.connect()
    calm.peer.answers += [*(chunked(200, metrics(steps)) for steps in (1, 2, 3, 3)), OK]
    assert calm.glances() == 3, "and no step between the last two"
    assert calm.board.all()["q"].running == 8
    assert calm.get() == b"hello"
    assert calm.peer.connections == 1


@pytest.mark.parametrize(
    "other",
    [
        chunked(200, metrics(1)).replace(b"\r\n0\r\n\r\n", b"\r\n0\r\nTrailer: 1\r\n\r\n"),
        OK,  # not in chunks: where it ends is for a whole look to find
        chunked(200, metrics(1)).replace(b" 200 ", b" 503 "),
        chunked(200, metrics(1))[:-2],
        b"garbled",
        None,
    ],
)
def test_what_is_not_plain_is_left_to_a_whole_look(calm: Calm, other: bytes | None) -> None:
    calm.connect()
    calm.peer.answers += [other, OK]
    begun = time.monotonic()
    assert calm.glances() == 0
    assert time.monotonic() - begun < 1.5
    assert calm.get() == b"hello", "on a connection of its own"
    assert calm.peer.connections == 2


def test_a_server_that_closes_is_connected_anew(calm: Calm) -> None:
    calm.connect()
    calm.peer.answers += [chunked(200, metrics(1)), OK]
    calm.peer.close_after = True
    assert calm.glances() == 1
    assert calm.get() == b"hello"
    assert calm.peer.connections == 2


def test_an_answer_may_come_in_parts_of_any_length(calm: Calm) -> None:
    calm.connect()
    calm.peer.parts = 60, 0.05  # bytes of the head, seconds until the rest
    lengths = [2000, 2030, 5000, 100, 100]
    calm.peer.answers += [chunked(200, metrics(steps, more=length)) for steps, length in enumerate(lengths, 1)]
    begun = time.monotonic()
    assert calm.glances(len(lengths)) == len(lengths)
    assert time.monotonic() - begun < len(lengths) * 0.4
    assert calm.peer.connections == 1


def test_an_answer_that_is_of_another_kind_of_length_is_left_to_a_whole_look(calm: Calm) -> None:
    calm.connect()
    calm.peer.answers += [chunked(200, metrics(1)), chunked(200, metrics(2, more=20000)), OK]
    assert calm.glances() == 1
    assert calm.get() == b"hello", "and none of the rest"


def test_a_queue_is_told_when_it_comes_and_when_it_goes(calm: Calm) -> None:
    calm.connect()
    seen = []
    calm.peer.answers += [chunked(200, metrics(steps, waiting)) for steps, waiting in enumerate([0, 4, 2, 0, 0], 1)]
    for _number, _pause in zip(range(6), calm.watcher.rest(0)):
        shown = calm.board.all()["q"]
        seen.append((shown.verdict, shown.waiting))
    assert seen[1:] == [("healthy", 0), ("busy", 4), ("busy", 2), ("healthy", 0), ("healthy", 0)]


def test_what_happens_meanwhile_ends_it_and_is_taken(calm: Calm) -> None:
    calm.connect()
    rest = calm.watcher.rest(30)
    assert next(rest) == 30
    calm.watcher.family.wake()
    begun = time.monotonic()
    assert list(rest) == []
    calm.watcher.family.wait(0.05)
    assert 0.05 <= time.monotonic() - begun < 5, "there is nothing left to be woken by"
    assert calm.peer.requests[1:] == []


@pytest.mark.parametrize("why", ["no connection", "not well"])
def test_it_only_waits_where_a_whole_look_is_next(calm: Calm, why: str) -> None:
    if why == "not well":
        calm.connect()
        calm.watcher._calm = False
    begun = time.monotonic()
    assert list(calm.watcher.rest(0.05)) == [0.05]
    assert time.monotonic() - begun >= 0.05
    assert calm.peer.requests[1:] == []


def test_a_whole_look_comes_in_time(calm: Calm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "GLANCES", 0.3)
    calm.connect()
    calm.peer.answers += [chunked(200, metrics(steps)) for steps in range(1, 60)]
    begun = time.monotonic()
    assert 2 <= calm.glances() <= 15
    assert 0.3 <= time.monotonic() - begun < 2
