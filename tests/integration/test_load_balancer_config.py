# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAProxy's own parser accepts whatever the view and the template make."""

from __future__ import annotations

import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils._balancer import view
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import complete
from ansible_collections.steadfast.vllm.tests.integration.balancer_rig import ROLE, instance, options, render

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the package haproxy")


def checked(text: str, folder: Path) -> str:
    """What `haproxy -c` has to say, without the line about the state that only a reload leaves."""
    config = folder / "haproxy.cfg"
    config.write_text(text)
    done = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in lines if "[WARNING]" in line and "global server state file" not in line)


HOSTS = [
    {"host": "gpu1", "address": "127.0.0.1", "instances": [instance(8000), instance(8001, "embed-v1.5")]},
    {"host": "gpu2.example.org", "address": "::1", "instances": [instance(8000)]},
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"slow_start": 30},
        {"bind_address": "::"},
        {"mode": "primary_standby", "standby": ["gpu2.example.org"]},
        {"agent": True},
        {"fleet": True, "fleet_clients": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]},
        {"agent": True, "fleet": True, "bind_address": "::"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "health_check",
    [
        {},
        {"matcher": "200,202-204,301"},
        {"path": '/it\'s?a=%20b&c="d"#$HOME\\'},
        {"protocol": "HTTPS", "port": 9443},
        {"protocol": "TCP"},
        {"path": "/ready/{name}", "port": 9410},
    ],
    ids=str,
)
def test_haproxy_takes_it_without_a_warning(
    tmp_path: Path, changes: dict[str, t.Any], health_check: dict[str, t.Any]
) -> None:
    seen = view(HOSTS, complete(health_check), options(**changes))
    assert checked(render(seen, tmp_path), tmp_path) == ""


@pytest.mark.parametrize("variable", ["load_balancer_prometheus", "load_balancer_served_by_header"])
def test_haproxy_takes_it_with_parts_left_out(tmp_path: Path, variable: str) -> None:
    seen = view(HOSTS, complete(), options())
    assert checked(render(seen, tmp_path, **{variable: False}), tmp_path) == ""


def test_a_name_that_is_not_known_yet_does_not_stop_the_others(tmp_path: Path) -> None:
    hosts = [*HOSTS, {"host": "gpu3", "address": "gpu3.invalid", "instances": [instance(8000)]}]
    assert "could not resolve address 'gpu3.invalid'" in checked(
        render(view(hosts, complete(), options(agent=True, fleet=True)), tmp_path), tmp_path
    )


def test_a_hundred_hosts_and_what_may_ask_for_them_are_taken(tmp_path: Path) -> None:
    hosts = [
        {"host": f"gpu{number}", "address": f"10.0.0.{number}", "instances": [instance(8000)]}
        for number in range(1, 101)
    ]
    assert checked(render(view(hosts, complete(), options(agent=True, fleet=True)), tmp_path), tmp_path) == ""


def test_the_roles_options_are_described_and_defaulted_alike() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    described = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in described.items()} == defaults
