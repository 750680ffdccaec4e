# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`status`: what is known of an instance, for people and as JSON. Changes nothing that runs."""

from __future__ import annotations

from typing import Any

from vllm_keeper import decision as d
from vllm_keeper import errors
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, age, duration, iso
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError
from vllm_keeper.verbs import check
from vllm_keeper.watch import board

HEALTH_TIMEOUT = 2.0
STARTS = 5
LINES = 10
FEW = 3
LOOKED_AT = 300  # lines of the logs in which errors are looked for
SERVES = ("healthy", "busy", "starting", "stopped", "draining")  # nothing is wrong now


def status(context: Context) -> dict[str, Any]:
    instance = context.instance
    out: dict[str, Any] = {"name": instance.name, "unit": instance.unit, "manager": instance.manager}
    try:
        seen, observed, state = context.observe()
    except (ManagerError, st.StateError) as error:
        return {
            **out,
            "verdict": "unknown",
            "reason": str(error),
            "next_action": "look at the reason",
            "healthy": False,
        }
    health: d.Health | None = None
    if seen.phase in (d.RUNNING, d.STARTING):
        answer = context.server.get(instance.health_path, HEALTH_TIMEOUT)
        health = d.Health(answer.kind, answer.detail)
        if answer.kind == "ok" and observed.main_pid and not seen.ready and not context.manager.HOOKED:
            # Nobody watches these starts, so whoever sees first that it answers remembers it.
            check.remember_ready(context, observed.main_pid)
    decision = d.verdict_for_status(seen, health)
    if decision.verdict == "healthy" and seen.phase == d.STARTING:
        # /health is 200, but no completion was answered yet.
        decision = d.Decision("starting", d.NONE, f"{decision.reason}, a first completion is awaited")
    watched = board.of(instance.name)
    # What manager and history say is of now, the watcher's word a moment old.
    if watched is not None and watched.verdict != "unknown" and d.decide_before_probe(seen) is None:
        decision = d.Decision(watched.verdict, watched.action, watched.reason)
    if state.drained is not None and decision.verdict in board.SERVING:
        decision = d.Decision("draining", d.NONE, f"{state.drained.reason}; {decision.reason}")
    now = context.clock.now()
    since = _since(decision.verdict, state)
    starts = d.relevant(state.starts, context.gate_facts(context.definition()).config)
    out.update(
        verdict=decision.verdict,
        healthy=decision.verdict in board.SERVING,
        watched=watched is not None,
        reason=decision.reason,
        since=iso(since) if since else None,
        for_seconds=round(age(since, now), 1) if since else None,
        next_action=_next(context, decision, state, now, watched is not None),
        phase=observed.phase,
        detail=observed.detail,
        enabled=observed.enabled,
        pid=observed.main_pid,
        uptime=None if observed.process_age is None else round(observed.process_age, 1),
        url=instance.base_url,
        health=None if health is None else {"kind": health.kind, "detail": health.detail},
        failures={
            "in_window": d.failures_in_window(starts, instance.gate, now),
            "in_a_row": d.streak(starts, instance.gate),
            "budget": instance.gate.budget,
            "window": instance.gate.window,
        },
        parked=_parked(state, seen),
        stopped=None if state.stopped is None else {"at": iso(state.stopped.at), "by": state.stopped.by},
        last_check=None
        if state.last_check is None
        else {
            "at": iso(state.last_check.at),
            "verdict": state.last_check.verdict,
            "action": state.last_check.action,
            "reason": state.last_check.reason,
        },
        starts=[_run(start) for start in state.starts[-STARTS:]],
        notice=context.manager.notice(),
        attach=context.manager.attach(),
        leave=context.manager.leave,
        logs=[],
    )
    out["logs"] = _telling(context, decision.verdict)
    return out


def _telling(context: Context, verdict: str) -> list[str]:
    """The last error lines. Where it serves, a few, since it may have had trouble; where not, any lines but none."""
    lines = [context.log.clean(line) for line in context.manager.logs(LOOKED_AT)]
    serves = verdict in SERVES
    return errors.pick(lines, FEW if serves else LINES) or ([] if serves else lines[-LINES:])


