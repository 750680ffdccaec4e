# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""alb_health_check against moto: what it changes, what it calls, what it says."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _elbv2
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import GUIDE_DEFAULTS
from ansible_collections.steadfast.vllm.plugins.modules import alb_health_check as module
from botocore.exceptions import ClientError

MAY_BE_CALLED = {
    "DescribeTargetGroups",
    "DescribeTargetHealth",
    "DescribeTags",
    "DescribeLoadBalancers",
    "ModifyTargetGroup",
}


@pytest.fixture(autouse=True)
def nothing_else_is_called(aws: t.Any) -> t.Iterator[None]:
    """Whatever a test does, no call is made that could lose a target."""
    yield
    assert set(aws.calls) <= MAY_BE_CALLED


def refused(operation: str, code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def test_a_path_is_corrected_once_and_nothing_else(aws: t.Any) -> None:
    arn = aws.group()
    aws.client.register_targets(TargetGroupArn=arn, Targets=[{"Id": "i-0123456789abcdef0", "Port": 8000}])
    before = aws.described()
    arguments = {"target_groups": ["vllm"], "health_check": {"path": "/health"}}

    first = aws.run(module, **arguments)
    assert first["changed"] is True
    assert first["modified"] == ["vllm"]
    assert first["target_groups"][0]["health_check"]["path"] == "/health"
    assert aws.calls == ["DescribeTargetGroups", "ModifyTargetGroup"]
    assert aws.described() == {**before, "HealthCheckPath": "/health"}
    assert len(aws.client.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]) == 1

    aws.calls.clear()
    second = aws.run(module, **arguments)
    assert (second["changed"], second["modified"], second["diff"]) == (False, [], [])
    assert aws.calls == ["DescribeTargetGroups"]


def test_check_mode_foretells_and_changes_nothing(aws: t.Any) -> None:
    aws.group()
    before = aws.described()
    arguments = {
        "target_groups": ["vllm"],
        "health_check": {**GUIDE_DEFAULTS, "interval": 10, "matcher": "200-299", "port": 8000},
    }
    foretold = aws.run(module, _ansible_check_mode=True, _ansible_diff=True, **arguments)
    assert aws.calls == ["DescribeTargetGroups"]
    assert aws.described() == before
    done = aws.run(module, _ansible_diff=True, **arguments)
    assert foretold == done
    again = aws.run(module, _ansible_check_mode=True, **arguments)
    assert again["changed"] is False


def test_the_diff_is_the_resource_before_and_after(aws: t.Any) -> None:
    arn = aws.group()
    (entry,) = aws.run(module, target_groups=["vllm"], health_check={"path": "/health"})["diff"]
    assert entry["before_header"] == entry["after_header"] == arn
    assert entry["before"]["health_check"].pop("path") == "/"
    assert entry["after"]["health_check"].pop("path") == "/health"
    assert entry["before"] == entry["after"]


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        ({"path": "/v2"}, "HealthCheckPath", "/v2"),
        ({"port": "9000"}, "HealthCheckPort", "9000"),
        ({"protocol": "HTTPS"}, "HealthCheckProtocol", "HTTPS"),
        ({"interval": 60}, "HealthCheckIntervalSeconds", 60),
        ({"timeout": 7}, "HealthCheckTimeoutSeconds", 7),
        ({"healthy_threshold": 3}, "HealthyThresholdCount", 3),
        ({"unhealthy_threshold": 4}, "UnhealthyThresholdCount", 4),
        ({"matcher": "200,202"}, "Matcher", {"HttpCode": "200,202"}),
    ],
)
def test_each_key_alone_leaves_the_others(aws: t.Any, settings: dict[str, t.Any], key: str, value: t.Any) -> None:
    aws.group()
    before = aws.described()
    assert aws.run(module, target_groups=["vllm"], health_check=settings)["changed"] is True
    assert aws.described() == {**before, key: value}
    assert aws.run(module, target_groups=["vllm"], health_check=settings)["changed"] is False


def test_a_lambda_groups_check_can_be_switched_on(aws: t.Any) -> None:
    aws.client.create_target_group(Name="fn", TargetType="lambda", HealthCheckEnabled=False)
    result = aws.run(module, target_groups=["fn"], health_check={"enabled": True})
    assert result["diff"][0]["before"]["health_check"]["enabled"] is False
    assert result["target_groups"][0]["health_check"]["enabled"] is True


