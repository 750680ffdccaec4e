# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which repair comes next: restart, clear, reset_gpu, reboot, replace, park. Pure.

The ladder and the gate (decision.decide_gate) share the work, so that each thing is decided in one place only:

- The **gate** counts the failures of an instance, paces its starts, and is the only one that parks. The ladder never
  says `park` unless the gate does: what the ladder has left to offer is then put before parking, never instead of it
  for good.
- The **ladder** says what is to be done to the host before the start that the gate is deciding about. It is asked at
  the gate, once the run before has ended: there nothing runs, and nothing starts before it is done. Whoever finds a
  server hung or faulty kills it (its end then counts as a repair); the start that follows comes by the gate.

How it climbs. The first `restart_tries` failures in a row are answered by a plain restart and the next `clear_tries`
by clearing what the dead left behind. After those, or when the gate would park because its budget is spent, or when a
fault calls for it, an opt-in rung is taken, the lowest that is allowed and was not yet tried. One start follows each,
whatever the gate says of it, and only its failure leads on;
the gate's budget is still spent then, so the next failure goes one rung up, and parks when there is none. While the
gate goes on allowing starts and no higher rung is left, they are cleared for as before.

What keeps the opt-in rungs from doing harm:

- They reach beyond the instance, so their history is the host's (ledger.py): a budget for all of them, tries for each,
  pauses between them. It is written before they are taken, and survives a reboot.
- Time is counted on the boot clock alone. Of a repair before this boot only the uptime since is taken as passed, which
  can be too little and never too much: a clock that jumps cannot bring about a second reboot. Where a host is rebooted
  by others more often than `reboot_window`, the ladder does not reboot it again.
- Without a fault that names them they are for a configuration that has served on this host. One that never did is more
  likely to be wrong itself, and would take a whole group of hosts down with it.
- A host is given up (`replace`) only when nothing below is left, or when a fault calls for just that.

At the gate, with `decision` = decide_gate(...), see remedies.before_start, which asks, does and remembers:

    decision = remedies.before_start(context, decision, state, gate_facts, tools, calls_for=remedy_of_the_fault)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_keeper import decision as d
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, duration
from vllm_keeper.config import GateSettings
from vllm_keeper.repair import (
    CLEAR,
    DONE,
    FAILED,
    HEAVY,
    LADDER,
    NONE,
    PARK,
    REBOOT,
    REPLACE,
    RESET_GPU,
    RESTART,
    Repair,
    Settings,
)

SPENT = "budget"  # the gate's cause when it parks for too many failures
REBOOT_TAKES = 300.0  # how long a host may take to go down
IGNORE = "ignore"
FLOORS = {"restart_application": RESTART, RESTART: RESTART, CLEAR: CLEAR, **{rung: rung for rung in HEAVY}}


@dataclass(frozen=True)
class Facts:
    now: Moment
    gate: d.GateDecision  # about the start that would follow
    instance: str = ""
    failures: int = 0  # runs in a row that ended by themselves
    calls_for: str = ""  # a fault's remedy; "" where no fault is known
    possible: frozenset[str] = frozenset((RESTART, CLEAR))  # rungs that this host has
    parked: bool = False
    proved: bool = False  # this configuration has served on this host
    neighbours: int = 0  # other instances of this host that serve now
    last_start: Moment | None = None
    dice: float = 0.0  # 0..1, drawn once for each decision


@dataclass(frozen=True)
class Step:
    rung: str
    reason: str
    wait: float = 0.0  # seconds before the rung may be taken


def facts_of(
    state: st.State,
    settings: GateSettings,
    known: d.GateFacts,
    decision: d.GateDecision,
    *,
    instance: str,
    calls_for: str = "",
    possible: frozenset[str] = frozenset((RESTART, CLEAR)),
    neighbours: int = 0,
) -> Facts:
    """What the gate knows, as the ladder wants it. STATE has the previous run closed, as for decide_gate."""
    return Facts(
        now=known.now,
        gate=decision,
        instance=instance,
        failures=d.streak(d.relevant(state.starts, known.config), settings),
        calls_for=calls_for,
        possible=possible,
        parked=state.parked is not None and d.still_parked(state.parked, known),
        proved=any(one.ready_at is not None and _same(one.config, known.config) for one in state.starts),
        neighbours=neighbours,
        last_start=state.starts[-1].at if state.starts else None,
        dice=known.dice,
    )


def _same(config: str, other: str) -> bool:
    return not config or not other or config == other


def decide(history: Sequence[Repair], settings: Settings, facts: Facts) -> Step:
    """HISTORY: the host's repairs of the opt-in rungs, in any order."""
    going = _rebooting(history, facts.now)
    if going > 0:
        return Step(NONE, "the host is about to reboot", going)
    if facts.parked or (facts.gate.action == d.PARK and facts.gate.cause != SPENT):
        return Step(PARK, facts.gate.reason)
    if facts.calls_for == IGNORE and facts.gate.action == d.GO and not facts.failures:
        return Step(NONE, "the fault calls for nothing")
    owed = _owed(history, facts)
    if owed:
        return Step(CLEAR, f"one start after the {owed}")
    return _climb(history, settings, facts, FLOORS.get(facts.calls_for, RESTART))


