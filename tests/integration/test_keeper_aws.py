# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's tool for AWS as the keeper runs it, against a moto server; stubbed answers where moto is too kind."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import requests
from botocore.stub import ANY, Stubber
from moto.server import ThreadedMotoServer
from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.aws_settings import Settings
from vllm_keeper_aws import fleet, group, targets
from vllm_keeper_aws.cloud import Cloud
from vllm_keeper_aws.errors import ToolError
from vllm_keeper_aws.fleet import ACT, WANT, Claim
from vllm_keeper_aws.identity import Identity
from vllm_keeper_aws.memory import Memory, Taken

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "roles/health/files/vllm_keeper_aws"
REGION = "eu-west-1"
PORT = 8000
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVICES = ("elbv2", "ec2", "autoscaling")


def client(service: str, endpoint: str | None = None) -> t.Any:
    # One whose name comes as a variable is not what boto3's types know.
    session: t.Any = boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name=REGION)
    return session.client(service, endpoint_url=endpoint)


class Account:
    """An Auto Scaling Group of three hosts, which serve on one port behind two target groups."""

    def __init__(self, endpoint: str, clients: dict[str, t.Any]) -> None:
        self.endpoint, self.clients = endpoint, clients
        self.elb, self.ec2, self.asg = (clients[name] for name in SERVICES)
        self.vpc = self.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [one["SubnetId"] for one in self.ec2.describe_subnets()["Subnets"]][:2]
        balancer = self.elb.create_load_balancer(Name="inference", Subnets=subnets)["LoadBalancers"][0]
        self.ec2.create_launch_template(
            LaunchTemplateName="gpu", LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "g5.xlarge"}
        )
        self.asg.create_auto_scaling_group(
            AutoScalingGroupName="vllm",
            LaunchTemplate={"LaunchTemplateName": "gpu"},
            MinSize=3,
            MaxSize=3,
            VPCZoneIdentifier=subnets[0],
        )
        found = self.asg.describe_auto_scaling_groups(AutoScalingGroupNames=["vllm"])["AutoScalingGroups"][0]
        self.hosts = sorted(one["InstanceId"] for one in found["Instances"])
        self.groups = {}
        for number, name in enumerate(("qwen3vl", "qwen3vl-b")):
            self.groups[name] = self.group(name, [(host, PORT) for host in self.hosts])
            self.elb.create_listener(
                LoadBalancerArn=balancer["LoadBalancerArn"],
                Protocol="HTTP",
                Port=80 + number,
                DefaultActions=[{"Type": "forward", "TargetGroupArn": self.groups[name]}],
            )

    def group(self, name: str, members: list[tuple[str, int]], kind: str = "instance") -> str:
        created = self.elb.create_target_group(
            Name=name, Protocol="HTTP", Port=PORT, VpcId=self.vpc, TargetType=kind, HealthCheckPath="/health"
        )
        arn = str(created["TargetGroups"][0]["TargetGroupArn"])
        self.elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": one, "Port": port} for one, port in members])
        return arn

    def members(self, name: str) -> list[tuple[str, int]]:
        found = self.elb.describe_target_health(TargetGroupArn=self.groups[name])["TargetHealthDescriptions"]
        return sorted((one["Target"]["Id"], one["Target"]["Port"]) for one in found)

    def tags(self, host: str) -> dict[str, str]:
        filters = [{"Name": "resource-id", "Values": [host]}]
        return {tag["Key"]: tag["Value"] for tag in self.ec2.describe_tags(Filters=filters)["Tags"]}


@pytest.fixture(scope="module")
def endpoint() -> t.Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def clients(endpoint: str) -> dict[str, t.Any]:
    """Once for all tests: making one of EC2 takes longer than most of them."""
    return {service: client(service, endpoint) for service in SERVICES}


@pytest.fixture
def account(endpoint: str, clients: dict[str, t.Any]) -> Account:
    requests.post(f"{endpoint}/moto-api/reset", timeout=10)
    return Account(endpoint, clients)


