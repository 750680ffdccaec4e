# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""alb_target_health_info: selection against moto, reason codes through botocore's Stubber."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.steadfast.vllm.plugins.modules import alb_target_health_info as module
from botocore.stub import Stubber

ARN = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/vllm/0123456789abcdef"


def test_healthy_targets_of_moto(aws: t.Any) -> None:
    arn = aws.group()
    aws.client.register_targets(TargetGroupArn=arn, Targets=[{"Id": "i-0123456789abcdef0", "Port": 8001}])
    result = aws.run(module, target_groups=["vllm"])
    assert result["changed"] is False
    assert aws.calls == ["DescribeTargetGroups", "DescribeTargetHealth"]
    (group,) = result["target_groups"]
    assert group["arn"] == arn
    assert group["health_check"]["path"] == "/"
    assert group["healthy"] == 1
    assert (group["targets"][0]["id"], group["targets"][0]["port"]) == ("i-0123456789abcdef0", 8001)
    assert group["targets"][0]["fix"] == ""
    assert result["unhealthy"] == []


def test_a_group_without_targets(aws: t.Any) -> None:
    aws.group()
    (group,) = aws.run(module, target_groups=["vllm"])["target_groups"]
    assert (group["healthy"], group["targets"]) == (0, [])


def test_check_mode_reads_too(aws: t.Any) -> None:
    aws.group()
    assert aws.run(module, target_groups=["vllm"], _ansible_check_mode=True)["changed"] is False


def test_a_missing_name(aws: t.Any) -> None:
    aws.group()
    assert "did you mean vllm?" in aws.run(module, target_groups=["vlm"])["msg"]


def entry(number: int, state: str, reason: str | None = None, description: str | None = None) -> dict[str, t.Any]:
    health = {"State": state, "Reason": reason, "Description": description}
    return {
        "Target": {"Id": f"10.0.0.{number}", "Port": 8000, "AvailabilityZone": "eu-west-1a"},
        "HealthCheckPort": "8000",
        "TargetHealth": {key: value for key, value in health.items() if value is not None},
        "AnomalyDetection": {"Result": "normal", "MitigationInEffect": "no"},
    }


CODES = "Health checks failed with these codes: "


@pytest.mark.parametrize(
    ("state", "reason", "description", "path", "in_meaning", "in_fix"),
    [
        ("unhealthy", "Target.ResponseCodeMismatch", f"{CODES}[404]", "/", "vLLM answers 404 on /", "path: /health"),
        ("unhealthy", "Target.ResponseCodeMismatch", f"{CODES}[503]", "/health", "engine is dead", "journalctl"),
        ("unhealthy", "Target.ResponseCodeMismatch", f"{CODES}[401]", "/v1/models", "--api-key", "path: /health"),
        ("unhealthy", "Target.Timeout", "Request timed out", "/health", "no answer on port", "security group"),
        ("unhealthy", "Target.FailedHealthChecks", "Health checks failed", "/health", "refused", "systemctl status"),
        ("unhealthy", "Elb.InternalError", None, "/health", "inside the load balancer", "Health Dashboard"),
        ("initial", "Elb.RegistrationInProgress", None, "/health", "being registered", "30 s"),
        ("initial", "Elb.InitialHealthChecking", None, "/health", "not yet made", "load a model"),
        ("unused", "Target.NotRegistered", None, "/health", "not registered", "register it"),
        ("unused", "Target.NotInUse", None, "/health", "no listener", "forward a listener"),
        ("unused", "Target.InvalidState", None, "/health", "stopped or terminated", "start it"),
        ("unused", "Target.IpUnusable", None, "/health", "load balancer uses itself", "address of the vLLM host"),
        ("draining", "Target.DeregistrationInProgress", None, "/health", "taken out", "deregistration delay"),
        ("unavailable", "Target.HealthCheckDisabled", None, "/health", "switched off", "enabled: true"),
        ("unhealthy.draining", None, None, "/health", "finish the connections", "mend the target"),
    ],
)
def test_each_reason_comes_with_meaning_and_fix(
    monkeypatch: pytest.MonkeyPatch,
    aws: t.Any,
    state: str,
    reason: str | None,
    description: str | None,
    path: str,
    in_meaning: str,
    in_fix: str,
) -> None:
    client = aws.client
    group = {
        "TargetGroupArn": ARN,
        "TargetGroupName": "vllm",
        "Protocol": "HTTP",
        "ProtocolVersion": "HTTP1",
        "Port": 8000,
        "TargetType": "ip",
        "HealthCheckPath": path,
        "HealthCheckPort": "traffic-port",
        "HealthCheckProtocol": "HTTP",
        "HealthCheckIntervalSeconds": 30,
        "HealthCheckTimeoutSeconds": 5,
        "Matcher": {"HttpCode": "200"},
    }
    with Stubber(client) as stub:
        stub.add_response("describe_target_groups", {"TargetGroups": [group]}, {"Names": ["vllm"]})
        answer = {"TargetHealthDescriptions": [entry(1, "healthy"), entry(2, state, reason, description)]}
        stub.add_response("describe_target_health", answer, {"TargetGroupArn": ARN})
        monkeypatch.setattr(AnsibleAWSModule, "client", lambda _module, _service: client)
        result = aws.run(module, target_groups=["vllm"])
        stub.assert_no_pending_responses()
    first, second = result["target_groups"][0]["targets"]
    assert (first["state"], first["reason"], first["fix"]) == ("healthy", None, "")
    assert (second["az"], second["health_check_port"], second["anomaly"]) == ("eu-west-1a", "8000", "normal")
    assert (second["state"], second["reason"], second["description"]) == (state, reason, description)
    assert in_meaning in second["meaning"]
    assert in_fix in second["fix"]
    assert result["target_groups"][0]["healthy"] == 1
    (line,) = result["unhealthy"]
    assert line.startswith(f"vllm 10.0.0.2:8000 {state} {reason or '-'} ")
