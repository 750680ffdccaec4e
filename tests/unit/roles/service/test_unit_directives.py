# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Own directives stand at the end of their section of the unit, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.systemd_directives import systemd_directives
from ansible_collections.steadfast.vllm.plugins.filter.systemd_hardening import systemd_hardening
from ansible_collections.steadfast.vllm.plugins.filter.systemd_limits import systemd_limits
from ansible_collections.steadfast.vllm.plugins.filter.systemd_lines import systemd_lines
from ansible_collections.steadfast.vllm.plugins.filter.systemd_quote import systemd_quote
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances, _systemd_versions
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

ROLE = Path(__file__).parents[4] / "roles" / "service"


def unit(own: dict[str, Any], version: int | None = 257, instance: dict[str, Any] | None = None, **more: object) -> str:
    """The unit of the guide's instance, rendered with the options of managed_files."""
    environment = Environment(
        loader=FileSystemLoader(ROLE / "templates"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=select_autoescape(),
    )
    for name in (systemd_directives, systemd_hardening, systemd_limits, systemd_lines, systemd_quote):
        environment.filters[f"steadfast.vllm.{name.__name__}"] = name
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    (complete,) = _instances.normalise(None if instance is None else [instance])
    # Variables of other roles, as site.yml has them.
    defaults |= {"service_user": "vllm", "service_group": "vllm", "service_home": "/var/lib/vllm"}
    facts = {} if version is None else {"systemd": {"version": version}}
    variables = {**defaults, "service_unit_directives": own, "instance": complete, "ansible_facts": facts, **more}
    return environment.get_template("systemd.service.j2").render(variables)


def sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def test_own_directives_come_last_in_their_section() -> None:
    plain = sections(unit({}))
    own = {
        "Service": {"SupplementaryGroups": ["video", "render"], "KillMode": "control-group"},
        "Unit": {"After": "nfs-client.target"},
        "Install": {"Alias": "model.service"},
    }
    assert sections(unit(own)) == {
        "Unit": [*plain["Unit"], "After=nfs-client.target"],
        "Service": [
            *plain["Service"],
            "SupplementaryGroups=video",
            "SupplementaryGroups=render",
            "KillMode=control-group",
        ],
        "Install": [*plain["Install"], "Alias=model.service"],
    }


def test_without_own_directives_nothing_is_left_of_them() -> None:
    text = unit({})
    assert text.startswith("# Written by steadfast.vllm.service.")
    assert text.endswith("WantedBy=multi-user.target\n")
    assert "\n\n\n" not in text


@pytest.mark.parametrize("version", [None, 249, 252, 255, 257])
def test_no_line_of_the_unit_is_newer_than_the_hosts_systemd(version: int | None) -> None:
    own = {"Service": {"RestartSteps": 3, "PrivateTmp": "disconnected", "Nice": 1}, "Unit": {"WantsMountsFor": "/srv"}}
    limits = {"memory": "64G", "io_weight": 50, "memlock": "infinity"}
    found = sections(unit(own, version, {"name": "mine", "model": "/srv/mine", "limits": limits}))
    pairs = [(line.partition("=")[0], line.partition("=")[2]) for lines in found.values() for line in lines]
    assert [pair for pair in pairs if _systemd_versions.needs(*pair) > (version or 249)] == []
    kept = {name for name, _value in pairs} & {"RestartSteps", "WantsMountsFor", "Nice"}
    assert kept == {
        name
        for name, first in (("RestartSteps", 254), ("WantsMountsFor", 256), ("Nice", 0))
        if first <= (version or 249)
    }


def test_the_unit_itself_needs_nothing_newer_than_the_oldest_systemd() -> None:
    assert "left out" not in unit({}, None)
    assert unit({}, None) == unit({}, 257)


def test_what_the_guide_sets_is_the_default() -> None:
    found = sections(unit({}))
    assert "StartLimitIntervalSec=0" in found["Unit"]
    assert {"Restart=always", "RestartSec=10", "StandardOutput=journal", "TimeoutStartSec=930"} <= set(found["Service"])
    other = sections(unit({}, service_restart_sec=3, service_restart_policy="no", service_output="append:/var/log/x"))
    assert {"Restart=no", "RestartSec=3", "StandardOutput=append:/var/log/x"} <= set(other["Service"])


def test_drivers_are_loaded_before_devices_are_allowed_unless_there_is_no_gpu() -> None:
    found = sections(unit({}))
    assert {"Wants=modprobe@nvidia_uvm.service", "After=modprobe@nvidia_uvm.service"} <= set(found["Unit"])
    without = unit({}, instance={"name": "mine", "model": "/srv/mine", "gpus": []})
    assert "nvidia_uvm" not in without
    assert "nvidia-modprobe" not in without
    assert "DeviceAllow" not in without


def test_an_output_that_would_smuggle_a_directive_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="a line break or NUL would end the directive"):
        unit({}, service_output="journal\nUser=root")
