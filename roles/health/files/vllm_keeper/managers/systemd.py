# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd, the reference manager."""

from __future__ import annotations

import os
import re
import shlex
import time

from vllm_keeper import decision as d
from vllm_keeper.managers.base import ASK, Completed, Manager, ManagerError, Observed

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "MainPID",
    "ExecMainStartTimestampMonotonic",
    "ControlGroup",
    "NRestarts",
    "LoadError",
)


class Systemd(Manager):
    REVIVES = True
    TELLS_RESTARTS = True

    def observe(self) -> Observed:
        return interpret(self._show(*PROPERTIES), self.instance.unit, time.monotonic())

    def start(self, wait: float = 0) -> Completed:
        return self._order("start", wait)

    def stop(self, wait: float = 0) -> Completed:
        return self._order("stop", wait)

    def restart(self, wait: float = 0) -> Completed:
        return self._order("restart", wait)

    def revive(self) -> Completed:
        # Not start: systemd lets that wait for RestartSec too.
        return self.restart()

    def kill(self) -> Completed:
        # All processes of the control group are systemctl's default; naming it differs between versions.
        return self._run(["systemctl", "kill", "--signal=SIGKILL", "--", self.instance.unit], ASK)

    def logs(self, lines: int) -> list[str]:
        command = [
            "journalctl",
            "--unit",
            self.instance.unit,
            "--lines",
            str(lines),
            "--output=short-iso",
            "--no-pager",
        ]
        done = self._run([*command, "--quiet"], ASK)
        return done.out.splitlines() if done.code == 0 else []

    def follow(self, lines: int) -> list[str]:
        return ["journalctl", "--unit", self.instance.unit, "--lines", str(lines), "--follow"]

    def job(self) -> str:
        done = self._run(["systemctl", "list-jobs", "--no-legend", "--no-pager", "--full"], ASK)
        if done.code != 0:
            raise ManagerError(f"systemctl list-jobs: {self.why(done)}")
        return parse_jobs(done.out, self.instance.unit)

    def definition(self) -> tuple[list[str], list[str]]:
        shown = self._show("FragmentPath", "DropInPaths", "ExecStart")
        files = [path for path in [shown.get("FragmentPath", ""), *split_paths(shown.get("DropInPaths", ""))] if path]
        program = re.search(r"\bpath=(\S+)", shown.get("ExecStart", ""))
        # `current` is a link: pointing it at another release is a change, though no file of the unit differs.
        return files, [os.path.realpath(program.group(1))] if program else []

    def enable(self, on: bool) -> Completed:
        return self._run(["systemctl", "enable" if on else "disable", "--", self.instance.unit], ASK)

    def _order(self, verb: str, wait: float) -> Completed:
        options = [] if wait else ["--no-block"]
        return self._run(["systemctl", verb, *options, "--", self.instance.unit], wait or ASK)

    def _show(self, *properties: str) -> dict[str, str]:
        done = self._run(
            ["systemctl", "show", "--no-pager", f"--property={','.join(properties)}", "--", self.instance.unit], ASK
        )
        if done.code != 0:
            raise ManagerError(f"systemctl show {self.instance.unit}: {self.why(done)}")
        return parse_show(done.out)


def parse_show(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def split_paths(text: str) -> list[str]:
    """DropInPaths: blank-separated, quoted where a path holds a blank."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def parse_jobs(text: str, unit: str) -> str:
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[1] == unit:
            kind = fields[2]
            if "restart" in kind:
                return "restart"
            if kind in ("start", "stop"):
                return kind
    return ""


def interpret(shown: dict[str, str], unit: str, monotonic: float) -> Observed:
    """Pure: systemd's states in the keeper's words."""
    load, active, sub = (shown.get(key, "") for key in ("LoadState", "ActiveState", "SubState"))
    pid = _number(shown.get("MainPID")) or None
    begun = _number(shown.get("ExecMainStartTimestampMonotonic"))
    detail = f"{active} ({sub})" if sub and sub != active else active
    if shown.get("Result", "success") not in ("", "success"):
        detail += f", result {shown['Result']}"
    if load == "not-found":
        phase, detail = d.MISSING, f"{unit} does not exist"
    elif load in ("error", "bad-setting"):
        phase, detail = d.MISSING, f"{unit} cannot be loaded ({load}; see systemctl status {unit})"
    elif active in ("active", "reloading", "refreshing"):
        phase = d.RUNNING
    elif active == "activating":
        phase = d.STARTING if sub in ("start", "start-post") and pid else d.HELD
    elif active == "deactivating":
        phase = d.STOPPING
    elif active in ("failed", "inactive", "maintenance"):
        phase = d.FAILED if active == "failed" else d.STOPPED
    else:
        raise ManagerError(f"systemctl show {unit}: unknown ActiveState {active!r}")
    age: float | None = None
    if pid and begun:
        age = max(0.0, monotonic - begun / 1e6)
    return Observed(
        phase=phase,
        detail=detail,
        enabled=shown.get("UnitFileState", "") in ("enabled", "enabled-runtime"),
        main_pid=pid,
        process_age=age,
        group=shown.get("ControlGroup", ""),
        restarts=_number(shown.get("NRestarts")),
        pausing=sub == "auto-restart",
    )


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
