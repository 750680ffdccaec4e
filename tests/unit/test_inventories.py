# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example inventories: read by Ansible, fit for site.yml, and their instances pass the normaliser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = sorted(folder.name for folder in (ROOT / "inventories").iterdir())


def ansible(*command: str) -> str:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ansible("ansible-inventory", "-i", f"inventories/{name}", "--list"))
    return found


@pytest.mark.parametrize("name", INVENTORIES)
def test_every_host_s_instances_are_complete(name: str) -> None:
    inventory = listed(name)
    hosts = inventory["vllm"].get("hosts", [])
    for child in inventory["vllm"].get("children", []):
        hosts += inventory[child].get("hosts", [])
    assert hosts, "no host in the group vllm"
    for host in hosts:
        given = inventory["_meta"]["hostvars"].get(host, {})
        # Ansible's vault and templates are not read here: what they hold is text all the same.
        defaults = given.get("vllm_instance_defaults") or {}
        if name == "lab" and isinstance(defaults, str):  # by manager: each of them is to fit
            for by_manager in given["lab_instance_defaults"].values():
                assert _instances.normalise(given.get("vllm_instances"), by_manager)
            defaults = {}
        assert _instances.normalise(given.get("vllm_instances"), defaults)


@pytest.mark.parametrize("name", INVENTORIES)
def test_site_yml_fits(name: str) -> None:
    ansible("ansible-playbook", "-i", f"inventories/{name}", "site.yml", "--syntax-check")
