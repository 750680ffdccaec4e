# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides how soon a hang is believed: each wrong value is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from vllm_keeper import config
from vllm_keeper.watch.fleet import FleetSettings
from vllm_keeper.watch.settings import WatchSettings

GOOD: dict[str, Any] = {"name": "q", "base_url": "http://127.0.0.1:8000"}


def test_nothing_said_is_the_defaults() -> None:
    nothing: tuple[dict[str, Any], ...] = ({}, {"watch": {}, "canary": {}, "fleet": {}}, {"watch": {"patience": None}})
    for said in nothing:
        instance, problems = config.parse({**GOOD, **said}, "q")
        assert problems == []
        assert instance is not None
        assert (instance.watch, instance.fleet) == (WatchSettings(), FleetSettings())


def test_what_is_said_is_taken() -> None:
    watch = {
        "enabled": False, "dry_run": True, "interval": 2, "doubt_interval": 0.5, "timeout": 1, "stall_after": 60,
        "stall_factor": 2, "patience": 90, "patience_factor": 4, "api_patience": 45, "start_stall_after": 0,
    }  # fmt: skip
    canary = {
        "enabled": False, "every": 5, "picture": "never", "picture_every": 10, "timeout": 30, "priority": -100,
    }  # fmt: skip
    fleet = {"url": "http://10.0.0.10:9411/fleet/q", "limit": 3, "timeout": 1}
    instance, problems = config.parse({**GOOD, "watch": watch, "canary": canary, "fleet": fleet}, "q")
    assert problems == []
    assert instance is not None
    assert {key: getattr(instance.watch, key) for key in watch} == watch
    assert {key: getattr(instance.watch.canary, key) for key in canary} == canary
    assert instance.fleet == FleetSettings(**fleet)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("watch", {"enabled": "yes"}, "watch.enabled: 'yes' must be true or false"),
        ("watch", {"dry_run": 1}, "watch.dry_run: 1 must be true or false"),
        ("watch", {"interval": 61}, "watch.interval: 61 must be between 0.05 and 60"),
        ("watch", {"interval": "soon"}, "watch.interval: 'soon' must be a number"),
        ("watch", {"doubt_interval": 0.01}, "watch.doubt_interval: 0.01 must be between 0.05 and 60"),
        ("watch", {"doubt_interval": 2}, "watch.doubt_interval: 2.0 must not exceed interval (1)"),
        ("watch", {"timeout": 0.05}, "watch.timeout: 0.05 must be between 0.1 and 60"),
        ("watch", {"stall_after": 0}, "watch.stall_after: 0 must be between 0.5 and 3600"),
        ("watch", {"start_stall_after": -1}, "watch.start_stall_after: -1 must be between 0 and 86400"),
        ("watch", {"start_stall_after": 0.5}, "watch.start_stall_after: 0.5 must be 0 (never) or at least 1"),
        ("watch", {"stall_after": True}, "watch.stall_after: True must be a number"),
        ("watch", {"stall_factor": 0.5}, "watch.stall_factor: 0.5 must be between 1 and 100"),
        ("watch", {"patience": 1, "stall_after": 2}, "watch.patience: 1.0 must not be shorter than stall_after (2)"),
        ("watch", {"patience": float("nan")}, "watch.patience: nan must be a number"),
        ("watch", {"patience_factor": 101}, "watch.patience_factor: 101 must be between 1 and 100"),
        ("watch", {"api_patience": 0}, "watch.api_patience: 0 must be between 1 and 86400"),
        ("watch", {"patiense": 9}, "watch.patiense: unknown key, did you mean patience?"),
        ("canary", {"enabled": 0}, "canary.enabled: 0 must be true or false"),
        ("canary", {"every": 0}, "canary.every: 0 must be between 0.1 and 3600"),
        ("canary", {"picture": "sometimes"}, "canary.picture: 'sometimes' must be one of auto, always, never"),
        ("canary", {"picture_every": 0}, "canary.picture_every: 0 must be between 1 and 86400"),
        ("canary", {"timeout": 0.5}, "canary.timeout: 0.5 must be between 1 and 3600"),
        ("canary", {"priority": 1.5}, "canary.priority: 1.5 must be a whole number"),
        ("canary", {"priority": 2**40}, "canary.priority: 1099511627776 must be between"),
        ("canary", {"pictures": "auto"}, "canary.pictures: unknown key, did you mean picture?"),
        ("fleet", {"url": 7}, "fleet.url: 7 must be text"),
        ("fleet", {"url": "https://lb1/fleet"}, "fleet.url: 'https://lb1/fleet' must look like http://"),
        ("fleet", {"url": "lb1:9411"}, "fleet.url: 'lb1:9411' must look like http://"),
        ("fleet", {"limit": 0}, "fleet.limit: 0 must be between 1 and 10000"),
        ("fleet", {"limit": 1.5}, "fleet.limit: 1.5 must be a whole number"),
        ("fleet", {"timeout": 0}, "fleet.timeout: 0 must be between 0.1 and 30"),
        ("fleet", {"hosts": 3}, "fleet.hosts: unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place(part: str, change: dict[str, Any], said: str) -> None:
    instance, problems = config.parse({**GOOD, part: change}, "q")
    assert instance is None
    assert [problem for problem in problems if problem.startswith(said)], problems
    assert len(problems) == 1


@pytest.mark.parametrize("part", ["watch", "canary", "fleet"])
def test_a_part_that_is_no_mapping_is_named(part: str) -> None:
    instance, problems = config.parse({**GOOD, part: True}, "q")
    assert instance is None
    assert problems == [f"{part}: True must be a mapping"]


def test_all_problems_are_told_at_once() -> None:
    _instance, problems = config.parse({**GOOD, "watch": {"interval": -1, "timeout": "x"}, "canary": {"every": 0}}, "q")
    places = [problem.partition(":")[0] for problem in problems]
    assert {"watch.interval", "watch.timeout", "canary.every"} <= set(places)
