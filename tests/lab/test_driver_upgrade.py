# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/driver_upgrade.yml under two servers behind the balancer, which serve real vLLM on the CPU meanwhile.

Packages and the build of the kernel modules are real; there is no GPU, so no module is loaded, and none of the servers
uses one. A quarter of an hour.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab import client
from lab.play import Run, play

LAB = {"STEADFAST_LAB": "drvup", "STEADFAST_LAB_NETWORK": "10.87.53", "STEADFAST_LAB_HOSTS": "lb1,gpu1,gpu2"}
PLAYBOOK = "playbooks/driver_upgrade.yml"
VERSION = "535.309.01"
BROKEN = f"/etc/dkms/nvidia-current-{VERSION}.conf"
DRIVER = {
    "nvidia_driver_source": "distribution",
    "nvidia_driver_version": VERSION,
    "nvidia_driver_without_gpu": "install",
    "nvidia_driver_kernel": f"cloud-{'arm64' if platform.machine() == 'aarch64' else 'amd64'}",
}
STARTED = "Start, and wait until each answers"


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[client.Lab]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        command = [sys.executable, str(client.ROOT / "lab" / "lab.py")]
        for verb in ("prepare", "up"):
            subprocess.run([*command, verb], check=True)
        made = play("--limit", "lb1,gpu1,gpu2,localhost", variables={"vllm_target_groups": []})
        assert made.code == 0, made.messages
        client.wait_until(client.all_get_requests, 60, "both servers get requests")
        yield client.Lab.read()
        subprocess.run([*command, "down"], check=True)


def pid(host: str) -> int:
    (one,) = json.loads(client.on(host, "vllm-keeper", "status", "--json"))["instances"]
    assert one["healthy"], one
    return int(one["pid"])


def upgrade(*arguments: str) -> Run:
    return play("--limit", "gpu1,gpu2", *arguments, variables=DRIVER, playbook=PLAYBOOK, timeout=2400)


def test_what_would_be_done_is_told_and_not_done(lab: client.Lab) -> None:
    before = pid("gpu1")
    told = upgrade("--check")
    assert told.code == 0, told.messages
    assert set(told.changed) == {"Tell what would be done"}
    assert f"install libcuda1 {VERSION}" in told.said and f"with {lab.instance} drained" in told.said
    assert pid("gpu1") == before


def test_wishes_that_cannot_be_stop_no_server() -> None:
    before = pid("gpu1"), pid("gpu2")
    run = play("--limit", "gpu1", variables={**DRIVER, "nvidia_driver_version": "535.1.1"}, playbook=PLAYBOOK)
    assert run.code != 0 and not run.changed
    assert "the source distribution does not offer it" in run.messages
    assert (pid("gpu1"), pid("gpu2")) == before


def test_a_driver_that_cannot_be_built_costs_no_request_and_ends_the_run(lab: client.Lab) -> None:
    client.on("gpu1", "sh", "-c", f"mkdir -p /etc/dkms; printf 'MAKE[0]=\"echo broken; exit 1\"\\n' > {BROKEN}")
    before = pid("gpu1"), pid("gpu2")
    try:
        with client.Stream(lab.url, lab.model) as users:
            run = upgrade()
            client.wait_until(client.all_get_requests, 60, "both servers get requests")
    finally:
        client.on("gpu1", "rm", "-f", BROKEN)
    assert run.code != 0
    assert "the host is as it was" in run.messages, run.messages
    assert set(run.changed[STARTED]) == {"gpu1"}, "the run went on, or its server was not started"
    assert pid("gpu1") != before[0] and pid("gpu2") == before[1]
    assert not client.on("gpu1", "sh", "-c", "dpkg-query -W 'nvidia-*' 2>/dev/null || true").strip()
    assert users.asked > 20 and users.lost == []


def test_the_driver_changes_host_by_host_and_nobody_notices(lab: client.Lab) -> None:
    before = {host: pid(host) for host in lab.hosts}
    with client.Stream(lab.url, lab.model) as users:
        run = upgrade()
        client.wait_until(client.all_get_requests, 60, "both servers get requests")
    assert run.code == 0, run.messages
    assert users.asked > 100 and users.lost == []
    for host in lab.hosts:
        assert pid(host) != before[host]
        assert f"{VERSION}, " in client.on(host, "dkms", "status")
    after = {host: pid(host) for host in lab.hosts}
    again = upgrade()
    assert again.clean, again.changed
    assert {host: pid(host) for host in lab.hosts} == after
