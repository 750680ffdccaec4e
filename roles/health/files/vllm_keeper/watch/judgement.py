# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is it serving, busy or hung? One pure function over what was seen; no clock, no file, no process is touched here.

A hang is believed when work is outstanding and nothing shows that it goes on: requests run or wait (or a canary does),
no counter of the engine moves, and for `stall_after` no process of the engine uses or wants a CPU. While they do, the
server may be in a long step, and gets `patience`.

That they do not is no proof either: while a GPU computes, all threads of its engine sleep. So both limits grow with the
longest steps of recent work (vllm_keeper.watch.steps), each with what is measured against it: `stall_after` with the
longest stretch in which the processes were idle, `patience` with the whole step. A step that compiles uses a CPU, so it
leaves the first limit alone.

Time is counted look by look, and a look counts for MOST seconds at most: who was not looking (a suspended host, a
keeper that got no CPU itself, a clock that jumped) has seen nothing, and holds nothing against the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vllm_keeper import decision as d
from vllm_keeper.clock import duration
from vllm_keeper.watch.counters import Counters, Engine
from vllm_keeper.watch.settings import WatchSettings
from vllm_keeper.watch.steps import LONGEST, NO_STEP, NO_STEPS, Step, Steps

MOST = 1.0  # seconds that one look counts for
MOST_WORK = 120.0  # the same of work: for so long glances see that it goes on, without a look
WARM_UP = 60.0  # seconds of work in which a process does much for the first time, and the only one
FAILURES = 3  # canaries in a row that were answered with an error of the server
CONFIRM = 2  # looks that must agree before an answer of /health other than 200, or that there is none, is believed
MUTE = 1.0  # seconds without an answer, after which nobody is sent to an API that does not want a CPU either
CANARY = "canary"  # the work that the canary is, beside the engines' own


@dataclass(frozen=True)
class CanaryNews:
    """since: when the one that is under way was sent, None for none. done: when the last one ended, with its outcome.

    kind: that of probe.Answer. refused: why it will never be answered (a wrong key, no such endpoint), "" if it may.
    """

    since: float | None = None
    done: float | None = None
    kind: str = ""
    detail: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Look:
    """at, begun: seconds of a clock that never goes back; begun is when this look's questions were asked.

    process: what manager and history say. health: None when not asked. metrics: whether /metrics answered at all.
    engine_active, api_active: whether they use or want a CPU, None when not looked. engine_lost: the pid of an engine
    process that ended while its API goes on.
    """

    at: float
    process: d.Observation
    pid: int = 0
    begun: float | None = None
    health: d.Health | None = None
    counters: Counters | None = None
    metrics: bool = False
    canary: CanaryNews = field(default_factory=CanaryNews)
    engine_active: bool | None = None
    api_active: bool | None = None
    engine_lost: int = 0
    gpu_fault: str = ""
    gpu_remedy: str = ""


@dataclass(frozen=True)
class Waiting:
    """Counted seconds: without progress, and without progress or activity. stillest: the most of those at a look that
    saw the processes idle."""

    stalled: float = 0.0
    still: float = 0.0
    stillest: float = 0.0

    def after(self, seconds: float, active: bool | None) -> Waiting:
        still = 0.0 if active else self.still + seconds
        return Waiting(self.stalled + seconds, still, max(self.stillest, still) if active is False else self.stillest)

    def step(self, warm: bool) -> Step:
        """What it was, once there is progress.

        Most steps end before anybody looks whether processes are active. Of a warm server those count as idle: a limit
        that is too long kills nobody. During the warm-up they do not: most of what is slow then compiles.
        """
        idle = max(self.stillest, self.still) if warm else self.stillest
        return NO_STEP if self.stalled > LONGEST else Step(self.stalled, idle)


