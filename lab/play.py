# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook runs on the lab whose changes can be named, and a fingerprint of what a run could change."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from lab import client
from lab.labkit.hosts import chosen

ROOT = client.ROOT


@dataclass(frozen=True)
class Run:
    """A playbook run: what each task changed, what failed and why, what the others said, and what --diff showed."""

    changed: dict[str, list[str]]
    failed: dict[str, list[str]]
    messages: str
    code: int
    said: str
    diff: str

    @property
    def clean(self) -> bool:
        return self.code == 0 and not self.changed


def play(
    *arguments: str, variables: dict[str, Any] | None = None, playbook: str = "site.yml", timeout: float = 900
) -> Run:
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
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    start = done.stdout.find("{\n")
    if start < 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    report, _end = json.JSONDecoder().raw_decode(done.stdout[start:])
    changed: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    messages: list[str] = []
    said: list[str] = []
    diff: list[str] = []
    for one_play in report["plays"]:
        for task in one_play["tasks"]:
            name = task["task"]["name"]
            for host, result in task["hosts"].items():
                if result.get("failed") or result.get("unreachable"):
                    failed.setdefault(name, []).append(host)
                    messages.append(str(result.get("msg", "")))
                    continue
                diff.append(json.dumps(result.get("diff", "")))
                words = result.get("msg", "")
                said += map(str, words) if isinstance(words, list) else [str(words)]
                if result.get("changed"):
                    changed.setdefault(name, []).append(host)
    return Run(changed, failed, "\n".join(messages) + done.stderr, done.returncode, "\n".join(said), "\n".join(diff))


FOLDERS = "/etc /opt/uv /opt/vllm /opt/vllm-keeper /usr/local /var/lib/steadfast /var/lib/vllm"
# What an installed environment holds is said by its name; a lock says only who held it last.
LEFT_OUT = r"\( -name __pycache__ -o -name site-packages -o -name .lock \)"
# Names, modes, owners and contents of files, packages, and the processes that serve.
FINGERPRINT = rf"""
find {FOLDERS} -xdev {LEFT_OUT} -prune -o -printf '%p %m %u %g %l %y\n' | sort
find {FOLDERS} -xdev {LEFT_OUT} -prune -o -type f -exec sha256sum {{}} + | sort
dpkg-query -W
systemctl show -p MainPID -p ActiveEnterTimestampMonotonic qwen3vl haproxy
"""


def fingerprint() -> dict[str, str]:
    """All that a run could change on the hosts: files, packages, the processes that serve."""
    names = [host.name for host in chosen() if host.name != "aws1"]
    return {name: client.on(name, "sh", "-c", FINGERPRINT, check=False) for name in names}
