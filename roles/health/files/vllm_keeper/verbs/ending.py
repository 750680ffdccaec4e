# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`stopping` and `stopped`: how a run ended, so that the gate and check know whether somebody wanted it.

systemd runs ExecStop for every end of a running service, also when its main process died by itself; only then is
$MAINPID not set. A stop during activation skips ExecStop altogether: there, the manager's job tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_keeper import decision as d
from vllm_keeper import exits
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError


def stopping(context: Context, environment: Mapping[str, str]) -> int:
    by_somebody = bool(environment.get("MAINPID")) and environment.get("SERVICE_RESULT", "success") in ("", "success")

    def change(state: st.State, now: Moment) -> None:
        start = state.open_start()
        repair = state.intent is not None and state.intent.kind == "repair"
        if start is not None:
            start.stopping = "purpose" if by_somebody and not repair else "self"
        if by_somebody and not repair:
            state.stopped = st.Stopped(now, st.PURPOSE)

    context.try_update(change)
    return exits.OK


def stopped(context: Context, environment: Mapping[str, str]) -> int:
    job: str | None
    try:
        job, down = context.manager.job(), context.manager.host_going_down()
    except ManagerError as error:
        context.log.warning(f"whether somebody asked for the stop is guessed: {error}")
        job, down = None, False
    told = [""]

    def change(state: st.State, now: Moment) -> None:
        state.waiting = None
        start = state.open_start()
        kind = state.intent.kind if state.intent is not None else ""
        if start is None:
            # Called off before it began, for example during a back-off.
            wished = job == "stop" and context.manager.TELLS_RESTARTS
            if kind in ("restart", "repair", "revive") and not wished:
                return  # the start follows
            if job == "stop" or kind == "stop":
                state.stopped = st.Stopped(now, st.SHUTDOWN if down else st.PURPOSE)
                state.intent = None
            return
        facts = d.EndFacts(
            intent=kind,
            stopping=start.stopping,
            job=job,
            host_going_down=down,
            result=environment.get("SERVICE_RESULT", ""),
            exit_code=environment.get("EXIT_CODE", ""),
            exit_status=environment.get("EXIT_STATUS", ""),
            note=start.note,
        )
        start.end, reason = d.classify_end(facts)
        start.ended_at, start.exit_code, start.exit_status = now, facts.exit_code, facts.exit_status
        if start.end == st.REPAIR and state.intent is not None:
            reason = state.intent.reason or reason
        if start.end == st.FAILED:
            words = context.last_words()
            reason = f"{reason}; {words}" if words and words not in reason else reason
        start.reason = told[0] = reason
        if start.end in (st.PURPOSE, st.SHUTDOWN):
            restart = job == "restart" or kind == "restart"
            state.stopped = None if restart else st.Stopped(now, start.end)
            if kind == "stop":
                state.intent = None
        else:
            state.stopped = None

    context.try_update(change)
    if told[0]:
        context.log.notice(f"ended: {told[0]}")
    return exits.OK
