# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether processes use or want a CPU: on a /proc of the test's own, and on real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_keeper.watch.activity import SHARE, TICK, Activity

from tests.unit.keeper.support import Proc


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_the_first_look_has_nothing_to_compare_with(proc: Proc) -> None:
    proc.set(7, ticks=50_000)
    assert Activity(proc.folder).look([7], 100.0) is None


def test_one_that_spins_is_active_and_one_that_sleeps_is_not(proc: Proc) -> None:
    proc.set(7, ticks=1000)
    activity = Activity(proc.folder)
    activity.look([7], 100.0)
    proc.set(7, ticks=1000 + TICK)
    assert activity.look([7], 101.0) is True
    assert activity.look([7], 102.0) is False


@pytest.mark.parametrize(("used", "active"), [(2 * SHARE, True), (SHARE / 2, False)])
def test_a_tenth_of_the_time_counts_whichever_of_them_used_it(proc: Proc, used: float, active: bool) -> None:
    for pid in (7, 8):
        proc.set(pid)
    activity = Activity(proc.folder)
    activity.look([7, 8], 100.0)
    for pid in (7, 8):
        proc.set(pid, ticks=int(used * TICK * 10 / 2))
    assert activity.look([7, 8], 110.0) is active


@pytest.mark.parametrize("wants", ["R", "D"])
def test_a_thread_that_waits_for_a_cpu_or_a_disk_counts_though_nothing_was_used(proc: Proc, wants: str) -> None:
    """A starved server has used next to no CPU: that is no deadlock."""
    proc.set(7, threads=f"SS{wants}S")
    activity = Activity(proc.folder)
    assert activity.look([7], 100.0) is True
    assert activity.look([7], 101.0) is True
    proc.set(7, threads="SSSS")
    assert activity.look([7], 102.0) is False


@pytest.mark.parametrize("stopped", ["T", "t"])
def test_where_one_is_stopped_none_counts_however_the_others_spin(proc: Proc, stopped: str) -> None:
    proc.set(7, state=stopped)
    proc.set(8, state="R", ticks=0)
    activity = Activity(proc.folder)
    assert activity.look([7, 8], 100.0) is False
    proc.set(8, state="R", ticks=TICK)
    assert activity.look([7, 8], 101.0) is False
    proc.set(7)
    assert activity.look([7, 8], 102.0) is True


def test_one_that_has_ended_is_no_activity_and_no_trouble(proc: Proc) -> None:
    proc.set(7, ticks=1000)
    proc.set(8, ticks=1000)
    activity = Activity(proc.folder)
    activity.look([7, 8], 100.0)
    shutil.rmtree(proc.folder / "8")
    assert activity.look([7, 8], 101.0) is False
    shutil.rmtree(proc.folder / "7")
    assert activity.look([7, 8], 102.0) is False


def test_nobody_at_all_is_not_active(proc: Proc) -> None:
    activity = Activity(proc.folder)
    assert activity.look([], 100.0) is None
    assert activity.look([], 101.0) is False


def test_a_clock_that_stood_still_says_nothing(proc: Proc) -> None:
    proc.set(7)
    activity = Activity(proc.folder)
    activity.look([7], 100.0)
    assert activity.look([7], 100.0) is None
    assert activity.look([7], 99.0) is None


def test_a_name_may_hold_anything(proc: Proc) -> None:
    proc.set(7, name="R) (x) R", ticks=0)
    activity = Activity(proc.folder)
    assert activity.look([7], 100.0) is None
    proc.set(7, name="R) (x) R", ticks=TICK)
    assert activity.look([7], 101.0) is True


def test_a_torn_stat_is_as_none(proc: Proc) -> None:
    (proc.folder / "7").mkdir()
    (proc.folder / "7" / "stat").write_text("7 (x) S 1")
    activity = Activity(proc.folder)
    activity.look([7], 100.0)
    assert activity.look([7], 101.0) is False


def test_what_was_forgotten_is_a_first_look_again(proc: Proc) -> None:
    proc.set(7)
    activity = Activity(proc.folder)
    activity.look([7], 100.0)
    activity.forget()
    proc.set(7, ticks=50_000)
    assert activity.look([7], 101.0) is None


@pytest.fixture
def spinner() -> Iterator[int]:
    child = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    yield child.pid
    child.kill()
    child.wait()


def test_real_processes_as_the_kernel_shows_them(spinner: int) -> None:
    activity = Activity()
    activity.look([spinner], time.monotonic())
    time.sleep(0.1)
    assert activity.look([spinner], time.monotonic()) is True
    os.kill(spinner, signal.SIGSTOP)
    os.waitid(os.P_PID, spinner, os.WSTOPPED | os.WNOWAIT)
    assert activity.look([spinner], time.monotonic()) is False
