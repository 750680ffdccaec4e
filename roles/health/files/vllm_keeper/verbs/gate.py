# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`gate`: before each start. Records it, clears what an earlier run left, holds it back, or refuses it.

Its own trouble never keeps a server from starting: only a parked instance does.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from vllm_keeper import decision as d
from vllm_keeper import exits, processes
from vllm_keeper import state as st
from vllm_keeper.aws import Aws
from vllm_keeper.clock import Moment, age, duration
from vllm_keeper.context import Context, Definition
from vllm_keeper.managers import ManagerError
from vllm_keeper.watch import board

STEP = 1.0  # how soon a resume, a park or a changed configuration is noticed during a back-off
LEFTOVER_LIMIT = 30.0


def gate(context: Context, dice: Callable[[], float] = random.random, kill: bool = True) -> int:
    try:
        with _told_to_stop():
            return _gate(context, dice(), kill)
    except _CalledOffError:
        return called_off(context)
    except (st.StateError, ManagerError) as error:
        context.log.warning(f"starting without back-off: {error}")
        return exits.OK


class _CalledOffError(Exception):
    """SIGTERM: the manager ends this start while it is held back."""


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows is to be written in peace
        raise _CalledOffError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def called_off(context: Context) -> int:
    """systemd runs neither ExecStop nor ExecStopPost for a start that it ends here, so the wish is recorded here."""
    try:
        job, down = context.manager.job(), context.manager.host_going_down()
    except ManagerError as error:
        context.log.warning(f"whether somebody asked for the stop is unknown: {error}")
        job, down = "", False

    def change(state: st.State, now: Moment) -> None:
        state.waiting = None
        ordered = state.intent is not None and state.intent.kind in ("restart", "repair", "revive")
        if job == "stop" and ordered and not context.manager.TELLS_RESTARTS:
            return  # the start follows
        if job == "stop":
            state.stopped = st.Stopped(now, st.SHUTDOWN if down else st.PURPOSE)
            state.intent = None
        elif job == "restart":
            state.intent = st.Intent("restart", now)

    context.try_update(change)
    context.log.info("the start was called off")
    return exits.OK


def _gate(context: Context, dice: float, kill: bool) -> int:
    definition = context.definition()
    # The state is written once when the waiting begins and once when it ends; looked at in between.
    decision = _decide(context, definition, dice, kill)
    end = context.clock.monotonic() + max(context.instance.gate.back_off) + 2 * STEP
    if decision.action == d.WAIT:
        context.log.notice(f"{decision.reason}: starting in {duration(decision.wait)}")
    while decision.action == d.WAIT:
        left = end - context.clock.monotonic()
        if left <= 0:
            # Cannot be, unless the state was meddled with; a server held back for ever would be worse.
            context.log.warning("the back-off is over its longest; starting")
            return exits.OK
        context.clock.sleep(min(STEP, decision.wait, left))
        now_decided = d.decide_gate(context.state(), context.instance.gate, context.gate_facts(definition, dice))
        if now_decided.action == d.WAIT:
            decision = now_decided
            continue
        decision = _decide(context, definition, dice, kill)
    if decision.action == d.PARK:
        context.log.error(
            f"parked, not started: {decision.reason}. When it is mended: vllm-keeper resume {context.instance.name}"
        )
        return exits.PARKED
    context.log.info(f"start: {decision.reason}")
    return exits.OK


def _decide(context: Context, definition: Definition | None, dice: float, kill: bool) -> d.GateDecision:
    """Decides, takes what the ladder has to offer, and writes down what holds then."""
    climbed: tuple[d.GateDecision, d.GateDecision] | None = None
    if kill and may_climb(context):
        facts = context.gate_facts(definition, dice)
        state = context.update(d.close_lost)
        before = d.decide_gate(state, context.instance.gate, facts)
        # Without a lock: it may take minutes.
        climbed = (before, climb(context, before, state, facts))
    chosen = [d.GateDecision(d.GO, "")]

    def step(state: st.State, now: Moment) -> None:
        d.close_lost(state, now)
        facts = context.gate_facts(definition, dice)
        decision = d.decide_gate(state, context.instance.gate, facts)
        if climbed is not None and (decision.action, decision.cause) == (climbed[0].action, climbed[0].cause):
            decision = climbed[1]  # unless something else has come between
        chosen[0] = decision
        _apply(state, decision, facts)

    context.update(step)
    if chosen[0].action == d.GO and kill:
        clear_leftovers(context)
    return chosen[0]