@dataclass(frozen=True)
class Memory:
    """What one look leaves for the next."""

    pid: int = 0
    at: float | None = None
    engines: Mapping[str, Engine] = field(default_factory=dict)
    waits: Mapping[str, Waiting] = field(default_factory=dict)  # by engine, and of the canary
    silent: Waiting = Waiting()  # of the API
    unanswered: int = 0  # looks in a row
    steps: Steps = NO_STEPS  # of this configuration, also by processes before this one
    worked: float = 0.0  # seconds of work that this process was seen to do, up to WARM_UP
    first: Step = NO_STEP  # the longest of its warm-up
    progress_at: float | None = None
    canary_seen: float | None = None
    canary_failures: int = 0
    unwell: int = 0  # looks in a row at which /health was answered, but not with 200


@dataclass(frozen=True)
class Judgement:
    """action: one of vllm_keeper.decision's. doubt: to be looked at more often. canary: one is wanted now.

    canary_due: when the next one is wanted, on the clock of the looks; None where none is, as things stand. mute: not
    to be sent requests now, though it is not known yet whether it has to be killed.
    """

    verdict: str
    action: str
    reason: str
    doubt: bool = False
    canary: bool = False
    canary_due: float | None = None
    stalled: float = 0.0
    limit: float = 0.0
    mute: bool = False


def judge(memory: Memory, look: Look, settings: WatchSettings) -> tuple[Memory, Judgement]:
    memory = _of_this_process(memory, look)
    before = d.decide_before_probe(look.process)
    if before is None and not look.pid:
        before = d.Decision("starting", d.NONE, f"its main process is awaited ({look.process.detail})")
    if before is not None:
        # Whatever was counted belongs to a server that is not to be judged now.
        rest = Memory(pid=look.pid, at=look.at, steps=memory.steps)
        return rest, Judgement(before.verdict, before.action, before.reason)
    memory = _count(memory, look)
    judgement = _decide(memory, look, settings)
    due = _canary_due(memory, look, settings, judgement)
    return memory, replace(judgement, canary=due is not None and due <= look.at, canary_due=due)


def _of_this_process(memory: Memory, look: Look) -> Memory:
    if memory.pid == look.pid and memory.at is not None:
        return memory
    # What a step may take is known of the model, not of the process.
    return Memory(pid=look.pid, at=look.at, steps=memory.steps, progress_at=look.at)


def _count(memory: Memory, look: Look) -> Memory:
    spent = min(MOST, max(0.0, look.at - (look.at if memory.at is None else memory.at)))
    answered = look.metrics or (look.health is not None and look.health.kind in ("ok", "status"))
    silent = Waiting() if answered else memory.silent.after(_unanswered(memory, look, spent), look.api_active)
    waits, progressed, step = _waits(memory, look, spent, answered)
    news = look.canary
    new_canary = news.done is not None and news.done != memory.canary_seen
    failures = memory.canary_failures
    if new_canary:
        failures = 0 if news.kind == "ok" or news.refused else failures + (news.kind in ("status", "broken"))
    unwell = look.health is not None and look.health.kind == "status"
    return replace(
        _learned(memory, look, progressed, step),
        at=look.at,
        engines=dict(look.counters.engines) if answered and look.counters is not None else memory.engines,
        waits=waits,
        silent=silent,
        unanswered=0 if answered else memory.unanswered + 1,
        progress_at=look.at if progressed else memory.progress_at,
        canary_seen=news.done if new_canary else memory.canary_seen,
        canary_failures=0 if progressed and not new_canary else failures,
        unwell=memory.unwell + 1 if unwell else 0,
    )


def _learned(memory: Memory, look: Look, progressed: bool, step: Step) -> Memory:
    """What is known of steps once there was progress, the longest of which was STEP."""
    works = progressed and look.counters is not None and any(one.has_work for one in look.counters.engines.values())
    worked = min(MOST_WORK, max(0.0, look.at - (look.at if memory.at is None else memory.at))) if works else 0.0
    if step == NO_STEP:
        counts, first = step, memory.first
    elif memory.worked < WARM_UP:
        # What is done for the first time comes once; steps that are as long by nature come again.
        counts, first = step.shorter(memory.first), step.longer(memory.first)
    else:
        counts, first = step, memory.first
    steps = memory.steps.after(look.at, worked, counts)
    return replace(memory, steps=steps, first=first, worked=min(WARM_UP, memory.worked + worked))


