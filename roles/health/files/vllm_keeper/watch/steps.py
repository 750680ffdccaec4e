# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The longest steps of recent work, and how they are forgotten. Pure.

Kept as the maxima of a few buckets. A bucket ends after some minutes of users' work, or after some hours of time, and
the oldest one is dropped for each that begins. By work, so that a quiet night does not forget what the next morning's
load needs; by time too, so that a server without users does not remember for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

COUNT = 4  # buckets
WORK = 300.0  # seconds of work that one bucket covers
SPAN = 21600.0  # seconds of time that it covers at most
LONGEST = 20.0  # of steps: what took longer may have been a hang that went away by itself
REMEMBERED = COUNT * WORK  # seconds of work after which no step is remembered
TIME = COUNT * SPAN  # and seconds of time
GROWN = 1.2  # by this, and a tenth of a second, it has changed enough to be written down


@dataclass(frozen=True)
class Step:
    """taken: seconds without progress. idle: those of them, in one stretch, in which no process was active."""

    taken: float = 0.0
    idle: float = 0.0

    def longer(self, other: Step) -> Step:
        return Step(max(self.taken, other.taken), max(self.idle, other.idle))

    def shorter(self, other: Step) -> Step:
        return Step(min(self.taken, other.taken), min(self.idle, other.idle))


NO_STEP = Step()


@dataclass(frozen=True)
class Bucket:
    """since: when it began, in seconds of whatever clock. worked: seconds of work that it has covered."""

    since: float
    worked: float = 0.0
    longest: Step = NO_STEP


@dataclass(frozen=True)
class Steps:
    """Newest first."""

    buckets: tuple[Bucket, ...] = ()

    @property
    def longest(self) -> Step:
        found = NO_STEP
        for bucket in self.buckets:
            found = found.longer(bucket.longest)
        return found

    def after(self, at: float, worked: float, step: Step = NO_STEP) -> Steps:
        """WORKED: seconds of work since the look before, which ended with this step."""
        steps = self._turned(at)
        if not worked and step == NO_STEP:
            return steps
        first = steps.buckets[0] if steps.buckets else Bucket(at)
        first = replace(first, worked=first.worked + worked, longest=first.longest.longer(step))
        return Steps((first, *steps.buckets[1:]))

    def _turned(self, at: float) -> Steps:
        if not self.buckets:
            return self
        kept = self.buckets
        if at - kept[-1].since >= TIME:
            kept = tuple(bucket for bucket in kept if at - bucket.since < TIME)
        if kept and (kept[0].worked >= WORK or at - kept[0].since >= SPAN):
            # The look that filled it may have brought two minutes of work.
            kept = (Bucket(at, max(0.0, kept[0].worked - WORK)), *kept[: COUNT - 1])
        return self if kept is self.buckets else Steps(kept)

    def moved(self, by: float, latest: float) -> Steps:
        """On another clock, which is BY ahead; none begins after LATEST there, whatever either clock was set to."""
        return Steps(tuple(replace(bucket, since=min(latest, bucket.since + by)) for bucket in self.buckets))

    def differs(self, kept: Steps) -> bool:
        """Whether this is worth writing down where KEPT was: a longer step, or one that has grown older."""
        now, then = self.longest, kept.longest
        if now.taken > then.taken * GROWN + 0.1 or now.idle > then.idle * GROWN + 0.1:
            return True
        newest = self.buckets[0].since if self.buckets else None
        return then != NO_STEP and newest != (kept.buckets[0].since if kept.buckets else None)


NO_STEPS = Steps()


def dump(steps: Steps) -> list[dict[str, float]]:
    return [
        {
            "since": round(bucket.since, 1),
            "worked": round(bucket.worked, 1),
            "taken": round(bucket.longest.taken, 3),
            "idle": round(bucket.longest.idle, 3),
        }
        for bucket in steps.buckets
    ]


def parse(data: Any) -> Steps:
    """ValueError, TypeError or KeyError where it is no list of buckets.

    What no server took is no step: limits must not grow beyond reason by a file that somebody changed.
    """
    return Steps(
        tuple(
            Bucket(
                _number(one["since"], math.inf),
                _number(one["worked"], WORK),
                Step(_number(one["taken"], LONGEST), _number(one["idle"], LONGEST)),
            )
            for one in data[:COUNT]
        )
    )


def _number(value: Any, most: float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("more than a number of seconds can be") from error
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number of seconds")
    return min(most, max(0.0, number))
