# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watcher's decision: its laws over any sequence of looks, and a table of what is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper import decision as d
from vllm_keeper.watch.counters import Counters, Engine
from vllm_keeper.watch.judgement import MUTE, WARM_UP, CanaryNews, Judgement, Look, Memory, judge
from vllm_keeper.watch.settings import CanarySettings, WatchSettings
from vllm_keeper.watch.steps import REMEMBERED, TIME, WORK, Bucket, Step, Steps

SETTINGS = WatchSettings()
RUNS = d.Observation(phase=d.RUNNING, detail="active (running)", process_age=1000.0, ready=True)
OK = d.Health("ok", "GET /health: 200 in 0.001 s")
LATE = d.Health("timeout", "GET /health: no whole answer within 0.5 s")
REFUSED = d.Health("refused", "GET /health: connection refused")
KILLS = (d.KILL, d.RESTART)


def counted(moved: float = 0.0, running: float = 0.0, waiting: float = 0.0) -> Counters:
    return Counters({"0": Engine((moved,), running, waiting)})


def look(at: float, counters: Counters | None = None, **changes: object) -> Look:
    base = Look(at=at, begun=at, process=RUNS, pid=7, health=OK, counters=counters, metrics=True)
    return replace(base, **changes)  # type: ignore[arg-type]


def watch(looks: Sequence[Look], settings: WatchSettings = SETTINGS, memory: Memory | None = None) -> list[Judgement]:
    told, memory = [], memory or Memory()
    for one in looks:
        memory, judgement = judge(memory, one, settings)
        told.append(judgement)
    return told


def first_kill(looks: Sequence[Look], settings: WatchSettings = SETTINGS) -> float | None:
    for one, judgement in zip(looks, watch(looks, settings)):
        if judgement.action in KILLS:
            return one.at
    return None


def known(idle: float, taken: float = 0.0, at: float = 0.0) -> Memory:
    """Of a step that was seen a moment ago."""
    return Memory(steps=Steps((Bucket(at, 1.0, Step(max(idle, taken), idle)),)))


def ticks(seconds: float, step: float = 0.2, begin: float = 0.0) -> list[float]:
    return [begin + number * step for number in range(int(seconds / step) + 1)]


# --- laws -----------------------------------------------------------------------------------------------------

gaps = some.floats(0.01, 5.0)
activity = some.sampled_from([None, True, False])


@given(some.lists(some.tuples(gaps, activity, some.floats(0, 50), some.floats(0, 500)), max_size=80))
def test_law_a_server_that_progresses_at_each_look_is_never_killed(
    steps: list[tuple[float, bool | None, float, float]],
) -> None:
    looks, at = [], 0.0
    for number, (gap, active, running, waiting) in enumerate(steps):
        at += gap
        # A canary that is starved by the users' queue is no sign of anything while that moves.
        news = CanaryNews(since=0.0)
        looks.append(look(at, counted(number, running, waiting), engine_active=active, canary=news))
    assert first_kill(looks) is None


@given(
    some.lists(some.tuples(gaps, activity, some.sampled_from([OK, LATE, REFUSED])), max_size=60),
    some.floats(1, 10_000),
)
def test_law_a_loading_server_is_never_killed_before_its_deadline(
    steps: list[tuple[float, bool | None, d.Health]], limit: float
) -> None:
    looks, at = [], 0.0
    for gap, active, health in steps:
        at += gap
        loads = replace(RUNS, ready=False, process_age=min(at, limit), start_timeout=limit)
        looks.append(look(at, health=health, metrics=False, process=loads, engine_active=active, api_active=active))
    assert first_kill(looks) is None


@given(
    some.floats(0.05, 1.0),
    some.sampled_from(["loaded", "idle", "no metrics", "read 0 while it hangs"]),
    some.floats(0, 10),
)
def test_law_a_hang_is_found_in_bounded_time_idle_or_loaded(step: float, kind: str, longest: float) -> None:
    """And with the canary's own interval and two looks on top, no later."""
    limit = max(SETTINGS.stall_after, SETTINGS.stall_factor * longest)
    memory, sent, killed, at = known(longest), None, None, 0.0
    while killed is None and at < 200:
        counters = {
            "loaded": counted(5, 3, 9), "idle": counted(5), "no metrics": None, "read 0 while it hangs": counted(5),
        }[kind]  # fmt: skip
        seen = look(at, counters, engine_active=False, canary=CanaryNews(since=sent))
        memory, judgement = judge(memory, seen, SETTINGS)
        if judgement.canary and sent is None:
            sent = at
        killed = at if judgement.action in KILLS else None
        at += step
    assert killed is not None
    assert killed <= limit + SETTINGS.canary.every + 3 * step + 1e-6