def _unanswered(memory: Memory, look: Look, spent: float) -> float:
    """Seconds since the first question that was not answered, rather than since the look before it."""
    if memory.silent.stalled or look.begun is None:
        return spent
    return min(spent, max(0.0, look.at - look.begun))


def _waits(memory: Memory, look: Look, spent: float, answered: bool) -> tuple[dict[str, Waiting], bool, Step]:
    """(waiting of each engine that has work, whether anything progressed, the longest step that ended)"""
    news = look.canary
    canary_answered = news.done is not None and news.done != memory.canary_seen and news.kind == "ok"
    if not answered:
        # Nothing is known of the engines while the API says nothing: that has a limit of its own.
        return dict(memory.waits), canary_answered, NO_STEP
    engines = memory.engines if look.counters is None else look.counters.engines
    waits: dict[str, Waiting] = {}
    progressed, step = canary_answered, NO_STEP
    for name, engine in engines.items():
        known = memory.engines.get(name)
        moved = look.counters is not None and (known is None or known.moved != engine.moved)
        waited = memory.waits.get(name)
        progressed_here = moved or canary_answered
        if progressed_here:
            progressed = True
            if waited is not None:
                step = step.longer(waited.step(memory.worked >= WARM_UP))
            waited = Waiting()
        if look.counters is None:
            # Garbled: nothing to hold against it, and nothing to its credit.
            if waited is not None and not canary_answered:
                waits[name] = waited
        elif engine.has_work:
            # When the work came is not known better than by the look that first saw it.
            waits[name] = Waiting() if progressed_here or waited is None else waited.after(spent, look.engine_active)
    if news.since is not None and not progressed:
        waited = memory.waits.get(CANARY)
        waits[CANARY] = Waiting() if waited is None else waited.after(spent, look.engine_active)
        if waited is None:
            since = min(MOST, max(0.0, look.at - news.since))
            waits[CANARY] = Waiting(since, 0.0 if look.engine_active else since)
    return waits, progressed, step


def _decide(memory: Memory, look: Look, settings: WatchSettings) -> Judgement:
    """The first that has something to say."""
    if look.gpu_fault:
        action = d.KILL if look.gpu_remedy not in ("", "ignore") else d.NONE
        return Judgement("gpu_fault", action, look.gpu_fault)
    return (
        _lost_engine(look)
        or _unwell(memory, look)
        or _silent(memory, look, settings)
        or _refusing(memory, look)
        or _engines(memory, look, settings)
    )


def _lost_engine(look: Look) -> Judgement | None:
    if not look.engine_lost:
        return None
    gone = f"its engine process {look.engine_lost} ended while the API still runs"
    if look.health is None or look.health.kind != "ok":
        told = look.health.detail if look.health else "not asked"
        return Judgement("dead", d.KILL, f"{gone}: {told}; not waited for it")
    # It may be one of several that was given up on purpose; /health knows within a quarter of a second.
    return Judgement("busy", d.NONE, f"{gone}; whether it needs it is awaited", doubt=True)


def _unwell(memory: Memory, look: Look) -> Judgement | None:
    if look.health is None or look.health.kind != "status":
        return None
    sure = memory.unwell >= CONFIRM
    return Judgement("dead" if sure else "busy", d.KILL if sure else d.NONE, look.health.detail, doubt=True)


def _refusing(memory: Memory, look: Look) -> Judgement | None:
    if memory.canary_failures < FAILURES:
        return None
    return Judgement("dead", d.KILL, f"{memory.canary_failures} canaries in a row failed: {look.canary.detail}")


def _limits(memory: Memory, settings: WatchSettings) -> tuple[float, float]:
    longest = memory.steps.longest
    still = max(settings.stall_after, settings.stall_factor * longest.idle)
    return still, max(settings.patience, settings.patience_factor * longest.taken, still)


