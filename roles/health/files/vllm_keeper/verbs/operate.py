# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person or a playbook asks for: start, stop, restart, kill, park, resume, logs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from vllm_keeper import decision as d
from vllm_keeper import exits, runfile
from vllm_keeper import state as st
from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.clock import Moment, duration
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError, Observed
from vllm_keeper.managers.base import Completed
from vllm_keeper.verbs import gate, orders
from vllm_keeper.watch import evidence

MARGIN = 60.0
TAIL = 25


def _intend(context: Context, kind: str) -> None:
    def change(state: st.State, now: Moment) -> None:
        state.intent = st.Intent(kind, now)
        if kind == "stop":
            state.stopped = st.Stopped(now, st.PURPOSE)
        else:
            state.stopped = None

    context.update(change)


def _start_limit(context: Context) -> float:
    return max(context.instance.gate.back_off) + context.instance.start_timeout + MARGIN


def _stop_limit(context: Context) -> float:
    return context.instance.drain_timeout + 2 * MARGIN


def _refused(context: Context) -> bool:
    parked = context.parked(context.state())
    if parked is None:
        return False
    name = context.instance.name
    context.log.result(
        f"{name}: parked, not touched: {parked.reason}. To let it start: vllm-keeper resume {name}", "error"
    )
    return True


def start(context: Context, wait: bool = True) -> int:
    name = context.instance.name
    if _refused(context):
        return exits.PARKED
    seen, observed, _state = context.observe()
    # Without hooks, a process that runs may still be loading: that start is waited for.
    if seen.phase == d.RUNNING and not seen.job and (context.manager.HOOKED or seen.ready or not wait):
        context.log.result(f"{name}: already running, pid {observed.main_pid}")
        return exits.OK
    _intend(context, "start")
    begun = context.clock.monotonic()
    return _outcome(context, "start", orders.start(context, _start_limit(context) if wait else 0), begun, wait)


def restart(context: Context, wait: bool = True) -> int:
    if _refused(context):
        return exits.PARKED
    _intend(context, "restart")
    begun = context.clock.monotonic()
    limit = _stop_limit(context) + _start_limit(context)
    return _outcome(context, "restart", orders.restart(context, limit if wait else 0), begun, wait)


def _outcome(context: Context, verb: str, done: Completed, begun: float, wait: bool) -> int:
    name = context.instance.name
    if not wait:
        if done.code:
            context.log.result(f"{name}: {verb} could not be ordered: {done.err.strip() or done.code}", "error")
            return exits.BAD
        context.log.result(f"{name}: {verb} ordered")
        return exits.OK
    observed = context.manager.observe()
    if done.code == 0 and observed.phase == d.RUNNING:
        spent = duration(context.clock.monotonic() - begun)
        context.log.result(f"{name}: ready after {spent}, pid {observed.main_pid}")
        return exits.OK
    state = context.state()
    parked = context.parked(state)
    if parked is not None:
        context.log.result(f"{name}: parked: {parked.reason}. When it is mended: vllm-keeper resume {name}", "error")
        return exits.PARKED
    context.log.result(f"{name}: {verb} failed: {_why(state, observed, done)}", "error")
    context.try_update(lambda one, _now: _over(one, verb))
    _tail(context)
    return exits.BAD


def _over(state: st.State, verb: str) -> None:
    """An order that failed is not under way any more, whoever was to carry it out."""
    if state.intent is not None and state.intent.kind == verb:
        state.intent = None


def _why(state: st.State, observed: Observed, done: Completed) -> str:
    last = state.starts[-1] if state.starts else None
    # That an earlier run was stopped on purpose is no reason.
    told = (last.reason or last.note) if last is not None and last.end != st.PURPOSE else ""
    said = done.err.strip().splitlines()
    return told or (said[0] if said else f"it is {observed.detail}")


def _tail(context: Context) -> None:
    lines = context.manager.logs(TAIL)
    if lines:
        print(f"--- the last {len(lines)} lines of its logs (all: vllm-keeper logs {context.instance.name})")
    for line in lines:
        print(f"    {context.log.clean(line)}", flush=True)


def stop(context: Context) -> int:
    _intend(context, "stop")
    return _ended(context, context.manager.stop(_stop_limit(context)))


def kill(context: Context) -> int:
    _intend(context, "stop")
    killed = context.manager.kill()
    if killed.code:
        context.log.info(f"nothing was killed: {killed.err.strip() or killed.code}")
    return _ended(context, context.manager.stop(_stop_limit(context)))


def _ended(context: Context, done: Completed) -> int:
    name = context.instance.name
    observed = context.manager.observe()

    def change(state: st.State, _now: Moment) -> None:
        state.intent = None

    context.try_update(change)
    if observed.phase in (d.STOPPED, d.FAILED):
        boot = "" if context.manager.STOPS_FOR_GOOD else ", or the next boot"
        context.log.result(f"{name}: stopped; it stays stopped until: vllm-keeper start {name}{boot}")
        return exits.OK
    context.log.result(f"{name}: not stopped: {done.err.strip() or observed.detail}", "error")
    return exits.BAD


def park(context: Context, reason: str) -> int:
    name = context.instance.name

    def change(state: st.State, now: Moment) -> None:
        state.parked = st.Parked(now, "operator", context.log.clean(reason))

    context.update(change)
    hint = ""
    try:
        if context.manager.observe().phase in (d.RUNNING, d.STARTING):
            hint = f"; it still runs, and is not repaired while parked (vllm-keeper stop {name} ends it)"
    except ManagerError as error:
        hint = f"; whether it runs is unknown: {error}"
    context.log.result(f"{name}: parked: {reason}{hint}", "notice")
    return exits.OK


