# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's laws: never a storm, never a wait without need, never parked for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as s
from vllm_keeper import decision as d
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import GateSettings

SETTINGS = GateSettings()


def at(seconds: float, boot: str = "b") -> Moment:
    return Moment(1e9 + seconds, seconds, boot)


def run(begin: float, end: float, how: str = st.FAILED, ready: float | None = None, **more: str) -> st.Start:
    start = st.Start(at=at(begin), planned=False, config="c", ended_at=at(end), end=how)
    start.ready_at = None if ready is None else at(ready)
    start.exit_code, start.exit_status = more.get("code", "exited"), more.get("status", "1")
    start.reason = more.get("reason", "")
    return start


def ask(
    state: st.State, now: float, dice: float = 0, settings: GateSettings = SETTINGS, **facts: object
) -> d.GateDecision:
    known = d.GateFacts(
        now=at(now), config=str(facts.get("config", "c")), model_present=bool(facts.get("model", True)), dice=dice
    )
    return d.decide_gate(state, settings, known)


def test_the_first_start_goes_at_once() -> None:
    assert ask(st.State(), 100).action == d.GO
    assert ask(st.State(), 100).planned


@pytest.mark.parametrize(("failures", "wait"), [(1, 0), (2, 10), (3, 30), (4, 60), (5, 120), (6, 300), (9, 300)])
def test_each_failure_in_a_row_waits_longer(failures: int, wait: float) -> None:
    state = st.State(starts=[run(n * 10, n * 10 + 5) for n in range(failures)])
    decision = ask(state, state.starts[-1].at.boot + 5)
    assert (decision.action, decision.wait) == ((d.WAIT, wait) if wait else (d.GO, 0))
    assert not decision.planned


def test_time_already_passed_is_part_of_the_wait() -> None:
    state = st.State(starts=[run(0, 5), run(10, 15)])
    assert ask(state, 18).wait == pytest.approx(7)
    assert ask(state, 26).action == d.GO


def test_a_stable_run_begins_a_new_row() -> None:
    state = st.State(starts=[run(0, 5), run(10, 15), run(100, 500, ready=150)])
    assert ask(state, 500).action == d.GO
    state.starts.append(run(510, 515))
    assert ask(state, 515).action == d.GO  # one in a row


@pytest.mark.parametrize("how", [st.PURPOSE, st.SHUTDOWN])
def test_after_a_deliberate_end_nothing_waits(how: str) -> None:
    state = st.State(starts=[*(run(n, n + 1) for n in range(20)), run(30, 40, how)])
    decision = ask(state, 41)
    assert decision.action == d.GO and decision.planned


@pytest.mark.parametrize("kind", ["start", "restart"])
def test_an_order_through_the_keeper_does_not_wait(kind: str) -> None:
    state = st.State(starts=[run(n, n + 1) for n in range(20)], intent=st.Intent(kind, at(21)))
    assert ask(state, 21).action == d.GO


def test_a_repair_is_no_wish() -> None:
    state = st.State(starts=[run(0, 5), run(10, 15, st.REPAIR)], intent=st.Intent("repair", at(15)))
    assert ask(state, 15).action == d.WAIT


def test_after_a_reboot_nothing_waits() -> None:
    state = st.State(starts=[run(n * 10, n * 10 + 5) for n in range(8)])
    facts = d.GateFacts(now=Moment(1e9 + 100, 20, "other"), config="c")
    assert d.decide_gate(state, SETTINGS, facts).action == d.GO


def test_a_spent_budget_parks_with_the_last_reason() -> None:
    state = st.State(starts=[run(n * 300, n * 300 + 200, reason="out of memory") for n in range(10)])
    decision = ask(state, 3000)
    assert (decision.action, decision.cause) == (d.PARK, "budget")
    assert "10 failures within 1 h" in decision.reason and "out of memory" in decision.reason


def test_failures_before_the_window_are_forgotten() -> None:
    state = st.State(starts=[run(n * 300, n * 300 + 200) for n in range(10)])
    assert ask(state, 200 + 3601).action != d.PARK


def test_a_bad_argument_parks_at_once() -> None:
    state = st.State(starts=[run(0, 90, status="2", reason="error: unrecognized arguments: --bogus")])
    decision = ask(state, 91)
    assert (decision.action, decision.cause) == (d.PARK, "bad_argument")
    assert "--bogus" in decision.reason


@pytest.mark.parametrize(
    "start",
    [run(0, 90, status="2", ready=50), run(0, 90, code="killed", status="2"), run(0, 90, how=st.REPAIR, status="2")],
)
def test_status_2_of_a_server_that_was_ready_or_killed_is_no_bad_argument(start: st.Start) -> None:
    assert ask(st.State(starts=[start]), 91).action != d.PARK


def test_a_missing_model_parks_and_its_return_goes() -> None:
    decision = ask(st.State(), 5, model=False)
    assert (decision.action, decision.cause) == (d.PARK, "model_missing")
    parked = st.State(parked=st.Parked(at(5), "model_missing", decision.reason, "c"))
    assert ask(parked, 6, model=False).action == d.PARK
    back = ask(parked, 7, model=True)
    assert back.action == d.GO and back.unpark


@pytest.mark.parametrize("cause", ["budget", "bad_argument"])
def test_parked_until_the_configuration_changes(cause: str) -> None:
    state = st.State(starts=[run(0, 90, status="2")], parked=st.Parked(at(91), cause, "why", "c"))
    assert ask(state, 1e6).action == d.PARK
    changed = ask(state, 100, config="other")
    assert changed.action == d.GO and changed.unpark


