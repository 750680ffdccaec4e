# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder's laws: nothing that nobody opted in to, no reboot loop, no storm, and always an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as s
from vllm_keeper import decision as d
from vllm_keeper import ladder, repair
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import GateSettings, Reader
from vllm_keeper.ladder import Facts, Step
from vllm_keeper.repair import CLEAR, DONE, HEAVY, NONE, PARK, REBOOT, REPLACE, RESET_GPU, RESTART, Repair, Settings

ALL = frozenset((RESTART, CLEAR, *HEAVY))
OPEN = Settings(reset_gpu=True, reboot=True, replace=True)
GO = d.GateDecision(d.GO, "restart after a failure")
SPENT = d.GateDecision(d.PARK, "10 failures within 1 h: the budget of 10 is spent", cause="budget")
NOW = 1e6


def at(seconds: float, boot: str = "b", wall: float = 1e9) -> Moment:
    return Moment(wall + seconds, seconds, boot)


def done(rung: str, ago: float, instance: str = "q") -> Repair:
    return Repair(at(NOW - ago), rung, "x", DONE, instance)


def ask(settings: Settings = OPEN, history: Sequence[Repair] = (), **facts: Any) -> Step:
    known = Facts(now=at(NOW), gate=GO, instance="q", possible=ALL, proved=True, last_start=at(NOW - 1))
    return ladder.decide(history, settings, replace(known, **facts))


@pytest.mark.parametrize(
    ("failures", "rung"),
    [(0, RESTART), (1, RESTART), (2, RESTART), (3, CLEAR), (5, CLEAR), (6, RESET_GPU), (50, RESET_GPU)],
)
def test_failures_in_a_row_climb(failures: int, rung: str) -> None:
    step = ask(failures=failures)
    assert (step.rung, step.wait) == (rung, 0)
    assert f"{failures} failures in a row" in step.reason


def test_by_default_nothing_reaches_beyond_the_instance() -> None:
    assert ask(Settings(), failures=50).rung == CLEAR
    parked = ask(Settings(), failures=50, gate=SPENT)
    assert parked.rung == PARK
    for rung in HEAVY:
        assert f"{rung} is not opted in" in parked.reason


@pytest.mark.parametrize(
    ("remedy", "rung"),
    [
        ("restart_application", RESTART),
        ("clear", CLEAR),
        ("reset_gpu", RESET_GPU),
        ("reboot", REBOOT),
        ("replace", REPLACE),
        ("ignore", RESTART),
        ("something new", RESTART),
    ],
)
def test_a_fault_names_the_rung(remedy: str, rung: str) -> None:
    assert ask(calls_for=remedy, failures=1).rung == rung


def test_a_fault_to_be_ignored_is_no_reason_to_do_anything() -> None:
    assert ask(calls_for="ignore", failures=0).rung == NONE
    assert ask(calls_for="ignore", gate=SPENT, settings=Settings()).rung == PARK


def test_a_fault_that_calls_for_what_nobody_opted_in_to_takes_the_next_higher() -> None:
    assert ask(Settings(reboot=True), calls_for="reset_gpu").rung == REBOOT
    assert ask(possible=ALL - {RESET_GPU}, calls_for="reset_gpu").rung == REBOOT
    cleared = ask(Settings(), calls_for="reset_gpu")
    assert cleared.rung == CLEAR and "reset_gpu is not opted in" in cleared.reason


def test_what_was_tried_is_followed_by_the_next_after_a_pause() -> None:
    history = [done(RESET_GPU, 10)]
    step = ask(history=history, failures=9)
    assert (step.rung, step.wait) == (REBOOT, 20)
    assert ask(history=history, failures=9, dice=1.0).wait == pytest.approx(17)
    history.append(Repair(at(NOW - 900, "before"), REBOOT, "x", DONE, "q"))
    up = at(600)
    assert ask(history=history, failures=9, now=up).rung == CLEAR  # starts are left, so the host is not given up
    assert ask(history=history, gate=SPENT, now=up).rung == REPLACE


def test_each_instance_may_reset_its_own_gpus_and_the_budget_is_the_hosts() -> None:
    others = [done(RESET_GPU, 500, "other")]
    assert ask(history=others, failures=9).rung == RESET_GPU
    assert ask(history=[done(RESET_GPU, 500, "")], failures=9).rung == REBOOT
    full = [done(RESET_GPU, 500 + n, f"other{n}") for n in range(3)]
    spent = ask(history=full, failures=9, gate=SPENT)
    assert spent.rung == PARK and "would exceed the budget of 3 in 6 h" in spent.reason


