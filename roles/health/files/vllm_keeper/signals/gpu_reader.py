# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading GPUs without ever waiting for a driver: nvml.py in a process of its own, with a deadline for each look."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vllm_keeper.signals import gpu

PROGRAM = Path(__file__).with_name("nvml.py")
LARGEST_ANSWER = 4 << 20
LAST_WORDS = 0.5  # seconds that a killed reader gets to be gone


def command(settings: gpu.Settings) -> list[str]:
    """-I: nothing of the caller's environment, directory or home decides which code runs as root."""
    words = [settings.python, "-I", "-X", "pycache_prefix=/var/cache/vllm-keeper", str(PROGRAM)]
    return [*words, "--library", settings.library] if settings.library else words


class Reader:
    """One look at a time. Not for several threads: Sampler does that."""

    def __init__(
        self,
        settings: gpu.Settings,
        argv: Sequence[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._argv = list(argv or command(settings))
        self._monotonic = monotonic
        self._child: subprocess.Popen[bytes] | None = None
        self._stuck: list[subprocess.Popen[bytes]] = []
        self._stuck_since = 0.0
        self._missed = 0
        self._absent: gpu.Readings | None = None
        self._look_again = 0.0

    def read(self) -> gpu.Readings:
        """Takes the deadline and LAST_WORDS at most."""
        now = self._monotonic()
        if self._absent is not None and now < self._look_again:
            return self._absent
        readings = self._look(now)
        if readings.state in (gpu.OK, gpu.ABSENT):
            self._missed = 0
        else:
            self._missed += 1
            readings = replace(readings, missed=self._missed)
        self._absent = readings if readings.state == gpu.ABSENT else None
        self._look_again = now + self.settings.retry
        return readings

    def close(self) -> None:
        """Lets go of the driver: a GPU that is open somewhere can be neither reset nor given a new driver."""
        self._end()
        self._absent = None

    def _look(self, now: float) -> gpu.Readings:
        child = self._living(now)
        if isinstance(child, gpu.Readings):
            return child
        try:
            readings = gpu.parse(json.loads(self._exchange(child, now + self.settings.deadline)))
        except TimeoutError:
            self._stuck_since = now
            readings = gpu.Readings(gpu.HUNG, f"no answer within {self.settings.deadline:g} s")
        except OSError as error:
            readings = gpu.Readings(gpu.BROKEN, f"the reader of GPUs ended ({error})")
        except ValueError as error:
            readings = gpu.Readings(gpu.BROKEN, f"the reader of GPUs answered what is not JSON ({error})")
        if readings.state != gpu.OK:
            self._end()
        return readings

    def _living(self, now: float) -> subprocess.Popen[bytes] | gpu.Readings:
        """The reader, or why there is none."""
        self._stuck = [child for child in self._stuck if child.poll() is None]
        if self._stuck:
            # A second one would hang as well, and each one that hangs stays until the driver lets go of it.
            waited = now - self._stuck_since
            return gpu.Readings(gpu.HUNG, f"a reader has been stuck in the driver for {waited:.0f} s and cannot die")
        if not self.settings.enabled:
            return gpu.Readings(gpu.ABSENT, "GPUs are not looked at (health_gpu: off)", missing="library")
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        try:
            self._child = self._start()
        except OSError as error:
            why = f"the reader of GPUs cannot be started ({self._argv[0]}: {error.strerror or error})"
            return gpu.Readings(gpu.ABSENT, f"{why}; health_gpu decides whether it is installed", missing="library")
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # what a terminal sends is for the keeper
        )

    def _exchange(self, child: subprocess.Popen[bytes], deadline: float) -> bytes:
        """Raises TimeoutError, or OSError where the reader has ended."""
        if child.stdin is None or child.stdout is None:
            raise OSError("it has no pipes")
        child.stdin.write(b"look\n")
        handle = child.stdout.fileno()
        got = b""
        while not got.endswith(b"\n"):
            left = deadline - self._monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LAST_WORDS)
                raise OSError(f"exit status {child.returncode}")
            got += chunk
            if len(got) > LARGEST_ANSWER:
                raise OSError(f"its answer is larger than {LARGEST_ANSWER} bytes")
        return got

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError):
            child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._stuck.append(child)


class Sampler:
    """Looks every `interval` seconds in a thread of its own, so that whoever asks has an answer at once."""

    def __init__(self, reader: Reader, interval: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._reader, self._interval, self._monotonic = reader, interval, monotonic
        self._lock = threading.Lock()  # of the reader
        self._stop = threading.Event()
        self._latest: tuple[gpu.Readings, float] | None = None
        self._thread = threading.Thread(target=self._run, name="gpu", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def latest(self) -> tuple[gpu.Readings | None, float]:
        """The last readings and how old they are in seconds; None before the first look has ended."""
        latest = self._latest
        return (None, 0.0) if latest is None else (latest[0], self._monotonic() - latest[1])

    def now(self) -> gpu.Readings:
        """A look of its own, for who may wait: before a start, after a kill."""
        with self._lock:
            if self._stop.is_set():
                return gpu.Readings(gpu.ABSENT, "the keeper is ending", missing="library")
            readings = self._reader.read()
            self._latest = (readings, self._monotonic())
        return readings

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """`with sampler.released():` nobody looks meanwhile and the driver is let go, for a reset."""
        with self._lock:
            self._reader.close()
            yield

    def stop(self) -> None:
        self._stop.set()
        with self._lock:
            self._reader.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.now()
            self._stop.wait(self._interval)
