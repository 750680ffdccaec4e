# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to change in a target group, and what would be wrong with it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _target_groups as tg
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import GUIDE_DEFAULTS
from hypothesis import given
from hypothesis import strategies as st


def described(**over: t.Any) -> dict[str, t.Any]:
    """What AWS says of a new target group of an Application Load Balancer."""
    return {
        "TargetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/vllm/0123456789abcdef",
        "TargetGroupName": "vllm",
        "Protocol": "HTTP",
        "ProtocolVersion": "HTTP1",
        "Port": 8000,
        "VpcId": "vpc-1",
        "TargetType": "instance",
        "LoadBalancerArns": [],
        "HealthCheckEnabled": True,
        "HealthCheckPath": "/",
        "HealthCheckPort": "traffic-port",
        "HealthCheckProtocol": "HTTP",
        "HealthCheckIntervalSeconds": 30,
        "HealthCheckTimeoutSeconds": 5,
        "HealthyThresholdCount": 5,
        "UnhealthyThresholdCount": 2,
        "Matcher": {"HttpCode": "200"},
        **over,
    }


ALB = tg.resource(described())
GRPC = tg.resource(
    described(ProtocolVersion="GRPC", HealthCheckPath="/AWS.ALB/healthcheck", Matcher={"GrpcCode": "12"})
)
# The answer for a TCP check holds neither path nor matcher.
_TCP = described(Protocol="TCP", HealthCheckProtocol="TCP", HealthCheckTimeoutSeconds=10)
for _key in ("HealthCheckPath", "Matcher", "ProtocolVersion"):
    del _TCP[_key]
NLB = tg.resource(_TCP)
_LAMBDA = described(TargetType="lambda", HealthCheckEnabled=False, HealthCheckIntervalSeconds=35)
for _key in ("Protocol", "ProtocolVersion", "Port", "VpcId", "HealthCheckProtocol", "HealthCheckPort"):
    del _LAMBDA[_key]
LAMBDA = tg.resource(_LAMBDA)


@pytest.mark.parametrize(
    ("group", "settings", "changed"),
    [
        (ALB, {}, {}),
        (ALB, {"path": "/"}, {}),
        (ALB, {"path": "/health", "port": None}, {"path": "/health"}),
        (ALB, GUIDE_DEFAULTS, {"path": "/health"}),
        (ALB, {"port": 8000}, {"port": "8000"}),
        (ALB, {"interval": 30, "timeout": "5"}, {}),
        (ALB, {"matcher": "200-200"}, {}),
        (ALB, {"matcher": 200}, {}),
        (ALB, {"matcher": "200, 202"}, {"matcher": "200,202"}),
        (NLB, {"path": "/health", "protocol": "HTTP"}, {"path": "/health", "protocol": "HTTP"}),
        (LAMBDA, {"enabled": True}, {"enabled": True}),
        (LAMBDA, {"enabled": False}, {}),
    ],
)
def test_only_what_differs_is_changed(group: tg.Group, settings: dict[str, t.Any], changed: dict[str, t.Any]) -> None:
    assert tg.changes(settings, group) == changed


def test_a_request_holds_only_the_changes() -> None:
    assert tg.request(ALB, {"path": "/health", "matcher": "200-299", "interval": 10}) == {
        "TargetGroupArn": ALB["arn"],
        "HealthCheckPath": "/health",
        "HealthCheckIntervalSeconds": 10,
        "Matcher": {"HttpCode": "200-299"},
    }
    assert tg.request(GRPC, {"matcher": "0"}) == {"TargetGroupArn": GRPC["arn"], "Matcher": {"GrpcCode": "0"}}


@pytest.mark.parametrize(
    ("group", "settings", "place"),
    [
        (ALB, {"timeout": 30}, "timeout"),
        (ALB, {"interval": 5}, "timeout"),
        (ALB, {"protocol": "TCP"}, "protocol"),
        (ALB, {"matcher": "500"}, "matcher"),
        (ALB, {"enabled": False}, "enabled"),
        (GRPC, {"matcher": "200"}, "matcher"),
        (GRPC, {"path": "/health"}, "path"),
        (NLB, {"path": "/health"}, "path"),
        (NLB, {"matcher": "200"}, "matcher"),
        (NLB, {"interval": 10}, "timeout"),
        (NLB, {"protocol": "HTTP"}, "path"),
        (LAMBDA, {"port": "8000"}, "port"),
        (LAMBDA, {"protocol": "HTTP"}, "protocol"),
    ],
)
def test_current_and_wanted_are_judged_together(group: tg.Group, settings: dict[str, t.Any], place: str) -> None:
    found = tg.group_problems(settings, group)
    assert [line.split(":")[0] for line in found] == [f"health_check.{place}"]


