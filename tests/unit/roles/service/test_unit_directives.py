# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Own directives stand at the end of their section of the unit, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.steadfast.vllm.plugins.filter.systemd_directives import systemd_directives
from ansible_collections.steadfast.vllm.plugins.filter.systemd_hardening import systemd_hardening
from ansible_collections.steadfast.vllm.plugins.filter.systemd_limits import systemd_limits
from ansible_collections.steadfast.vllm.plugins.filter.systemd_lines import systemd_lines
from ansible_collections.steadfast.vllm.plugins.filter.systemd_quote import systemd_quote
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances
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