@given(some.floats(0.05, 1.0), some.booleans())
def test_law_a_hang_that_uses_a_cpu_is_found_after_patience(step: float, idle: bool) -> None:
    counters = counted(5) if idle else counted(5, 1, 0)
    news = CanaryNews(since=0.0) if idle else CanaryNews()
    looks = [look(at, counters, engine_active=True, canary=news) for at in ticks(SETTINGS.patience + 5, step)]
    killed = first_kill(looks)
    assert killed is not None
    assert SETTINGS.patience <= killed <= SETTINGS.patience + 2 * step + 1


@given(some.floats(0.1, 1.0))
def test_law_a_silent_api_is_found_in_bounded_time(step: float) -> None:
    looks = [look(0, counted())]
    looks += [
        look(at + 0.5, None, begun=at, health=LATE, metrics=False, api_active=False) for at in ticks(20, step, 1.0)
    ]
    killed = first_kill(looks)
    assert killed is not None
    assert killed <= 1.0 + SETTINGS.stall_after + 0.5 + 3 * step


@given(some.floats(0.1, 3.0), activity)
def test_law_an_api_that_says_nothing_is_sent_nobody_unless_it_wants_a_cpu(timeout: float, active: bool | None) -> None:
    settings = replace(SETTINGS, timeout=timeout, stall_after=20.0)
    looks, at = [look(0, counted())], 1.0
    while at < 12:
        seen = None if len(looks) == 1 else active  # who is not in doubt does not look at that
        looks.append(look(at + timeout, None, begun=at, health=LATE, metrics=False, api_active=seen))
        at += timeout + 0.05
    told = watch([*looks, look(at, counted(1))], settings)
    assert not any(one.mute for one in told[:2]), "one question is none"
    assert not any(one.mute for one, seen in zip(told, looks) if seen.at < 1.0 + MUTE)
    assert {one.mute for one, seen in zip(told, looks) if seen.at > 2.0 + MUTE + 2 * timeout} == {active is not True}
    assert not told[-1].mute, "it has spoken again"