def test_a_grpc_group_takes_grpc_codes(aws: t.Any) -> None:
    sent: list[dict[str, t.Any]] = []
    aws.group(ProtocolVersion="GRPC", HealthCheckPath="/AWS.ALB/healthcheck", Matcher={"GrpcCode": "12"})
    aws.answers["ModifyTargetGroup"] = sent.append
    result = aws.run(module, target_groups=["vllm"], health_check={"matcher": "0-5"})
    assert result.get("changed"), result
    assert sent[0]["Matcher"] == {"GrpcCode": "0-5"}


def test_grpc_codes_are_refused_where_no_grpc_is(aws: t.Any) -> None:
    aws.group()
    result = aws.run(module, target_groups=["vllm"], health_check={"matcher": "12"})
    assert "health_check.matcher: '12' holds 12, but a target group of an Application Load Balancer" in result["msg"]
    assert "ModifyTargetGroup" not in aws.calls


def test_a_network_groups_tcp_check_becomes_http(aws: t.Any) -> None:
    aws.client.create_target_group(Name="vllm", Protocol="TCP", Port=8000, VpcId=aws.vpc)
    bad = aws.run(module, target_groups=["vllm"], health_check={"protocol": "HTTP"})
    assert "health_check.path: not given" in bad["msg"]
    good = aws.run(module, target_groups=["vllm"], health_check={"protocol": "HTTP", "path": "/health"})
    assert good["changed"] is True
    assert aws.described()["HealthCheckPath"] == "/health"


@pytest.mark.parametrize("by_arn", [False, True])
def test_200_groups_that_need_nothing_cost_10_calls(aws: t.Any, by_arn: bool) -> None:
    arns = [aws.group(f"vllm-{number:03}", HealthCheckPath="/health") for number in range(205)]
    # Names and ARNs mixed in either case, which are two kinds of call to the API.
    named = [arn if by_arn or number % 2 else f"vllm-{number:03}" for number, arn in enumerate(arns[:200])]
    result = aws.run(module, target_groups=named, health_check={"path": "/health", "interval": 30})
    assert result["changed"] is False
    assert [group["arn"] for group in result["target_groups"]] == arns[:200]
    assert len(aws.calls) <= 10
    assert set(aws.calls) == {"DescribeTargetGroups"}


def test_only_the_groups_that_need_it_are_changed(aws: t.Any) -> None:
    for number in range(30):
        aws.group(f"vllm-{number}", HealthCheckPath="/" if number % 10 == 0 else "/health")
    names = [f"vllm-{number}" for number in range(30)]
    result = aws.run(module, target_groups=names, health_check={"path": "/health"})
    assert result["modified"] == ["vllm-0", "vllm-10", "vllm-20"]
    assert aws.calls.count("ModifyTargetGroup") == 3


def test_groups_of_a_load_balancer_by_name_or_arn(aws: t.Any) -> None:
    aws.group("other")
    arn = aws.balancer("inference", [aws.group("vllm-a"), aws.group("vllm-b")])
    by_name = aws.run(module, load_balancer="inference", health_check={"path": "/health"})
    assert by_name["modified"] == ["vllm-a", "vllm-b"]
    aws.calls.clear()
    by_arn = aws.run(module, load_balancer=arn, health_check={"path": "/health"})
    assert [group["name"] for group in by_arn["target_groups"]] == ["vllm-a", "vllm-b"]
    assert aws.calls == ["DescribeTargetGroups"]
    assert aws.described("other")["HealthCheckPath"] == "/"