def may_climb(context: Context) -> bool:
    """Whether the ladder has anything to offer here that the gate itself does not do."""
    ladder = context.instance.ladder
    return context.instance.gpu.enabled or ladder.reset_gpu or ladder.reboot or ladder.replace


def climb(context: Context, decision: d.GateDecision, state: st.State, facts: d.GateFacts) -> d.GateDecision:
    """The gate's decision after the ladder had its turn. Its own trouble keeps nothing from starting."""
    # Here, since they call this module; and a start after a first crash is not to wait for their import.
    from vllm_keeper import remedies
    from vllm_keeper.ledger import Ledger
    from vllm_keeper.signals import faults

    instance = context.instance
    last = state.starts[-1] if state.starts else None
    failures = d.streak(d.relevant(state.starts, facts.config), instance.gate)
    suspected = last is not None and last.reason.startswith("gpu_fault")
    if decision.action == d.GO and failures <= 1 and not suspected:
        return decision  # a first failure is answered at once: asking the driver takes longer than the whole start
    before = faults.Before()
    if instance.gpu.enabled:
        since = None if last is None else age(last.at, facts.now)
        before = faults.before_start(instance.gpu, since=since)
    aws = Aws(instance.aws, instance.name, instance.port)
    tools = remedies.Tools(
        settings=instance.ladder,
        ledger=Ledger(context.store.directory, context.log.warning),
        gpus=before.devices,
        memory=lambda: faults.before_start(instance.gpu).held if instance.gpu.enabled else "",
        aws=aws,
        neighbours=lambda: neighbours(instance.name),
    )
    return remedies.before_start(context, decision, state, facts, tools, calls_for=before.calls_for)


def neighbours(name: str) -> int:
    """Other instances of this host that serve now, as far as a watcher knows."""
    return sum(1 for other, shown in (board.read() or {}).items() if other != name and shown.ready)


def _apply(state: st.State, decision: d.GateDecision, facts: d.GateFacts) -> None:
    if decision.action == d.WAIT:
        state.waiting = st.Waiting(facts.now, decision.wait, decision.reason)
        return
    state.waiting = None
    if decision.action == d.PARK:
        if state.parked is None or not d.still_parked(state.parked, facts):
            state.parked = st.Parked(facts.now, decision.cause, decision.reason, facts.config)
        state.intent = None
        return
    if decision.unpark:
        state.parked = None
        for start in state.starts:
            start.forgiven = True
    state.starts.append(st.Start(at=facts.now, planned=decision.planned, config=facts.config))
    state.stopped = state.intent = None


def clear_leftovers(context: Context, runs: Sequence[tuple[int, int, int]] | None = None) -> None:
    """Ends orphans of this instance and waits until they are gone, for a bounded time. RUNS: of these earlier runs."""
    try:
        group = context.manager.observe().group
    except ManagerError as error:
        context.log.warning(f"leftovers in the control group are not looked for: {error}")
        group = ""
    runs = earlier_runs(context) if runs is None else runs
    said: set[int] = set()
    end = context.clock.monotonic() + LEFTOVER_LIMIT
    while True:
        everyone = processes.everyone(context.proc)
        found = processes.leftovers(everyone, os.getpid(), group, context.instance.config_file, runs)
        if not found.orphans and not found.strangers:
            return
        for process in found.orphans:
            if process.pid not in said:
                context.log.notice(f"ending a leftover of an earlier run: pid {process.pid} ({process.title})")
        for process in found.strangers:
            if process.pid not in said:
                context.log.warning(
                    f"pid {process.pid} ({process.title}) serves this instance and is not ours to end; waiting"
                )
        said |= {process.pid for process in (*found.orphans, *found.strangers)}
        processes.end(found.orphans, context.proc)
        if context.clock.monotonic() >= end:
            left = ", ".join(str(process.pid) for process in (*found.orphans, *found.strangers))
            context.log.warning(f"starting though leftovers are still there after {LEFTOVER_LIMIT:g} s: pid {left}")
            return
        context.clock.sleep(0.1)


def earlier_runs(context: Context) -> list[tuple[int, int, int]]:
    boot = context.clock.now().boot_id
    try:
        starts = context.state().starts
    except st.StateError:
        return []
    return [start.processes for start in starts if start.processes is not None and start.at.boot_id == boot]
