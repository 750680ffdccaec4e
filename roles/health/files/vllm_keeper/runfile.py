# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`/run/vllm-keeper/<name>.json`: where `vllm-keeper run` is, for adapters of managers that only see that process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from vllm_keeper import processes, wholefile

DIRECTORY = Path("/run/vllm-keeper")


@dataclass(frozen=True)
class Run:
    """phase: one of the phases of vllm_keeper.decision."""

    runner: int
    born: int  # of the runner, in clock ticks since boot: with its pid, an identity
    phase: str
    detail: str = ""
    pid: int | None = None  # the API's
    pid_born: int = 0
    parent: int = 0  # the manager's process that started the runner
    ended: int = 0  # how many runs have ended since boot, so that who waits for a start sees it fail
    asked: bool = False  # it is ending because somebody asked for it, and not because its terminal went away
    writer: int = 0  # the process that writes the log; it outlives the servers


def read(name: str, directory: Path = DIRECTORY) -> Run | None:
    """What the last runner wrote, whether it still lives or not; None when none ever ran since boot."""
    try:
        data = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        return Run(**data)
    except (OSError, ValueError, TypeError):
        return None


def living(name: str, directory: Path = DIRECTORY, proc: Path = processes.PROC) -> Run | None:
    """The runner that is there now."""
    run = read(name, directory)
    if run is None:
        return None
    process = processes.read(run.runner, proc)
    return run if process is not None and process.born == run.born and not process.zombie else None


def abandoned(run: Run, proc: Path = processes.PROC) -> bool:
    """Whether the manager that started this living runner is gone: the kernel has given the runner another parent."""
    process = processes.read(run.runner, proc)
    return process is not None and (run.parent <= 1 or process.parent != run.parent)


def claim(name: str, directory: Path = DIRECTORY) -> bool:
    """Whether we are the one runner of this instance, from now on until this process ends. Raises OSError.

    A lock that only this process holds: neither its children nor what a killed runner leaves keep it.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        return False
    return True


def forget(name: str, directory: Path = DIRECTORY) -> None:
    for suffix in ("json", "lock", "order"):
        with contextlib.suppress(OSError):
            (directory / f"{name}.{suffix}").unlink()


def write(name: str, run: Run, directory: Path = DIRECTORY) -> None:
    """Raises OSError. Replaced in one step: a reader never sees half of it."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = json.dumps(asdict(run), sort_keys=True) + "\n"
    wholefile.write(directory / f"{name}.json", text, mode=0o644, durable=False)