def test_what_an_operator_parked_only_an_operator_resumes() -> None:
    state = st.State(parked=st.Parked(at(1), "operator", "disk swap"))
    assert ask(state, 100, config="other").action == d.PARK
    ordered = replace(state, intent=st.Intent("start", at(90)))
    assert ask(ordered, 100).action == d.PARK


def test_a_changed_configuration_starts_with_a_clean_slate() -> None:
    state = st.State(starts=[run(n, n + 1) for n in range(20)])
    assert ask(state, 21, config="other").action == d.GO


def test_forgiven_failures_do_not_count() -> None:
    state = st.State(starts=[run(n, n + 1) for n in range(20)])
    for start in state.starts:
        start.forgiven = True
    assert ask(state, 21).action == d.GO


def test_an_end_that_nobody_saw() -> None:
    state = st.State(starts=[st.Start(at=at(0), planned=True, config="c")])
    d.close_lost(state, at(50))
    assert state.starts[0].end == st.LOST
    rebooted = st.State(starts=[st.Start(at=at(0), planned=True, config="c")])
    d.close_lost(rebooted, at(5, "other"))
    assert rebooted.starts[0].end == st.SHUTDOWN


# --- laws ---------------------------------------------------------------------------------------------------

settings = s.builds(
    GateSettings,
    back_off=s.lists(s.integers(0, 400), min_size=1, max_size=8).map(lambda steps: tuple(sorted(map(float, steps)))),
    window=s.floats(1, 10_000),
    budget=s.integers(1, 20),
    jitter=s.floats(0, 1),
    stable_after=s.floats(0, 1000),
)
ends = s.sampled_from([st.FAILED, st.REPAIR, st.LOST, st.PURPOSE, st.SHUTDOWN])
histories = s.lists(s.tuples(s.floats(0, 500), s.floats(0, 500), s.booleans(), ends), max_size=25)


def history(steps: list[tuple[float, float, bool, str]]) -> st.State:
    clock, starts = 0.0, []
    for idle, lasting, ready, how in steps:
        starts.append(run(clock + idle, clock + idle + lasting, how, clock + idle if ready else None))
        clock += idle + lasting
    return st.State(starts=starts)


@given(histories, settings, s.floats(0, 1e5), s.floats(0, 1))
def test_law_a_wait_is_bounded_by_the_longest_step(
    steps: list[tuple[float, float, bool, str]], gate: GateSettings, later: float, dice: float
) -> None:
    decision = ask(history(steps), later, dice, gate)
    assert 0 <= decision.wait <= max(gate.back_off)
    assert (decision.action == d.WAIT) == (decision.wait > 0)


@given(histories, settings, s.floats(0, 1), s.floats(0, 1e9), s.floats(0, 1e9))
def test_law_jumps_of_the_wall_clock_change_nothing(
    steps: list[tuple[float, float, bool, str]], gate: GateSettings, dice: float, jump: float, back: float
) -> None:
    state = history(steps)
    boot = (state.starts[-1].ended_at or at(0)).boot if state.starts else 0.0
    decisions = {
        d.decide_gate(state, gate, d.GateFacts(now=Moment(wall, boot, "b"), config="c", dice=dice))
        for wall in (1e9 + boot, 1e9 + boot + jump, 1e9 + boot - back)
    }
    assert len(decisions) == 1


@given(settings, s.lists(s.tuples(s.floats(0, 200), s.booleans(), s.floats(0, 1)), min_size=60, max_size=60))
def test_law_unasked_starts_never_exceed_the_budget_in_any_window(
    gate: GateSettings, lives: list[tuple[float, bool, float]]
) -> None:
    """A server that dies again and again is driven through the gate as systemd would."""
    state, now, unasked = st.State(), 0.0, list[float]()
    for lasting, ready, dice in lives:
        decision = ask(state, now, dice, gate)
        while decision.action == d.WAIT:
            now += decision.wait + 0.001
            decision = ask(state, now, dice, gate)
        if decision.action == d.PARK:
            break
        if not decision.planned:
            unasked.append(now)
        state.starts.append(run(now, now + lasting, ready=now if ready else None))
        now += lasting + 0.5
        inside = [moment for moment in unasked if now - moment < gate.window]
        assert len(inside) <= gate.budget


@given(histories, settings)
def test_law_one_more_failure_never_shortens_the_wait(
    steps: list[tuple[float, float, bool, str]], gate: GateSettings
) -> None:
    state = history(steps)
    now = (state.starts[-1].ended_at or at(0)).boot if state.starts else 0.0
    before = d.streak(state.starts, gate)
    state.starts.append(run(now, now))
    assert d.back_off(d.streak(state.starts, gate), gate, 0) >= d.back_off(before, gate, 0)


@given(histories, settings, s.floats(0, 1))
def test_law_what_is_asked_for_is_never_held_back_unless_parked(
    steps: list[tuple[float, float, bool, str]], gate: GateSettings, dice: float
) -> None:
    state = replace(history(steps), intent=st.Intent("start", at(0)))
    assert ask(state, 1e5, dice, gate).action == d.GO


@given(histories, settings, s.sampled_from(["budget", "bad_argument", "model_missing", "operator"]), s.floats(0, 1e6))
def test_law_parked_stays_parked_while_nothing_changes(
    steps: list[tuple[float, float, bool, str]], gate: GateSettings, cause: str, later: float
) -> None:
    state = replace(history(steps), parked=st.Parked(at(0), cause, "why", "c"))
    assert ask(state, later, settings=gate, model=cause != "model_missing").action == d.PARK
