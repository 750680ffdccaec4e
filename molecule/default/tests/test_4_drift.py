# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift: told by --check, mended by exactly the task that should, and then nothing is left to do."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from lab import client
from lab.play import fingerprint, play

UNIT = "/etc/systemd/system/qwen3vl.service"
SEEDS = [
    ("gpu1", f"sed -i 's/^RestartSec=10$/RestartSec=11/' {UNIT}"),
    ("gpu1", f"mkdir -p {UNIT}.d && printf '[Service]\\nRestart=no\\n' > {UNIT}.d/override.conf"),
    ("gpu1", "DEBIAN_FRONTEND=noninteractive apt-get -qq remove cron >/dev/null 2>&1"),
    ("gpu2", "chmod 0666 /etc/vllm/qwen3vl.yaml"),
    ("gpu2", "systemctl stop qwen3vl"),
    ("lb1", "echo '# by hand' >> /etc/haproxy/haproxy.cfg"),
]
MENDED = {
    "steadfast.vllm.vllm : Leave the configuration of this host's instances": ["gpu2"],
    "steadfast.vllm.health : Install a cron daemon": ["gpu1"],
    "steadfast.vllm.service : Leave what runs this host's instances": ["gpu1"],
    "steadfast.vllm.service : Run what is not running": ["gpu2"],
    "steadfast.vllm.service : Restart what a change owes": ["gpu1"],
    "steadfast.vllm.load_balancer : Leave the balancer's configuration": ["lb1"],
}


def test_a_converged_lab_has_nothing_to_do() -> None:
    before = fingerprint()
    run = play()
    assert run.code == 0, run.messages
    assert run.changed == {}
    assert fingerprint() == before


@pytest.fixture(scope="module")
def drifted() -> None:
    """The lab with all seeds sown."""
    for host, command in SEEDS:
        client.on(host, "sh", "-c", command)


@pytest.mark.usefixtures("drifted")
def test_check_mode_tells_each_drift_and_changes_nothing() -> None:
    before = fingerprint()
    run = play("--check", "--diff")
    assert run.code == 0, run.messages
    assert run.changed == MENDED
    assert fingerprint() == before


@pytest.mark.usefixtures("drifted")
def test_each_drift_is_mended_by_its_own_task(lab: client.Lab, hosts: dict[str, Host]) -> None:
    run = play()
    assert run.code == 0, run.messages
    assert run.changed == MENDED
    assert hosts["gpu1"].file(UNIT).contains("RestartSec=10")
    assert not hosts["gpu1"].file(f"{UNIT}.d/override.conf").exists
    assert hosts["gpu1"].check_output("systemctl show -P Restart qwen3vl") == "always"
    assert hosts["gpu2"].file("/etc/vllm/qwen3vl.yaml").mode == 0o644
    assert hosts["gpu1"].service("cron").is_running
    assert not hosts["lb1"].file("/etc/haproxy/haproxy.cfg").contains("by hand")
    for host in ("gpu1", "gpu2"):
        assert client.answers(lab.direct(host), lab.model), host


@pytest.mark.usefixtures("drifted")
def test_then_nothing_is_left_to_do() -> None:
    before = fingerprint()
    run = play("--check")
    assert (run.code, run.changed) == (0, {}), run.messages
    assert fingerprint() == before