def test_one_start_in_place_of_parking_for_each_rung_that_is_left() -> None:
    history: list[Repair] = []
    taken = []
    for _ in range(6):
        step = ask(history=history, gate=SPENT, failures=10)
        taken.append(step.rung)
        history.append(done(step.rung, 400))
    assert taken == [RESET_GPU, REBOOT, REPLACE, PARK, PARK, PARK]


@pytest.mark.parametrize("cause", ["bad_argument", "model_missing", "operator"])
def test_what_no_repair_mends_is_parked_at_once(cause: str) -> None:
    decision = d.GateDecision(d.PARK, "the reason", cause=cause)
    assert ask(gate=decision, failures=50, calls_for="reset_gpu") == Step(PARK, "the reason")


def test_a_configuration_that_never_served_is_not_worth_a_reboot() -> None:
    step = ask(failures=50, proved=False, gate=SPENT)
    assert step.rung == PARK and "never served on this host" in step.reason
    assert ask(failures=50, proved=False, calls_for="reboot").rung == REBOOT


def test_neighbours_that_serve_are_spared() -> None:
    step = ask(gate=SPENT, neighbours=2, history=[done(RESET_GPU, 500)])
    assert step.rung == PARK and "reboot would take 2 more instances" in step.reason
    assert ask(replace(OPEN, spare_neighbours=False), gate=SPENT, neighbours=2).rung == RESET_GPU
    assert ask(replace(OPEN, spare_neighbours=False), neighbours=2, calls_for="reboot").rung == REBOOT


def test_nothing_starts_while_the_host_goes_down() -> None:
    step = ask(history=[done(REBOOT, 20)], gate=SPENT)
    assert (step.rung, step.wait) == (NONE, ladder.REBOOT_TAKES - 20)
    refused = replace(done(REBOOT, 20), outcome=repair.FAILED)
    assert ask(history=[refused], gate=SPENT).rung == RESET_GPU


def test_one_start_shows_whether_a_reset_helped() -> None:
    """Asked again before that start, as each second of a back-off and after a keeper that was killed."""
    reset = done(RESET_GPU, 20)
    for gate in (GO, SPENT):
        for last in (None, at(NOW - 100), at(NOW - 10, "before")):
            step = ask(history=[reset], gate=gate, failures=9, last_start=last, calls_for="reset_gpu")
            assert step == Step(CLEAR, "one start after the GPU reset")
    for last in (at(NOW - 20), at(NOW - 10)):
        assert ask(history=[reset], gate=SPENT, failures=9, last_start=last).rung == REBOOT
    unhelpful = [replace(reset, outcome=outcome) for outcome in (repair.BEGUN, repair.FAILED)]
    foreign = [replace(reset, instance="other"), replace(reset, at=at(NOW + 5, "before"))]
    for one in (*unhelpful, *foreign):
        assert ask(history=[one], gate=SPENT, failures=9, last_start=at(NOW - 100)).rung in (RESET_GPU, REBOOT)


def test_one_start_shows_whether_a_reboot_helped() -> None:
    """Whatever the gate makes of what was left undone before it."""
    booted = Repair(at(5000, "before"), REBOOT, "x", repair.BEGUN, "q")
    for last in (None, at(4990, "before")):
        step = ask(history=[booted], gate=SPENT, failures=9, last_start=last, now=at(30), calls_for="reboot")
        assert step == Step(CLEAR, "one start after the reboot")
    assert ask(history=[booted], gate=SPENT, last_start=at(20), now=at(30), calls_for="reboot").rung == REPLACE
    refused = replace(booted, outcome=repair.FAILED)
    assert ask(history=[refused], gate=SPENT, last_start=None, now=at(30), calls_for="reboot").rung == REPLACE


def test_a_start_that_was_asked_for_is_not_escalated() -> None:
    planned = d.GateDecision(d.GO, "asked for", planned=True)
    assert ask(gate=planned, failures=50) == Step(RESTART, "asked for")
    assert ask(gate=planned, calls_for="reset_gpu").rung == RESET_GPU


def test_a_reboot_long_ago_counts_by_this_boots_uptime_alone() -> None:
    """The wall clock says a year, the uptime an hour: the uptime is believed."""
    before = Repair(Moment(1e9, 5e6, "before"), REBOOT, "x", DONE)
    soon = Moment(1e9 + 3e7, 3600.0, "b")
    assert ask(history=[before], now=soon, calls_for="reboot").rung == REPLACE
    later = Moment(1e9 + 3e7, 86401.0, "b")
    assert ask(history=[before], now=later, calls_for="reboot").rung == REBOOT


