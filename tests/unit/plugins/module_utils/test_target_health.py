# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reason codes in words, and how a wait goes."""

from __future__ import annotations

import typing as t

import botocore.session
import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _target_health as health
from hypothesis import given
from hypothesis import strategies as st

GROUP: dict[str, t.Any] = {
    "name": "vllm",
    "port": 8000,
    "health_check": {
        "path": "/health",
        "port": "traffic-port",
        "protocol": "HTTP",
        "interval": 30,
        "timeout": 5,
        "matcher": "200",
    },
}
_MODEL: t.Any = botocore.session.get_session().get_service_model("elbv2").shape_for("TargetHealth")
EVERY_REASON = _MODEL.members["Reason"].enum
EVERY_STATE = _MODEL.members["State"].enum


def on(path: str) -> dict[str, t.Any]:
    return {**GROUP, "health_check": {**GROUP["health_check"], "path": path}}


def test_every_reason_and_state_of_the_api_is_explained() -> None:
    assert set(EVERY_REASON) == set(health.REASONS)
    assert set(EVERY_STATE) == set(health.STATES)


@pytest.mark.parametrize("state", EVERY_STATE)
@pytest.mark.parametrize("reason", [None, *EVERY_REASON, "Target.FromTheFuture"])
@pytest.mark.parametrize("description", [None, "Health checks failed with these codes: [418]"])
def test_no_explanation_has_a_hole(state: str, reason: str | None, description: str | None) -> None:
    meaning, fix = health.explain(GROUP, state, reason, description)
    assert meaning
    assert bool(fix) is (state != "healthy" or reason is not None)
    assert not {"{", "}"} & set(meaning + fix)
    assert "None" not in meaning + fix


@pytest.mark.parametrize("code", sorted(health.CODES))
def test_every_code_is_explained(code: int) -> None:
    text = f"Health checks failed with these codes: [{code}]"
    meaning, fix = health.explain(GROUP, "unhealthy", "Target.ResponseCodeMismatch", text)
    assert meaning
    assert fix
    assert not {"{", "}"} & set(meaning + fix)


@pytest.mark.parametrize(
    ("path", "codes", "in_meaning", "in_fix"),
    [
        ("/", "404", "vLLM answers 404 on /", "path: /health"),
        ("/", "503, 404", "engine is dead", "journalctl"),
        ("/helth", "404", "no page /helth", "path: /health"),
        ("/health", "503", "engine is dead", "journalctl"),
        ("/v1/models", "401", "--api-key", "path: /health"),
        ("/v1/completions", "405", "no GET", "path: /health"),
        ("/health", "200", "matcher wants 200", 'matcher: "200"'),
        ("/health", "418", "outside 200", "curl -i http://TARGET:8000/health"),
    ],
)
def test_a_mismatch_is_explained_by_its_code(path: str, codes: str, in_meaning: str, in_fix: str) -> None:
    text = f"Health checks failed with these codes: [{codes}]"
    meaning, fix = health.explain(on(path), "unhealthy", "Target.ResponseCodeMismatch", text)
    assert in_meaning in meaning
    assert in_fix in fix


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ({"Id": "i-1", "Port": 8000}, "i-1:8000 "),
        ({"Id": "10.0.0.1", "Port": 8001}, "10.0.0.1:8001 "),
        ({"Id": "fd00::1", "Port": 8000}, "[fd00::1]:8000 "),
        ({"Id": "arn:aws:lambda:eu-west-1:1:function:f"}, "arn:aws:lambda:eu-west-1:1:function:f "),
    ],
)
def test_a_line_begins_with_the_target(target: dict[str, t.Any], place: str) -> None:
    row = health.row(GROUP, {"Target": target, "TargetHealth": {"State": "unhealthy", "Reason": "Target.Timeout"}})
    line = health.line(row)
    assert line.startswith(f"{place}unhealthy Target.Timeout no answer on port")
    assert " -> let the load balancer's security group" in line


def rows(*states: str) -> list[dict[str, t.Any]]:
    return [
        health.row(GROUP, {"Target": {"Id": f"i-{n}", "Port": 8000}, "TargetHealth": {"State": state}})
        for n, state in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("states", "wanted", "done"),
    [
        ([], None, False),
        ([], 1, False),
        (["healthy"], None, True),
        (["healthy", "unhealthy"], None, False),
        (["healthy", "unhealthy"], 1, True),
        (["healthy", "unhealthy"], 2, False),
        (["healthy", "draining"], None, True),
        (["draining"], None, False),
        (["healthy", "unused"], None, False),
        (["healthy", "unhealthy.draining"], None, False),
    ],
)
def test_when_a_group_is_ready(states: list[str], wanted: int | None, done: bool) -> None:
    assert health.satisfied(rows(*states), wanted) is done


@pytest.mark.parametrize(("text", "number"), [("all", None), ("1", 1), ("12", 12)])
def test_wait_for(text: str, number: int | None) -> None:
    assert health.parse_wait_for(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "ALL", "1.5", "99999"])
def test_wait_for_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="wait_for"):
        health.parse_wait_for(text)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "no target is registered"),
        (["unhealthy"], "it fails open"),
        (["healthy"], "lower wait_for"),
        (["healthy", "initial"], "i-1:8000 initial"),
    ],
)
def test_a_vain_wait_says_why(states: list[str], words: str) -> None:
    text = health.report({"vllm": rows(*states)}, 2, 60)
    assert text.startswith(f"after 60 s, {states.count('healthy')} of {len(states)} targets of target group vllm")
    assert words in text


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.now += seconds


@given(st.integers(1, 900), st.integers(0, 120))
def test_a_wait_ends_in_time_and_asks_ever_less_often(timeout: int, settle: int) -> None:
    clock = Clock()
    asked: list[float] = []

    def not_yet() -> bool:
        asked.append(clock.now - 1000)
        return False

    assert not health.wait_until(not_yet, timeout, clock.time, clock.sleep, min(settle, timeout))
    assert asked[0] == min(settle, timeout)
    assert asked[-1] == pytest.approx(timeout)
    pauses = clock.sleeps[1 if settle else 0 : -1]
    assert pauses == sorted(pauses)
    assert all(pause <= 15 for pause in pauses)


def test_a_wait_ends_as_soon_as_it_can() -> None:
    clock = Clock()
    answers = iter([False, False, True])
    assert health.wait_until(lambda: next(answers), 300, clock.time, clock.sleep)
    assert clock.sleeps == [1.0, 1.5]
