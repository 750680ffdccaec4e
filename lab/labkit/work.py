# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that are done once, one at a time, and say how long they took."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class LabError(Exception):
    """Something that the user can mend; the text says how."""


def cache_root(environ: dict[str, str] | os._Environ[str] = os.environ) -> Path:
    """The folder that inventories/lab/group_vars/all.yml derives in the same way."""
    if environ.get("STEADFAST_CACHE"):
        return Path(environ["STEADFAST_CACHE"])
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/root"), ".cache")
    return Path(base) / "steadfast-vllm"


def digest(*parts: object) -> str:
    """Twelve hex digits that change when any part does."""
    data = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(data.encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Workshop:
    """The cache folder, its locks, and the log that says what was done."""

    root: Path
    steps: list[dict[str, object]] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lab(self) -> Path:
        return self.root / "lab"

    @property
    def log(self) -> Path:
        return self.lab / "lab.log"

    def say(self, text: str) -> None:
        """One line in the log, which `tail -f` shows while Ansible waits."""
        self.lab.mkdir(parents=True, exist_ok=True)
        stamp = datetime.datetime.now().strftime("%H:%M:%S")
        with self._guard, self.log.open("a") as log:
            log.write(f"{stamp} {text}\n")

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a lock over a step: a second run waits for the first one instead of doing it twice."""
        folder = self.lab / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A folder that is gone afterwards; what a killed run left of it goes first. Call it under `alone`."""
        folder = self.lab / "tmp" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def step(self, name: str, there: Callable[[], bool], make: Callable[[], str | None]) -> None:
        """Make something unless it is there."""
        if there():
            return
        with self.alone(name.replace(" ", "-")):
            if there():
                return
            self.say(f"{name}: started")
            began = time.monotonic()
            try:
                detail = make()
            except LabError as problem:
                self.say(f"{name}: failed after {time.monotonic() - began:.0f} s: {problem}")
                raise
            seconds = round(time.monotonic() - began, 1)
            self.say(f"{name}: done in {seconds} s{f', {detail}' if detail else ''}")
            with self._guard:
                self.steps.append({"step": name, "seconds": seconds, "detail": detail})


def run(argv: Sequence[str], what: str, **options: object) -> str:
    """Run a command to its end; its standard output, or a LabError with the last lines that it wrote."""
    merged: dict[str, object] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
    try:
        done = subprocess.run(list(argv), check=False, **merged)  # type: ignore[call-overload]
    except FileNotFoundError as problem:
        raise LabError(f"{what}: {argv[0]} is not installed ({problem})") from None
    if done.returncode:
        tail = "\n".join(((done.stderr or "") + (done.stdout or "")).strip().splitlines()[-25:])
        raise LabError(f"{what}: `{' '.join(argv[:6])} ...` ended with {done.returncode}:\n{tail}")
    return str(done.stdout or "")
