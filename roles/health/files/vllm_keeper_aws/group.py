# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's Auto Scaling Group: to be told that the host is beyond repair."""

from __future__ import annotations

from typing import Any

from vllm_keeper_aws.cloud import Cloud
from vllm_keeper_aws.errors import ToolError

ASG = "autoscaling"


def member(cloud: Cloud, instance_id: str) -> dict[str, Any]:
    found = cloud.call(ASG, "DescribeAutoScalingInstances", InstanceIds=[instance_id])["AutoScalingInstances"]
    if not found:
        raise ToolError(
            "not_found", f"{instance_id} is in no Auto Scaling Group of {cloud.region}: nothing would replace it"
        )
    one: dict[str, Any] = found[0]
    return one


def unhealthy(cloud: Cloud, instance_id: str, *, respect_grace: bool = True, dry_run: bool = False) -> dict[str, Any]:
    """`effective` says whether the group has taken note: within its grace period it does not."""
    before = member(cloud, instance_id)
    said = {"instance": instance_id, "group": before["AutoScalingGroupName"], "dry_run": dry_run}
    going = str(before["LifecycleState"]).startswith("Terminat")
    if going or _is_bad(before):
        return {**said, "changed": False, "effective": True, "lifecycle": before["LifecycleState"]}
    if dry_run:
        return {**said, "changed": True, "effective": True, "lifecycle": before["LifecycleState"]}
    cloud.call(
        ASG,
        "SetInstanceHealth",
        InstanceId=instance_id,
        HealthStatus="Unhealthy",
        ShouldRespectGracePeriod=respect_grace,
    )
    after = member(cloud, instance_id)
    effective = _is_bad(after) or str(after["LifecycleState"]).startswith("Terminat")
    return {**said, "changed": True, "effective": effective, "lifecycle": after["LifecycleState"]}


def _is_bad(one: dict[str, Any]) -> bool:
    # Auto Scaling says HEALTHY here, and Healthy in DescribeAutoScalingGroups.
    return str(one["HealthStatus"]).lower() == "unhealthy"


def members(cloud: Cloud, group: str) -> list[dict[str, Any]]:
    found = cloud.call(ASG, "DescribeAutoScalingGroups", AutoScalingGroupNames=[group])["AutoScalingGroups"]
    if not found:
        raise ToolError("not_found", f"{group}: no such Auto Scaling Group in {cloud.region}")
    one: list[dict[str, Any]] = found[0]["Instances"]
    return one