def ask(verb: str, *arguments: str, python: str = sys.executable, **environment: str) -> dict[str, t.Any]:
    """The tool's answer. One line of JSON on stdout whatever happens, and its status agrees with it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
    done = subprocess.run(
        [python, "-I", TOOL, verb, *arguments],
        env={
            **kept,
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{closed_port()}",
            **KEYS,
            **environment,
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == "" and done.stdout.count("\n") == 1, done.stdout + done.stderr
    answer: dict[str, t.Any] = json.loads(done.stdout)
    assert answer["ok"] == (done.returncode == 0)
    return answer


def here(account: Account, host: int = 0) -> list[str]:
    return ["--region", REGION, "--endpoint-url", account.endpoint, "--instance-id", account.hosts[host]]


# --- out of the target groups and back ----------------------------------------------------------------------


def test_out_and_back_exactly_and_twice(account: Account, tmp_path: Path) -> None:
    remember = ["--remember", str(tmp_path / "aws" / "q.json")]
    one = account.hosts[0]
    whole = {name: account.members(name) for name in account.groups}
    # One by its name, one by its ARN, and the first again.
    chosen = ["--target-group", "qwen3vl", "--target-group", account.groups["qwen3vl-b"], "--target-group", "qwen3vl"]
    out = ["deregister", *here(account), *remember, *chosen, "--port", str(PORT)]

    told = ask(*out, "--dry-run")
    assert told["changed"] and told["dry_run"]
    assert {name: account.members(name) for name in account.groups} == whole
    assert not (tmp_path / "aws").exists()

    first = ask(*out)
    assert first["changed"]
    assert [entry["result"] for entry in first["target_groups"]] == ["deregistered", "deregistered", "not registered"]
    for name in account.groups:
        assert account.members(name) == [member for member in whole[name] if member != (one, PORT)]
    again = ask(*out)
    assert not again["changed"]
    assert (tmp_path / "aws" / "q.json").exists()

    back = ["register", *here(account), *remember]
    assert ask(*back, "--dry-run")["changed"]
    assert (one, PORT) not in account.members("qwen3vl")
    assert ask(*back, "--wait", "5")["target_groups"][0]["healthy"] is True
    assert {name: account.members(name) for name in account.groups} == whole
    assert list((tmp_path / "aws").iterdir()) == [], "the keeper sees by the file that something is out"
    assert ask(*back) == {"changed": False, "dry_run": False, "ok": True, "target_groups": []}


def test_what_was_never_in_is_not_put_in(account: Account, tmp_path: Path) -> None:
    account.elb.deregister_targets(
        TargetGroupArn=account.groups["qwen3vl"], Targets=[{"Id": account.hosts[0], "Port": PORT}]
    )
    remember = ["--remember", str(tmp_path / "q.json")]
    both = ["--target-group", "qwen3vl", "--target-group", "qwen3vl-b"]
    ask("deregister", *here(account), *remember, *both, "--port", str(PORT))
    ask("register", *here(account), *remember)
    assert (account.hosts[0], PORT) not in account.members("qwen3vl")
    assert (account.hosts[0], PORT) in account.members("qwen3vl-b")


def test_the_last_ones_stay_in(account: Account, tmp_path: Path) -> None:
    for number in range(3):
        remember = ["--remember", str(tmp_path / f"{number}.json"), "--keep", "2"]
        answer = ask("deregister", *here(account, number), *remember, "--target-group", "qwen3vl", "--port", str(PORT))
        assert answer["changed"] == (number == 0)
    assert answer["target_groups"][0]["result"] == "kept"
    assert "fewer than 2 healthy" in answer["target_groups"][0]["reason"]
    assert len(account.members("qwen3vl")) == 2


def test_target_groups_of_addresses(account: Account, tmp_path: Path) -> None:
    account.groups["ip"] = account.group("ip", [("10.0.0.1", PORT), ("10.0.0.2", PORT)], "ip")
    common = ["--region", REGION, "--endpoint-url", account.endpoint, "--remember", str(tmp_path / "q.json")]
    taken = ["--target-group", "ip", "--port", str(PORT), "--address", "10.0.0.1", "--keep", "0"]
    # No instance id is asked for, which a host outside of EC2 does not have.
    assert ask("deregister", *common, *taken)["changed"]
    assert account.members("ip") == [("10.0.0.2", PORT)]
    assert ask("register", *common)["changed"]
    assert account.members("ip") == [("10.0.0.1", PORT), ("10.0.0.2", PORT)]


def test_a_group_that_is_missing_keeps_no_other(account: Account, tmp_path: Path) -> None:
    remember = ["--remember", str(tmp_path / "q.json"), "--port", str(PORT)]
    answer = ask("deregister", *here(account), *remember, "--target-group", "nobody", "--target-group", "qwen3vl")
    assert answer["error"].startswith("nobody: elasticloadbalancing:DescribeTargetGroups failed: TargetGroupNotFound")
    assert answer["changed"] and (account.hosts[0], PORT) not in account.members("qwen3vl")


def test_a_group_that_was_removed_meanwhile_is_forgotten(account: Account, tmp_path: Path) -> None:
    remember = ["--remember", str(tmp_path / "q.json")]
    arn = account.groups["spare"] = account.group("spare", [(host, PORT) for host in account.hosts])
    both = ["--target-group", "spare", "--target-group", "qwen3vl"]
    ask("deregister", *here(account), *remember, *both, "--port", str(PORT), "--keep", "0")
    account.elb.delete_target_group(TargetGroupArn=arn)
    answer = ask("register", *here(account), *remember)
    assert [entry["result"] for entry in answer["target_groups"]] == ["target group removed", "registered"]
    assert ask("register", *here(account), *remember)["target_groups"] == []


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1, "taken": [{"group": 1}]}'])
def test_a_torn_memory_is_said_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.json").write_text(text)
    answer = ask("register", "--remember", str(tmp_path / "q.json"))
    assert "is torn" in answer["error"] and "by hand, then remove the file" in answer["error"]


# --- with answers that moto does not give -------------------------------------------------------------------


@contextlib.contextmanager
def stubbed(service: str) -> t.Iterator[tuple[Cloud, Stubber]]:
    cloud = Cloud(REGION, deadline=5)
    cloud._clients[service] = client(service)
    with Stubber(cloud._clients[service]) as stub:
        yield cloud, stub
        stub.assert_no_pending_responses()


ARN = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/q/0123456789abcdef"
ME, YOU, THIRD = "i-00000000000000001", "i-00000000000000002", "i-00000000000000003"


def described(*states: tuple[str, str]) -> dict[str, t.Any]:
    return {
        "TargetHealthDescriptions": [
            {"Target": {"Id": who, "Port": PORT}, "TargetHealth": {"State": state}} for who, state in states
        ]
    }


def test_what_is_written_before_it_is_taken_out(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "q.json")
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", described((ME, "unhealthy"), (YOU, "healthy")))
        stub.add_client_error("deregister_targets", "Throttling", "Rate exceeded")
        with pytest.raises(ToolError, match="elasticloadbalancing:DeregisterTargets failed: Throttling") as caught:
            targets.deregister(cloud, Identity(ME, REGION), memory, [ARN], PORT)
        assert caught.value.kind == "throttled"
    # It may have come through all the same, so it is put back all the same.
    assert memory.read() == [Taken(ARN, ME, PORT)]


@pytest.mark.parametrize(
    ("state", "others", "result"),
    [
        ("unhealthy", "healthy", "deregistered"),
        ("unhealthy", "unhealthy", "kept"),
        ("draining", "healthy", "draining"),
        ("unhealthy.draining", "healthy", "draining"),
    ],
)
def test_which_states_are_taken_out(tmp_path: Path, state: str, others: str, result: str) -> None:
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", described((ME, state), (YOU, others)))
        if result == "deregistered":
            wanted = {"TargetGroupArn": ARN, "Targets": [{"Id": ME, "Port": PORT}]}
            stub.add_response("deregister_targets", {}, wanted)
        answer = targets.deregister(cloud, Identity(ME, REGION), Memory(tmp_path / "q.json"), [ARN], PORT)
    assert answer["target_groups"][0]["result"] == result


@pytest.mark.parametrize(("states", "drained"), [(["draining", "unused"], True), (["draining"] * 9, False)])
def test_draining_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: list[str], drained: bool
) -> None:
    monkeypatch.setattr(targets, "STEP", 0.05)
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", described((ME, "healthy"), (YOU, "healthy")))
        stub.add_response("deregister_targets", {})
        for state in states:
            stub.add_response("describe_target_health", described((ME, state)))
        identity, memory = Identity(ME, REGION), Memory(tmp_path / "q.json")
        answer = targets.deregister(cloud, identity, memory, [ARN], PORT, wait=10 if drained else 0.3)
        assert answer["target_groups"][0]["drained"] is drained
        # However many answers a machine of this speed has asked for.
        while not drained and stub._queue:
            stub._queue.pop()


def test_another_port_of_the_same_host_stays_in(tmp_path: Path) -> None:
    """moto knows one port for each host only."""
    seen = described((ME, "unhealthy"), (ME, "healthy"))
    seen["TargetHealthDescriptions"][1]["Target"]["Port"] = PORT + 1
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", seen)
        stub.add_response("deregister_targets", {}, {"TargetGroupArn": ARN, "Targets": [{"Id": ME, "Port": PORT}]})
        assert targets.deregister(cloud, Identity(ME, REGION), Memory(tmp_path / "q.json"), [ARN], PORT)["changed"]


def test_an_address_outside_of_the_network_keeps_its_zone(tmp_path: Path) -> None:
    seen = described(("10.9.0.1", "healthy"), ("10.9.0.2", "healthy"))
    seen["TargetHealthDescriptions"][0]["Target"]["AvailabilityZone"] = "all"
    full = {"TargetGroupArn": ARN, "Targets": [{"Id": "10.9.0.1", "Port": PORT, "AvailabilityZone": "all"}]}
    memory = Memory(tmp_path / "q.json")
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", seen)
        stub.add_response("deregister_targets", {}, full)
        stub.add_response("register_targets", {}, full)
        targets.deregister(cloud, Identity("", REGION, ("10.9.0.1",)), memory, [ARN], PORT)
        assert targets.register(cloud, memory)["changed"]


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"])
def test_what_is_not_allowed_names_the_iam_action(code: str) -> None:
    with stubbed("elbv2") as (cloud, stub):
        stub.add_client_error("describe_target_health", code, "not authorized to perform")
        with pytest.raises(ToolError, match="elasticloadbalancing:DescribeTargetHealth is not allowed") as caught:
            targets.health(cloud, ARN)
    assert caught.value.kind == "denied"
    assert caught.value.more == {"action": "elasticloadbalancing:DescribeTargetHealth"}


# --- the Auto Scaling Group ---------------------------------------------------------------------------------


def test_a_host_is_marked_unhealthy_once(account: Account) -> None:
    told = ask("unhealthy", *here(account), "--dry-run")
    assert told["changed"] and told["group"] == "vllm"
    found = account.asg.describe_auto_scaling_instances(InstanceIds=[account.hosts[0]])["AutoScalingInstances"]
    assert found[0]["HealthStatus"].lower() == "healthy"

    first = ask("unhealthy", *here(account))
    assert first["changed"] and first["effective"]
    again = ask("unhealthy", *here(account))
    assert not again["changed"] and again["effective"]


def test_a_host_of_no_group_is_told_so(account: Account) -> None:
    answer = ask("unhealthy", "--region", REGION, "--endpoint-url", account.endpoint, "--instance-id", ME)
    assert answer["kind"] == "not_found" and f"{ME} is in no Auto Scaling Group" in answer["error"]


@pytest.mark.parametrize(("respect", "after"), [(True, "HEALTHY"), (False, "UNHEALTHY")])
def test_a_grace_period_that_takes_no_note_is_seen(respect: bool, after: str) -> None:
    def member(health: str) -> dict[str, t.Any]:
        one = {
            "InstanceId": ME,
            "AutoScalingGroupName": "vllm",
            "AvailabilityZone": "a",
            "LifecycleState": "InService",
            "HealthStatus": health,
            "ProtectedFromScaleIn": False,
        }
        return {"AutoScalingInstances": [one]}

    with stubbed("autoscaling") as (cloud, stub):
        stub.add_response("describe_auto_scaling_instances", member("HEALTHY"))
        wanted = {"InstanceId": ME, "HealthStatus": "Unhealthy", "ShouldRespectGracePeriod": respect}
        stub.add_response("set_instance_health", {}, wanted)
        stub.add_response("describe_auto_scaling_instances", member(after))
        answer = group.unhealthy(cloud, ME, respect_grace=respect)
    assert answer["changed"] and answer["effective"] == (not respect)


# --- the fleet ----------------------------------------------------------------------------------------------


def fleet_of(account: Account, expires: float = 900) -> fleet.Fleet:
    cloud = Cloud(REGION, account.endpoint, 60)
    cloud._clients.update(account.clients)
    return fleet.Fleet(cloud, "vllm", ["qwen3vl"], expires)


def claim(account: Account, host: int, limit: int = 1) -> dict[str, t.Any]:
    return fleet_of(account).claim(account.hosts[host], limit, 0, dry_run=False)


def mark_unhealthy(account: Account, host: int) -> None:
    account.asg.set_instance_health(InstanceId=account.hosts[host], HealthStatus="Unhealthy")


def test_the_fleet_tells_who_is_out_and_who_acts(account: Account) -> None:
    before = fleet_of(account).summary()
    assert (before["total"], before["out"], before["acting"]) == (3, {}, {})
    mark_unhealthy(account, 1)
    assert ask("claim", *here(account, 2), "--limit", "2", "--settle", "0")["granted"]
    # Without a group's name it is the host's own.
    after = ask("fleet", *here(account))
    assert after["out"] == {account.hosts[1]: "Unhealthy"}
    assert after["acting"] == {account.hosts[2]: ACT}


def test_one_acts_the_other_waits_for_it(account: Account) -> None:
    one, other = account.hosts[:2]
    told = fleet_of(account).claim(one, 1, 0, dry_run=True)
    assert told["granted"] and fleet.KEY not in account.tags(one)
    assert claim(account, 0)["granted"]
    assert claim(account, 0)["granted"], "what is ours already is given again"
    refused = claim(account, 1)
    assert not refused["granted"]
    assert refused["reason"] == f"1 of at most 1 are out or act: {one}"
    assert fleet.KEY not in account.tags(other), "a refused claim stands in nobody's way"
    assert fleet_of(account).release(one)["changed"]
    assert claim(account, 1)["granted"]


def test_hosts_that_are_out_count_and_this_one_does_not(account: Account) -> None:
    mark_unhealthy(account, 0)
    assert not claim(account, 1)["granted"]
    assert claim(account, 1, limit=2)["granted"]
    fleet_of(account).release(account.hosts[1])
    assert claim(account, 0)["granted"]


def test_a_claim_expires_and_a_copied_one_is_none(account: Account) -> None:
    copied, old = Claim(account.hosts[2], ACT, time.time()), Claim(account.hosts[1], ACT, time.time() - 901)
    for text in (copied.text, old.text):
        account.ec2.create_tags(Resources=[account.hosts[1]], Tags=[{"Key": fleet.KEY, "Value": text}])
        assert fleet_of(account).summary()["acting"] == {}
    assert fleet_of(account, 5000).summary()["acting"] == {account.hosts[1]: ACT}


@pytest.mark.parametrize("limit", [1, 2])
def test_of_all_that_claim_at_once_no_more_than_the_limit_act(account: Account, limit: int) -> None:
    def ask_for_it(host: str) -> bool:
        return bool(fleet_of(account).claim(host, limit, 2.0, dry_run=False)["granted"])

    with ThreadPoolExecutor(3) as pool:
        granted = list(pool.map(ask_for_it, account.hosts))
    assert sum(granted) == limit


def test_who_is_out_and_why() -> None:
    """Targets that no balancer uses or checks are not known to be bad."""
    seen = described((ME, "unused"), (YOU, "unhealthy"), (THIRD, "initial"))
    for one, reason in zip(
        seen["TargetHealthDescriptions"], ("Target.NotInUse", "Target.Timeout", "Elb.RegistrationInProgress")
    ):
        one["TargetHealth"]["Reason"] = reason
    with stubbed("elbv2") as (cloud, stub):
        stub.add_response("describe_target_health", seen)
        found = fleet.Fleet(cloud, "", [ARN], 900).look()
    assert found["hosts"] == [ME, YOU, THIRD]
    assert found["out"] == {YOU: "unhealthy (Target.Timeout)", THIRD: "initial (Elb.RegistrationInProgress)"}


@pytest.mark.parametrize(
    ("claims", "order"),
    [
        ([Claim(YOU, WANT, 90), Claim(ME, WANT, 95)], [YOU, ME]),
        ([Claim(YOU, WANT, 95), Claim(ME, WANT, 95)], [ME, YOU]),
        ([Claim(YOU, ACT, 99), Claim(ME, WANT, 90)], [YOU, ME]),
        ([Claim(YOU, ACT, 99), Claim(ME, ACT, 90)], [ME, YOU]),
        ([Claim(YOU, ACT, -801), Claim(ME, ACT, -799)], [ME]),
        ([Claim(YOU, WANT, -21), Claim(ME, WANT, -19)], [ME]),
        ([Claim(YOU, ACT, 1001), Claim(ME, ACT, 999)], [ME]),
    ],
)
def test_the_order_of_claims(claims: list[Claim], order: list[str]) -> None:
    assert [one.instance for one in fleet.valid(claims, 100, 900)] == order


@pytest.mark.parametrize(
    "text", ["", "x", f"{YOU} act 1", f"{ME} act", f"{ME} act nan", f"{ME} dance 1", f"{ME} act 1 2"]
)
def test_what_is_no_claim(text: str) -> None:
    assert fleet.parse(ME, text) is None
    assert fleet.parse(ME, f"{ME} act 1.5") == Claim(ME, ACT, 1.5)


def test_a_claim_stands_back_when_too_many_got_through() -> None:
    """The race that tags cannot exclude: another one's claim becomes visible only after ours was written."""
    now = 1000.0

    def tags(*claims: Claim) -> dict[str, t.Any]:
        return {"Tags": [{"ResourceId": one.instance, "Key": fleet.KEY, "Value": one.text} for one in claims]}

    mine, other = Claim(ME, WANT, now), Claim(YOU, ACT, now - 1)
    with stubbed("ec2") as (cloud, stub):
        one = fleet.Fleet(cloud, "", [], 900, clock=lambda: now)
        for answer in (tags(), None, tags(mine), None, tags(Claim(ME, ACT, now), other)):
            if answer is None:
                stub.add_response("create_tags", {}, {"Resources": [ME], "Tags": ANY})
            else:
                stub.add_response("describe_tags", answer)
        stub.add_response("delete_tags", {}, {"Resources": [ME], "Tags": [{"Key": fleet.KEY}]})
        seen = one.claim(ME, 1, 0, dry_run=False)
    assert not seen["granted"] and YOU in seen["reason"]


