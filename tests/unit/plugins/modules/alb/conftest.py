# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ALB modules run whole, from module arguments to printed JSON, against moto in this process."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import typing as t

import boto3
import botocore.client
import botocore.session
import pytest
from ansible.module_utils.testing import patch_module_args
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.ec2.models import ec2_backends

REGION = "eu-west-1"
ACCOUNT = "123456789012"  # moto's


@functools.cache
def own_client() -> t.Any:
    """One for all tests: making a client takes longer than most of them."""
    return boto3.client("elbv2", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")


class Aws:
    """moto with AWS's own limits put back, and a record of the calls made by a module."""

    def __init__(self) -> None:
        self.client = own_client()
        # The account's default network, read from moto itself: a client for EC2 takes longer than a whole test.
        network = ec2_backends[ACCOUNT][REGION]
        self.vpc = next(iter(network.vpcs))
        self.subnets = [subnet.id for subnet in network.describe_subnets()][:2]
        self.calls: list[str] = []
        self.recording = False
        # operation: its answer, made from the request; for what moto cannot show.
        self.answers: dict[str, t.Callable[[dict[str, t.Any]], t.Any]] = {}

    def call(self, original: t.Callable[..., t.Any], client: t.Any, operation: str, request: dict[str, t.Any]) -> t.Any:
        if not self.recording:
            return original(client, operation, request)
        self.calls.append(operation)
        for key in ("Names", "TargetGroupArns", "ResourceArns", "LoadBalancerArns"):
            if len(request.get(key, [])) > 20:
                raise error(operation, "ValidationError", "You cannot describe more than '20' target groups at a time")
        if operation in self.answers:
            answer = self.answers[operation](request)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        answer = original(client, operation, request)
        if operation == "DescribeTargetGroups" and "PageSize" in request:
            # moto gives all at once; AWS gives pages.
            start = int(request.get("Marker", 0))
            end = start + min(request["PageSize"], 400)
            if len(answer["TargetGroups"]) > end:
                answer["NextMarker"] = str(end)
            answer["TargetGroups"] = answer["TargetGroups"][start:end]
        return answer

    def group(self, name: str = "vllm", **over: t.Any) -> str:
        arguments = {"Protocol": "HTTP", "Port": 8000, "VpcId": self.vpc, "HealthCheckPath": "/"}
        arguments["HealthCheckTimeoutSeconds"] = 5
        created = self.client.create_target_group(Name=name, **{**arguments, **over})
        return str(created["TargetGroups"][0]["TargetGroupArn"])

    def balancer(self, name: str, groups: list[str]) -> str:
        created = self.client.create_load_balancer(Name=name, Subnets=self.subnets)
        arn = str(created["LoadBalancers"][0]["LoadBalancerArn"])
        for number, group in enumerate(groups):
            forward = {"Type": "forward", "TargetGroupArn": group}
            self.client.create_listener(
                LoadBalancerArn=arn, Protocol="HTTP", Port=80 + number, DefaultActions=[forward]
            )
        return arn

    def described(self, name: str = "vllm") -> dict[str, t.Any]:
        found: dict[str, t.Any] = self.client.describe_target_groups(Names=[name])["TargetGroups"][0]
        return found

    def run(self, module: t.Any, **arguments: t.Any) -> dict[str, t.Any]:
        """A module's result; a traceback would not be JSON and fail the test."""
        printed = io.StringIO()
        self.recording = True
        try:
            with (
                patch_module_args({"region": REGION, **arguments}),
                contextlib.redirect_stdout(printed),
                pytest.raises(SystemExit),
            ):
                module.main()
        finally:
            self.recording = False
        result: dict[str, t.Any] = json.loads(printed.getvalue())
        assert "Traceback" not in json.dumps(result)
        return result


def error(operation: str, code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


# Reading the service's model again for each client would be most of the time of these tests.
LOADER = botocore.session.create_loader()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Aws]:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_URL", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(botocore.session, "create_loader", lambda _path: LOADER)
    # moto's own hooks set dummy keys; no real account can be reached by accident.
    with mock_aws():
        fake = Aws()
        base: t.Any = botocore.client.BaseClient
        original = base._make_api_call

        def call(client: t.Any, operation: str, request: dict[str, t.Any]) -> t.Any:
            return fake.call(original, client, operation, request)

        monkeypatch.setattr(base, "_make_api_call", call)
        yield fake
