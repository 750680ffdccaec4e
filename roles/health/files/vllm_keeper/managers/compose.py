# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Compose: one project with one container an instance, all of the instance's name."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vllm_keeper import decision as d
from vllm_keeper import history, processes
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.managers.base import ASK, Completed, Manager, ManagerError, Observed

DOCKER = ("docker",)
STOP_SLACK = 20.0  # beside the container's own time to stop: Docker's work
ENGINE_PID = Path("/run/docker.pid")
NOT_THERE = "No such container"
LONGEST_STOP = 7200.0  # seconds: an older order was not heeded, or is of a clock that jumped


class Compose(Manager):
    # Docker restarts a container that ended by itself, and runs no command of ours before or after.
    HOOKED = False
    STOPS_FOR_GOOD = True  # restart: unless-stopped
    directory = Path("/etc/vllm/compose")
    proc = processes.PROC

    _shown: dict[str, Any] | None = None  # what Docker said when it was last asked

    def observe(self) -> Observed:
        shown = self._shown = self._inspect()
        defined = (self._folder / "compose.yaml").exists()
        return interpret(shown, defined, self.instance.name, self._age(_pid(shown)))

    def start(self, wait: float = 0) -> Completed:
        # Makes the container anew if its definition differs from what runs, else starts it.
        return self._compose(wait or 2 * ASK, "up", "--detach", "--no-build", "--remove-orphans")

    def stop(self, wait: float = 0) -> Completed:
        # SIGTERM goes to the container's first process, which passes it on to the API alone; what is left when the
        # project's stop_grace_period is over gets SIGKILL. The container stays, with its logs.
        done = self._docker("stop", self.instance.name, within=wait or self.instance.drain_timeout + 60 + STOP_SLACK)
        return Completed(0, done.out, "") if NOT_THERE in done.err else done

    def restart(self, wait: float = 0) -> Completed:
        stopped = self.stop(wait)
        return stopped if stopped.code else self.start(wait)

    def kill(self) -> Completed:
        return self._docker("kill", "--signal", "KILL", self.instance.name)

    def enable(self, on: bool) -> Completed:
        return self._docker("update", "--restart", "unless-stopped" if on else "no", self.instance.name)

    def remove(self) -> Completed:
        """Container, network and volumes, found by the project's name: its files may be gone."""
        return self._docker(
            "compose", "--project-name", self.instance.name, "down", "--volumes", "--remove-orphans", within=120
        )

    def logs(self, lines: int) -> list[str]:
        done = self._docker("logs", "--timestamps", "--tail", str(lines), self.instance.name)
        return merge(done)[-lines:] if done.code == 0 else []

    def follow(self, lines: int) -> list[str]:
        return [*self._command, "logs", "--tail", str(lines), "--follow", self.instance.name]

    def job(self) -> str:
        """Docker has no queue, but a container that was told to end counts as running until it has."""
        if _pid(self._shown) is None:
            return ""
        now = time.time()
        begun = nanoseconds(((self._shown or {}).get("State") or {}).get("StartedAt")) / history.SECOND
        done = self._docker(
            "events",
            *("--since", f"{max(begun, now - LONGEST_STOP):.9f}", "--until", f"{now:.9f}"),
            *("--filter", "type=container", "--filter", f"container={self.instance.name}", "--filter", "event=kill"),
            *("--format", "{{json .}}"),
        )
        if done.code:
            raise ManagerError(f"docker events: {self.why(done)}")
        return "stop" if any(event.signal in history.ENDING for event in parse_events(done.out)) else ""

    def definition(self) -> tuple[list[str], list[str]]:
        return [str(path) for path in self._files()], []

    def owns(self, listener: processes.Process) -> bool:
        # Docker itself listens at a published port, and starts no container whose port is taken.
        return os.path.basename(listener.command[0]) in ("docker-proxy", "dockerd") if listener.command else False

    def catch_up(self, state: st.State, now: Moment, words: Callable[[list[str]], str]) -> list[str]:
        """What Docker did since the state was written last; why runs ended. Raises ManagerError."""
        shown = self._inspect()

        def said(start: st.Start, end: Moment) -> str:
            # From the run's own lines: the next run may have said something since.
            since, until = (f"{value:.3f}" for value in (start.at.wall, end.wall + 1))
            span = ("--since", since, "--until", until)
            lines = merge(self._docker("logs", "--timestamps", "--tail", "200", *span, self.instance.name))
            return words([line.split(" ", 1)[-1] for line in lines])

        seen = summary(shown, self._engine_since())
        return history.catch_up(state, seen, self._events(state.followed, now), now, said)

    def _events(self, since: int, now: Moment) -> list[history.Event]:
        done = self._docker(
            "events",
            *("--since", f"{since // history.SECOND}.{since % history.SECOND:09d}", "--until", f"{now.wall:.9f}"),
            *("--filter", "type=container", "--filter", f"container={self.instance.name}"),
            *("--format", "{{json .}}"),
        )
        if done.code:
            raise ManagerError(f"docker events: {self.why(done)}")
        return parse_events(done.out)

    @property
    def _command(self) -> list[str]:
        return list(self.instance.control or DOCKER)

    @property
    def _folder(self) -> Path:
        return self.directory / self.instance.name

    def _files(self) -> list[Path]:
        return [self._folder / "compose.yaml", self._folder / "compose.override.yaml"]

    def _docker(self, *words: str, within: float = ASK) -> Completed:
        return self._run([*self._command, *words], within)

    def _compose(self, within: float, *words: str) -> Completed:
        files = [word for path in self._files() if path.exists() for word in ("--file", str(path))]
        return self._docker("compose", "--ansi", "never", "--progress", "quiet", *files, *words, within=within)

    def _inspect(self) -> dict[str, Any] | None:
        """What Docker says of the container; None when there is none."""
        done = self._docker("container", "inspect", self.instance.name)
        if done.code and NOT_THERE in done.err:
            return None
        try:
            (shown,) = json.loads(done.out)
            if done.code == 0 and isinstance(shown, dict):
                return shown
        except ValueError:
            pass
        raise ManagerError(f"docker inspect {self.instance.name}: {self.why(done)}")

    def _age(self, pid: int | None) -> float | None:
        process = processes.read(pid, self.proc) if pid else None
        if process is None:
            return None
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, up - process.born / os.sysconf("SC_CLK_TCK"))

    def _engine_since(self) -> int:
        """When the engine's own process began, in nanoseconds since 1970; 0 when that cannot be told."""
        try:
            age = self._age(int(ENGINE_PID.read_text(encoding="ascii")))
        except (OSError, ValueError):
            return 0
        return 0 if age is None else int((time.time() - age) * history.SECOND)


