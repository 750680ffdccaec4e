# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each process manager needs on a host, as managed_files takes it (private to this collection). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _compose, _sessions, _supervisor

Instance = Mapping[str, Any]
Options = Mapping[str, Any]


def retire(keeper: str, manager: str, name: str, control: Sequence[str] = ()) -> list[str]:
    """The command that ends an instance under the manager that ran it, before that one's file goes."""
    words = [keeper, "retire", "--manager", manager]
    # In one word each: a word of the command may itself begin with a dash.
    words += [f"--control={word}" for word in control]
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


def supervisor(instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    """One program an instance, in a file of its own: a section [group] would restart all when one comes or goes."""
    source, root = options["supervisor"]["source"], options["supervisor"]["root"]
    return {
        "files": [
            {"path": _supervisor.LOGS, "state": "directory", "mode": "0750"},
            *_supervisor.daemon_files(instances, source, root),
            *(
                {
                    "path": f"{_supervisor.PROGRAMS}/{one['name']}.conf",
                    "template": "supervisor_program.conf.j2",
                    "vars": {"instance": one, "program": _supervisor.program(one, options)},
                    "owes": [one["name"]],
                    "before_remove": retire(
                        options["keeper"], "supervisor", one["name"], _supervisor.control(source, root)
                    ),
                }
                for one in instances
            ),
        ],
        "exclusive": [],
        # A host may be without systemd, and supervisor can do without it.
        "actions": [
            {
                "name": "systemd",
                "command": ["/bin/sh", "-c", "test ! -d /run/systemd/system || systemctl daemon-reload"],
            }
        ],
    }


def compose(instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    """One project an instance. Compose reads whatever lies beside its file (.env, another override), so nothing may."""
    return {
        "files": _compose.files(instances, options["compose"], lambda name: retire(options["keeper"], "compose", name)),
        "exclusive": [{"path": f"{_compose.DIRECTORY}/{one['name']}", "owes": [one["name"]]} for one in instances],
        "actions": [],
    }


def tmux(instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    return _session("tmux", instances, options)


def screen(instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    return _session("screen", instances, options)


def _session(program: str, instances: Sequence[Instance], options: Options) -> dict[str, Any]:
    """One script an instance, which a detached session runs, or somebody by hand."""
    folders = [f"{_sessions.SCRIPTS}/{program}", *(_sessions.folder(program, one["name"]) for one in instances)]
    return {
        "files": [
            *({"path": path, "state": "directory"} for path in folders),
            *(
                {
                    "path": f"{_sessions.folder(program, one['name'])}/start_server.sh",
                    "template": "session_start_server.sh.j2",
                    "vars": {"instance": one, "script": _sessions.script(one, options)},
                    "mode": "0755",
                    "validate": "sh -n %s",
                    "owes": [one["name"]],
                    "before_remove": retire(options["keeper"], program, one["name"]),
                }
                for one in instances
            ),
        ],
        "exclusive": [],
        "actions": [],
    }


MANAGERS: dict[str, Callable[[Sequence[Instance], Options], dict[str, Any]]] = {
    "systemd": systemd,
    "supervisor": supervisor,
    "compose": compose,
    "tmux": tmux,
    "screen": screen,
}


def plan(instances: Sequence[Instance], manager: str, options: Options) -> dict[str, Any]:
    """{"files", "exclusive", "actions"} for the instances under one manager.

    A unit that another manager's run left owed is reloaded by whoever comes next, so systemd's action is always there:
    it costs nothing where nothing is owed.
    """
    found = MANAGERS[manager](instances, options)
    actions = {action["name"]: action for action in [*systemd((), options)["actions"], *found["actions"]]}
    return {**found, "actions": list(actions.values())}
