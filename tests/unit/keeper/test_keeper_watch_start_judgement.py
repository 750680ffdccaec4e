# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A start that stands still is ended, one that loads slowly never: the laws, and real starts that were recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper.watch.settings import WatchSettings
from vllm_keeper.watch.start_judgement import HUM, MOST, STOPPED_AFTER, StartJudgement, StartMemory, judge_start
from vllm_keeper.watch.vital_signs import Signs

SETTINGS = WatchSettings()
LIMIT = SETTINGS.start_stall_after
NOTHING = Signs(False, False, False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {}, "")
SIGNS = ("changed", "runnable", "disk", "cpu", "read", "written", "received", "faults", "gpu")
RECORDED = Path(__file__).parent / "recorded" / "starts"
PID = 42


def watch(
    looks: Iterable[tuple[float, Signs]], settings: WatchSettings = SETTINGS, answers: bool | None = False
) -> tuple[float | None, StartJudgement]:
    """(after how many seconds it is ended, None if it never is; the last judgement)"""
    memory, at, found = StartMemory(), 0.0, StartJudgement()
    for pause, signs in looks:
        at += pause
        memory, found = judge_start(memory, at, PID, signs, answers, settings)
        if found.reason:
            return at, found
    return None, found


def moves(name: str, times: float = 1.0) -> Signs:
    """More of one sign in one look than an idle process does in the whole limit."""
    if name in ("changed", "runnable", "disk"):
        return replace(NOTHING, **{name: True})
    return replace(NOTHING, **{name: (HUM[name].rate * LIMIT + HUM[name].burst) * 1.01 * times + 1.0})


def test_a_start_in_which_nothing_moves_is_ended_after_the_limit_and_a_few_looks() -> None:
    after, found = watch([(1.0, NOTHING)] * 200)

    assert after is not None and LIMIT < after <= LIMIT + 3
    assert "stands still" in found.reason and "60 s" in found.reason


def test_a_stopped_process_is_not_waited_for_so_long() -> None:
    after, found = watch([(1.0, replace(NOTHING, stopped={7: "VLLM::EngineCore"}))] * 200)

    assert after is not None and STOPPED_AFTER < after <= STOPPED_AFTER + 3
    assert "VLLM::EngineCore (pid 7)" in found.reason


@given(name=some.sampled_from(SIGNS), amount=some.floats(1, 1e6))
def test_what_others_do_does_not_hide_a_stopped_process(name: str, amount: float) -> None:
    looks = [(1.0, replace(moves(name, amount), stopped={7: "vllm"}))] * 20

    assert watch(looks)[0] == pytest.approx(STOPPED_AFTER + 2)


@given(some.lists(some.integers(1, int(STOPPED_AFTER)), min_size=1, max_size=30))
def test_a_process_that_is_let_go_again_was_not_stopped_for_long(stretches: list[int]) -> None:
    looks = []
    for stretch in stretches:
        looks += [(1.0, replace(moves("cpu"), stopped={7: "vllm"}))] * stretch + [(1.0, moves("cpu"))]

    assert watch(looks)[0] is None


@given(
    some.lists(
        some.tuples(some.sampled_from([one for one in SIGNS if one != "runnable"]), some.integers(0, int(LIMIT) - 2)),
        max_size=20,
    )
)
def test_never_ended_while_any_sign_moves_once_within_the_limit(story: list[tuple[str, int]]) -> None:
    looks = []
    for name, quiet in story:
        looks += [(1.0, NOTHING)] * quiet + [(1.0, moves(name))]

    assert watch(looks)[0] is None


@given(name=some.sampled_from([*SIGNS]), pauses=some.lists(some.floats(0.05, 100), min_size=1, max_size=200))
def test_never_ended_by_what_is_not_known(name: str, pauses: list[float]) -> None:
    unknown = replace(NOTHING, **{name: None})

    assert watch([(pause, unknown) for pause in pauses])[0] is None


def test_nor_by_locks_that_nobody_looked_for_but_they_are_asked_for() -> None:
    after, found = watch([(1.0, replace(NOTHING, lock=None))] * 300)

    assert (after, found.ask) == (None, True)


@pytest.mark.parametrize("answers", [True, None])
def test_never_ended_unless_it_is_known_that_it_answers_nobody(answers: bool | None) -> None:
    """Who has started idles rightly, also where nobody wrote down that it is ready."""
    after, found = watch([(1.0, NOTHING)] * 300, answers=answers)

    assert (after, found.ask) == (None, True)