def test_groups_by_tags_over_many_pages(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_elbv2, "PAGE", 20)
    for number in range(45):
        aws.group(f"g-{number:02}", Tags=[{"Key": "service", "Value": "vllm" if number in (3, 44) else "web"}])
    result = aws.run(module, tags={"service": "vllm"}, health_check={"path": "/health"})
    assert result["modified"] == ["g-03", "g-44"]
    assert aws.calls.count("DescribeTargetGroups") == 3
    assert aws.calls.count("DescribeTags") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target_groups": ["vlm"]}, ["target_groups[0]: no target group is named 'vlm'", "did you mean vllm?"]),
        ({"target_groups": ["vllm", "nope", "vlmm"]}, ["target_groups[1]", "target_groups[2]", "did you mean vllm?"]),
        ({"target_groups": []}, ["the list is empty"]),
        ({"target_groups": ["arn:aws:s3:::x"]}, ["not the ARN of a target group"]),
        ({"load_balancer": "inferense"}, ["'inferense' does not exist in eu-west-1", "did you mean inference?"]),
        ({"load_balancer": "idle"}, ["'idle' has no target group"]),
        ({"tags": {"service": "vlm"}}, ["match none of 1 target groups", "did you mean vllm?"]),
        ({"tags": {}}, ["the dictionary is empty"]),
        ({}, ["one of the following is required: target_groups, load_balancer, tags"]),
        ({"target_groups": ["vllm"], "tags": {"a": "b"}}, ["mutually exclusive"]),
    ],
)
def test_what_cannot_be_found_is_named_with_what_is_near(
    aws: t.Any, arguments: dict[str, t.Any], words: list[str]
) -> None:
    arn = aws.group(Tags=[{"Key": "service", "Value": "vllm"}])
    aws.balancer("inference", [arn])
    aws.balancer("idle", [])
    result = aws.run(module, health_check={"path": "/health"}, **arguments)
    assert result["failed"] is True
    for text in words:
        assert text in result["msg"]
    assert "ModifyTargetGroup" not in aws.calls


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"timeout": 30, "interval": 30}, ["health_check.timeout"]),
        ({"path": "health"}, ["health_check.path"]),
        ({"matcher": "600"}, ["health_check.matcher"]),
        ({"port": "70000"}, ["health_check.port"]),
        (
            {"path": "x", "port": "0", "interval": 1, "timeout": 500, "healthy_threshold": 1, "matcher": "ok"},
            [
                "health_check.port",
                "health_check.path",
                "health_check.matcher",
                "health_check.interval",
                "health_check.timeout",
                "health_check.healthy_threshold",
            ],
        ),
    ],
)
def test_bad_settings_cost_no_call_at_all(aws: t.Any, settings: dict[str, t.Any], places: list[str]) -> None:
    aws.group()
    result = aws.run(module, target_groups=["vllm"], health_check=settings)
    assert result["failed"] is True
    assert "nothing was changed" in result["msg"]
    for place in places:
        assert f"\n{place}: " in result["msg"]
    assert aws.calls == []


def test_one_group_that_cannot_have_it_stops_all(aws: t.Any) -> None:
    aws.group("vllm-a")
    aws.group("vllm-b", HealthCheckTimeoutSeconds=20)
    result = aws.run(module, target_groups=["vllm-a", "vllm-b"], health_check={"path": "/health", "interval": 10})
    assert result["failed"] is True
    assert "health_check.timeout: 20 is not below health_check.interval 10" in result["msg"]
    assert "[target group vllm-b]" in result["msg"]
    assert "ModifyTargetGroup" not in aws.calls
    assert result["modified"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "nothing is to be set"),
        ({"health_check": {"prot": "HTTP"}}, "prot"),
        ({"health_check": {"interval": "soon"}}, "interval"),
        ({"health_check": {"protocol": "UDP"}}, "protocol"),
        ({"health_check": "path"}, "dictionary requested"),
        ({"health_check": {"path": "/health"}, "wait_for": "some"}, "wait_for: 'some'"),
        ({"health_check": {"path": "/health"}, "wait_timeout": 0}, "wait_timeout: 0"),
        ({"health_check": {"path": "/health"}, "wait": True, "wait_timeout": 30}, "give at least 65"),
    ],
)
def test_bad_options(aws: t.Any, arguments: dict[str, t.Any], words: str) -> None:
    aws.group()
    result = aws.run(module, target_groups=["vllm"], **arguments)
    assert result["failed"] is True
    assert words in result["msg"]
    assert "ModifyTargetGroup" not in aws.calls


def test_a_failure_half_way_tells_what_was_done(aws: t.Any) -> None:
    arns = {name: aws.group(name) for name in ("a", "b", "c")}

    def answer(request: dict[str, t.Any]) -> Exception | None:
        if request["TargetGroupArn"] == arns["b"]:
            return refused("ModifyTargetGroup", "AccessDenied", "not you")
        return None

    aws.answers["ModifyTargetGroup"] = answer
    result = aws.run(module, target_groups=["a", "b", "c"], health_check={"path": "/health"})
    assert result["failed"] is True
    assert result["changed"] is True
    assert result["modified"] == ["a"]
    assert result["pending"] == ["b", "c"]
    assert "Failed to modify target group b" in result["msg"]
    assert "allow elasticloadbalancing:ModifyTargetGroup" in result["msg"]
    assert [group["health_check"]["path"] for group in result["target_groups"]] == ["/health", "/", "/"]
    assert [entry["after_header"] for entry in result["diff"]] == [arns["a"]]

    aws.answers.clear()
    assert aws.run(module, target_groups=["a", "b", "c"], health_check={"path": "/health"})["modified"] == ["b", "c"]


