# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's decisions: pure functions on plain data. No clock, no file, no process is touched here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_keeper import state as st
from vllm_keeper.clock import Moment, age, duration
from vllm_keeper.config import GateSettings

# --- gate: may this start go ahead, and when? ---------------------------------------------------------------

GO, WAIT, PARK = "go", "wait", "park"
BAD_ARGUMENT_STATUS = "2"  # argparse's exit status, and so `vllm serve`'s, for an argument that it does not take


@dataclass(frozen=True)
class GateDecision:
    action: str
    reason: str
    wait: float = 0.0
    planned: bool = False
    unpark: bool = False
    cause: str = ""  # why it is to be parked


@dataclass(frozen=True)
class GateFacts:
    now: Moment
    config: str  # fingerprint of what a start depends on now
    model_path: str = ""
    model_present: bool = True
    dice: float = 0.0  # 0..1, drawn once for each start


def is_planned(state: st.State, now: Moment) -> bool:
    """Did a person, a deploy or the host's boot ask for this start, rather than a failure?"""
    if state.intent is not None:
        return state.intent.kind in ("start", "restart")
    if not state.starts:
        return True
    last = state.starts[-1]
    return last.end in (st.PURPOSE, st.SHUTDOWN) or last.at.boot_id != now.boot_id


def relevant(starts: Sequence[st.Start], config: str) -> list[st.Start]:
    """The starts that say something about this configuration. Only they are held against it."""
    kept: list[st.Start] = []
    for start in reversed(starts):
        if start.forgiven or (start.config and config and start.config != config):
            break
        kept.append(start)
    return kept[::-1]


def failed(start: st.Start) -> bool:
    return start.end in (st.FAILED, st.REPAIR, st.LOST)


def was_stable(start: st.Start, settings: GateSettings) -> bool:
    if start.ready_at is None or start.ended_at is None:
        return False
    return age(start.ready_at, start.ended_at) >= settings.stable_after


def streak(starts: Sequence[st.Start], settings: GateSettings) -> int:
    """How many runs in a row ended by themselves before they were stable."""
    count = 0
    for start in reversed(starts):
        if not failed(start) or was_stable(start, settings):
            break
        count += 1
    return count


def failures_in_window(starts: Sequence[st.Start], settings: GateSettings, now: Moment) -> int:
    return sum(1 for start in starts if failed(start) and age(start.ended_at or start.at, now) <= settings.window)


def back_off(failures: int, settings: GateSettings, dice: float) -> float:
    """The pause before the next start. Jitter only shortens it: the unit's time limit is derived from the longest."""
    step = settings.back_off[min(failures, len(settings.back_off) - 1)]
    return step * (1 - settings.jitter * min(1.0, max(0.0, dice)))


def still_parked(parked: st.Parked, facts: GateFacts) -> bool:
    if parked.cause == "operator":
        return True  # somebody said so; only somebody can take it back
    if parked.cause == "model_missing" and facts.model_present:
        return False
    return not (parked.config and facts.config and parked.config != facts.config)


def decide_gate(state: st.State, settings: GateSettings, facts: GateFacts) -> GateDecision:
    """`state` must have the previous run closed (see close_lost). `wait` is what is left of the pause."""
    if state.parked is not None and still_parked(state.parked, facts):
        return GateDecision(PARK, state.parked.reason, cause=state.parked.cause)
    if not facts.model_present:
        return GateDecision(
            PARK,
            f"model_path {facts.model_path} does not exist: a restart cannot mend that; fetch the model "
            "(site.yml does), it is started as soon as the folder is there",
            cause="model_missing",
        )
    if state.parked is not None:
        return GateDecision(GO, "what it was parked for has changed", planned=True, unpark=True)
    if is_planned(state, facts.now):
        return GateDecision(GO, "asked for", planned=True)
    return _after_failure(relevant(state.starts, facts.config), settings, facts)