def test_what_the_gate_knows_becomes_facts() -> None:
    state = st.State()
    for number in range(4):
        start = st.Start(at(number * 10), planned=False, config="c", ended_at=at(number * 10 + 5), end=st.FAILED)
        start.ready_at = at(number * 10 + 1) if number == 0 else None
        state.starts.append(start)
    known = d.GateFacts(now=at(50), config="c", dice=0.5)
    facts = ladder.facts_of(state, GateSettings(), known, GO, instance="q", calls_for="reboot", neighbours=2)
    plain = frozenset((RESTART, CLEAR))
    assert facts == Facts(at(50), GO, "q", 4, "reboot", plain, False, True, 2, at(30), 0.5)
    other = ladder.facts_of(state, GateSettings(), replace(known, config="other"), GO, instance="q")
    assert (other.failures, other.proved) == (0, False)
    state.parked = st.Parked(at(49), "budget", "why", "c")
    assert ladder.facts_of(state, GateSettings(), known, SPENT, instance="q").parked


# --- settings -----------------------------------------------------------------------------------------------


def read(**given: object) -> tuple[Settings, list[str]]:
    problems: list[str] = []
    reader = Reader(given, "ladder.", problems)
    settings = repair.read(reader)
    reader.refuse_unknown()
    return settings, problems


def test_no_settings_are_the_defaults() -> None:
    assert read() == (Settings(), [])
    assert not (Settings().reset_gpu or Settings().reboot or Settings().replace or Settings().dry_run)


