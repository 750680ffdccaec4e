# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts and restarts, whatever the manager: where none runs our hooks around a start, they are run from here."""

from __future__ import annotations

import contextlib

from vllm_keeper import decision as d
from vllm_keeper import exits, history, ladder
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, duration
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError
from vllm_keeper.managers.base import Completed
from vllm_keeper.verbs import gate, ready

SEEN_WITHIN = 5.0  # how long a manager may take to notice that its process has ended
STEP = 0.2
MARGIN = 60.0
DONE = Completed(0, "", "")
BUSY = Completed(1, "", "another start or restart has been under way for too long")


def start(context: Context, wait: float = 0) -> Completed:
    """As Manager.start, with gate and readiness whoever the manager is."""
    if context.manager.HOOKED:
        return context.manager.start(wait)
    with _alone(context) as held:
        if not held:
            return BUSY
        if context.manager.observe().phase == d.RUNNING:
            context.try_update(lambda state, _now: setattr(state, "intent", None))
        else:
            done = _start(context, wait)
            if done.code:
                return done
    return _await(context) if wait else DONE


def restart(context: Context, wait: float = 0) -> Completed:
    """As Manager.restart."""
    if context.manager.HOOKED:
        return context.manager.restart(wait)
    with _alone(context) as held:
        if not held:
            return BUSY
        done = context.manager.stop(wait)
        if not done.code:
            done = _start(context, wait)
        if done.code:
            return done
    return _await(context) if wait else DONE


def _alone(context: Context) -> contextlib.AbstractContextManager[bool]:
    """Orders one after the other: two at once would take each other's stop for a failure."""
    longest = max(context.instance.gate.back_off) + context.instance.drain_timeout + 2 * MARGIN
    return context.store.lock("order", wait=longest)


def _start(context: Context, wait: float) -> Completed:
    if gate.gate(context) == exits.PARKED:
        return Completed(exits.PARKED, "", "parked")
    done = context.manager.start(wait)
    if done.code:
        _failed(context, context.manager.why(done))
    return done


def _failed(context: Context, why: str) -> None:
    """The manager could not make a process at all."""

    def change(state: st.State, now: Moment) -> None:
        start = state.open_start()
        if start is not None and start.pid is None:
            start.ended_at, start.end, start.reason = now, st.FAILED, context.log.clean(why)

    context.try_update(change)


def _await(context: Context) -> Completed:
    """Until it answers, or its process has ended, or its time is over: then it is ended, as systemd would."""
    code = ready.wait_ready(context, None)
    if code == exits.OK:
        return DONE
    end = context.clock.monotonic() + SEEN_WITHIN
    while (start := context.update(lambda _state, _now: None).open_start()) is not None and not start.ended_at:
        if context.clock.monotonic() >= end:
            why = f"not ready within {duration(context.instance.start_timeout)}; {start.note}".rstrip("; ")
            put_down(context, why)
            return Completed(exits.BAD, "", why)
        if start.note and context.manager.observe().main_pid == start.pid:
            put_down(context, start.note)
            return Completed(exits.BAD, "", start.note)
        if start.pid is None or not start.planned:
            break  # it has ended, and the manager's own next try is on the way
        context.clock.sleep(STEP)
    state = context.state()
    ended = [one for one in state.starts if one.end]
    judge(context)
    return Completed(exits.BAD, "", ended[-1].reason if ended else "its process ended")


def put_down(context: Context, why: str) -> None:
    """Ends what will not become ready. The next check starts it again, after the gate's back-off."""
    context.try_update(lambda state, now: setattr(state, "intent", st.Intent("repair", now, why)))
    context.manager.kill()
    context.try_update(lambda _state, _now: None)


def judge(context: Context) -> str:
    """Parks an instance that its manager goes on restarting in vain; why, or ""."""
    if context.manager.HOOKED:
        return ""
    try:
        state, observed = context.state(), context.manager.observe()
        if observed.phase not in (d.RUNNING, d.HELD):
            return ""  # the gate will decide about its next start
        facts = context.gate_facts(context.definition())
        decision = history.verdict(state, context.instance.gate, facts)
        if decision is None or context.server.get(context.instance.health_path, ready.HEALTH_TIMEOUT).kind == "ok":
            return ""
    except (ManagerError, st.StateError) as error:
        context.log.warning(f"whether it is to be parked is unknown: {error}")
        return ""

    if decision.cause == ladder.SPENT and gate.may_climb(context):
        return _hand_over(context, decision.reason)

    def park(state: st.State, now: Moment) -> None:
        state.parked = st.Parked(now, decision.cause, context.log.clean(decision.reason), facts.config)
        state.intent = None
        start = state.open_start()
        if start is not None:
            start.ended_at, start.end, start.reason = now, st.PURPOSE, "ended to be parked"

    if context.try_update(park):
        _end(context)
    context.log.error(f"parked: {decision.reason}. When it is mended: vllm-keeper resume {context.instance.name}")
    return decision.reason


def _hand_over(context: Context, reason: str) -> str:
    """Ends what its manager restarts in vain. The gate, which asks the ladder first, decides about the next start."""

    def close(state: st.State, now: Moment) -> None:
        start = state.open_start()
        if start is not None:
            start.ended_at, start.end, start.reason = now, st.REPAIR, "ended, as it was restarted in vain"

    if context.try_update(close):
        _end(context)
        _start(context, 0)
    return reason


def _end(context: Context) -> None:
    context.manager.kill()
    stopped = context.manager.stop()
    if stopped.code:
        context.log.warning(f"not stopped: {context.manager.why(stopped)}")