def resume(context: Context, start_it: bool = True) -> int:
    """Ends a drain, lifts the parking, forgets the failures before it, and starts what should run."""
    name = context.instance.name
    was, drained = [False], [False]

    def change(state: st.State, now: Moment) -> None:
        was[0] = state.parked is not None
        drained[0] = state.drained is not None
        state.parked = state.drained = None
        for run in state.starts:
            run.forgiven = True
        if start_it and state.stopped is None:
            state.intent = st.Intent("start", now)

    state = context.update(change)
    observed = context.manager.observe()
    idle = observed.phase in (d.STOPPED, d.FAILED)
    resumed = was[0] or drained[0]
    said = f"{name}: resumed" if resumed else f"{name}: was not parked; its failures are forgotten"
    if drained[0]:
        said += ", and has requests again"
    if not start_it or not idle or state.stopped is not None or not observed.enabled:
        context.try_update(lambda s, _now: setattr(s, "intent", None))
        if idle and start_it:
            said += f"; not started, because it was {'stopped on purpose' if state.stopped else 'not enabled'}"
        context.log.result(said, "notice")
        return exits.OK
    done = orders.start(context)
    if done.code:
        context.log.result(f"{said}, but its start could not be ordered: {done.err.strip() or done.code}", "error")
        return exits.BAD
    context.log.result(f"{said}; start ordered", "notice")
    return exits.OK


def enable(context: Context, on: bool) -> int:
    """Whether it starts when the host boots."""
    done = context.manager.enable(on)
    words = "enabled" if on else "disabled"
    if done.code:
        context.log.result(f"{context.instance.name}: not {words}: {context.manager.why(done)}", "error")
        return exits.BAD
    context.log.result(f"{context.instance.name}: {words}")
    return exits.OK


def retire(context: Context, known: bool) -> int:
    """The end of one manager's work: drained, stopped, not started on boot, no process left.

    Before its files go, because the instance leaves or another manager takes over. KNOWN: the instance is still
    configured, so its history is kept. Nothing to end is no failure.
    """
    name = context.instance.name
    try:
        observed = context.manager.observe()
    except ManagerError as error:
        # Not installed any more, or broken: what it ran is still ended.
        context.log.warning(f"{context.instance.manager} cannot be asked: {error}")
        observed = Observed(d.MISSING, str(error), False, None, None, "")
    if observed.phase != d.MISSING:
        if known:
            _intend(context, "stop")
        done = context.manager.stop(_stop_limit(context))
        if context.manager.observe().phase not in (d.STOPPED, d.FAILED, d.MISSING):
            context.log.warning(f"not stopped ({context.manager.why(done)}): killed")
            context.manager.kill()
            done = context.manager.stop(_stop_limit(context))
        context.manager.enable(False)
        context.manager.remove()
        if known:
            context.try_update(lambda state, _now: setattr(state, "intent", None))
        observed = context.manager.observe()
        if observed.phase not in (d.STOPPED, d.FAILED, d.MISSING):
            context.log.result(f"{name}: still {observed.detail} under {context.instance.manager}", "error")
            return exits.BAD
    gate.clear_leftovers(context)
    if not known:
        # What ran it has written down its end, after whoever took its settings away had forgotten the rest.
        runfile.forget(name)
        context.store.forget()
    context.log.result(f"{name}: ended under {context.instance.manager}")
    return exits.OK


def renew(context: Context) -> int:
    """The rest of a restart that was ordered and not waited for; who wanted it, and why, is remembered already."""
    done = context.manager.restart(_stop_limit(context) + _start_limit(context))
    return exits.BAD if done.code else exits.OK


def hang_up(context: Context, environment: Mapping[str, str]) -> int:
    """A session's unit ends: so does what ran in the session, and nothing of it is left."""
    # In this order: if a new run has begun meanwhile, it may be among these, but then its runner lives.
    runs = gate.earlier_runs(context)
    asked = bool(environment.get("MAINPID"))
    if context.manager.hang_up(asked) and runfile.living(context.instance.name) is None:
        gate.clear_leftovers(context, runs)
        if not asked:
            # Not for cron to find, minutes later. It starts nothing that was stopped on purpose.
            context.manager.look_again()
    return exits.OK


def forget(context: Context) -> int:
    """The history of an instance that is no more. What the keeper took out of target groups for it is put back."""
    instance = context.instance
    aws = Aws(instance.aws, instance.name, instance.port)
    if aws.installed() and (aws.memory / f"{instance.name}.json").exists():
        try:
            aws.register()
        except AwsError as error:
            context.log.warning(f"what was taken out of its target groups is not put back: {error}")
    (aws.memory / f"{instance.name}.json").unlink(missing_ok=True)
    evidence.forget(context.store.directory, instance.name)
    context.store.forget()
    context.log.result(f"{context.instance.name}: forgotten")
    return exits.OK


def attach(context: Context) -> int:
    """Its terminal, where its manager gives it one."""
    command = context.manager.attach()
    if not command:
        context.log.result(
            f"{context.instance.name}: {context.instance.manager} keeps no terminal; "
            f"vllm-keeper logs --follow {context.instance.name} shows what it prints",
            "error",
        )
        return exits.BAD
    return subprocess.call(command)


def logs(context: Context, lines: int, follow: bool) -> int:
    if follow:
        return subprocess.call(context.manager.follow(lines))
    for line in context.manager.logs(lines):
        print(context.log.clean(line))
    return exits.OK
