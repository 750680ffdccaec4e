#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to find that target groups need nothing: one task of ours against a loop over community.aws's module.

    python -m bench.alb_calls [--groups 200] [--looped 20]

Both run through ansible-playbook against a moto server on loopback, which counts the calls. The loop is run over
`--looped` groups only and multiplied, as the whole would take minutes; it is linear, one module run for each group.
An empty play's time is taken off both, so that what is compared is the tasks.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import boto3
import requests
import yaml
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parent.parent
REGION = "eu-west-1"
DUMMY = "x"  # moto takes any key, but boto3 wants one


class Counter(logging.Handler):
    """Requests to the moto server, as its own log tells them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += '"POST / ' in record.getMessage()


def make_groups(endpoint: str, number: int) -> tuple[str, list[str]]:
    client: t.Any = boto3.client(
        "elbv2", region_name=REGION, endpoint_url=endpoint, aws_access_key_id=DUMMY, aws_secret_access_key=DUMMY
    )
    vpc = next(iter(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].vpcs))
    names = [f"vllm-{index:03}" for index in range(number)]
    for name in names:
        client.create_target_group(
            Name=name, Protocol="HTTP", Port=8000, VpcId=vpc, HealthCheckPath="/health", HealthCheckTimeoutSeconds=5
        )
    return vpc, names


def run(tasks: list[dict[str, t.Any]], endpoint: str, counter: Counter) -> tuple[float, int]:
    """Seconds and calls of a play with these tasks, which must change nothing."""
    play = [{"name": "Bench", "hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_NOCOLOR": "1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": DUMMY,
        "AWS_SECRET_ACCESS_KEY": DUMMY,
    }
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder, "play.yml")
        book.write_text(yaml.safe_dump(play))
        counter.calls = 0
        began = time.monotonic()
        done = subprocess.run(
            [
                Path(sys.prefix, "bin", "ansible-playbook"),
                *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"),
                book,
            ],
            cwd=folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - began
    if done.returncode or "changed=0" not in done.stdout:
        sys.exit(f"the play should have changed nothing:\n{done.stdout}{done.stderr}")
    return seconds, counter.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--looped", type=int, default=20)
    given = parser.parse_args()

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
    counter = Counter()
    log = logging.getLogger("werkzeug")
    log.addHandler(counter)
    log.setLevel(logging.INFO)
    log.propagate = False
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        requests.post(f"{endpoint}/moto-api/reset", timeout=10)
        vpc, names = make_groups(endpoint, given.groups)
        nothing = {"name": "Nothing", "ansible.builtin.debug": {"msg": "nothing"}}
        ours = {
            "name": "All in one task",
            "steadfast.vllm.alb_health_check": {"target_groups": names, "health_check": {"path": "/health"}},
        }
        theirs = {
            "name": "One by one",
            "community.aws.elb_target_group": {
                "name": "{{ item }}",
                "protocol": "http",
                "port": 8000,
                "vpc_id": vpc,
                "health_check_protocol": "http",
                "health_check_path": "/health",
                "modify_targets": False,
                "state": "present",
            },
            "loop": names[: given.looped],
        }
        base, _none = run([nothing], endpoint, counter)
        our_seconds, our_calls = run([ours], endpoint, counter)
        their_seconds, their_calls = run([theirs], endpoint, counter)
    finally:
        server.stop()

    scale = given.groups / given.looped
    our_seconds, their_seconds = our_seconds - base, (their_seconds - base) * scale
    their_calls = round(their_calls * scale)
    print(f"{given.groups} target groups that need nothing (an empty play's {base:.1f} s taken off):")
    print(f"  alb_health_check, one task            {our_calls:5} calls {our_seconds:8.1f} s")
    print(f"  community.aws.elb_target_group, loop  {their_calls:5} calls {their_seconds:8.1f} s", end="")
    print(f"  ({given.looped} run, times {scale:g})" if scale != 1 else "")
    print(f"ratio: {their_calls / our_calls:.0f} x fewer calls, {their_seconds / our_seconds:.0f} x less time")


if __name__ == "__main__":
    main()
