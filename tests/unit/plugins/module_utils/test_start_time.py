# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a start takes: the measured starts lie between the bounds, and laws of the bounds."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._start_time import Start, bounds
from hypothesis import given
from hypothesis import strategies as st

RECORDED = json.loads((Path(__file__).parent / "recorded" / "gpu" / "start_times.json").read_text(encoding="utf-8"))


STARTS = st.builds(
    Start,
    cores=st.integers(1, 256),
    compiled=st.sampled_from([True, False, None]),
    sampler=st.sampled_from([True, False, None]),
    weights=st.integers(0, 10**12),
    eager=st.booleans(),
)


@pytest.mark.parametrize("run", RECORDED["starts"], ids=lambda run: f"{run['seconds']} s: {run['what']}")
def test_the_measured_starts_lie_between_the_bounds(run: dict[str, t.Any]) -> None:
    """With room on both sides: a start that only just fits says that the bounds are too narrow."""
    found = bounds(Start(run["cores"], run["compiled"], run["sampler"], run["weights_read"]))
    assert 1.1 * found.least < run["seconds"] < 0.9 * found.most
    parts = run.get("parts", {})
    assert sum(parts.values()) == pytest.approx(run["seconds"] if parts else 0, abs=1)


@pytest.mark.parametrize("run", RECORDED["sampler"], ids=lambda run: f"{run['cores']} cores")
def test_so_does_the_compiling_of_the_sampler_by_itself(run: dict[str, t.Any]) -> None:
    without, compiled = (bounds(Start(run["cores"], True, there, 0)) for there in (True, False))
    assert compiled.least - without.least < run["seconds"] < compiled.most - without.most


def test_a_small_model_or_one_of_unknown_size_may_compile_as_good_as_nothing() -> None:
    compiled, small, unknown, large = (
        bounds(Start(16, there, True, weights)).least
        for there, weights in ((True, 0), (False, 250_000_000), (False, 0), (False, 10**11))
    )
    assert unknown == compiled and small < compiled + 2
    assert large == bounds(Start(16, True, True, 10**11)).least + 59


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
