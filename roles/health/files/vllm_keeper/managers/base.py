# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract that every process manager's adapter fulfils."""

from __future__ import annotations

import abc
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_keeper import processes
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import Instance


class ManagerError(Exception):
    """The manager could not be asked, or refused."""


@dataclass(frozen=True)
class Completed:
    code: int
    out: str
    err: str


ASK = 20.0  # a manager answers in milliseconds; a host that swaps may take seconds

Runner = Callable[[Sequence[str], float], Completed]


def run(command: Sequence[str], within: float) -> Completed:
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"no end within {within:g} s")
    except OSError as error:
        return Completed(127, "", f"{command[0]}: {error.strerror or error}")
    return Completed(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


@dataclass(frozen=True)
class Observed:
    """phase: one of the phases of vllm_keeper.decision; detail: in the manager's words. pausing: it has ended, and the
    manager lets time pass until it starts it again.
    """

    phase: str
    detail: str
    enabled: bool
    main_pid: int | None
    process_age: float | None  # seconds since the main process began
    group: str  # control group, "" where there is none
    restarts: int = 0
    pausing: bool = False


class Manager(abc.ABC):
    # Whether gate, wait-ready, stopping and stopped run around each start: by the unit, or by `vllm-keeper run`. Where
    # they do not, because the manager starts by itself, the keeper does their work from outside.
    HOOKED = True
    # Whether what is enabled starts when the host boots, without the keeper.
    STARTS_ON_BOOT = True
    # Whether what was stopped on purpose stays stopped over a boot.
    STOPS_FOR_GOOD = False
    # Whether revive starts a server that has just crashed sooner than the manager itself would.
    REVIVES = False
    # Whether job tells a restart from a stop: elsewhere a restart begins with a job that is a stop like any other.
    TELLS_RESTARTS = False
    leave = ""  # the keys that leave an attached terminal

    def __init__(self, instance: Instance, runner: Runner = run) -> None:
        self.instance, self._run = instance, runner

    @abc.abstractmethod
    def observe(self) -> Observed: ...

    @abc.abstractmethod
    def start(self, wait: float = 0) -> Completed:
        """Asks for a start; with `wait`, returns when it is ready or has failed, after that many seconds at most."""

    @abc.abstractmethod
    def stop(self, wait: float = 0) -> Completed:
        """Drains, stops, and leaves no process."""

    @abc.abstractmethod
    def restart(self, wait: float = 0) -> Completed: ...

    @abc.abstractmethod
    def kill(self) -> Completed:
        """SIGKILL to every process of the instance at once."""

    @abc.abstractmethod
    def logs(self, lines: int) -> list[str]: ...

    @abc.abstractmethod
    def follow(self, lines: int) -> list[str]:
        """The command that shows the logs and goes on showing them."""

    @abc.abstractmethod
    def job(self) -> str:
        """What the manager is about to do to it: "", "start", "stop" or "restart"."""

    @abc.abstractmethod
    def definition(self) -> tuple[list[str], list[str]]:
        """(files, facts) that say how it is run: a change of them is a change of configuration."""

    @abc.abstractmethod
    def enable(self, on: bool) -> Completed:
        """Whether it starts when the host boots."""

    def revive(self) -> Completed:
        """Its main process has just ended by itself: starts it now, not after the manager's own pause."""
        return Completed(0, "", "")

    def catch_up(self, state: st.State, now: Moment, words: Callable[[list[str]], str]) -> list[str]:
        """Where it is not HOOKED: brings the history up to date; why runs ended. WORDS finds the telling log line."""
        return []

    def remove(self) -> Completed:
        """What the manager itself keeps of an instance that it is not to run any more."""
        return Completed(0, "", "")

    def owns(self, listener: processes.Process) -> bool:
        """Whether this process listens at the instance's port on behalf of the manager."""
        return False

    def hang_up(self, asked: bool) -> bool:
        """For the unit around a session: waits for the run to end. ASKED: it is told to. False: there is no session."""
        return False

    def look_again(self) -> Completed:
        """For the same unit: a check, out of its control group."""
        return Completed(0, "", "")

    def attach(self) -> list[str]:
        """The command that shows its terminal; [] where there is none."""
        return []

    def notice(self) -> str:
        """What whoever relies on this manager must know, said by status; "" for nothing."""
        return ""

    def host_going_down(self) -> bool:
        # Without systemd the command is not there, and nobody can tell.
        return self._run(["systemctl", "is-system-running"], ASK).out.strip() == "stopping"

    def why(self, done: Completed) -> str:
        """The last line that a command said."""
        return (done.err.strip() or done.out.strip() or f"exit code {done.code}").splitlines()[-1]