def _after_failure(starts: Sequence[st.Start], settings: GateSettings, facts: GateFacts) -> GateDecision:
    if not starts:
        return GateDecision(GO, "the first start of this configuration")
    last = starts[-1]
    if _bad_argument(last):
        return GateDecision(
            PARK,
            f"`vllm serve` refused its arguments ({last.reason or 'exited with status 2'}): a restart cannot mend "
            "that; correct the configuration and it may start again",
            cause="bad_argument",
        )
    count = failures_in_window(starts, settings, facts.now)
    if count >= settings.budget:
        return GateDecision(
            PARK,
            f"{count} failures within {duration(settings.window)}: the budget of {settings.budget} is spent"
            + (f"; the last: {last.reason}" if last.reason else ""),
            cause="budget",
        )
    in_a_row = streak(starts, settings)
    pause = back_off(in_a_row, settings, facts.dice) - age(last.ended_at or last.at, facts.now)
    if pause > 0:
        return GateDecision(WAIT, f"back-off after {in_a_row} failures in a row", wait=pause)
    return GateDecision(GO, f"restart after a failure ({in_a_row} in a row)")


def _bad_argument(start: st.Start) -> bool:
    return (
        start.end == st.FAILED
        and start.ready_at is None
        and start.exit_code == "exited"
        and start.exit_status == BAD_ARGUMENT_STATUS
    )


def close_lost(state: st.State, now: Moment) -> None:
    """A run whose end nobody recorded, seen when the next one is about to start."""
    start = state.open_start()
    if start is None:
        return
    start.ended_at = now
    if start.at.boot_id != now.boot_id:
        start.end, start.reason = st.SHUTDOWN, "the host restarted"
    else:
        start.end, start.reason = st.LOST, start.note or "its end was not recorded"


# --- stopped: how did this run end? -------------------------------------------------------------------------


@dataclass(frozen=True)
class EndFacts:
    """What is known at ExecStopPost. job: the manager's job on the unit; None = could not be asked."""

    intent: str = ""
    stopping: str = ""
    job: str | None = ""
    host_going_down: bool = False
    result: str = ""
    exit_code: str = ""
    exit_status: str = ""
    note: str = ""


def classify_end(facts: EndFacts) -> tuple[str, str]:
    """(end, reason). An engine's death makes vLLM exit with 0, so the exit status alone proves nothing."""
    if facts.intent == "repair":
        return st.REPAIR, "ended by the keeper"
    if facts.intent == "revive":
        # It had ended before the keeper ordered the next start; that order is no wish for this end.
        return st.FAILED, _failure(facts)
    asked = facts.stopping == "purpose" or facts.intent in ("stop", "restart") or facts.job in ("stop", "restart")
    if facts.job is None and not facts.stopping and facts.result in ("", "success") and not facts.note:
        # ExecStop never ran and nothing failed: the start was called off.
        asked = True
    if facts.host_going_down and (asked or not facts.stopping):
        return st.SHUTDOWN, "the host went down"
    if asked and facts.result != "oom-kill":
        return st.PURPOSE, "stopped on purpose"
    return st.FAILED, _failure(facts)


def _failure(facts: EndFacts) -> str:
    if facts.result == "oom-kill":
        how = "killed by the kernel for lack of memory (oom-kill)"
    elif facts.result in ("timeout", "watchdog"):
        how = f"ended by the manager ({facts.result})"
    elif facts.exit_code == "exited":
        how = f"exited with status {facts.exit_status or '?'}"
    elif facts.exit_code:
        how = f"{facts.exit_code} by signal {facts.exit_status or '?'}"
    else:
        how = f"ended ({facts.result or 'no result given'})"
    return f"{how}; {facts.note}" if facts.note else how


# --- check: is anything due? --------------------------------------------------------------------------------