@given(some.lists(some.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_law_a_clock_that_jumps_kills_nobody(jumps: list[float]) -> None:
    """Whatever the clock says, a few looks are no evidence: each counts for a second at most, and must be agreed."""
    looks, at = [look(0, counted(1, 1, 0), engine_active=True)], 0.0
    for jump in jumps:
        at += jump
        looks.append(look(at, counted(1, 1, 0), engine_active=True))
    killed = [one for one, judgement in zip(looks, watch(looks)) if judgement.action in KILLS]
    assert not killed or len(looks) > SETTINGS.patience


def test_a_keeper_that_slept_has_seen_nothing() -> None:
    looks = [look(0, counted(1, 1, 0)), look(3600, counted(1, 1, 0), engine_active=False)]
    assert first_kill(looks) is None


@given(some.lists(some.one_of(some.none(), some.integers(0, 1000)), min_size=3, max_size=80))
def test_law_missing_garbled_or_reset_counters_kill_nobody_who_answers_canaries(values: list[int | None]) -> None:
    looks = []
    for number, value in enumerate(values):
        counters = None if value is None else counted(value)
        news = CanaryNews(done=number * 1.0, kind="ok", detail="")
        looks.append(look(number * 1.0, counters, engine_active=False, canary=news))
    assert first_kill(looks) is None


@given(some.data())
def test_law_nothing_raises_and_every_verdict_is_known(data: some.DataObject) -> None:
    memory, at = Memory(), 0.0
    for _number in range(data.draw(some.integers(1, 25))):
        at += data.draw(some.floats(-5, 100))
        health = data.draw(some.sampled_from([None, OK, LATE, REFUSED, d.Health("status", "503")]))
        counters = data.draw(
            some.sampled_from([None, Counters({}), counted(1, 1, 1), counted(2), Counters({"1": Engine((1.0,), 2, 0)})])
        )
        news = CanaryNews(
            since=data.draw(some.sampled_from([None, at, at - 50])),
            done=data.draw(some.sampled_from([None, at - 1])),
            kind=data.draw(some.sampled_from(["", "ok", "status", "timeout", "broken"])),
        )
        process = replace(
            RUNS,
            phase=data.draw(some.sampled_from([d.RUNNING, d.STARTING, d.HELD, d.STOPPED, d.STOPPING, d.MISSING])),
            parked=data.draw(some.sampled_from(["", "by hand"])),
            intent=data.draw(some.sampled_from(["", "stop", "revive"])),
        )
        one = look(
            at, counters, health=health, metrics=data.draw(some.booleans()), canary=news, process=process,
            pid=data.draw(some.sampled_from([0, 7, 8])), engine_active=data.draw(activity),
            api_active=data.draw(activity), engine_lost=data.draw(some.sampled_from([0, 9])),
        )  # fmt: skip
        memory, judgement = judge(memory, one, SETTINGS)
        assert judgement.verdict in {
            "starting", "healthy", "busy", "hung", "dead", "draining", "gpu_fault", "parked", "stopped",
        }  # fmt: skip
        assert judgement.reason
        assert process.parked == "" or judgement.action == d.NONE


# --- what it knows of steps ----------------------------------------------------------------------------------


class Simulated:
    """A server whose steps last as they are told to, and a watcher that looks as often as Watcher.step does.

    Users' requests run from the first step on. After the last one, those are all answered, and canaries are, until it
    hangs: its counters and its processes stand still.
    """

    ANSWER = 0.03  # seconds of a canary

    def __init__(self, steps: Sequence[tuple[float, bool]], memory: Memory | None = None, begin: float = 0.0) -> None:
        """STEPS: seconds of each, and whether its processes are active."""
        self.ends, self.active = [begin], [False]
        for seconds, active in steps:
            self.ends.append(self.ends[-1] + seconds)
            self.active.append(active)
        self.memory, self.now = memory or Memory(), begin
        self.hung_at = float("inf")
        self.loaded_until = self.ends[-1]
        self.canary = CanaryNews()
        self.answered = 0
        self.looked: float | None = None  # at its processes
        self.doubt = False
        self.killed: float | None = None

    def worked(self, begin: float, end: float) -> bool:
        """Whether its processes were active at some moment of that time."""
        spans = zip(self.ends, self.ends[1:], self.active[1:])
        return any(active and first < end and begin < last for first, last, active in spans)

    def activity(self) -> bool | None:
        if not self.doubt:
            self.looked = None
            return None
        before, self.looked = self.looked, self.now
        if before is None:  # there is nothing to compare with, but threads that run are seen
            return self.worked(self.now - 1e-9, self.now) or None
        return self.worked(before, self.now)

    def look(self) -> None:
        news = self.canary
        if news.since is not None and news.since + self.ANSWER <= min(self.now, self.hung_at):
            self.answered += 1
            self.canary = CanaryNews(done=news.since + self.ANSWER, kind="ok")
        moved = sum(end <= min(self.now, self.hung_at) for end in self.ends) + self.answered
        running = float(self.now < self.loaded_until or self.canary.since is not None)
        seen = look(self.now, counted(moved, running), canary=self.canary, engine_active=self.activity())
        self.memory, told = judge(self.memory, seen, SETTINGS)
        if told.action in KILLS:
            self.killed = self.now
        if told.canary:
            self.canary = CanaryNews(since=self.now, done=self.canary.done, kind=self.canary.kind)
        self.doubt = told.doubt
        pause = SETTINGS.doubt_interval if told.doubt else SETTINGS.interval
        if told.canary_due is not None and not told.doubt and not told.canary:
            pause = min(pause, max(0.05, told.canary_due - self.now))
        sent = self.canary.since
        if sent is not None and self.now < sent + self.ANSWER < min(self.now + pause, self.hung_at):
            pause = sent + self.ANSWER - self.now  # its answer wakes the watcher
        self.now += pause

    def go(self, until: float) -> float | None:
        """When it was killed, None if it was not."""
        while self.now <= until and self.killed is None:
            self.look()
        return self.killed

    def hang(self, at: float, loaded: bool) -> float:
        """Seconds from the hang to the kill."""
        self.hung_at = at
        if loaded:
            self.loaded_until = float("inf")
        killed = self.go(at + 100)
        assert killed is not None
        return killed - at


BUSY = some.tuples(some.floats(0.02, 19.0), some.just(True))
QUIET = some.tuples(some.floats(0.02, SETTINGS.stall_after), some.just(False))
BRIEF = some.tuples(some.floats(0.02, 1.2), some.just(False))  # over before anybody knows whether it was active


@given(some.lists(some.one_of(BUSY, QUIET), max_size=40), some.floats(0, 30))
def test_law_a_server_that_progresses_is_never_killed(steps: list[tuple[float, bool]], idle: float) -> None:
    """Whether its processes work during a long step or wait for a GPU for up to `stall_after`."""
    server = Simulated(steps)
    assert server.go(server.loaded_until + idle) is None


@given(
    some.lists(some.one_of(BUSY, BRIEF), max_size=12),
    QUIET,
    some.integers(0, 12),
    some.floats(0, 3),
    some.booleans(),
)
def test_law_a_hang_after_any_start_is_found_within_three_seconds(
    steps: list[tuple[float, bool]], once: tuple[float, bool], place: int, later: float, loaded: bool
) -> None:
    """Whatever its first minute of work compiled and loaded, and one step besides in which all of it slept.

    Where the last users were answered in the second before, the look that learns of that comes first.
    """
    steps = [*steps[:place], once, *steps[place:]]
    while sum(seconds for seconds, _active in steps) >= WARM_UP:
        steps = steps[1:]
    server = Simulated(steps)
    at = server.loaded_until + later
    assert server.go(at) is None
    assert server.hang(at, loaded) <= (3.0 if loaded or later > SETTINGS.interval else 3.0 + SETTINGS.interval)


@pytest.mark.parametrize("loaded", [False, True])
def test_the_first_step_of_a_real_gpu_leaves_the_limit_alone(loaded: bool) -> None:
    """vLLM 0.32 on an H100: three Triton kernels were compiled during the first batch, which took 2.23 s."""
    server = Simulated([(2.23, True), *[(0.05, False)] * 60])
    assert server.go(6.0) is None
    assert server.memory.steps.longest.idle == 0
    assert server.hang(6.0, loaded) <= 3.0


@given(some.floats(1.0, 20.0), some.floats(0.1, 0.999), some.floats(0, 2 * WORK))
def test_law_what_was_idle_for_long_and_went_on_may_be_idle_for_longer(seen: float, share: float, work: float) -> None:
    """While a GPU computes all threads of an engine sleep: a step that is long by nature must be learned as it is."""
    memory = replace(known(seen / SETTINGS.stall_factor), worked=WARM_UP, pid=7, at=0.0)
    looks = [look(at, counted(0, 1, 0), engine_active=False if at > 1.1 else None) for at in ticks(seen * 0.99)]
    last = looks[-1].at
    looks.append(look(last + 0.2, counted(1, 1, 0)))
    looks += [look(last + 0.3 + done, counted(2 + done, 1, 0)) for done in ticks(work, 100.0)]
    for one in looks:
        memory, told = judge(memory, one, SETTINGS)
        assert told.action == d.NONE
    assert memory.steps.longest.idle >= last - 0.01
    begin, allowed = looks[-1].at, SETTINGS.stall_factor * last * share
    still = [look(at, looks[-1].counters, engine_active=False) for at in ticks(allowed, begin=begin)]
    assert all(told.action == d.NONE for told in watch(still, memory=memory))


@given(some.floats(0.5, 20.0), some.floats(0.5, 20.0), some.floats(5.0, 120.0))
def test_law_a_long_step_is_forgotten_after_a_bounded_amount_of_work(taken: float, idle: float, gap: float) -> None:
    memory, at, moved = known(idle, taken), 0.0, 0
    while at < REMEMBERED + 2 * gap:
        at, moved = at + gap, moved + 1
        memory, told = judge(memory, look(at, counted(moved, 1, 0)), SETTINGS)
        assert told.action == d.NONE
    assert memory.steps.longest == Step()
    still = [look(at + one, counted(moved, 1, 0), engine_active=False) for one in ticks(5)]
    assert (
        next(one.at for one, judgement in zip(still, watch(still, memory=memory)) if judgement.action in KILLS)
        <= at + 1.8
    )


@given(some.floats(0.5, 20.0))
def test_law_a_long_step_is_forgotten_after_a_day_without_users(idle: float) -> None:
    memory, at = known(idle), 0.0
    while at < TIME:
        at += 600.0
        memory, _told = judge(memory, look(at, counted(at)), SETTINGS)
    assert memory.steps.longest == Step()


@given(some.floats(1.0, 20.0), some.floats(0, 20.0))
def test_law_a_quiet_night_forgets_nothing(idle: float, more: float) -> None:
    memory = known(idle, idle + more)
    step = memory.steps.longest
    for at in ticks(12 * 3600, 600.0):
        memory, _told = judge(memory, look(at, counted(at)), SETTINGS)
    assert memory.steps.longest == step


def test_a_step_that_uses_a_cpu_stretches_patience_and_not_the_limit_of_idle_processes() -> None:
    memory = Memory(worked=WARM_UP, pid=7, at=0.0)
    for one in [*(look(at, counted(1, 1, 0), engine_active=True) for at in ticks(12.0)), look(12.2, counted(2, 1, 0))]:
        memory, _judgement = judge(memory, one, SETTINGS)
    assert memory.steps.longest.taken == pytest.approx(12.0, abs=0.3)
    assert memory.steps.longest.idle == 0
    still = [look(at, counted(2, 1, 0), engine_active=False) for at in ticks(30, begin=12.4)]
    killed = next(one.at for one, told in zip(still, watch(still, memory=memory)) if told.action in KILLS)
    assert killed - 12.2 == pytest.approx(SETTINGS.stall_after, abs=0.5)
    spins = [look(at, counted(2, 1, 0), engine_active=True) for at in ticks(90, begin=12.4)]
    killed = next(one.at for one, told in zip(spins, watch(spins, memory=memory)) if told.action in KILLS)
    assert killed - 12.2 == pytest.approx(SETTINGS.patience_factor * 12, abs=2.0)


def test_of_a_step_with_two_idle_stretches_the_longer_one_counts() -> None:
    memory = replace(known(2.0), worked=WARM_UP, pid=7, at=0.0)
    active = {at: 2.0 < at < 3.0 for at in ticks(4.0)}
    for at, one in active.items():
        memory, _judgement = judge(memory, look(at, counted(1, 1, 0), engine_active=one), SETTINGS)
    memory, _judgement = judge(memory, look(4.2, counted(2, 1, 0), engine_active=True), SETTINGS)
    longest = memory.steps.longest
    assert (longest.taken, longest.idle) == pytest.approx((4.0, 2.0))


def test_during_the_warm_up_a_long_step_counts_once_there_was_another() -> None:
    memory, at = Memory(), 0.0
    for number, idle in enumerate([0.0, 1.4, 1.0, 1.2]):
        for wait in ticks(idle + 0.01):
            memory, told = judge(memory, look(at + wait, counted(number, 1, 0), engine_active=False), SETTINGS)
            assert told.action == d.NONE
        at += idle + 0.2
        memory, _told = judge(memory, look(at, counted(number + 1, 1, 0)), SETTINGS)
        assert memory.steps.longest.idle == pytest.approx([0.0, 0.0, 1.0, 1.2][number])


def test_a_hang_that_went_away_teaches_nothing_beyond_the_longest_step_believed() -> None:
    memory = Memory(worked=WARM_UP, pid=7, at=0.0)
    for one in [*(look(at, counted(1, 1, 0), engine_active=True) for at in ticks(40)), look(41, counted(2, 1, 0))]:
        memory, _judgement = judge(memory, one, SETTINGS)
    assert memory.steps.longest == Step()


def test_another_process_begins_anew_but_keeps_the_steps() -> None:
    memory = replace(known(3.0), pid=7, at=0.0, worked=WARM_UP, first=Step(2.0, 1.0))
    memory, _judgement = judge(memory, look(1, counted(1, 1, 0), pid=8), SETTINGS)
    assert (memory.pid, memory.steps.longest, memory.waits["0"].stalled) == (8, Step(3.0, 3.0), 0.0)
    assert (memory.worked, memory.first) == (0.0, Step())


def test_one_engine_of_two_that_hangs_is_seen_though_the_other_goes_on() -> None:
    looks = [
        look(at, Counters({"0": Engine((at,), 1, 0), "1": Engine((1.0,), 1, 0)}), engine_active=False)
        for at in ticks(5)
    ]
    told = watch(looks)[-1]
    assert told.action == d.KILL
    assert "engine 1" in told.reason


# --- canary --------------------------------------------------------------------------------------------------


def test_no_canary_while_requests_run_or_wait_or_have_just_been_answered() -> None:
    assert not any(told.canary for told in watch([look(at, counted(at, 1, 0)) for at in ticks(10)]))
    assert not any(told.canary for told in watch([look(at, counted(at)) for at in ticks(10)]))


def test_an_idle_server_gets_one_a_second_at_most() -> None:
    done, sent = None, 0
    memory = Memory()
    for at in ticks(20, 0.1, 100.0):
        memory, told = judge(memory, look(at, counted(1), canary=CanaryNews(done=done, kind="ok")), SETTINGS)
        if told.canary:
            sent, done = sent + 1, at
    assert 18 <= sent <= 21


@pytest.mark.parametrize(
    "news",
    [CanaryNews(since=1.0), CanaryNews(refused="POST /v1/completions: status 401")],
    ids=["under way", "never answered"],
)
def test_no_canary_when_one_is_under_way_or_it_is_no_use(news: CanaryNews) -> None:
    assert not any(told.canary for told in watch([look(at, counted(1), canary=news) for at in (0.0, 1.0)]))


def test_no_canary_when_it_is_switched_off() -> None:
    off = replace(SETTINGS, canary=CanarySettings(enabled=False))
    assert not any(told.canary for told in watch([look(at, counted(1)) for at in ticks(10)], off))


def test_a_refused_canary_never_kills() -> None:
    looks = [
        look(at, counted(1), canary=CanaryNews(done=at, kind="status", refused="status 401"), engine_active=False)
        for at in ticks(30)
    ]
    assert first_kill(looks) is None


def test_canaries_that_fail_with_500_kill_after_three() -> None:
    looks = [
        look(at, counted(1), canary=CanaryNews(done=at, kind="status", detail="status 500"), engine_active=False)
        for at in (1.0, 2.0, 3.0)
    ]
    assert [told.action for told in watch(looks)] == [d.NONE, d.NONE, d.KILL]


# --- direct evidence -----------------------------------------------------------------------------------------


def test_a_lost_engine_is_not_waited_for_once_health_says_so() -> None:
    bad = d.Health("status", "GET /health: status 503")
    told = watch([look(0, counted()), look(0.1, engine_lost=9), look(0.2, engine_lost=9, health=bad)])
    assert [one.action for one in told] == [d.NONE, d.NONE, d.KILL]
    assert told[1].doubt


def test_health_other_than_200_is_believed_at_the_second_look() -> None:
    bad = d.Health("status", "GET /health: status 503")
    told = watch([look(0, health=bad), look(0.2, health=bad)])
    assert [one.action for one in told] == [d.NONE, d.KILL]
    assert [one.action for one in watch([look(0, health=bad), look(0.2), look(0.4, health=bad)])] == [d.NONE] * 3


def test_an_active_api_that_does_not_answer_is_given_its_patience() -> None:
    late = [
        look(at + 0.5, None, begun=at, health=LATE, metrics=False, api_active=True)
        for at in ticks(SETTINGS.api_patience + 5, 0.6, 1.0)
    ]
    killed = first_kill([look(0, counted()), *late])
    assert killed is not None
    assert killed >= SETTINGS.api_patience


def test_counters_of_an_api_that_did_not_answer_say_nothing() -> None:
    """No watcher has such a look; what is known of engines and of their work must fit together all the same."""
    contrary = look(1, Counters({}), health=None, metrics=False)
    told = watch([look(0, counted(1, 1, 1)), contrary, look(1.2, counted(1, 1, 1))])
    assert [one.action for one in told] == [d.NONE] * 3


def test_what_is_not_to_be_judged_is_not() -> None:
    stopped = look(0, process=replace(RUNS, phase=d.STOPPED, stopped_on_purpose=True), pid=0, health=None)
    starting = look(1, pid=0, health=None, metrics=False)
    assert [told.verdict for told in watch([stopped, starting])] == ["stopped", "starting"]
