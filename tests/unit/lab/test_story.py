# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A seed is a story that can be told again, and all stories together leave nothing out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from labkit import story

HOSTS = ("gpu1", "gpu2")


@given(some.integers(), some.integers(0, 30), some.integers(0, 30))
def test_a_seed_tells_the_same_story_each_time_however_long(seed: int, short: int, more: int) -> None:
    told = story.story(seed, short + more, HOSTS)

    assert story.story(seed, short, HOSTS) == told[:short]


@given(some.integers())
def test_each_step_hurts_one_to_three_processes(seed: int) -> None:
    for step in story.story(seed, 15, HOSTS):
        assert 1 <= len(step.deeds) <= 3
        assert set(step.restarted) <= set(HOSTS)
        for deed in step.deeds:
            assert (deed.host in HOSTS, deed.part in story.PARTS, deed.signal in story.SIGNALS) == (True,) * 3
            assert 0 <= deed.after <= story.START


def test_the_five_seeds_of_make_nemesis_hurt_every_part_in_every_way_while_it_serves_and_while_it_starts() -> None:
    steps = [step for seed in range(1, 6) for step in story.story(seed, 15, HOSTS)]
    done = {(deed.part, deed.signal, bool(step.restarted)) for step in steps for deed in step.deeds}

    assert len(done) == len(story.PARTS) * len(story.SIGNALS) * 2
    assert any(len({deed.part for deed in step.deeds}) == 3 for step in steps), "three at once"
    assert {len(step.restarted) for step in steps} == {0, 1, 2}