# Phases that every manager's own words are translated to.
RUNNING, STARTING, HELD, STOPPING, STOPPED, FAILED, MISSING = (
    "running",
    "starting",  # a main process exists, not yet ready
    "held",  # to be started: gate, back-off, restart delay
    "stopping",
    "stopped",
    "failed",
    "missing",
)
NONE, START, RESTART, KILL = "none", "start", "restart", "kill and restart"
START_GRACE = 30.0  # the manager's own time limit comes first


@dataclass(frozen=True)
class Observation:
    phase: str
    detail: str  # in the manager's words
    enabled: bool = True
    process_age: float | None = None
    ready: bool = False  # this very process was ready before
    stopped_on_purpose: bool = False
    parked: str = ""
    intent: str = ""
    job: str = ""
    start_timeout: float = 600.0


@dataclass(frozen=True)
class Decision:
    verdict: str
    action: str
    reason: str


def decide_before_probe(seen: Observation) -> Decision | None:
    """What can be said without asking the server; None when it must be asked. The first rule that applies counts."""
    idle = seen.phase in (STOPPED, FAILED)
    used = seen.process_age or 0.0
    # While the manager itself still waits for the server, its own time limit comes first.
    limit = seen.start_timeout + (START_GRACE if seen.phase == STARTING else 0)
    loading = not seen.ready and used <= limit and (seen.process_age is not None or seen.phase == STARTING)
    rules = (
        (seen.phase == MISSING, "dead", NONE, f"{seen.detail}; run site.yml to install it"),
        (seen.intent == "stop", "draining", NONE, "a stop is under way"),
        (seen.intent in ("start", "restart", "revive"), "starting", NONE, f"a {seen.intent} is under way"),
        (seen.phase == STOPPING, "draining", NONE, f"it is being stopped ({seen.detail})"),
        (idle and bool(seen.parked), "parked", NONE, seen.parked),
        (bool(seen.parked), "parked", NONE, f"parked while it runs: {seen.parked}"),
        (idle and seen.stopped_on_purpose, "stopped", NONE, "stopped on purpose"),
        (idle and bool(seen.job), "starting", NONE, f"a {seen.job} job of the manager is under way"),
        (idle and not seen.enabled, "stopped", NONE, f"not enabled ({seen.detail})"),
        (idle, "dead", START, f"not running, though enabled and not stopped on purpose ({seen.detail})"),
        (seen.phase == HELD, "starting", NONE, f"its start is on the way ({seen.detail})"),
        (seen.job in ("stop", "restart"), "draining", NONE, f"a {seen.job} job of the manager is under way"),
        (
            loading,
            "starting",
            NONE,
            f"not ready yet, {duration(used)} of {duration(seen.start_timeout)} start time used",
        ),
    )
    return next((Decision(verdict, action, reason) for holds, verdict, action, reason in rules if holds), None)


def loads(seen: Observation) -> bool:
    """Whether its process is there, was never ready, and has time left to become so."""
    before = decide_before_probe(seen)
    starting = before is not None and before.verdict == "starting"
    return starting and not seen.intent and seen.phase in (STARTING, RUNNING)


@dataclass(frozen=True)
class Health:
    """The outcome of all tries. kind: ok | status | refused | timeout | broken"""

    kind: str
    detail: str


def decide_after_probe(seen: Observation, health: Health) -> Decision:
    if health.kind == "ok":
        return Decision("healthy", NONE, health.detail)
    if health.kind == "timeout":
        return Decision("hung", KILL, f"{health.detail}; a hung server is killed, not asked")
    return Decision("dead", RESTART, health.detail)


def verdict_for_status(seen: Observation, health: Health | None) -> Decision:
    """As check would see it, but a server that has not been ready yet is asked too and may just have become so."""
    before = decide_before_probe(seen)
    if before is not None and not (before.verdict == "starting" and health is not None and health.kind == "ok"):
        return before
    if health is None:
        return Decision("starting", NONE, seen.detail)
    return decide_after_probe(seen, health)