def _pid(shown: dict[str, Any] | None) -> int | None:
    state = (shown or {}).get("State") or {}
    return state.get("Pid") or None


def interpret(shown: dict[str, Any] | None, defined: bool, name: str, age: float | None) -> Observed:
    """Pure: the container's state in the keeper's words."""
    if shown is None:
        # A start makes the container, and its definition says that it is to start on boot.
        phase, detail = (d.STOPPED, "no container yet") if defined else (d.MISSING, f"no project {name}")
        return Observed(phase, detail, defined, None, None, "")
    state = shown.get("State") or {}
    status, error = str(state.get("Status", "")), str(state.get("Error") or "")
    health = (state.get("Health") or {}).get("Status", "")
    phases = {
        "running": d.RUNNING,
        "paused": d.RUNNING,
        "restarting": d.HELD,
        "removing": d.STOPPING,
        "created": d.FAILED if error else d.STOPPED,
        "exited": d.FAILED if error else d.STOPPED,
        "dead": d.FAILED,
    }
    if status not in phases:
        raise ManagerError(f"docker inspect {name}: unknown state {status!r}")
    runs = phases[status] == d.RUNNING
    words = [status]
    if runs and health not in ("", "none"):
        words.append(f"{health} by its own check")
    if not runs and status != "created":
        words.append(f"exit status {state.get('ExitCode')}")
    if state.get("OOMKilled"):
        words.append("out of memory")
    if error:
        words.append(error)
    return Observed(
        phase=phases[status],
        detail=", ".join(words),
        enabled=_policy(shown) in ("always", "unless-stopped"),
        main_pid=_pid(shown) if runs else None,
        process_age=age if runs else None,
        group="",  # the kernel ends whatever is in a container with its first process
        restarts=int(shown.get("RestartCount") or 0),
    )


def _policy(shown: dict[str, Any]) -> str:
    return str(((shown.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "")


def summary(shown: dict[str, Any] | None, engine_since: int) -> history.Seen:
    """Pure: the part of a container's state that its history is made from."""
    if shown is None:
        return history.Seen(engine_since=engine_since)
    state = shown.get("State") or {}
    status = state.get("Status")
    return history.Seen(
        exists=True,
        running=status in ("running", "paused"),
        pid=_pid(shown),
        started=nanoseconds(state.get("StartedAt")),
        finished=nanoseconds(state.get("FinishedAt")),
        exit_status=int(state.get("ExitCode") or 0),
        oom=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        comes_back=status == "restarting",
        kept_up=_policy(shown) in ("always", "unless-stopped"),
        engine_since=engine_since,
    )


def nanoseconds(stamp: object) -> int:
    """`2026-11-22T06:12:01.123456789Z` as nanoseconds since 1970; 0 for Docker's year 1, which means never."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", str(stamp))
    if not found or found[1].startswith("0001-"):
        return 0
    whole = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    return int(whole.astimezone(timezone.utc).timestamp()) * history.SECOND + int((found[2] or "").ljust(9, "0"))


def parse_events(text: str) -> list[history.Event]:
    """Docker's events, one JSON object a line; what has no meaning here is left out."""
    found = []
    for line in text.splitlines():
        try:
            data = json.loads(line)
            action, at = str(data["Action"]), int(data["timeNano"])
            facts = (data.get("Actor") or {}).get("Attributes") or {}
            status = int(facts.get("exitCode") or 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if action == "health_status: healthy":
            action = "healthy"
        if action in ("start", "die", "oom", "kill", "stop", "healthy"):
            found.append(history.Event(at, action, status, str(facts.get("signal") or "")))
    return found


def merge(done: Completed) -> list[str]:
    """Both streams of `docker logs --timestamps`, in the order in which they were written."""
    return sorted([*done.out.splitlines(), *done.err.splitlines()], key=lambda line: line.split(" ", 1)[0])
