# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How target groups are named, and what is said when none fits."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _target_group_names as names

PREFIX = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:"


def arn(name: str, number: int = 1) -> str:
    return f"{PREFIX}targetgroup/{name}/{number:016x}"


GROUPS = [{"TargetGroupName": name, "TargetGroupArn": arn(name)} for name in ("vllm-prod", "vllm-test", "web")]


def test_names_and_arns_mix_and_repeat() -> None:
    wanted = names.parse_groups(["web", arn("vllm-prod"), "vllm-prod", "web"], "eu-west-1")
    assert names.pick(wanted, GROUPS, "eu-west-1") == [arn("web"), arn("vllm-prod")]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (f"{PREFIX}loadbalancer/app/x/1", "not the ARN of a target group"),
        ("arn:aws:s3:::bucket", "not the ARN of a target group"),
        ("arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/x/0123", "lies in region us-east-1"),
        ("vllm prod", "cannot be the name"),
        ("x" * 33, "cannot be the name"),
        ("", "cannot be the name"),
    ],
)
def test_entries_that_can_be_nothing(entry: str, words: str) -> None:
    with pytest.raises(names.SelectionError) as caught:
        names.parse_groups(["web", entry, "a_b"], "eu-west-1")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("target_groups[1]: ")
    assert words in lines[0]
    assert lines[1].startswith("target_groups[2]: 'a_b'")


def test_other_partitions_are_known() -> None:
    text = "arn:aws-us-gov:elasticloadbalancing:us-gov-west-1:123456789012:targetgroup/x/0123"
    assert names.parse_groups([text], "us-gov-west-1")[0].name == "x"


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(names.SelectionError, match="empty"):
        names.parse_groups([])


def test_all_missing_names_are_told_with_near_ones() -> None:
    with pytest.raises(names.SelectionError) as caught:
        names.pick(names.parse_groups(["vllm-prd", "web", "zzz"]), GROUPS, "eu-west-1")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "no target group is named 'vllm-prd' in eu-west-1; did you mean vllm-prod" in lines[0]
    assert "the target groups are vllm-prod, vllm-test, web" in lines[1]


def test_no_groups_at_all_hints_at_the_region() -> None:
    with pytest.raises(names.SelectionError, match="right region"):
        names.pick(names.parse_groups(["web"]), [], "eu-west-1")


def test_a_group_made_anew_has_another_arn() -> None:
    with pytest.raises(names.SelectionError, match="made anew"):
        names.pick(names.parse_groups([arn("web", 2)]), GROUPS, None)


@pytest.mark.parametrize(
    ("text", "is_arn"),
    [
        ("inference", False),
        (f"{PREFIX}loadbalancer/app/inference/01ab", True),
        (f"{PREFIX}loadbalancer/net/i/01", True),
    ],
)
def test_load_balancers_by_name_or_arn(text: str, is_arn: bool) -> None:
    assert names.check_balancer(text, "eu-west-1") is is_arn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{PREFIX}loadbalancer/classic", "Classic"),
        (arn("web"), "neither"),
        ("a b", "neither"),
        ("arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/x/1", "us-east-1"),
    ],
)
def test_what_is_no_load_balancer(text: str, words: str) -> None:
    with pytest.raises(names.SelectionError, match=words):
        names.check_balancer(text, "eu-west-1")


TAGS = {arn("a"): {"service": "vllm", "stage": "prod"}, arn("b"): {"service": "web", "stage": "test"}, arn("c"): {}}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [({"service": "vllm"}, ["a"]), ({"service": "vllm", "stage": "prod"}, ["a"])],
)
def test_groups_with_all_the_tags(wanted: dict[str, str], found: list[str]) -> None:
    assert names.with_tags(wanted, TAGS) == [arn(name) for name in found]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"servce": "vllm"}, "tags.servce: no target group has this tag; did you mean service?"),
        ({"service": "vlm"}, "tags.service: no target group has the value 'vlm'; did you mean vllm?"),
        ({"service": "vllm", "stage": "test"}, "no target group has all of them"),
    ],
)
def test_tags_that_match_none(wanted: dict[str, str], words: str) -> None:
    with pytest.raises(names.SelectionError) as caught:
        names.with_tags(wanted, TAGS)
    assert "match none of 3 target groups" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "text"), [({"a": 1}, {"a": "1"}), ({"a": True}, {"a": "true"}), ({"a": "b", 1: "c"}, {"a": "b", "1": "c"})]
)
def test_tags_are_text(tags: dict[t.Any, t.Any], text: dict[str, str]) -> None:
    assert names.check_tags(tags) == text


def test_no_tags_would_be_all_groups() -> None:
    with pytest.raises(names.SelectionError, match="every target group"):
        names.check_tags({})
