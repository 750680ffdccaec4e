# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's own variables and template, through Ansible, for the inventories of docs/load-balancer.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "load_balancer"
PAGE = ROOT / "docs" / "load-balancer.md"

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the package haproxy")

LOOK = "Look at the balancer's host"
PRINT: dict[str, t.Any] = {
    "name": "Print the configuration",
    "ansible.builtin.template": {
        "src": str(ROLE / "templates" / "haproxy.cfg.j2"),
        "dest": "{{ printed }}",
        "mode": "0644",
    },
    "vars": {"view": "{{ _load_balancer_view }}"},
}


def tasks() -> list[dict[str, t.Any]]:
    """The role's, as far as they change nothing on this machine."""
    (look,) = [task for task in yaml.safe_load((ROLE / "tasks" / "main.yml").read_text()) if task["name"] == LOOK]
    # The ports of the inventories here may well be taken on a developer's machine.
    look["steadfast.vllm.load_balancer_info"]["fail"] = False
    read = {"name": "Read the variables", "ansible.builtin.include_vars": str(ROLE / "vars" / "main.yml")}
    return [read, look, PRINT]


def documented(start: str) -> dict[str, t.Any]:
    """The one block of the page that starts with this line."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if block.startswith(start)]
    read: dict[str, t.Any] = yaml.safe_load(block)
    return read


def rendered(folder: Path, inventory: dict[str, t.Any]) -> str:
    """What Ansible prints for lb1, once HAProxy itself has taken it."""
    hosts, play, printed = folder / "hosts.yml", folder / "play.yml", folder / "haproxy.cfg"
    hosts.write_text(yaml.safe_dump(inventory))
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    # An inventory's variables win over a role's defaults; a play's would not let them.
    given = {**defaults, **inventory["all"]["children"]["load_balancer"].get("vars", {})}
    book = {
        "name": "Print",
        "hosts": "lb1",
        "connection": "local",
        "gather_facts": False,
        "vars": given,
        "tasks": tasks(),
    }
    play.write_text(yaml.safe_dump([book]))
    done = subprocess.run(
        [
            *(Path(sys.prefix, "bin", "ansible-playbook"), "-i", hosts, play),
            *("-e", f"printed={printed}", "-e", f"ansible_python_interpreter={sys.executable}"),
        ],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    taken = subprocess.run(["haproxy", "-c", "-f", printed], capture_output=True, text=True, timeout=30, check=False)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    return printed.read_text()


def backends(text: str) -> dict[str, list[str]]:
    """The lines of each backend."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        kind, _blank, name = line.partition(" ")
        if line and not line.startswith((" ", "#", ".")):
            lines = found.setdefault(name, []) if kind == "backend" else []
        elif line.strip() and not line.strip().startswith("#"):
            lines.append(line.strip())
    return found


def test_two_instances_a_host_are_each_asked_for_by_name(tmp_path: Path) -> None:
    seen = backends(rendered(tmp_path, documented("# inventory: two instances a host")))
    assert sorted(seen) == ["chat", "embed"]
    for name, lines in seen.items():
        assert f"http-check send meth GET uri /ready/{name} ver HTTP/1.1 hdr Host %[srv_name]" in lines
        (words,) = [line for line in lines if line.startswith("default-server ")]
        assert words.startswith("default-server check inter 5s rise 5 fall 2 port 9410 ")
        assert words.endswith(f'agent-check agent-port 9410 agent-inter 1s agent-send "agent {name}\\n"')
    assert "server gpu2 192.0.2.12:8001" in seen["embed"]


def test_one_variable_points_the_check_at_the_keeper(tmp_path: Path) -> None:
    shared = documented("# group_vars/all.yml")
    inventory = documented("# inventory: two instances a host")
    inventory["all"]["vars"] = {**shared, "vllm_keeper_port": 9500}
    groups = inventory["all"]["children"]
    del groups["load_balancer"]["vars"], groups["vllm"]["vars"]
    (lines,) = backends(rendered(tmp_path, inventory)).values()
    assert "http-check send meth GET uri /ready ver HTTP/1.1 hdr Host %[srv_name]" in lines
    (words,) = [line for line in lines if line.startswith("default-server ")]
    assert " port 9410 " in words
    assert "agent-port 9500 " in words


def test_a_host_known_by_name_may_ask_for_the_fleet_by_the_addresses_that_the_balancer_knows(tmp_path: Path) -> None:
    inventory = documented("# inventory: two instances a host")
    inventory["all"]["children"]["vllm"]["hosts"] = {
        "gpu1": {"vllm_address": "localhost"},
        "gpu2": {"vllm_address": "gpu2.invalid"},
    }
    text = rendered(tmp_path, inventory)
    (line,) = [line for line in text.splitlines() if "set-var(txn.asker) str(gpu1)" in line]
    assert re.search(r"src .*(127\.0\.0\.1|::1)", line)
    assert "str(gpu2)" not in text
