# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known now, and for whom it is fresh enough."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import processes
from vllm_keeper.watch import board as boards
from vllm_keeper.watch.board import FILE, FRESH, Board, Shown


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1000.0]
    monkeypatch.setattr(boards, "now", lambda: at[0])
    return at


def written(folder: Path, **changes: Any) -> None:
    """A view as a watcher writes it, with CHANGES of the file."""
    board = Board()
    board.show("q", verdict="healthy")
    boards.write(board, folder)
    data = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    "verdict", ["starting", "hung", "dead", "draining", "gpu_fault", "parked", "stopped", "unknown"]
)
def test_only_who_is_healthy_or_busy_is_ready(verdict: str) -> None:
    assert not Shown(verdict=verdict).ready
    assert Shown(verdict="healthy").ready
    assert Shown(verdict="busy").ready
    assert not Shown(verdict="healthy", drained="by hand").ready
    assert not Shown(verdict="busy", mute=True).ready


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (Shown(verdict="healthy"), "healthy"),
        (Shown(verdict="busy", mute=True), "mute"),
        (Shown(verdict="hung", mute=True), "hung"),
        (Shown(verdict="busy", mute=True, drained="by hand"), "by hand"),
    ],
)
def test_it_says_why_in_a_word(shown: Shown, why: str) -> None:
    assert shown.why == why


def test_a_view_that_still_holds_is_as_fresh_as_a_new_one(now: list[float]) -> None:
    board = Board(lambda: now[0])
    board.still["q"] = (now[0], b"")
    assert board.all() == {}, "nothing was shown yet"
    board.show("q", verdict="busy", reason="5 requests run, 1 wait", running=5.0)
    assert board.all()["q"].running == 5.0
    now[0] = 1009.0
    board.still["q"] = (now[0], b"\nvllm:num_requests_running 7.0\nvllm:num_requests_waiting 3.0\n")
    shown = board.all()["q"]
    assert (shown.looked, shown.since, shown.verdict) == (1009.0, 1000.0, "busy")
    assert (shown.running, shown.waiting, shown.reason) == (7.0, 3.0, "7 requests run, 3 wait")
    board.remove("q")
    now[0] = 1010.0
    assert board.show("q").looked == 1010.0


def test_a_verdict_is_dated_by_the_first_look_that_saw_it(now: list[float]) -> None:
    board = Board()
    board.show("q", verdict="healthy")
    now[0] = 1005.0
    assert board.show("q", verdict="healthy", reason="again").since == 1000.0
    now[0] = 1006.0
    shown = board.show("q", verdict="hung")
    assert (shown.since, shown.looked, shown.reason) == (1006.0, 1006.0, "again")


def test_a_view_survives_being_written_and_read(tmp_path: Path) -> None:
    board = Board()
    shown = board.show("q", verdict="busy", canaries={"ok": 3}, repairs={"hung": 1}, detection=(1, 1.5, 1.5))
    boards.write(board, tmp_path / "run")
    assert boards.read(tmp_path / "run") == {"q": shown}
    assert boards.of("q", tmp_path / "run") == shown
    assert boards.of("other", tmp_path / "run") is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    assert (tmp_path / "run" / FILE).stat().st_mode & 0o444 == 0o444


def test_a_view_that_nobody_renews_is_none(tmp_path: Path, now: list[float]) -> None:
    written(tmp_path)
    now[0] += FRESH
    assert boards.of("q", tmp_path) is not None
    now[0] += 0.1
    assert boards.read(tmp_path) is None
    now[0] = 999.0  # written before the last boot, whose clock was further on
    assert boards.read(tmp_path) is None


def test_a_heartbeat_alone_does_not_keep_an_instance_fresh(tmp_path: Path, now: list[float]) -> None:
    """Its thread hangs, while the process goes on."""
    board = Board()
    board.show("q", verdict="healthy")
    now[0] += FRESH + 1
    board.show("other", verdict="healthy")
    boards.write(board, tmp_path)
    assert boards.of("q", tmp_path) is None
    assert boards.of("other", tmp_path) is not None


def test_of_another_process_that_got_the_same_pid_it_is_none(tmp_path: Path) -> None:
    me = processes.read(os.getpid())
    assert me is not None
    written(tmp_path, born=me.born)
    assert boards.read(tmp_path) is not None
    written(tmp_path, born=me.born + 1)
    assert boards.read(tmp_path) is None


def test_of_a_dead_or_undead_process_it_is_none(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    zombie = processes.read(child.pid)
    assert zombie is not None
    assert zombie.zombie
    written(tmp_path, pid=child.pid, born=zombie.born)
    assert boards.read(tmp_path) is None
    child.wait()
    assert boards.read(tmp_path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "x"}, {"pid": None}, {"born": None}, {"at": "soon"}, {"at": None}, {"instances": []},
        {"instances": {"q": {"colour": "red"}}}, {"instances": {"q": 7}}, {"instances": None},
    ],
)  # fmt: skip
def test_a_view_that_is_not_understood_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, **changes)
    assert boards.read(tmp_path) is None
    assert boards.of("q", tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null"])
def test_a_torn_view_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert boards.read(tmp_path) is None


def test_no_view_at_all_is_none(tmp_path: Path) -> None:
    assert boards.read(tmp_path) is None


def test_an_instance_that_left_is_not_shown(now: list[float]) -> None:
    board = Board()
    board.show("q")
    board.show("r")
    board.remove("q")
    board.remove("never there")
    assert sorted(board.all()) == ["r"]


def test_many_threads_lose_nothing() -> None:
    board = Board()

    def show(name: str) -> None:
        for number in range(300):
            board.show(name, running=float(number))

    threads = [threading.Thread(target=show, args=(f"q{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.running for one in board.all().values()} == {299.0}
    assert len(board.all()) == 8
