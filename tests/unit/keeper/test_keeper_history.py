# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history that is put together afterwards: the same record as hooks would have written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper import decision as d
from vllm_keeper import history
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import GateSettings
from vllm_keeper.history import Event, Seen

WALL, BOOT = 1_800_000_000, 10_000.0
NOW = Moment(float(WALL), BOOT, "boot-1")
RUNS = Seen(exists=True, running=True, pid=7, started=(WALL - 50) * history.SECOND)
EXITED = Seen(exists=True, finished=(WALL - 5) * history.SECOND)


def at(seconds_ago: float) -> int:
    return int((WALL - seconds_ago) * history.SECOND)


def before(seconds: float) -> Moment:
    return Moment(WALL - seconds, BOOT - seconds, "boot-1")


def open_start(pid: int | None = 6, ago: float = 100, **changes: Any) -> st.Start:
    return replace(st.Start(at=before(ago), planned=True, pid=pid), **changes)


def catch_up(state: st.State, seen: Seen, *events: Event, words: str = "") -> list[str]:
    return history.catch_up(state, seen, events, NOW, lambda start, end: words)


def ended(state: st.State) -> list[tuple[str, str]]:
    return [(start.end, start.exit_status) for start in state.starts]


def test_an_engine_death_ends_with_status_0_and_is_a_failure_all_the_same() -> None:
    state = st.State(starts=[open_start()])
    told = catch_up(state, RUNS, Event(at(60), "die", 0), Event(at(50), "start"), words="EngineCore died")
    assert ended(state) == [(st.FAILED, "0"), ("", "")]
    assert told == ["exited with status 0; EngineCore died"]
    assert (state.starts[1].planned, state.starts[1].pid) == (False, 7)


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (Event(at(61), "kill", signal="15"), st.PURPOSE),
        (Event(at(61), "kill", signal="9"), st.PURPOSE),
        (Event(at(61), "kill", signal="SIGTERM"), st.PURPOSE),
        (Event(at(61), "stop"), st.PURPOSE),
        (Event(at(61), "kill", signal="1"), st.FAILED),
    ],
)
def test_what_somebody_told_docker_to_end_has_not_failed(event: Event, end: str) -> None:
    state = st.State(starts=[open_start()])
    catch_up(state, EXITED, event, Event(at(60), "die", 143))
    assert state.starts[0].end == end
    assert (state.stopped is not None) == (end == st.PURPOSE)


def test_what_the_keeper_ended_is_a_repair() -> None:
    state = st.State(starts=[open_start()], intent=st.Intent("repair", before(70), "hung: no answer"))
    catch_up(state, EXITED, Event(at(61), "kill", signal="9"), Event(at(60), "die", 137))
    assert (state.starts[0].end, state.starts[0].reason) == (st.REPAIR, "hung: no answer")
    assert state.stopped is None, "a check starts it again"


def test_an_ordered_restart_is_no_stop() -> None:
    state = st.State(starts=[open_start()], intent=st.Intent("restart", before(70)))
    catch_up(state, EXITED, Event(at(61), "kill", signal="15"), Event(at(60), "die", 0))
    assert (state.starts[0].end, state.stopped) == (st.PURPOSE, None)


def test_lack_of_memory_is_said() -> None:
    state = st.State(starts=[open_start()])
    told = catch_up(state, RUNS, Event(at(61), "oom"), Event(at(60), "die", 137), Event(at(50), "start"))
    assert told == ["killed by the kernel for lack of memory (oom-kill)"]


def test_the_moment_of_readiness_comes_from_docker() -> None:
    state = st.State(starts=[open_start(pid=7)])
    catch_up(state, RUNS, Event(at(30), "healthy"))
    assert state.starts[0].ready_at == before(30)


def test_an_end_that_docker_tells_late_is_not_that_of_the_next_start() -> None:
    state = st.State(starts=[open_start(pid=None, ago=2)])
    assert not catch_up(state, EXITED, Event(at(3), "die", 137))
    assert ended(state) == [("", "")]


def test_events_are_taken_in_once() -> None:
    events = [Event(at(60), "die", 1), Event(at(50), "start")]
    state = st.State(starts=[open_start()])
    assert catch_up(state, RUNS, *events)
    first = st.encode(state)
    assert not catch_up(state, RUNS, *events)
    assert st.encode(state) == first


def test_a_start_that_the_gate_let_go_gets_its_process() -> None:
    state = st.State(starts=[open_start(pid=None, ago=2)])
    catch_up(state, RUNS, Event(at(1), "start"))
    assert [(start.pid, start.planned) for start in state.starts] == [(7, True)]


def test_between_gate_and_process_nothing_has_ended() -> None:
    state = st.State(starts=[open_start(pid=None, ago=2)])
    catch_up(state, EXITED)
    assert ended(state) == [("", "")]


def test_a_start_that_never_got_a_process_is_given_up() -> None:
    state = st.State(starts=[open_start(pid=None, ago=history.UNBORN + 1)])
    catch_up(state, replace(EXITED, error="no such device"))
    assert state.starts[0].reason == "the engine could not start it: no such device"