@pytest.mark.parametrize(
    ("group", "settings"),
    [
        (ALB, GUIDE_DEFAULTS),
        (ALB, {"interval": 6}),
        (ALB, {"timeout": 29}),
        (GRPC, {"matcher": "0-12", "path": "/grpc.health.v1.Health/Check"}),
        (NLB, {"interval": 11}),
        (NLB, {"protocol": "HTTP", "path": "/health", "matcher": "200-599"}),
        (NLB, GUIDE_DEFAULTS),
        (LAMBDA, {"enabled": True, "path": "/health"}),
    ],
)
def test_what_fits_is_let_through(group: tg.Group, settings: dict[str, t.Any]) -> None:
    assert tg.group_problems(settings, group) == []


def test_an_old_group_is_not_refused_for_what_nobody_touches() -> None:
    # Old Network Load Balancers have TCP checks with interval 10 and timeout 10, which may not be asked for now.
    old = tg.resource({**_TCP, "HealthCheckIntervalSeconds": 10})
    assert tg.group_problems({"healthy_threshold": 3}, old) == []
    assert tg.group_problems({"timeout": 12}, old) != []


def test_a_problem_of_many_groups_is_one_line() -> None:
    groups = [{**ALB, "name": f"vllm-{number}"} for number in range(8)]
    (line,) = tg.all_problems({"timeout": 30}, groups)
    assert line.endswith("[target group vllm-0, vllm-1, vllm-2, vllm-3, vllm-4 and 3 more]")


def test_http_to_tcp_drops_path_and_matcher() -> None:
    http = tg.resource({**_TCP, "HealthCheckProtocol": "HTTP", "HealthCheckPath": "/", "Matcher": {"HttpCode": "200"}})
    assert tg.group_problems({"protocol": "TCP"}, http) == []
    after = tg.predicted(http, tg.changes({"protocol": "TCP"}, http))["health_check"]
    assert (after["protocol"], after["path"], after["matcher"]) == ("TCP", None, None)


def test_tcp_to_http_takes_awss_matcher_where_none_is_given() -> None:
    after = tg.predicted(NLB, {"protocol": "HTTP", "path": "/health"})["health_check"]
    assert (after["path"], after["matcher"]) == ("/health", "200-399")


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({}, 0),
        ({"interval": 10, "healthy_threshold": 2, "unhealthy_threshold": 3}, 0),
        ({"path": "/health"}, 65),
        ({"path": "/health", "interval": 10, "timeout": 2, "unhealthy_threshold": 3}, 32),
    ],
)
def test_a_new_check_needs_time_to_fail(changed: dict[str, t.Any], seconds: int) -> None:
    assert tg.settle_time(ALB, changed) == seconds


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["/", "/health"]),
        "port": st.sampled_from(["traffic-port", "8000", 9000]),
        "protocol": st.sampled_from(["HTTP", "HTTPS", "TCP"]),
        "interval": st.integers(5, 300),
        "timeout": st.integers(2, 120),
        "healthy_threshold": st.integers(2, 10),
        "matcher": st.sampled_from(["200", "200-299", "202,200", 204]),
        "enabled": st.just(True),
    },
)


@given(st.sampled_from([ALB, NLB]), SETTINGS)
def test_what_is_done_need_not_be_done_again(group: tg.Group, settings: dict[str, t.Any]) -> None:
    if tg.group_problems(settings, group):
        return
    after = tg.predicted(group, tg.changes(settings, group))
    assert tg.changes(settings, after) == {}
    assert tg.group_problems(settings, after) == []
    # What was not given is as before, except what AWS itself drops or fills in with the protocol.
    kept = set(after["health_check"]) - set(settings) - {"path", "matcher"}
    assert all(after["health_check"][key] == group["health_check"][key] for key in kept)