def _silent(memory: Memory, look: Look, settings: WatchSettings) -> Judgement | None:
    silent, health = memory.silent, look.health
    if not silent.stalled or health is None:
        return None
    limit = settings.stall_after
    told = f"no answer for {silent.stalled:.1f} s ({health.detail})"
    if health.kind == "refused" and silent.stalled > limit:
        return Judgement("dead", d.KILL, f"its process runs, but nobody listens: {told}", stalled=silent.stalled)
    # Whether it is active must have been seen: until then it has the benefit of the doubt.
    if silent.still > limit and look.api_active is False:
        why = f"{told}, and the API has not used a CPU for {silent.still:.1f} s"
        return Judgement("hung", d.KILL, why, stalled=silent.stalled, limit=limit)
    if silent.stalled > settings.api_patience:
        why = f"{told}, though the API is active: longer than {settings.api_patience:g} s"
        return Judgement("hung", d.KILL, why, stalled=silent.stalled, limit=settings.api_patience)
    mute = memory.unanswered >= CONFIRM and silent.stalled >= MUTE and look.api_active is not True
    return Judgement("busy", d.NONE, told, doubt=True, stalled=silent.stalled, limit=limit, mute=mute)


def _engines(memory: Memory, look: Look, settings: WatchSettings) -> Judgement:
    still, patience = _limits(memory, settings)
    worst = max(memory.waits.values(), key=lambda one: (one.still, one.stalled), default=Waiting())
    longest = max((one.stalled for one in memory.waits.values()), default=0.0)
    name = next((name for name, one in memory.waits.items() if one is worst), "")
    what = _work(name, memory, look)
    if worst.still > still and look.engine_active is False:
        why = (
            f"{what} and no progress for {worst.stalled:.1f} s, its processes idle for {worst.still:.1f} s "
            f"(limit {still:.1f} s{_stretched(memory, settings)})"
        )
        return Judgement("hung", d.KILL, why, stalled=worst.stalled, limit=still)
    if longest > patience:
        why = f"{what} and no progress for {longest:.1f} s, though its processes are active (limit {patience:.1f} s)"
        return Judgement("hung", d.KILL, why, stalled=longest, limit=patience)
    # A wait that is no longer than a look is what every look sees.
    doubt = longest > 0
    if doubt and longest >= settings.interval:
        limit = still if worst.still else patience
        return Judgement(
            "busy", d.NONE, f"{what}, no progress for {longest:.1f} s yet", doubt=True, stalled=longest, limit=limit
        )
    waiting = 0.0 if look.counters is None else look.counters.waiting
    running = 0.0 if look.counters is None else look.counters.running
    verdict, reason = at_work(running, waiting, look.health.detail if look.health is not None else "answers")
    return Judgement(verdict, d.NONE, reason, doubt=doubt, stalled=longest)


def at_work(running: float, waiting: float, idle: str = "answers") -> tuple[str, str]:
    """(verdict, reason) of a server that has made progress, by its requests; IDLE: what to say if it has none."""
    if waiting > 0:
        return "busy", f"{running:g} requests run, {waiting:g} wait"
    return "healthy", f"{running:g} requests run" if running else idle


def _work(name: str, memory: Memory, look: Look) -> str:
    if name == CANARY or not name:
        return "a canary is not answered"
    engine = memory.engines[name]
    several = f" of engine {name}" if len(memory.engines) > 1 else ""
    return f"{engine.running:g} requests run and {engine.waiting:g} wait{several}"


def _stretched(memory: Memory, settings: WatchSettings) -> str:
    idle = memory.steps.longest.idle
    if settings.stall_factor * idle <= settings.stall_after:
        return ""
    return f", {settings.stall_factor:g} times the {duration(idle)} that a step of recent work was idle"


def _canary_due(memory: Memory, look: Look, settings: WatchSettings, judgement: Judgement) -> float | None:
    canary = settings.canary
    if not canary.enabled or look.canary.since is not None or look.canary.refused:
        return None
    if judgement.action != d.NONE or judgement.verdict not in ("healthy", "busy") or memory.silent.stalled:
        return None
    # What is in the queue will show whether it moves; one more request would only wait with it.
    if look.counters is not None and (look.counters.running or look.counters.waiting):
        return None
    known = [moment for moment in (memory.progress_at, look.canary.done) if moment is not None]
    return max(known) + canary.every if known else look.at
