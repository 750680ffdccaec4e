# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory: whole or set aside, safe against overlap, true across boots and clock jumps."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as s
from vllm_keeper import clock, state
from vllm_keeper.clock import Moment

moments = s.builds(Moment, wall=s.floats(0, 4e9), boot=s.floats(0, 1e8), boot_id=s.sampled_from(["boot-1", "boot-2"]))
maybe = s.none() | moments
starts = s.builds(
    state.Start,
    at=moments,
    planned=s.booleans(),
    pid=s.none() | s.integers(1, 99999),
    ready_at=maybe,
    ended_at=maybe,
    end=s.sampled_from(["", "failed", "purpose", "lost"]),
    reason=s.text(max_size=20),
)
states = s.builds(
    state.State,
    starts=s.lists(starts, max_size=5),
    parked=s.none() | s.builds(state.Parked, at=moments, cause=s.just("budget"), reason=s.text(max_size=9)),
    stopped=s.none() | s.builds(state.Stopped, at=moments, by=s.just("purpose")),
    intent=s.none() | s.builds(state.Intent, kind=s.just("repair"), at=moments),
)


@given(states)
def test_what_is_written_is_read(one: state.State) -> None:
    assert state.decode(state.encode(one)) == one


@given(states, s.data())
def test_a_torn_or_garbled_file_is_an_error_that_is_expected_or_still_whole(
    one: state.State, data: s.DataObject
) -> None:
    text = state.encode(one)
    cut = data.draw(s.integers(0, len(text)))
    torn = text[:cut] + data.draw(s.text(max_size=4)) + text[cut + data.draw(s.integers(0, 9)) :]
    with contextlib.suppress(ValueError):
        assert isinstance(state.decode(torn), state.State)


def store(folder: Path) -> tuple[state.Store, list[str]]:
    said: list[str] = []
    return state.Store(folder, "q", said.append), said


def test_a_torn_file_is_kept_aside_and_said(tmp_path: Path) -> None:
    one, said = store(tmp_path)
    (tmp_path / "q.json").write_text('{"version": 1, "sta')
    assert one.load() == state.State()
    aside = list(tmp_path.glob("q.json.torn-*"))
    assert len(aside) == 1 and aside[0].read_text() == '{"version": 1, "sta'
    assert len(said) == 1 and str(aside[0]) in said[0]
    assert one.load() == state.State() and len(said) == 1


def test_the_file_is_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    one, _said = store(tmp_path)
    one.update(lambda s_: setattr(s_, "stopped", state.Stopped(Moment(1, 1, "b"), "purpose")))
    assert (tmp_path / "q.json").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [".q.state.lock", "q.json"]
    assert json.loads((tmp_path / "q.json").read_text())["version"] == state.VERSION


def test_history_is_bounded(tmp_path: Path) -> None:
    one, _said = store(tmp_path)
    many = [state.Start(Moment(n, n, "b"), True) for n in range(state.KEEP_STARTS + 50)]
    one.update(lambda s_: s_.starts.extend(many))
    kept = one.load().starts
    assert len(kept) == state.KEEP_STARTS and kept[-1].at.wall == many[-1].at.wall


def test_a_directory_that_cannot_be_used_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one, _said = store(tmp_path / "file")
    with pytest.raises(state.StateError, match="file"):
        one.update(lambda s_: None)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from vllm_keeper.state import *\n"
        "one = Store(pathlib.Path(sys.argv[1]), 'q', print)\n"
        "for _ in range(8): one.update(lambda s: s.starts.append(Start(Moment(1, 1, 'b'), True)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(store(tmp_path)[0].load().starts) == 24


def test_a_lock_is_held_against_others_and_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from vllm_keeper.state import Store\n"
        "with Store(pathlib.Path(sys.argv[1]), 'q', print).lock('check') as held:\n"
        "    print(held, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "True"
        one, _said = store(tmp_path)
        with one.lock("check", wait=0) as held:
            assert held is False
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with one.lock("check", wait=0) as held:
        assert held is True


def test_killed_while_writing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from vllm_keeper.state import *\n"
        "one = Store(pathlib.Path(sys.argv[1]), 'q', print)\n"
        "while True: one.update(lambda s: s.starts.append(Start(Moment(1, 1, 'b'), True)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for pause in (0.0, 0.01, 0.05):
        (tmp_path / "q.json").unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) as writer:
            while not (tmp_path / "q.json").exists():
                time.sleep(0.01)
            time.sleep(pause)
            writer.kill()
    one, said = store(tmp_path)
    assert one.load().starts and said == []


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (Moment(1000, 50, "a"), Moment(1010, 60, "a"), 10),
        (Moment(1000, 50, "a"), Moment(9e9, 60, "a"), 10),  # the wall clock jumped ahead
        (Moment(1000, 50, "a"), Moment(0, 60, "a"), 10),  # and back
        (Moment(1000, 50, "a"), Moment(1100, 30, "b"), 100),  # another boot: what the wall clock says
        (Moment(1000, 50, "a"), Moment(0, 30, "b"), 30),  # but never less than the uptime
    ],
)
def test_age(then: Moment, now: Moment, expected: float) -> None:
    assert clock.age(then, now) == expected


@given(moments, moments)
def test_age_is_never_negative_and_never_less_than_this_boot_shows(then: Moment, now: Moment) -> None:
    seconds = clock.age(then, now)
    assert seconds >= 0
    if then.boot_id != now.boot_id:
        assert seconds >= now.boot


def test_the_real_clock_counts_from_process_1() -> None:
    one = clock.Clock()
    first, second = one.now(), one.now()
    assert 0 <= first.boot <= second.boot and first.boot_id == second.boot_id
    assert ":" in first.boot_id


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (0.6, "1 s"), (95, "1 min 35 s"), (3600, "1 h"), (90061, "1 d 1 h"), (-5, "0 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert clock.duration(seconds) == text
