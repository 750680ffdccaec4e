# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of a server that starts without our hooks, put together afterwards. Pure.

Docker restarts a container that ended by itself, and asks nobody. What it did since it was looked at last stands in
its events and in what it says of the container now; here it becomes the same record that gate, wait-ready, stopping
and stopped would have written, so that budget, back-off and parking judge all managers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from vllm_keeper import decision as d
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, age
from vllm_keeper.config import GateSettings

SECOND = 10**9
UNBORN = 120.0  # seconds after which a start that never got a process is given up
# Signals that end a server; others (SIGHUP, SIGWINCH) say nothing about an end.
ENDING = frozenset({"2", "9", "15", "SIGINT", "SIGKILL", "SIGTERM"})
KILLED = 128  # a shell, tini and Docker say 128 + signal for a process that a signal ended
SIGNALS = {2: "INT", 6: "ABRT", 7: "BUS", 9: "KILL", 11: "SEGV", 15: "TERM"}


@dataclass(frozen=True)
class Event:
    """Something that the engine did or saw. at: nanoseconds since 1970, its own count."""

    at: int
    action: str  # start | die | oom | kill | stop | healthy
    exit_status: int = 0
    signal: str = ""


@dataclass(frozen=True)
class Seen:
    """The server as the engine has it now. started, finished, engine_since: nanoseconds since 1970, 0 for unknown."""

    exists: bool = False
    running: bool = False
    pid: int | None = None
    started: int = 0
    finished: int = 0
    exit_status: int = 0
    oom: bool = False
    error: str = ""  # why the engine could not start it
    comes_back: bool = False  # between an end and the engine's next try
    kept_up: bool = True  # the engine restarts it unless somebody stopped it
    engine_since: int = 0


Words = Callable[[st.Start, Moment], str]  # what the logs say of a run that ended then; "" for nothing


def catch_up(state: st.State, seen: Seen, events: Iterable[Event], now: Moment, words: Words) -> list[str]:
    """Brings the record up to date; why runs ended that it had not known to be over."""
    told: list[str] = []
    short_of_memory = False
    for event in sorted(events, key=lambda one: one.at):
        if event.at <= state.followed:
            continue
        state.followed = event.at
        start, at = state.open_start(), moment(event.at, now)
        if start is not None and at.wall < start.at.wall:
            continue  # of the run before: Docker tells of an end a moment after its `stop` has returned
        if event.action == "start" and start is None:
            _begin(state, at, None, now)
        elif event.action == "healthy" and start is not None and start.ready_at is None:
            start.ready_at = at
        elif event.action == "oom":
            short_of_memory = True
        elif start is not None and (event.action == "stop" or (event.action == "kill" and event.signal in ENDING)):
            repair = state.intent is not None and state.intent.kind == "repair"
            start.stopping = "self" if repair else "purpose"
        elif event.action == "die" and start is not None:
            told += _end(state, start, at, _facts(state, start, event.exit_status, short_of_memory), words)
            short_of_memory = False
    told += _reconcile(state, seen, now, words)
    return [reason for reason in told if reason]


def moment(at: int, now: Moment) -> Moment:
    """The wall clock's nanoseconds on the boot clock, as far as this boot goes back."""
    wall = at / SECOND
    return Moment(wall, max(0.0, now.boot - max(0.0, now.wall - wall)), now.boot_id)


def _begin(state: st.State, at: Moment, pid: int | None, now: Moment) -> None:
    """A start that nobody announced: the engine's own, or somebody's past the keeper."""
    config = state.starts[-1].config if state.starts else ""
    state.starts.append(st.Start(at=at, planned=d.is_planned(state, now), config=config, pid=pid))
    state.stopped = None


def _facts(state: st.State, start: st.Start, status: int, short_of_memory: bool) -> d.EndFacts:
    by_signal = status > KILLED
    return d.EndFacts(
        intent=state.intent.kind if state.intent is not None else "",
        stopping=start.stopping,
        result="oom-kill" if short_of_memory else "",
        exit_code="killed" if by_signal else "exited",
        exit_status=SIGNALS.get(status - KILLED, str(status - KILLED)) if by_signal else str(status),
        note=start.note,
    )


