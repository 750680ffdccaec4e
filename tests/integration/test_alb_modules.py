# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ALB modules through ansible-playbook and HTTP, against a moto server on loopback; their examples are run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import boto3
import pytest
import requests
import yaml
from ansible_collections.steadfast.vllm.plugins.modules import alb_health_check, alb_target_health_info
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Account:
    """An account as the examples name it: a load balancer, two of its target groups, one more with a tag."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.elb: t.Any = boto3.client(
            "elbv2", region_name=REGION, endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x"
        )
        network = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        self.vpc = next(iter(network.vpcs))
        subnets = [subnet.id for subnet in network.describe_subnets()][:2]
        balancer = self.elb.create_load_balancer(Name="inference", Subnets=subnets)["LoadBalancers"][0]
        for number, name in enumerate(("qwen3vl", "qwen3vl-b")):
            forward: t.Any = {"Type": "forward", "TargetGroupArn": self.group(name)}
            self.elb.create_listener(
                LoadBalancerArn=balancer["LoadBalancerArn"], Protocol="HTTP", Port=80 + number, DefaultActions=[forward]
            )
        self.group("tagged", Tags=[{"Key": "service", "Value": "vllm"}])

    def group(self, name: str, **over: t.Any) -> str:
        created = self.elb.create_target_group(
            Name=name,
            Protocol="HTTP",
            Port=8000,
            VpcId=self.vpc,
            TargetType="ip",
            HealthCheckPath="/",
            HealthCheckTimeoutSeconds=5,
            **over,
        )
        arn = str(created["TargetGroups"][0]["TargetGroupArn"])
        self.elb.register_targets(
            TargetGroupArn=arn, Targets=[{"Id": "10.0.0.1", "Port": 8000}, {"Id": "10.0.0.2", "Port": 8000}]
        )
        return arn

    def path(self, name: str) -> str:
        return str(self.elb.describe_target_groups(Names=[name])["TargetGroups"][0]["HealthCheckPath"])


@pytest.fixture
def account() -> t.Iterator[Account]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        requests.post(f"{url}/moto-api/reset", timeout=10)
        yield Account(url)
    finally:
        server.stop()


def play(
    tmp_path: Path, tasks: list[dict[str, t.Any]], *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"name": "Test", "hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "ANSIBLE_"))}
    return subprocess.run(
        [Path(sys.prefix, "bin", "ansible-playbook"), "-i", "localhost,", "-c", "local", *arguments, book],
        cwd=tmp_path,
        env={
            **kept,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            # Never ask the cloud's own address for keys.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            **environment,
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def with_python(tasks: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """boto3 is in the environment that runs the tests."""
    return [{**task, "vars": {"ansible_python_interpreter": sys.executable}} for task in tasks]


def test_every_example_runs_twice_and_changes_once(account: Account, tmp_path: Path) -> None:
    tasks = [
        *yaml.safe_load(alb_health_check.EXAMPLES),
        *yaml.safe_load(alb_target_health_info.EXAMPLES),
    ]
    # moto's targets are healthy at once, but the module rightly waits until the new check can have failed: with the
    # guide's values that is 65 s, with these 12.
    short = {"interval": 5, "timeout": 2}
    variables = {"vllm_target_groups": ["qwen3vl", "tagged"], "vllm_health_check": short}
    extra = ("-e", yaml.safe_dump(variables, default_flow_style=True).strip())
    connection = {"AWS_ENDPOINT_URL": account.endpoint, **KEYS}
    first = play(tmp_path, with_python(tasks), *extra, **connection)
    assert first.returncode == 0, first.stdout + first.stderr
    assert {account.path(name) for name in ("qwen3vl", "qwen3vl-b", "tagged")} == {"/health", "/"}
    assert "changed=0" not in first.stdout

    # The examples want different intervals of the same group; the first alone shows that a second run is quiet.
    again = play(tmp_path, with_python(tasks[:1]), *extra, **connection)
    assert "changed=0" in again.stdout


def test_check_and_diff_show_the_path_and_leave_it(account: Account, tmp_path: Path) -> None:
    task = {
        "name": "Correct the path",
        "steadfast.vllm.alb_health_check": {
            "endpoint_url": account.endpoint,
            "region": REGION,
            "access_key": "test",
            "secret_key": "test",
            "target_groups": ["qwen3vl"],
            "health_check": {"path": "/health"},
        },
    }
    looked = play(tmp_path, with_python([task]), "--check", "--diff")
    assert "changed=1" in looked.stdout
    assert '-        "path": "/"' in looked.stdout
    assert '+        "path": "/health"' in looked.stdout
    assert account.path("qwen3vl") == "/"
    assert "changed=1" in play(tmp_path, with_python([task])).stdout
    assert account.path("qwen3vl") == "/health"
    assert "changed=0" in play(tmp_path, with_python([task]), "--check").stdout


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("over", "environment", "words"),
    [
        ({}, {}, "give access_key and secret_key"),
        ({"endpoint_url": f"http://127.0.0.1:{closed_port()}"}, KEYS, "check endpoint_url"),
        ({"endpoint_url": "not a url"}, KEYS, "Invalid endpoint"),
        ({"profile": "nobody"}, {}, "nobody"),
    ],
)
def test_no_way_to_aws_is_told_without_a_traceback(
    tmp_path: Path, over: dict[str, t.Any], environment: dict[str, str], words: str
) -> None:
    options: dict[str, t.Any] = {
        "endpoint_url": f"http://127.0.0.1:{closed_port()}",
        "region": REGION,
        "target_groups": ["qwen3vl"],
        "aws_config": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
        **over,
    }
    tasks: list[dict[str, t.Any]] = [
        {"name": "Change", "steadfast.vllm.alb_health_check": {**options, "health_check": {"path": "/health"}}},
        {"name": "Read", "steadfast.vllm.alb_target_health_info": options},
    ]
    done = play(tmp_path, with_python([{**task, "ignore_errors": True} for task in tasks]), **environment)
    assert "ignored=2" in done.stdout
    # Once in the error, once in the result, for each of the two.
    assert done.stdout.count(words) + done.stderr.count(words) >= 2
    assert "Traceback" not in done.stdout + done.stderr
