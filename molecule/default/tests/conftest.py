# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged lab, its hosts, and playbook runs whose changes can be named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from lab import client  # noqa: E402  (the lab is a folder of the checkout, not an installed package)

INSTANCE = "qwen3vl"
GPU_HOSTS = ["gpu1", "gpu2"]


@dataclass(frozen=True)
class Run:
    """A playbook run: what each task changed, and what failed."""

    changed: dict[str, list[str]]
    failed: dict[str, list[str]]
    messages: str
    code: int

    @property
    def clean(self) -> bool:
        return self.code == 0 and not self.changed


def play(*arguments: str, variables: dict[str, Any] | None = None, playbook: str = "site.yml") -> Run:
    """Run a playbook on the lab; what it did by task, as {task: [host]}."""
    command = ["ansible-playbook", "-i", "inventories/lab", playbook, *arguments]
    if variables:
        command += ["-e", json.dumps(variables)]
    env = dict(
        os.environ,
        ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"),
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
        ANSIBLE_FORCE_COLOR="0",
    )
    env.pop("ANSIBLE_CALLBACKS_ENABLED", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    start = done.stdout.find("{\n")
    if start < 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    report, _end = json.JSONDecoder().raw_decode(done.stdout[start:])
    changed: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    messages: list[str] = []
    for one_play in report["plays"]:
        for task in one_play["tasks"]:
            name = task["task"]["name"]
            for host, result in task["hosts"].items():
                if result.get("failed") or result.get("unreachable"):
                    failed.setdefault(name, []).append(host)
                    messages.append(str(result.get("msg", "")))
                elif result.get("changed"):
                    changed.setdefault(name, []).append(host)
    return Run(changed, failed, "\n".join(messages) + done.stderr, done.returncode)


@pytest.fixture(scope="session")
def lab() -> client.Lab:
    """Addresses of the lab."""
    return client.Lab.read()


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    """testinfra's view of each host."""
    return {name: testinfra.get_host(f"podman://{client.container(name)}") for name in ["lb1", *GPU_HOSTS]}


@pytest.fixture(params=GPU_HOSTS)
def gpu(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Host:
    """Each GPU host in turn."""
    return hosts[request.param]


FOLDERS = "/etc /opt/uv /opt/vllm /opt/vllm-keeper /usr/local /var/lib/steadfast /var/lib/vllm"
# Names, modes, owners and contents, less what an installed environment holds: its name says its content.
FINGERPRINT = rf"""
find {FOLDERS} -xdev \( -name __pycache__ -o -name site-packages \) -prune -o -printf '%p %m %u %g %l %y\n' | sort
find {FOLDERS} -xdev \( -name __pycache__ -o -name site-packages \) -prune -o -type f -exec sha256sum {{}} + | sort
dpkg-query -W
systemctl show -p MainPID -p ActiveEnterTimestampMonotonic qwen3vl haproxy
"""


def fingerprint() -> dict[str, str]:
    """All that a run could change on the hosts: files, packages, the processes that serve."""
    return {host: client.on(host, "sh", "-c", FINGERPRINT, check=False) for host in ["lb1", *GPU_HOSTS]}


@pytest.fixture
def untouched() -> Iterator[None]:
    """Fails the test if anything on the hosts changed during it."""
    before = fingerprint()
    yield
    assert fingerprint() == before
