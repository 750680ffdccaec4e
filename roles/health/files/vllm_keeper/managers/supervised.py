# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the managers share that only know a foreground process: theirs is `vllm-keeper run`, which knows the rest."""

from __future__ import annotations

import abc
import os
import time
from dataclasses import dataclass
from pathlib import Path

from vllm_keeper import decision as d
from vllm_keeper import processes, runfile
from vllm_keeper.logfile import tail
from vllm_keeper.managers.base import Completed, Manager, Observed

PARKED_SETTLES = 4.0  # seconds, a few of the runner's own looks
POLL = 0.2


@dataclass(frozen=True)
class Known:
    """What the manager itself says. up: the process that it was given runs, or is about to."""

    exists: bool
    up: bool
    detail: str
    enabled: bool = True
    failed: bool = False


class Supervised(Manager):
    run_directory = runfile.DIRECTORY
    proc = processes.PROC

    @abc.abstractmethod
    def known(self) -> Known:
        """Asks the manager. Raises ManagerError when it cannot be asked."""

    def observe(self) -> Observed:
        run = runfile.living(self.instance.name, self.run_directory, self.proc)
        return interpret(self.known(), run, *self._ages(run))

    def kill(self) -> Completed:
        run = runfile.living(self.instance.name, self.run_directory, self.proc)
        if run is None:
            return Completed(1, "", "it does not run")
        below = processes.kin(run.runner, self.proc)
        # The runner stays: it sees the end, tells why, and lets the manager go on. So does who writes its log.
        stay = {run.runner, run.writer}
        processes.end((process for pid, process in below.items() if pid not in stay), self.proc)
        return Completed(0, "", "")

    def logs(self, lines: int) -> list[str]:
        return tail(Path(self.instance.log_file), lines)

    def follow(self, lines: int) -> list[str]:
        return ["tail", "-n", str(lines), "-F", self.instance.log_file]

    def job(self) -> str:
        run = runfile.living(self.instance.name, self.run_directory, self.proc)
        return "stop" if run is not None and run.phase == d.STOPPING and run.asked else ""

    def definition(self) -> tuple[list[str], list[str]]:
        # `current` is a link: pointing it at another release is a change, though no file differs.
        return self.files(), [os.path.realpath(self.instance.release)]

    @abc.abstractmethod
    def files(self) -> list[str]:
        """The files that say how it is run."""

    def await_ready(self, wait: float, ended_before: int) -> Completed:
        """For a start that was ordered: until it is ready, failed or held for good, or that many seconds are over."""
        begun = time.monotonic()
        while time.monotonic() - begun < wait:
            run = runfile.read(self.instance.name, self.run_directory)
            if run is not None and run.ended > ended_before:
                return Completed(1, "", f"it ended before it was ready; see {self.instance.log_file}")
            alive = runfile.living(self.instance.name, self.run_directory, self.proc)
            if alive is not None and alive.phase == d.RUNNING:
                return Completed(0, "", "")
            held = alive.detail if alive is not None and alive.phase == d.HELD else ""
            # A runner that was parked takes a moment to see that what it was parked for has changed.
            if held.startswith("parked") and time.monotonic() - begun > PARKED_SETTLES:
                return Completed(1, "", held)
            time.sleep(POLL)
        return Completed(124, "", f"not ready within {wait:g} s")

    def await_gone(self, wait: float) -> Completed:
        """For a stop that was ordered: until no process of it is left, or that many seconds are over."""
        end = time.monotonic() + wait
        ending = runfile.living(self.instance.name, self.run_directory, self.proc)
        while ending is not None:
            now = runfile.living(self.instance.name, self.run_directory, self.proc)
            if now is None or (now.runner, now.born) != (ending.runner, ending.born):  # somebody else's start
                break
            if time.monotonic() >= end:
                return Completed(124, "", f"still there after {wait:g} s")
            time.sleep(POLL)
        return Completed(0, "", "")

    def ended(self) -> int:
        """How many runs have ended; to be taken before a start is ordered."""
        run = runfile.read(self.instance.name, self.run_directory)
        return 0 if run is None else run.ended

    def _ages(self, run: runfile.Run | None) -> tuple[int | None, float | None]:
        """(pid, age in seconds) of the API."""
        if run is None or run.pid is None:
            return None, None
        process = processes.read(run.pid, self.proc)
        if process is None or process.zombie or process.born != run.pid_born:
            return None, None
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        return run.pid, max(0.0, up - process.born / os.sysconf("SC_CLK_TCK"))


def interpret(known: Known, run: runfile.Run | None, pid: int | None, age: float | None) -> Observed:
    """Pure: the manager's word and the runner's word as one."""
    if not known.exists:
        phase, detail = d.MISSING, known.detail
    elif run is not None:
        phase, detail = run.phase, run.detail or known.detail
    elif known.up:
        phase, detail = d.HELD, known.detail
    else:
        phase, detail = d.FAILED if known.failed else d.STOPPED, known.detail
    return Observed(phase, detail, known.enabled, pid, age, "", 0 if run is None else run.ended)