def test_given_settings_are_taken() -> None:
    settings, problems = read(reboot=True, budget=5, back_off=[1, 2], reset_stops=["nvidia-dcgm"], dry_run=True)
    assert problems == []
    assert settings == Settings(reboot=True, budget=5, back_off=(1.0, 2.0), reset_stops=("nvidia-dcgm",), dry_run=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reboot": "yes"}, "ladder.reboot: 'yes' must be"),
        ({"back_off": []}, "ladder.back_off: [] must be a list of seconds, each between 0 and 300"),
        ({"back_off": [301]}, "ladder.back_off: [301]"),
        ({"back_off": [True]}, "ladder.back_off: [True]"),
        ({"reset_stops": ["--now"]}, "ladder.reset_stops: ['--now'] must be a list of units"),
        ({"reset_stops": [""]}, "ladder.reset_stops: ['']"),
        ({"window": 60}, "ladder.window: 60 must be between 3600 and"),
        ({"reboot_window": 60}, "ladder.reboot_window: 60 must be between 3600 and"),
        ({"rebot": True}, "ladder.rebot: unknown key, did you mean reboot?"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(given: dict[str, object], words: str) -> None:
    _settings, problems = read(**given)
    assert len(problems) == 1 and problems[0].startswith(words)


# --- laws ---------------------------------------------------------------------------------------------------

all_settings = s.builds(
    Settings,
    reset_gpu=s.booleans(),
    reboot=s.booleans(),
    replace=s.booleans(),
    restart_tries=s.integers(0, 4),
    clear_tries=s.integers(0, 4),
    reset_gpu_tries=s.integers(1, 3),
    window=s.floats(repair.SHORTEST_WINDOW, 20_000),
    budget=s.integers(0, 5),
    reboot_window=s.floats(repair.SHORTEST_WINDOW, 100_000),
    back_off=s.lists(s.floats(0, 300), min_size=1, max_size=4).map(tuple),
    jitter=s.floats(0, 1),
    spare_neighbours=s.booleans(),
)
remedies = s.sampled_from(["", "restart_application", "clear", "reset_gpu", "reboot", "replace", "ignore", "?"])
moments = s.builds(Moment, s.floats(0, 1e10), s.floats(0, 1e6), s.sampled_from(["b", "before", "long before"]))
histories = s.lists(
    s.builds(
        Repair,
        moments,
        s.sampled_from(HEAVY),
        s.just("x"),
        s.sampled_from([repair.BEGUN, DONE, repair.FAILED]),
        s.sampled_from(["", "q", "other"]),
    ),
    max_size=8,
)
decisions = s.sampled_from(
    [
        GO,
        SPENT,
        d.GateDecision(d.GO, "asked for", planned=True),
        d.GateDecision(d.WAIT, "back-off", wait=10),
        d.GateDecision(d.PARK, "bad", cause="bad_argument"),
    ]
)
all_facts = s.builds(
    Facts,
    now=s.builds(Moment, s.floats(0, 1e10), s.floats(0, 1e6), s.just("b")),
    gate=decisions,
    instance=s.just("q"),
    failures=s.integers(0, 30),
    calls_for=remedies,
    possible=s.sets(s.sampled_from(HEAVY)).map(lambda some: frozenset((RESTART, CLEAR, *some))),
    parked=s.booleans(),
    proved=s.booleans(),
    neighbours=s.integers(0, 2),
    last_start=s.none() | moments,
    dice=s.floats(0, 1),
)


def opted_in(settings: Settings) -> set[str]:
    return {rung for rung in HEAVY if getattr(settings, rung)}


@given(histories, all_settings, all_facts)
def test_law_only_opted_in_and_possible_rungs_within_tries_and_budget(
    history: list[Repair], settings: Settings, facts: Facts
) -> None:
    step = ladder.decide(history, settings, facts)
    assert 0 <= step.wait <= ladder.REBOOT_TAKES
    if step.rung not in HEAVY:
        return
    assert step.rung in opted_in(settings) and step.rung in facts.possible
    recent = [one for one in history if ladder.passed(one.at, facts.now) < settings.window]
    assert len(recent) < settings.budget
    assert not (settings.spare_neighbours and facts.neighbours and step.rung != RESET_GPU)


@given(histories, all_settings, all_facts)
def test_law_only_the_gate_parks(history: list[Repair], settings: Settings, facts: Facts) -> None:
    """And what it parks is parked, unless a rung is left or a start is owed."""
    step = ladder.decide(history, settings, facts)
    if step.rung == PARK:
        assert facts.parked or facts.gate.action == d.PARK


@given(histories, all_settings, all_facts)
def test_law_parked_stays_parked(history: list[Repair], settings: Settings, facts: Facts) -> None:
    step = ladder.decide(history, settings, replace(facts, parked=True))
    assert step.rung in (PARK, NONE)
    assert (step.rung == NONE) == (step.wait > 0), "only a host that goes down is waited for"


@given(histories, all_settings, all_facts)
def test_law_never_below_what_the_fault_calls_for_if_that_is_possible(
    history: list[Repair], settings: Settings, facts: Facts
) -> None:
    assume(facts.calls_for in (*HEAVY, CLEAR))
    step = ladder.decide(history, settings, facts)
    if step.rung in (PARK, NONE) or ladder.height(step.rung) >= ladder.height(facts.calls_for):
        return
    if step.reason.startswith("one start after the "):
        assert any(one.rung in (RESET_GPU, REBOOT) and one.outcome != repair.FAILED for one in history)
        return
    # Below it only because nothing at or above it could be taken; with nothing in the way, it would have been.
    free = replace(settings, reset_gpu=True, reboot=True, replace=True, budget=9, spare_neighbours=False)
    at_will = replace(facts, possible=ALL, proved=True)
    assert ladder.decide([], free, at_will).rung == facts.calls_for
    assert "beyond that" in step.reason


@given(histories, all_settings, all_facts)
def test_law_a_host_is_given_up_only_when_nothing_below_is_left(
    history: list[Repair], settings: Settings, facts: Facts
) -> None:
    # With all that otherwise forbids it out of the way, so that it is chosen often.
    settings = replace(settings, replace=True, budget=9, spare_neighbours=False)
    facts = replace(facts, possible=facts.possible | {REPLACE}, proved=True, parked=False)
    if ladder.decide(history, settings, facts).rung != REPLACE:
        return
    assert facts.gate.action == d.PARK or facts.calls_for in HEAVY
    floor = ladder.height(facts.calls_for) if facts.calls_for in HEAVY else 0
    for rung in (RESET_GPU, REBOOT):
        if rung in opted_in(settings) and rung in facts.possible and ladder.height(rung) >= floor:
            assert any(one.rung == rung for one in history)


@given(histories, all_settings, all_facts, s.floats(-1e9, 1e9), s.floats(-1e9, 1e9))
def test_law_the_wall_clock_changes_nothing(
    history: list[Repair], settings: Settings, facts: Facts, now: float, then: float
) -> None:
    moved = [replace(one, at=replace(one.at, wall=one.at.wall + then)) for one in history]
    facts_moved = replace(facts, now=replace(facts.now, wall=facts.now.wall + now))
    assert ladder.decide(history, settings, facts) == ladder.decide(moved, settings, facts_moved)


@dataclass
class Host:
    """A host whose server always fails, driven through gate and ladder as the keeper would. `time` never jumps."""

    settings: Settings
    gate: GateSettings
    possible: frozenset[str]
    calls_for: str
    time: float = 0.0
    boot: int = 1
    booted: float = 0.0
    skew: float = 0.0
    state: st.State = field(default_factory=st.State)
    history: list[Repair] = field(default_factory=list)
    taken: list[tuple[float, str, d.GateDecision]] = field(default_factory=list)

    def now(self) -> Moment:
        return Moment(1e9 + self.time + self.skew, self.time - self.booted, f"boot-{self.boot}")

    def decide(self) -> tuple[d.GateDecision, Step]:
        known = d.GateFacts(now=self.now(), config="c")
        decision = d.decide_gate(self.state, self.gate, known)
        facts = ladder.facts_of(
            self.state, self.gate, known, decision, instance="q", calls_for=self.calls_for, possible=self.possible
        )
        return decision, ladder.decide(self.history, self.settings, facts)

    def repair(self) -> str:
        """One visit to the gate; the rung that was taken."""
        decision, step = self.decide()
        while step.rung in HEAVY and step.wait > 0:
            self.time += step.wait + 0.001
            decision, step = self.decide()
        if step.rung in HEAVY:
            self.history.append(Repair(self.now(), step.rung, "x", DONE, "q"))
            self.taken.append((self.time, step.rung, decision))
        if step.rung == REBOOT:
            self.time += 60
            self.boot, self.booted = self.boot + 1, self.time
        elif decision.action == d.WAIT:
            self.time += decision.wait
        return PARK if step.rung == REPLACE and decision.action == d.PARK else step.rung

    def fail(self, lasting: float, ready: bool) -> None:
        begin = self.now()
        self.time += lasting
        run = st.Start(begin, planned=False, config="c", ended_at=self.now(), end=st.FAILED)
        run.ready_at = begin if ready else None
        self.state.starts.append(run)
        self.time += 0.5


@given(
    all_settings,
    s.integers(1, 12),
    s.sets(s.sampled_from(HEAVY)),
    remedies,
    s.lists(s.tuples(s.floats(0, 20), s.booleans(), s.floats(-1e8, 1e8)), min_size=1, max_size=10),
    s.booleans(),
)
def test_law_a_server_that_always_fails_ends_parked_with_no_storm_and_no_reboot_loop(
    settings: Settings,
    budget: int,
    possible: set[str],
    calls_for: str,
    lives: list[tuple[float, bool, float]],
    jumps: bool,
) -> None:
    gate = GateSettings(back_off=(0, 0, 10, 30), window=3600, budget=budget)
    host = Host(settings, gate, frozenset((RESTART, CLEAR, *possible)), calls_for)
    rungs = []
    # Every reboot and every jump of the clock may cost the gate its count once.
    for number in range(200):
        lasting, ready, jump = lives[number % len(lives)]
        host.fail(lasting, ready)
        if jumps and number < 20:
            host.skew += jump
        rungs.append(host.repair())
        if rungs[-1] == PARK:
            break
    assert rungs[-1] == PARK, "it went on for ever"
    times = [(moment, rung) for moment, rung, _decision in host.taken]
    assert {rung for _moment, rung in times} <= opted_in(settings) & possible
    for begin, _rung in times:
        assert sum(1 for moment, _ in times if begin <= moment < begin + settings.window) <= settings.budget
    reboots = [moment for moment, rung in times if rung == REBOOT]
    assert all(later - earlier >= settings.reboot_window for earlier, later in zip(reboots, reboots[1:]))


@given(s.lists(s.floats(-1e9, 1e9), min_size=30, max_size=30), s.floats(1, 200))
def test_law_a_fault_that_always_calls_for_a_reboot_gets_one(jumps: list[float], uptime: float) -> None:
    """The worst case for a loop: the fault is back right after each boot, others reboot the host, the clock jumps."""
    host = Host(replace(OPEN, replace=False, budget=20), GateSettings(), ALL, "reboot")
    for jump in jumps:
        host.fail(uptime, True)
        host.skew += jump
        host.repair()
        host.boot, host.booted = host.boot + 1, host.time
    assert len(host.taken) == 1
