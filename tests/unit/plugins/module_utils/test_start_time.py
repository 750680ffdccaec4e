# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a start takes: the measured starts lie between the bounds, and laws of the bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._start_time import Start, bounds
from hypothesis import given
from hypothesis import strategies as st

STARTS = st.builds(
    Start,
    cores=st.integers(1, 256),
    compiled=st.sampled_from([True, False, None]),
    sampler=st.sampled_from([True, False, None]),
    weights=st.integers(0, 10**12),
    eager=st.booleans(),
)


@pytest.mark.parametrize(
    ("compiled", "sampler", "seconds"),
    [(False, True, 179.8), (False, False, 299.0), (True, True, 81.0), (True, True, 99.0)],
)
def test_the_measured_starts_lie_between_the_bounds(compiled: bool, sampler: bool, seconds: float) -> None:
    """An H100 with 16 cores, weights not read."""
    found = bounds(Start(16, compiled, sampler, 0))
    assert found.least < seconds < found.most


def test_the_usual_limit_is_enough_for_the_measured_machine_with_a_slow_disk() -> None:
    assert bounds(Start(16, False, False, 17_534_247_392)).most < 600


@given(STARTS)
def test_the_lower_bound_is_the_lower_one(start: Start) -> None:
    found = bounds(start)
    assert 0 < found.least <= found.most


@given(STARTS, st.integers(1, 64))
def test_more_cores_never_take_longer(start: Start, more: int) -> None:
    found, faster = bounds(start), bounds(replace(start, cores=start.cores + more))
    assert faster.most <= found.most
    assert faster.least == found.least, "a faster machine than this one is thought of already"


@given(STARTS)
def test_kernels_that_are_there_never_take_longer_and_unknown_lies_between(start: Start) -> None:
    there, absent, unknown = (bounds(replace(start, compiled=value, sampler=value)) for value in (True, False, None))
    assert there.least <= absent.least
    assert there.most <= absent.most
    assert unknown == (there.least, absent.most)