def test_never_ended_while_another_process_has_a_lock_open() -> None:
    assert watch([(1.0, replace(NOTHING, lock="/home/vllm/.cache/flashinfer/sampling.lock"))] * 300)[0] is None


@given(some.integers(0, 4), some.floats(0.25, 2))
def test_who_waits_for_a_cpu_in_four_of_five_looks_is_held_up_by_its_neighbours(phase: int, pause: float) -> None:
    looks = [(pause, replace(NOTHING, runnable=(look + phase) % 5 != 0)) for look in range(int(600 / pause))]

    assert watch(looks)[0] is None


def test_idle_threads_that_are_found_runnable_now_and_then_hide_nothing() -> None:
    """On a machine with a load of five: the hum of an API that waits, in every third look."""
    assert watch([(1.0, replace(NOTHING, runnable=look % 3 == 0)) for look in range(100)])[0] is not None


@given(some.lists(some.sampled_from(["cpu", "read", "written", "received"]), unique=True))
def test_the_hum_of_idle_processes_hides_nothing(names: list[str]) -> None:
    hum = replace(NOTHING, **{name: HUM[name].rate for name in names})

    after, _found = watch([(1.0, hum)] * 200)

    assert after is not None and after <= LIMIT + 3


@given(some.lists(some.floats(0, 1e5), max_size=60))
def test_time_in_which_nobody_looked_does_not_count(pauses: list[float]) -> None:
    after, _found = watch([(pause, NOTHING) for pause in pauses])

    assert after is None or sum(min(MOST, pause) for pause in pauses) > LIMIT


def test_zero_switches_it_off() -> None:
    looks = [(1.0, replace(NOTHING, stopped={7: "vllm"}))] * 2000

    assert watch(looks, replace(SETTINGS, start_stall_after=0.0))[0] is None


def test_another_process_is_judged_anew() -> None:
    memory, _none = judge_start(StartMemory(1, 100.0, 59.9), 101.0, PID, NOTHING, False, SETTINGS)

    assert memory == StartMemory(PID, 101.0)


def recordings(kind: str) -> list[Path]:
    return sorted(RECORDED.glob(f"{kind}-*.json"))


def replay(file: Path) -> list[tuple[float, Signs]]:
    """A recording: each look's seconds since the one before, and what it saw."""
    told = json.loads(file.read_text())
    looks = []
    for row in told["looks"]:
        seen = dict(zip(("pause", *Signs.__dataclass_fields__), row))
        pause = float(seen.pop("pause"))
        stopped = {int(pid): str(title) for pid, title in (seen.pop("stopped") or {}).items()}
        looks.append((pause, Signs(stopped=stopped, **seen)))
    return looks


@pytest.mark.parametrize("file", recordings("slow"), ids=lambda file: file.stem)
def test_a_slow_start_that_was_recorded_is_never_ended(file: Path) -> None:
    looks = replay(file)

    assert len(looks) > 10
    assert watch(looks)[0] is None
    # And not nearly: with a third of the limit it would live too.
    assert watch(looks, replace(SETTINGS, start_stall_after=LIMIT / 3))[0] is None


@pytest.mark.parametrize("file", recordings("slow-h100"), ids=lambda file: file.stem)
def test_a_start_on_a_gpu_moves_in_every_look_by_what_was_recorded_of_it(file: Path) -> None:
    """Faults and bytes received were not recorded and are 0 there; who waits for a CPU or a disk is left out here."""
    looks = [(pause, replace(signs, runnable=False, disk=False)) for pause, signs in replay(file)]

    assert all(signs.faults == signs.received == 0 for _pause, signs in looks)
    assert sum(pause for pause, _signs in looks) > 110
    assert watch(looks, replace(SETTINGS, start_stall_after=MOST))[0] is None


@pytest.mark.parametrize("name", ["cpu", "read", "written"])
@pytest.mark.parametrize("file", recordings("slow-h100"), ids=lambda file: file.stem)
def test_and_by_each_of_three_signs_alone_it_lives_too(file: Path, name: str) -> None:
    looks = [(pause, replace(NOTHING, **{name: getattr(signs, name)})) for pause, signs in replay(file)]

    assert watch(looks, replace(SETTINGS, start_stall_after=LIMIT / 2))[0] is None


@pytest.mark.parametrize("file", recordings("stopped"), ids=lambda file: file.stem)
def test_a_start_that_stood_still_is_ended_by_its_hum_alone(file: Path) -> None:
    looks = [(pause, replace(signs, stopped={})) for pause, signs in replay(file)]

    # Recorded for a minute and a bit, so by half of the limit.
    assert watch(looks, replace(SETTINGS, start_stall_after=LIMIT / 2))[0] is not None
