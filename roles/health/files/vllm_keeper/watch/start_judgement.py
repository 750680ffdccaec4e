# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a start that is not ready yet still move? One pure function over what its processes did.

A start stands still when for `start_stall_after` its processes have used no CPU and wanted none, read and written
nothing, fetched no page, received nothing, changed no GPU memory, and none of them came or went. An idle process does a
little of this all the time: that hum has a bound for each sign (HUM), and only what is beyond it is a movement.

A process that SIGSTOP holds never goes on by itself, and the start needs every process that it has: there STOPPED_AFTER
is enough, whatever the others do.

Time is counted look by look, as in judgement.py: a look counts for MOST seconds at most, and for none if any sign is
not known. So nobody is ended for what could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vllm_keeper.watch.settings import WatchSettings
from vllm_keeper.watch.vital_signs import Signs

MOST = 2.0  # seconds that one look counts for
STOPPED_AFTER = 5.0  # seconds
ASK = 3.0  # seconds before the limit from which on more is asked: an answer of the API, locks of others


@dataclass(frozen=True)
class Hum:
    """What an idle process may do and still stand still: so much a second, and so much at once."""

    rate: float
    burst: float


# Measured with vLLM 0.32: docs/keeper.md has the figures.
HUM: Mapping[str, Hum] = MappingProxyType(
    {
        "cpu": Hum(0.05, 0.5),
        "runnable": Hum(0.6, 3.0),
        "disk": Hum(0.0, 0.0),
        "read": Hum(32.0, 4096.0),
        "written": Hum(4.0, 64.0),
        "received": Hum(2048.0, 16384.0),
        "faults": Hum(0.0, 0.0),
        "gpu": Hum(0.0, 0.0),
    }
)


@dataclass(frozen=True)
class StartMemory:
    """What one look leaves for the next.

    still: counted seconds since the last movement. levels: what each sign has done since, beyond its hum.
    stopped: counted seconds for which each process has been seen stopped, look after look.
    """

    pid: int = 0
    at: float | None = None
    still: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict)
    stopped: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StartJudgement:
    """reason: why it is to be ended, "" if it is not. seconds: that it has stood still. ask: to ask for more."""

    reason: str = ""
    seconds: float = 0.0
    ask: bool = False


def judge_start(
    memory: StartMemory, at: float, pid: int, signs: Signs, answers: bool | None, settings: WatchSettings
) -> tuple[StartMemory, StartJudgement]:
    """AT: seconds of a clock that never goes back. PID: the main process of the start. ANSWERS: whether /health is
    answered with 200, None where nobody asked: who answers has started, and idles rightly."""
    if memory.pid != pid or memory.at is None:
        return StartMemory(pid, at, stopped=dict.fromkeys(signs.stopped or (), 0.0)), StartJudgement()
    spent = min(MOST, max(0.0, at - memory.at))
    stopped = {one: memory.stopped.get(one, -spent) + spent for one in signs.stopped or ()}
    levels, moved, known = _levels(memory.levels, signs, spent)
    if moved:
        memory = StartMemory(pid, at, 0.0, {}, stopped)
    else:
        memory = StartMemory(pid, at, memory.still + (spent if known else 0.0), levels, stopped)
    return memory, _decide(memory, signs, answers, settings)


def _levels(before: Mapping[str, float], signs: Signs, spent: float) -> tuple[dict[str, float], bool, bool]:
    """(how full each sign's measure is, whether one ran over, whether all signs are known)"""
    done: dict[str, float | None] = {
        "cpu": signs.cpu,
        "runnable": None if signs.runnable is None else spent * signs.runnable,
        "disk": None if signs.disk is None else float(signs.disk),
        "read": signs.read,
        "written": signs.written,
        "received": signs.received,
        "faults": signs.faults,
        "gpu": signs.gpu,
    }
    levels: dict[str, float] = {}
    for name, amount in done.items():
        # What is not known now shows in the next look that knows it: all these numbers only grow.
        levels[name] = max(0.0, before.get(name, 0.0) + (amount or 0.0) - HUM[name].rate * spent)
    moved = bool(signs.changed) or any(levels[name] > HUM[name].burst for name in levels)
    return levels, moved, signs.changed is not None and None not in done.values()


def _decide(memory: StartMemory, signs: Signs, answers: bool | None, settings: WatchSettings) -> StartJudgement:
    if not settings.start_stall_after:
        return StartJudgement()
    limit = min(STOPPED_AFTER, settings.start_stall_after)
    longest = max(memory.stopped.values(), default=0.0)
    if longest > limit:
        names = ", ".join(
            f"{(signs.stopped or {})[pid]} (pid {pid})" for pid in sorted(memory.stopped) if memory.stopped[pid] > limit
        )
        why = f"its start cannot go on: stopped by a signal for {longest:.0f} s: {names}"
        return StartJudgement(why, longest)
    if memory.still <= settings.start_stall_after:
        return StartJudgement("", memory.still, memory.still > settings.start_stall_after - ASK)
    if answers is not False or signs.lock != "":
        return StartJudgement("", memory.still, True)
    why = (
        f"its start stands still: for {memory.still:.0f} s its processes have used no CPU, read, written and received "
        f"nothing, and none came or went (limit {settings.start_stall_after:g} s)"
    )
    return StartJudgement(why, memory.still, True)