def _parked(state: st.State, seen: d.Observation) -> dict[str, Any] | None:
    if state.parked is None:
        return None
    parked = state.parked
    return {"at": iso(parked.at), "cause": parked.cause, "reason": parked.reason, "holds": bool(seen.parked)}


def _run(start: st.Start) -> dict[str, Any]:
    def ago(moment: Moment | None) -> str | None:
        return None if moment is None else iso(moment)

    return {
        "at": iso(start.at),
        "planned": start.planned,
        "pid": start.pid,
        "ready_at": ago(start.ready_at),
        "seconds_to_ready": None if start.ready_at is None else round(age(start.at, start.ready_at), 1),
        "ended_at": ago(start.ended_at),
        "end": start.end or None,
        "reason": start.reason or start.note or None,
    }


def _since(verdict: str, state: st.State) -> Moment | None:
    last = state.starts[-1] if state.starts else None
    if verdict == "parked" and state.parked is not None:
        return state.parked.at
    if verdict == "stopped" and state.stopped is not None:
        return state.stopped.at
    if last is None:
        return None
    if verdict in board.SERVING:
        return last.ready_at or last.at
    return last.ended_at or last.at


def _next(context: Context, decision: d.Decision, state: st.State, now: Moment, watched: bool) -> str:
    name = context.instance.name
    left = state.waiting.seconds - age(state.waiting.at, now) if state.waiting is not None else 0.0
    words = {
        "parked": f"none by itself; mend the cause, then: vllm-keeper resume {name}",
        "stopped": f"none; to start it: vllm-keeper start {name}",
        "starting": f"{state.waiting.reason}: the start goes ahead in {duration(left)}"
        if state.waiting is not None
        else f"wait until it is ready, {duration(context.instance.start_timeout)} at most",
        "draining": "wait until it has stopped"
        if state.drained is None
        else f"none; to have requests again: vllm-keeper resume {name}",
    }
    if decision.verdict in words:
        return words[decision.verdict]
    if watched and decision.action != d.NONE:
        return f"the watcher does now: {decision.action}; why: vllm-keeper explain {name}"
    if decision.action == d.START:
        return "the next check starts it"
    if decision.action in (d.RESTART, d.KILL):
        return f"the next check asks {context.instance.check.tries} times, then does: {decision.action}"
    return "none"


def render(facts: dict[str, Any]) -> str:
    """For people: the answer first, then why, then what to do."""
    lasting = f" for {duration(facts['for_seconds'])}" if facts.get("for_seconds") is not None else ""
    lines = [
        f"{facts['name']}: {facts['verdict']}{lasting}",
        f"  reason   {facts['reason']}",
        f"  next     {facts['next_action']}",
    ]
    if facts.get("pid"):
        lines.append(f"  process  pid {facts['pid']}, {duration(facts['uptime'] or 0)}, {facts['url']}")
    if facts.get("detail"):
        enabled = "enabled" if facts["enabled"] else "not enabled"
        named = facts["unit"] if facts["manager"] == "systemd" else facts["name"]
        lines.append(f"  {facts['manager']:8} {named}: {facts['detail']}, {enabled}")
    if facts.get("attach") and facts["phase"] in (d.RUNNING, d.STARTING, d.HELD, d.STOPPING):
        lines.append(f"  attach   vllm-keeper attach {facts['name']}; to leave it running: {facts['leave']}")
    if facts.get("notice"):
        lines.append(f"  notice   {facts['notice']}")
    failures = facts.get("failures")
    if failures and failures["in_window"]:
        lines.append(
            f"  failures {failures['in_window']} of {failures['budget']} within {duration(failures['window'])}, "
            f"{failures['in_a_row']} in a row"
        )
    for run in reversed(facts.get("starts") or []):
        ready = (
            f"ready after {duration(run['seconds_to_ready'])}" if run["seconds_to_ready"] is not None else "never ready"
        )
        end = f", {run['end']} at {run['ended_at']}: {run['reason']}" if run["end"] else ""
        lines.append(f"  start    {run['at']} {'asked for' if run['planned'] else 'after a failure'}, {ready}{end}")
    lines += [f"  log      {line}" for line in facts.get("logs") or []]
    return "\n".join(lines)