def test_many_tags_come_in_pages() -> None:
    first = {"ResourceId": YOU, "Key": fleet.KEY, "Value": Claim(YOU, ACT, 10).text}
    second = {"ResourceId": THIRD, "Key": fleet.KEY, "Value": Claim(THIRD, ACT, 5).text}
    with stubbed("ec2") as (cloud, stub):
        filters = [{"Name": "resource-id", "Values": [YOU, THIRD]}, {"Name": "key", "Values": [fleet.KEY]}]
        stub.add_response("describe_tags", {"Tags": [first], "NextToken": "more"}, {"Filters": filters})
        stub.add_response("describe_tags", {"Tags": [second]}, {"Filters": filters, "NextToken": "more"})
        found = fleet.Fleet(cloud, "", [], 900, clock=lambda: 20.0).claims([YOU, THIRD])
    assert [one.instance for one in found] == [THIRD, YOU]


# --- who am I, and what if nobody answers -------------------------------------------------------------------


class Metadata(http.server.BaseHTTPRequestHandler):
    """IMDSv2: nothing without a token. WHERE is set by the test."""

    where: t.ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        self._say(200 if self.path == "/latest/api/token" else 404, "token-1")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token-1":
            self._say(401, "")
            return
        found = self.where.get(self.path.removeprefix("/latest/meta-data/"))
        self._say(404 if found is None else 200, found or "")

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_words: object) -> None:
        pass


