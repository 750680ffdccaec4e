#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""seed.py ADDRESS,ADDRESS: what stands in an account before this collection comes: a load balancer, and a target group
whose health check asks for "/", which vLLM answers with 404. Only what is missing is made; nothing is put back."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

NAME = "qwen3vl"
PORT = 8000


def named(name: str) -> list[dict[str, str]]:
    return [{"Key": "Name", "Value": name}]


def by_name(name: str) -> list[dict[str, Any]]:
    return [{"Name": "tag:Name", "Values": [name]}]


class Account:
    """Finds a part by its name or makes it, and notes what was made."""

    def __init__(self) -> None:
        # moto may have been started a moment ago
        config = Config(retries={"max_attempts": 5}, connect_timeout=5, read_timeout=20)
        self.ec2 = boto3.client("ec2", config=config)
        self.elb = boto3.client("elbv2", config=config)
        self.made: list[str] = []

    def vpc(self) -> str:
        found = self.ec2.describe_vpcs(Filters=by_name("lab"))["Vpcs"]
        if found:
            return str(found[0]["VpcId"])
        tags = [{"ResourceType": "vpc", "Tags": named("lab")}]
        self.made.append("vpc lab")
        return str(self.ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags)["Vpc"]["VpcId"])

    def subnet(self, vpc: str, zone: str, block: str) -> str:
        name = f"lab-{zone}"
        found = self.ec2.describe_subnets(Filters=by_name(name))["Subnets"]
        if found:
            return str(found[0]["SubnetId"])
        made = self.ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=block,
            AvailabilityZone=self.ec2.meta.region_name + zone,
            TagSpecifications=[{"ResourceType": "subnet", "Tags": named(name)}],
        )
        self.made.append(f"subnet {name}")
        return str(made["Subnet"]["SubnetId"])

    def target_group(self, vpc: str) -> str:
        try:
            return str(self.elb.describe_target_groups(Names=[NAME])["TargetGroups"][0]["TargetGroupArn"])
        except self.elb.exceptions.TargetGroupNotFoundException:
            made = self.elb.create_target_group(
                Name=NAME, Protocol="HTTP", Port=PORT, VpcId=vpc, TargetType="ip", HealthCheckPath="/"
            )
        self.made.append(f"target group {NAME}")
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def targets(self, group: str, addresses: list[str]) -> None:
        known = self.elb.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        missing = sorted(set(addresses) - {row["Target"]["Id"] for row in known})
        if missing:
            # outside the VPC's own block, as addresses behind a peering are
            targets: Any = [{"Id": address, "Port": PORT, "AvailabilityZone": "all"} for address in missing]
            self.elb.register_targets(TargetGroupArn=group, Targets=targets)
            self.made.append(f"targets {', '.join(missing)}")

    def balancer(self, subnets: list[str]) -> str:
        try:
            return str(self.elb.describe_load_balancers(Names=[NAME])["LoadBalancers"][0]["LoadBalancerArn"])
        except self.elb.exceptions.LoadBalancerNotFoundException:
            made = self.elb.create_load_balancer(Name=NAME, Subnets=subnets, Scheme="internal", Type="application")
        self.made.append(f"load balancer {NAME}")
        return str(made["LoadBalancers"][0]["LoadBalancerArn"])

    def listener(self, balancer: str, group: str) -> None:
        if not self.elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]:
            action: Any = {"Type": "forward", "TargetGroupArn": group}
            self.elb.create_listener(LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=[action])
            self.made.append("listener 80")

    def fill(self, addresses: list[str]) -> None:
        vpc = self.vpc()
        subnets = [self.subnet(vpc, "a", "10.0.1.0/24"), self.subnet(vpc, "b", "10.0.2.0/24")]
        group = self.target_group(vpc)
        self.targets(group, addresses)
        self.listener(self.balancer(subnets), group)


def main() -> int:
    # a proxy of this machine has no way to the lab's network
    os.environ["no_proxy"] = os.environ.get("NO_PROXY", "")
    began, account = time.monotonic(), Account()
    try:
        account.fill(sys.argv[1].split(","))
    except (BotoCoreError, ClientError) as problem:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        print(f"Failed to fill the lab's AWS at {endpoint}: {problem}", file=sys.stderr)
        return 1
    print(json.dumps({"made": account.made, "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
