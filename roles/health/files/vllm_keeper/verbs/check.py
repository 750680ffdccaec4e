# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`check`: the guide's health check script. Ask /health a few times; if every try fails, repair.

Where `watch` lives, it tells what that has found; where it does not, it takes its place.
"""

from __future__ import annotations

from vllm_keeper import decision as d
from vllm_keeper import exits, probe
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError
from vllm_keeper.verbs import orders
from vllm_keeper.watch import board

QUICK = 2.0  # for a server that may still be loading
DIE = 5.0  # SIGKILL works at once, except on a process that waits for a device


def check(context: Context, quiet: bool = False) -> int:
    try:
        with context.store.lock("check", wait=0) as held:
            if not held:
                context.log.result(f"{context.instance.name}: another check is running; nothing done")
                return exits.OK
            return _check(context, quiet)
    except st.StateError as error:
        # Repair matters more than the lock: systemd serialises its jobs anyway.
        context.log.warning(f"checking without a lock: {error}")
        return _check(context, quiet)


def _check(context: Context, quiet: bool) -> int:
    watched = board.of(context.instance.name)
    if watched is not None:
        return _tell(context, watched, quiet)
    orders.judge(context)
    try:
        decision, pid = _look(context)
    except (ManagerError, st.StateError) as error:
        context.log.result(f"{context.instance.name}: unknown: {error}; nothing done", "error")
        return exits.WORSE
    code, done = repair(context, decision, pid)

    def remember(state: st.State, now: Moment) -> None:
        state.last_check = st.LastCheck(now, decision.verdict, decision.action, context.log.clean(decision.reason))

    if code != exits.OK or _changed(context, decision):
        context.try_update(remember)
    line = f"{context.instance.name}: {decision.verdict}: {decision.reason}{done}"
    if code == exits.OK and quiet:
        context.log.info(line)
    else:
        context.log.result(line, "info" if code == exits.OK else "warning")
    return code


def _tell(context: Context, watched: board.Shown, quiet: bool) -> int:
    """A living watcher looks every second and repairs by itself: there is nothing to add to that."""
    decision = d.Decision(watched.verdict, watched.action, watched.reason)
    try:
        # What manager and history say is of now, the watcher's word a moment old.
        decision = d.decide_before_probe(context.observe()[0]) or decision
    except (ManagerError, st.StateError) as error:
        context.log.warning(f"only the watcher's word is known: {error}")
    code = exits.OK if decision.action == d.NONE else exits.BAD
    line = f"{context.instance.name}: {decision.verdict}: {decision.reason} (watched by vllm-keeper watch)"
    if code == exits.OK and quiet:
        context.log.info(line)
    else:
        context.log.result(line, "info" if code == exits.OK else "warning")
    return code


def _changed(context: Context, decision: d.Decision) -> bool:
    try:
        last = context.state().last_check
    except st.StateError:
        return False
    return last is None or last.verdict != decision.verdict


def _look(context: Context) -> tuple[d.Decision, int]:
    seen, observed, _state = context.observe()
    pid = observed.main_pid or 0
    decision = d.decide_before_probe(seen)
    if decision is not None:
        if pid and decision.verdict == "starting" and not seen.intent and not context.manager.HOOKED:
            # Nobody watched this start: what answers now is ready, and is repaired from now on.
            answer = context.server.get(context.instance.health_path, QUICK)
            if answer.kind == "ok":
                remember_ready(context, pid)
                return d.decide_after_probe(seen, d.Health("ok", answer.detail)), pid
        return decision, pid
    settings = context.instance.check
    answer, tries = probe.health(
        context.server,
        context.instance.health_path,
        settings.tries,
        settings.delay,
        settings.timeout,
        sleep=context.clock.sleep,
    )
    detail = answer.detail if answer.kind == "ok" else f"{answer.detail} ({tries} tries, {settings.delay:g} s apart)"
    if answer.kind == "ok":
        remember_ready(context, pid)
        return d.decide_after_probe(seen, d.Health("ok", detail)), pid
    # The tries took a while: what was true before them may not be any more.
    seen, observed, _state = context.observe()
    decision = d.decide_before_probe(seen)
    if decision is not None:
        return decision, observed.main_pid or 0
    if (observed.main_pid or 0) != pid:
        return d.Decision(
            "starting", d.NONE, f"its process was replaced during the check ({pid} by {observed.main_pid})"
        ), 0
    return d.decide_after_probe(seen, d.Health(answer.kind, detail)), pid


def remember_ready(context: Context, pid: int) -> None:
    """For servers whose start nobody watched: from now on, a bad answer of this process is no slow start."""

    def change(state: st.State, now: Moment) -> None:
        start = state.open_start()
        if start is None:
            d.close_lost(state, now)
            start = st.Start(at=now, planned=True)
            state.starts.append(start)
        if pid and (start.ready_at is None or start.pid != pid):
            start.pid, start.ready_at = pid, now

    try:
        start = context.state().open_start()
    except st.StateError:
        return
    if pid and (start is None or start.ready_at is None or start.pid != pid):
        context.try_update(change)


def repair(context: Context, decision: d.Decision, pid: int) -> tuple[int, str]:
    """Does what was decided about the process; (exit status, what was done, beginning with "; ")."""
    if decision.action == d.NONE:
        return exits.OK, ""
    if decision.action == d.START:
        done = orders.start(context)
        if done.code:
            return exits.WORSE, f"; the start could not be ordered: {done.err.strip() or done.code}"
        return exits.BAD, "; start ordered"

    def mark(state: st.State, now: Moment) -> None:
        # So that this end counts against the budget, and is not taken for somebody's wish.
        state.intent = st.Intent("repair", now, f"{decision.verdict}: {context.log.clean(decision.reason)}")

    context.try_update(mark)
    words = "restart ordered"
    if decision.action == d.KILL:
        killed = context.manager.kill()
        if killed.code == 0:
            words = "killed, restart ordered"
            _wait_until_gone(context, pid)
        else:
            words = f"could not be killed ({killed.err.strip() or killed.code}), restart ordered"
    done = orders.restart(context)
    if done.code:
        return exits.WORSE, f"; the restart could not be ordered: {done.err.strip() or done.code}"
    return exits.BAD, f"; {words}"


def _wait_until_gone(context: Context, pid: int) -> None:
    end = context.clock.monotonic() + DIE
    while context.clock.monotonic() < end:
        try:
            if (context.manager.observe().main_pid or 0) != pid:
                return
        except ManagerError:
            return
        context.clock.sleep(0.1)
