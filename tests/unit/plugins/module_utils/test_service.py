# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to the instances of a host."""

from __future__ import annotations

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._service import Plan, Seen, plan
from hypothesis import given
from hypothesis import strategies as st

VERDICTS = [None, "starting", "healthy", "busy", "hung", "dead", "draining", "gpu_fault", "parked", "stopped"]


@pytest.mark.parametrize(
    ("verdict", "enabled", "owed", "restart", "expected"),
    [
        ("healthy", True, False, "now", Plan()),
        ("starting", True, False, "now", Plan()),
        (None, False, False, "now", Plan(enable=["a"], start=["a"])),
        ("dead", True, False, "now", Plan(start=["a"])),
        ("stopped", True, True, "defer", Plan(start=["a"])),
        ("parked", True, False, "now", Plan(start=["a"])),
        ("healthy", True, True, "now", Plan(restart=["a"])),
        ("healthy", True, True, "defer", Plan(defer=["a"])),
        ("hung", True, True, "now", Plan(restart=["a"])),
        ("healthy", False, False, "now", Plan(enable=["a"])),
    ],
)
def test_plan(verdict: str | None, enabled: bool, owed: bool, restart: str, expected: Plan) -> None:
    assert plan(["a"], {"a": Seen(verdict, enabled)}, ["a"] if owed else [], restart) == expected


@pytest.mark.parametrize("verdict", VERDICTS)
def test_start_on_boot_is_a_matter_of_its_own(verdict: str | None) -> None:
    wanted = plan(["a"], {"a": Seen(verdict, False)}, [], "now", enabled=False)
    assert (wanted.enable, wanted.disable) == ([], [])
    unwanted = plan(["a"], {"a": Seen(verdict, True)}, [], "now", enabled=False)
    assert (unwanted.enable, unwanted.disable, unwanted.changes) == ([], ["a"], True)
    assert unwanted.start == wanted.start


@given(
    seen=st.dictionaries(st.sampled_from("abcd"), st.builds(Seen, st.sampled_from(VERDICTS), st.booleans())),
    owed=st.sets(st.sampled_from("abcdx")),
    restart=st.sampled_from(["now", "defer"]),
)
def test_an_instance_that_serves_and_owes_nothing_is_never_touched(
    seen: dict[str, Seen], owed: set[str], restart: str
) -> None:
    decided = plan(list(seen), seen, owed, restart)
    touched = decided.start + decided.restart + decided.defer
    assert len(touched) == len(set(touched))
    for name, state in seen.items():
        if state.runs and name not in owed:
            assert name not in touched
        if not state.runs:
            assert name in decided.start
    assert set(touched) <= set(seen)
    if restart == "defer":
        assert not decided.restart
