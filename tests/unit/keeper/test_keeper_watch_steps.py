# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The longest steps of recent work: what is remembered, for how long, and how it is written down."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper.watch import steps as of
from vllm_keeper.watch.steps import COUNT, NO_STEP, SPAN, TIME, WORK, Bucket, Step, Steps

seconds = some.floats(0, 20)
steps = some.builds(Step, seconds, seconds)
# (seconds since the look before, those of them in which it worked)
looks = some.tuples(some.floats(0.05, 4000), some.floats(0, 1)).map(lambda one: (one[0], min(120.0, one[0] * one[1])))


@given(some.lists(some.tuples(looks, steps), max_size=80))
def test_law_the_longest_is_one_of_those_that_were_seen_and_few_are_kept(
    history: list[tuple[tuple[float, float], Step]],
) -> None:
    known, at, most = Steps(), 0.0, NO_STEP
    for (gap, worked), step in history:
        at += gap
        known = known.after(at, worked, step)
        most = most.longer(step)
        assert known.longest.longer(step) == known.longest, "the newest one always counts"
        assert known.longest.longer(most) == most
        assert len(known.buckets) <= COUNT


@given(some.lists(looks, max_size=200), some.lists(looks, max_size=200), steps)
def test_law_a_step_is_remembered_and_forgotten_in_time(
    before: list[tuple[float, float]], since: list[tuple[float, float]], step: Step
) -> None:
    known, at = Steps(), 0.0
    for gap, worked in before:
        at += gap
        known = known.after(at, worked)
    known = known.after(at, 0.0, step)
    work = time = 0.0
    for gap, worked in since:
        work, time = work + worked, time + gap
        known = known.after(at + time, worked)
        if work / WORK + time / SPAN < COUNT - 1:
            assert known.longest == step
        if work > COUNT * WORK + 240 or time >= TIME:
            assert known.longest == NO_STEP


def test_a_step_of_a_server_with_little_to_do_is_remembered_from_when_it_was() -> None:
    """And not from when the work began that one bucket covers."""
    known = Steps()
    for hour in range(60):
        known = known.after(hour * 3600.0, 1.0, Step(2.0, 1.0) if hour == 23 else NO_STEP)
        assert (known.longest == NO_STEP) == (hour < 23 or hour > 23 + 18), hour


def test_a_clock_that_goes_back_forgets_nothing_and_raises_nothing() -> None:
    known = Steps().after(1000.0, 1.0, Step(2.0, 1.0)).after(-1e6, 1.0)
    assert known.longest == Step(2.0, 1.0)


@given(some.lists(some.tuples(looks, steps), max_size=30))
def test_law_what_is_written_down_is_what_is_read(history: list[tuple[tuple[float, float], Step]]) -> None:
    known, at = Steps(), 1000.0
    for (gap, worked), step in history:
        at += gap
        known = known.after(at, worked, step)
    read = of.parse(json.loads(json.dumps(of.dump(known))))
    assert read.longest.taken == pytest.approx(known.longest.taken, abs=1e-3)
    assert read.longest.idle == pytest.approx(known.longest.idle, abs=1e-3)
    assert [bucket.since for bucket in read.buckets] == pytest.approx([b.since for b in known.buckets], abs=0.1)
    moved = known.moved(5e8, 1e12).moved(-5e8, 1e12)
    assert moved.longest == known.longest


def test_a_clock_that_was_set_back_makes_no_step_younger_than_now() -> None:
    """Else it would be remembered until that clock has caught up."""
    known = Steps((Bucket(2e9, 1.0, Step(2.0, 1.0)),)).moved(-1e9, 500.0)
    assert known.buckets[0].since == 500.0
    assert known.after(500.0 + TIME, 0.0).longest == NO_STEP


def test_it_is_written_down_when_a_step_is_longer_or_has_grown_older() -> None:
    none, small = Steps(), Steps((Bucket(0.0, 1.0, Step(1.0, 0.5)),))
    assert not none.differs(none)
    assert not none.after(1.0, 60.0).differs(none), "no step, nothing to grow older"
    assert small.differs(none)
    assert not small.after(1.0, 60.0, Step(1.1, 0.55)).differs(small)
    assert small.after(1.0, 60.0, Step(1.0, 0.8)).differs(small)
    assert small.after(1.0, WORK).after(2.0, 1.0).differs(small)
    assert small.after(TIME + 1, 0.0).differs(small), "it is forgotten"