def test_throttling_is_waited_out(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.group()
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    failures = [refused("DescribeTargetGroups", "Throttling", "slow down")] * 2
    aws.answers["DescribeTargetGroups"] = lambda _request: failures.pop() if failures else None
    assert aws.run(module, target_groups=["vllm"], health_check={"path": "/health"})["changed"] is True


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "allow elasticloadbalancing:DescribeTargetGroups"),
        ("ExpiredToken", "give credentials that are valid now"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_refusals_by_aws_are_told_with_a_mend(aws: t.Any, code: str, words: str) -> None:
    aws.group()
    aws.answers["DescribeTargetGroups"] = lambda _request: refused("DescribeTargetGroups", code, "no")
    result = aws.run(module, target_groups=["vllm"], health_check={"path": "/health"})
    assert result["msg"].startswith("Failed to describe target groups: ")
    assert words in result["msg"]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def health(*states: tuple[str, str | None, str | None]) -> dict[str, t.Any]:
    return {
        "TargetHealthDescriptions": [
            {
                "Target": {"Id": f"i-{number}", "Port": 8000},
                "HealthCheckPort": "8000",
                "TargetHealth": {"State": state, "Reason": reason, "Description": description},
            }
            for number, (state, reason, description) in enumerate(states)
        ]
    }


HEALTHY = ("healthy", None, None)
NOT_FOUND = ("unhealthy", "Target.ResponseCodeMismatch", "Health checks failed with these codes: [404]")


def test_wait_believes_nothing_before_the_new_check_can_fail(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    aws.group()
    asked: list[float] = []

    def answer(_request: dict[str, t.Any]) -> dict[str, t.Any]:
        asked.append(clock.now)
        return health(HEALTHY, NOT_FOUND if clock.now < 100 else HEALTHY)

    aws.answers["DescribeTargetHealth"] = answer
    result = aws.run(module, target_groups=["vllm"], health_check={"path": "/health"}, wait=True)
    assert result["changed"] is True
    # interval 30 x unhealthy_threshold 2 + timeout 5
    assert asked[0] == 65
    assert 100 <= clock.now < 116
    assert [target["state"] for target in result["targets"]["vllm"]] == ["healthy", "healthy"]


def test_wait_alone_looks_at_once(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    aws.group()
    aws.answers["DescribeTargetHealth"] = lambda _request: health(HEALTHY, NOT_FOUND)
    result = aws.run(module, target_groups=["vllm"], wait=True, wait_for="1")
    assert result["changed"] is False
    assert clock.now == 0


def test_a_vain_wait_ends_in_a_list_of_reasons(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ready = aws.group("ready")
    aws.group("sick")
    aws.answers["DescribeTargetHealth"] = lambda request: (
        health(HEALTHY)
        if request["TargetGroupArn"] == ready
        else health(HEALTHY, NOT_FOUND, ("draining", "Target.DeregistrationInProgress", None))
    )
    result = aws.run(module, target_groups=["ready", "sick"], wait=True, wait_timeout=60)
    assert result["failed"] is True
    assert clock.now == pytest.approx(60)
    lines = result["msg"].splitlines()
    assert lines[0] == "after 60 s, 1 of 3 targets of target group sick are healthy, wanted all:"
    assert lines[1].startswith("  i-1:8000 unhealthy Target.ResponseCodeMismatch vLLM answers 404 on /")
    assert lines[1].endswith("-> set health_check.path: /health, which is 200 as soon as vLLM serves")
    assert "ready" not in result["msg"]


def test_a_failing_poll_keeps_what_was_done(aws: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    aws.group()
    aws.answers["DescribeTargetHealth"] = lambda _request: refused("DescribeTargetHealth", "AccessDenied", "no")
    result = aws.run(module, target_groups=["vllm"], health_check={"path": "/health"}, wait=True)
    assert result["failed"] is True
    assert result["modified"] == ["vllm"]
    assert "allow elasticloadbalancing:DescribeTargetHealth" in result["msg"]


def test_check_mode_does_not_wait(aws: t.Any) -> None:
    aws.group()
    result = aws.run(
        module, target_groups=["vllm"], health_check={"path": "/health"}, wait=True, _ansible_check_mode=True
    )
    assert result["changed"] is True
    assert "targets" not in result
    assert aws.calls == ["DescribeTargetGroups"]