def _climb(history: Sequence[Repair], settings: Settings, facts: Facts, floor: str) -> Step:
    spent = facts.gate.action == d.PARK
    due = spent or facts.failures > settings.restart_tries + settings.clear_tries
    why, refused = _why(facts, floor, spent), list[str]()
    if floor in HEAVY or (due and not facts.gate.planned):
        for rung in HEAVY[HEAVY.index(floor) if floor in HEAVY else 0 :]:
            no = _refusal(rung, history, settings, facts, floor, spent)
            if not no:
                return Step(rung, why, _pause(history, settings, facts))
            refused.append(no)
    beyond = f"; beyond that: {'; '.join(refused)}" if refused else ""
    if spent:
        return Step(PARK, f"{facts.gate.reason}{beyond}")
    few = facts.gate.planned or facts.failures <= settings.restart_tries
    return Step(RESTART if floor == RESTART and few else CLEAR, f"{why}{beyond}")


def _why(facts: Facts, floor: str, spent: bool) -> str:
    if facts.calls_for in FLOORS:
        return f"a fault calls for {floor}"
    if spent or facts.gate.planned:
        return facts.gate.reason
    return f"{facts.failures} failures in a row"


def _refusal(rung: str, history: Sequence[Repair], settings: Settings, facts: Facts, floor: str, spent: bool) -> str:
    """Why an opt-in rung is not taken; "" if it may be."""
    opted_in = {RESET_GPU: settings.reset_gpu, REBOOT: settings.reboot, REPLACE: settings.replace}
    recent = [one for one in history if one.rung in HEAVY and passed(one.at, facts.now) < settings.window]
    rules = (
        (not opted_in[rung], "is not opted in"),
        (rung not in facts.possible, "is not possible on this host"),
        (
            rung in (REBOOT, REPLACE) and settings.spare_neighbours and facts.neighbours > 0,
            f"would take {facts.neighbours} more instances with it, which serve",
        ),
        (
            floor not in HEAVY and not facts.proved,
            "is not for a configuration that has never served on this host",
        ),
        (
            rung == REPLACE and floor not in HEAVY and not spent,
            "comes when all else is exhausted, and starts are left",
        ),
        (
            len(recent) >= settings.budget,
            f"would exceed the budget of {settings.budget} in {duration(settings.window)}",
        ),
        (_tried(rung, history, settings, facts), "was tried already"),
    )
    return next((f"{rung} {why}" for holds, why in rules if holds), "")


def _tried(rung: str, history: Sequence[Repair], settings: Settings, facts: Facts) -> bool:
    window = max(settings.window, settings.reboot_window) if rung == REBOOT else settings.window
    before = [one for one in history if one.rung == rung and passed(one.at, facts.now) < window]
    if rung == RESET_GPU:
        # Each instance has its own GPUs; an entry that names none stands for all.
        return sum(1 for one in before if one.instance in ("", facts.instance)) >= settings.reset_gpu_tries
    return bool(before)


def _pause(history: Sequence[Repair], settings: Settings, facts: Facts) -> float:
    """What is left of the back-off since the last opt-in rung. Jitter only shortens it, as at the gate."""
    ages = [age for age in (passed(one.at, facts.now) for one in history if one.rung in HEAVY) if age < settings.window]
    if not ages:
        return 0.0
    step = settings.back_off[min(len(ages), len(settings.back_off)) - 1]
    return max(0.0, step * (1 - settings.jitter * min(1.0, max(0.0, facts.dice))) - min(ages))


def _owed(history: Sequence[Repair], facts: Facts) -> str:
    """After which repair no start has shown yet whether it helped; "" if none."""
    last, boot = facts.last_start, facts.now.boot_id
    started_here = last is not None and last.boot_id == boot
    since = last.boot if last is not None and started_here else -1.0
    for one in history:
        if one.rung == REBOOT and one.outcome != FAILED and one.at.boot_id != boot and not started_here:
            return "reboot"
        mine = one.rung == RESET_GPU and one.outcome == DONE and one.instance == facts.instance
        # The start that follows a reset carries the same moment.
        if mine and one.at.boot_id == boot and one.at.boot > since:
            return "GPU reset"
    return ""


def _rebooting(history: Sequence[Repair], now: Moment) -> float:
    """Seconds that the host may still take to go down after a reboot was ordered; 0 where none was."""
    ordered = [
        REBOOT_TAKES - passed(one.at, now)
        for one in history
        if one.rung == REBOOT and one.outcome != FAILED and one.at.boot_id == now.boot_id
    ]
    return max([0.0, *ordered])


def passed(then: Moment, now: Moment) -> float:
    """Seconds that have passed since for certain: the wall clock is not asked."""
    if then.boot_id == now.boot_id:
        return max(0.0, now.boot - then.boot)
    return max(0.0, now.boot)


def height(rung: str) -> int:
    """Its place on the ladder, for comparisons; -1 for doing nothing."""
    return LADDER.index(rung) if rung in LADDER else -1