@pytest.mark.parametrize(
    ("start", "seen", "end", "reason"),
    [
        (open_start(), replace(EXITED, engine_since=at(1)), st.SHUTDOWN, "the container engine was restarted"),
        (open_start(), EXITED, st.PURPOSE, "stopped on purpose"),
        (open_start(), Seen(), st.PURPOSE, "its container was removed"),
        (open_start(), replace(EXITED, comes_back=True, exit_status=3), st.FAILED, "exited with status 3"),
        (open_start(), replace(EXITED, kept_up=False, exit_status=1), st.FAILED, "exited with status 1"),
        (open_start(), replace(EXITED, error="no GPU"), st.FAILED, "the engine could not start it: no GPU"),
        (
            replace(open_start(), at=Moment(WALL - 9000.0, 5.0, "boot-0")),
            EXITED,
            st.SHUTDOWN,
            "the host restarted",
        ),
    ],
)
def test_an_end_that_no_event_told_of(start: st.Start, seen: Seen, end: str, reason: str) -> None:
    state = st.State(starts=[replace(start)])
    catch_up(state, seen)
    assert (state.starts[0].end, state.starts[0].reason) == (end, reason)


@pytest.mark.parametrize(
    ("start", "seen", "end"),
    [
        (open_start(), RUNS, st.LOST),
        (open_start(), replace(RUNS, finished=at(60), engine_since=at(55)), st.SHUTDOWN),
        (open_start(stopping="purpose"), RUNS, st.PURPOSE),
        (replace(open_start(), at=Moment(WALL - 9000.0, 5.0, "boot-0")), RUNS, st.SHUTDOWN),
    ],
)
def test_another_process_runs_by_now(start: st.Start, seen: Seen, end: str) -> None:
    state = st.State(starts=[replace(start)])
    catch_up(state, seen)
    assert [one.end for one in state.starts] == [end, ""]
    assert state.starts[-1].pid == 7
    assert state.stopped is None


def test_what_is_parked_was_not_stopped_by_somebody() -> None:
    state = st.State(starts=[open_start()], parked=st.Parked(before(10), "budget", "too often"))
    catch_up(state, EXITED)
    assert state.stopped is None


def failures(count: int, **changes: Any) -> list[st.Start]:
    made = []
    for number in range(count):
        ago = 30.0 * (count - number)
        start = open_start(ago=ago + 20, ended_at=before(ago), end=st.FAILED, exit_code="exited", exit_status="1")
        made.append(replace(start, planned=False, **changes))
    return made


SETTINGS = GateSettings(budget=3)
FACTS = d.GateFacts(NOW, "config")
OWN = replace(open_start(ago=5), planned=False)


@pytest.mark.parametrize(
    ("starts", "cause"),
    [
        (failures(3), "budget"),
        ([*failures(3), OWN], "budget"),
        ([*failures(2), OWN], None),
        (failures(1, exit_status="2"), "bad_argument"),
        ([*failures(1, exit_status="2"), OWN], "bad_argument"),
        ([*failures(3), replace(OWN, planned=True)], None),
        ([*failures(3), replace(OWN, ready_at=before(1))], None),
        ([OWN], None),
        ([], None),
    ],
)
def test_when_dockers_own_restarts_have_gone_on_for_too_long(starts: list[st.Start], cause: str | None) -> None:
    decision = history.verdict(st.State(starts=starts), SETTINGS, FACTS)
    assert (decision.cause if decision else None) == cause


def test_a_model_that_is_gone_is_reason_enough() -> None:
    facts = replace(FACTS, model_path="/srv/m", model_present=False)
    decision = history.verdict(st.State(starts=failures(1)), SETTINGS, facts)
    assert decision is not None
    assert decision.cause == "model_missing"


EVENTS = some.builds(
    Event,
    some.integers(at(1000), at(0)),
    some.sampled_from(["start", "die", "oom", "kill", "stop", "healthy"]),
    some.integers(0, 255),
    some.sampled_from(["", "9", "15", "1"]),
)
SEEN = some.builds(
    Seen,
    exists=some.booleans(),
    running=some.booleans(),
    pid=some.integers(2, 9),
    started=some.integers(at(1000), at(0)),
    finished=some.integers(at(1000), at(0)) | some.just(0),
    exit_status=some.integers(0, 255),
    comes_back=some.booleans(),
    error=some.sampled_from(["", "no GPU"]),
    engine_since=some.integers(at(1000), at(0)) | some.just(0),
)


@given(some.lists(EVENTS, max_size=12), SEEN)
def test_whatever_docker_tells_the_record_stays_whole(events: list[Event], seen: Seen) -> None:
    state = st.State(starts=[open_start(ago=2000)])
    catch_up(state, seen, *events)
    assert all(start.end for start in state.starts[:-1]), "only the last run can be open"
    last = state.open_start()
    # One that Docker has told the start of, and not yet the end, is waited for.
    assert last is not None if seen.running else last is None or last.pid is None
    assert st.decode(st.encode(state)) == state
    again = st.encode(state)
    catch_up(state, seen, *events)
    assert st.encode(state) == again
