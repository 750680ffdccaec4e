# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each process manager needs on a host, as managed_files takes it (private to this collection). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Instance = Mapping[str, Any]
Options = Mapping[str, Any]


def retire(keeper: str, manager: str, name: str, control: Sequence[str] = ()) -> list[str]:
    """The command that ends an instance under the manager that ran it, before that one's file goes."""
    words = [keeper, "retire", "--manager", manager]
    for word in control:
        words += ["--control", word]
    return [*words, name]


def systemd(instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    """One unit an instance. A drop-in put there by hand changes what a unit runs, and goes."""
    return {
        "files": [
            {
                "path": f"/etc/systemd/system/{one['unit']}",
                "template": "systemd.service.j2",
                "vars": {"instance": one},
                "validate": "systemd-analyze verify %s",
                "validate_as": one["unit"],
                "owes": ["systemd", one["name"]],
                "before_remove": retire(options["keeper"], "systemd", one["name"]),
            }
            for one in instances
        ],
        "exclusive": [
            {
                "path": f"/etc/systemd/system/{one['unit']}.d",
                "pattern": "*.conf",
                "owes": ["systemd", one["name"]],
            }
            for one in instances
        ],
        "actions": [{"name": "systemd", "command": ["systemctl", "daemon-reload"]}],
    }


MANAGERS: dict[str, Callable[[Sequence[Instance], Options], dict[str, Any]]] = {"systemd": systemd}


def plan(instances: Sequence[Instance], manager: str, options: Options) -> dict[str, Any]:
    """{"files", "exclusive", "actions"} for the instances under one manager.

    A unit that another manager's run left owed is reloaded by whoever comes next, so systemd's action is always there:
    it costs nothing where nothing is owed.
    """
    found = MANAGERS[manager](instances, options)
    actions = {action["name"]: action for action in [*systemd((), options)["actions"], *found["actions"]]}
    return {**found, "actions": list(actions.values())}