@contextlib.contextmanager
def metadata(**where: str) -> t.Iterator[str]:
    Metadata.where = {key.replace("_", "-").replace("--", "/"): value for key, value in where.items()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_host_knows_itself_from_its_metadata(account: Account) -> None:
    with metadata(instance_id=account.hosts[1], placement__region=REGION) as service:
        answer = ask(
            "unhealthy", "--endpoint-url", account.endpoint, "--dry-run", AWS_EC2_METADATA_SERVICE_ENDPOINT=service
        )
    assert answer["instance"] == account.hosts[1]


def test_without_metadata_it_says_what_to_give() -> None:
    answer = ask("unhealthy")
    assert answer["kind"] == "unreachable" and "give instance id, region and addresses" in answer["error"]
    with metadata(placement__region=REGION) as service:
        answer = ask("unhealthy", AWS_EC2_METADATA_SERVICE_ENDPOINT=service)
    assert answer["kind"] == "not_found" and "has no instance-id; give --instance-id" in answer["error"]


def test_an_endpoint_that_never_answers_costs_the_deadline_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        answer = ask("unhealthy", "--region", REGION, "--instance-id", ME, "--endpoint-url", url, "--deadline", "3")
        took = time.monotonic() - begin
    assert answer["kind"] == "timeout" and "no end within 3 s" in answer["error"]
    assert took < 30


@pytest.mark.parametrize(
    ("arguments", "environment", "kind", "words"),
    [
        (["--endpoint-url", f"http://127.0.0.1:{closed_port()}"], {}, "unreachable", "AWS cannot be reached"),
        (["--endpoint-url", "not a url"], {}, "refused", "not a url"),
        ([], {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials", "attach an instance role"),
    ],
)
def test_no_way_to_aws_is_said_with_the_remedy(
    arguments: list[str], environment: dict[str, str], kind: str, words: str
) -> None:
    answer = ask("unhealthy", "--region", REGION, "--instance-id", ME, *arguments, **environment)
    assert (answer["kind"], words in answer["error"]) == (kind, True), answer


@pytest.mark.parametrize("arguments", [["dance"], ["deregister"], ["unhealthy", "--deadline", "-1"], []])
def test_arguments_that_make_no_sense_are_answered_too(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", TOOL, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and json.loads(done.stdout)["kind"] == "usage"


# --- as the keeper uses it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of the locked environment, made from the role's own lock."""
    folder = tmp_path_factory.mktemp("aws")
    lock = ROOT / "roles/health/files/aws/requirements.txt"
    uv = str(Path(sys.prefix, "bin", "uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    chosen = [uv, "pip", "sync", "--quiet", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([*chosen, "--python", folder / "venv/bin/python", lock], check=True)
    return str(folder / "venv/bin/python")


def test_the_keeper_takes_a_host_out_and_back_with_the_locked_environment(
    account: Account, tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    settings = Settings(
        target_groups=("qwen3vl", "qwen3vl-b"),
        region=REGION,
        instance_id=account.hosts[0],
        endpoint=account.endpoint,
        settle=0,
        python=python,
    )
    # The role copies the tool; here it must not lie beside this checkout's keeper either.
    shutil.copytree(TOOL, tmp_path / "lib" / "vllm_keeper_aws", ignore=shutil.ignore_patterns("__pycache__"))
    aws = Aws(settings, "q", PORT, memory=tmp_path / "memory", tool=tmp_path / "lib" / "vllm_keeper_aws")
    assert aws.installed()
    assert aws.deregister()["changed"] and not aws.deregister()["changed"]
    assert (account.hosts[0], PORT) not in account.members("qwen3vl-b")
    assert aws.fleet()["total"] == 2
    assert aws.claim()["granted"]
    assert aws.release()["changed"]
    assert aws.register(wait=5)["changed"]
    assert (account.hosts[0], PORT) in account.members("qwen3vl-b")
    assert aws.unhealthy()["effective"]
    with pytest.raises(AwsError, match=r"deregister: nobody: .*TargetGroupNotFound"):
        Aws(Settings(**{**vars(settings), "target_groups": ("nobody",)}), "q", PORT, memory=tmp_path / "m").deregister()


def test_the_documented_policy_allows_what_is_called_and_no_more() -> None:
    text = (ROOT / "docs/aws-ejection.md").read_text(encoding="utf-8")
    policy = json.loads(text.split("```json\n", 1)[1].split("```", 1)[0])
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    services = {"ELB": "elasticloadbalancing", "ASG": "autoscaling", "EC2": "ec2"}
    called = set()
    for file in TOOL.glob("*.py"):
        for service, operation in re.findall(r"\.(?:call|pages)\(\s*(\w+),\s*\"(\w+)\"", file.read_text()):
            called.add(f"{services[service]}:{operation}")
    assert allowed == called
    assert all(statement["Effect"] == "Allow" and statement["Resource"] for statement in policy["Statement"])