def _end(state: st.State, start: st.Start, at: Moment, facts: d.EndFacts, words: Words) -> list[str]:
    end, reason = d.classify_end(facts)
    start.exit_code, start.exit_status = facts.exit_code, facts.exit_status
    if end == st.REPAIR and state.intent is not None:
        reason = state.intent.reason or reason
    if end == st.FAILED:
        said = words(start, at)
        reason = f"{reason}; {said}" if said and said not in reason else reason
    return _close(state, start, at, end, reason)


def _close(state: st.State, start: st.Start, at: Moment, end: str, reason: str) -> list[str]:
    start.ended_at, start.end, start.reason = at, end, reason
    going_on = state.intent is not None and state.intent.kind == "restart"
    stopped = end in (st.PURPOSE, st.SHUTDOWN) and not going_on and state.parked is None
    state.stopped = st.Stopped(at, end) if stopped else None
    return [reason]


def _reconcile(state: st.State, seen: Seen, now: Moment, words: Words) -> list[str]:
    """What the events did not tell, because the engine forgot them (it keeps 256, and none over its own restart)."""
    start, told = state.open_start(), list[str]()
    if seen.running:
        if start is not None and start.pid not in (None, seen.pid):
            told = _lost(state, start, seen, now)
            start = state.open_start()
        if start is None:
            _begin(state, moment(seen.started, now), seen.pid, now)
        else:
            start.pid = seen.pid
        state.stopped = None
        return told
    # Between the gate and the process: the start is on its way.
    if start is None or (start.pid is None and age(start.at, now) < UNBORN):
        return told
    return _gone(state, start, seen, now, words)


def _lost(state: st.State, start: st.Start, seen: Seen, now: Moment) -> list[str]:
    """Another process runs by now, and how the one before ended is not known any more."""
    at = moment(seen.finished, now) if seen.finished else now
    if start.at.boot_id != now.boot_id:
        return _close(state, start, at, st.SHUTDOWN, "the host restarted")
    if seen.engine_since and seen.finished and seen.finished <= seen.engine_since:
        return _close(state, start, at, st.SHUTDOWN, "the container engine was restarted")
    if start.stopping == "purpose":
        return _close(state, start, at, st.PURPOSE, "stopped on purpose")
    return _close(state, start, at, st.LOST, start.note or "its end was not recorded")


def _gone(state: st.State, start: st.Start, seen: Seen, now: Moment, words: Words) -> list[str]:
    """It does not run, and no event told of its end."""
    at = moment(seen.finished, now) if seen.finished else now
    if seen.error:
        return _close(state, start, at, st.FAILED, f"the engine could not start it: {seen.error}")
    if start.at.boot_id != now.boot_id:
        return _close(state, start, at, st.SHUTDOWN, "the host restarted")
    if not seen.exists:
        start.stopping = start.stopping or "purpose"
        return _close(state, start, at, st.PURPOSE, "its container was removed")
    if seen.engine_since and seen.finished and seen.finished <= seen.engine_since:
        return _close(state, start, at, st.SHUTDOWN, "the container engine was restarted")
    if seen.kept_up and not seen.comes_back and not seen.oom:
        # The engine brings back everything that it was not told to stop.
        start.stopping = start.stopping or "purpose"
    return _end(state, start, at, _facts(state, start, seen.exit_status, seen.oom), words)


def verdict(state: st.State, settings: GateSettings, facts: d.GateFacts) -> d.GateDecision | None:
    """Whether the engine's own restarts have gone on for too long: the gate's decision to park, or None.

    Judged is what came before the run that is under way. A run that was asked for, or was ready, is let alone.
    """
    start = state.open_start()
    if start is not None and (start.planned or start.ready_at is not None):
        return None
    before = replace(state, starts=[one for one in state.starts if one is not start], intent=None)
    if state.parked is not None or not before.starts:
        return None
    decision = d.decide_gate(before, settings, facts)
    return decision if decision.action == d.PARK else None
