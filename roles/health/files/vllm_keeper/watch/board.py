# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher knows now, for those who ask from outside: the port, `status`, `check`, systemd's watchdog.

`/run/vllm-keeper/watch.json` is it for other processes: fresh as long as the process that wrote it lives and goes on
writing.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_keeper import processes, runfile, wholefile
from vllm_keeper.watch import counters, judgement

FILE = "watch.json"
FRESH = 15.0  # seconds
# What a balancer may send requests to.
SERVING = ("healthy", "busy")


@dataclass(frozen=True)
class Shown:
    """One instance. since: when this verdict came (seconds of the boot clock). drained: by somebody's wish. mute: it
    does not answer just now, and what that means is not known yet. longest, longest_idle: seconds that a step of recent
    work took, and that its processes were idle in one.
    """

    verdict: str = "unknown"
    reason: str = "not looked at yet"
    action: str = "none"
    since: float = 0.0
    looked: float = 0.0
    pid: int = 0
    drained: str = ""
    mute: bool = False
    stalled: float = 0.0
    limit: float = 0.0
    longest: float = 0.0
    longest_idle: float = 0.0
    canaries: Mapping[str, int] = field(default_factory=dict)
    canary_seconds: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    repairs: Mapping[str, int] = field(default_factory=dict)
    detection: tuple[int, float, float] = (0, 0.0, 0.0)  # count, sum, last, in seconds
    recovery: tuple[int, float, float] = (0, 0.0, 0.0)
    dry_run: bool = False

    @property
    def why(self) -> str:
        """In a word, why it is ready or not."""
        return self.drained or ("mute" if self.mute and self.verdict in SERVING else self.verdict)

    @property
    def ready(self) -> bool:
        """Whether a user's request would be answered now."""
        return self.verdict in SERVING and not self.drained and not self.mute


now = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class Board:
    """Written by the watchers' threads, read by all. CLOCK: theirs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: dict[str, Shown] = {}
        # When, by their clock, it was last seen to go on with its requests, all else as shown, and what /metrics said.
        self.still: dict[str, tuple[float, bytes]] = {}
        self.host: Mapping[str, tuple[str, str]] = {}  # subject: (level, evidence) of what is short on the host

    def show(self, name: str, **changes: Any) -> Shown:
        with self._lock:
            before = self._shown.get(name, Shown())
            after = replace(before, looked=now(), **changes)
            if after.verdict != before.verdict:
                after = replace(after, since=after.looked)
            self._shown[name] = after
            return after

    def remove(self, name: str) -> None:
        with self._lock:
            self._shown.pop(name, None)
            self.still.pop(name, None)

    def all(self) -> dict[str, Shown]:
        with self._lock:
            return {name: self._newest(name, shown) for name, shown in self._shown.items()}

    def gist(self) -> dict[str, tuple[object, ...]]:
        """What whoever asks has to know at once: it is the same while nothing happens."""
        with self._lock:
            return {name: (one.verdict, one.action, one.why, one.pid, one.stalled) for name, one in self._shown.items()}

    def _newest(self, name: str, shown: Shown) -> Shown:
        at, metrics = self.still.get(name, (float("-inf"), b""))
        looked = now() - (self._clock() - at)
        if looked <= shown.looked:
            return shown
        running, waiting = counters.requests(metrics)
        _verdict, reason = judgement.at_work(running, waiting)
        return replace(shown, looked=looked, running=running, waiting=waiting, reason=reason)


@functools.lru_cache(maxsize=1)
def _born(pid: int) -> int:
    process = processes.read(pid)
    return process.born if process is not None else 0


def write(board: Board, directory: Path = runfile.DIRECTORY) -> None:
    """Raises OSError."""
    data = {
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "at": now(),
        "host": dict(board.host),
        "instances": {name: vars(shown) for name, shown in board.all().items()},
    }
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    wholefile.write(directory / FILE, json.dumps(data) + "\n", mode=0o644, durable=False)


def read(directory: Path = runfile.DIRECTORY, proc: Path = processes.PROC) -> dict[str, Shown] | None:
    """What a living watcher shows; None when none lives, or the one that does has stopped looking."""
    try:
        data = json.loads((directory / FILE).read_text(encoding="utf-8"))
        process = processes.read(int(data["pid"]), proc)
        if process is None or process.zombie or process.born != data["born"] or not 0 <= now() - data["at"] <= FRESH:
            return None
        return {name: Shown(**_tuples(shown)) for name, shown in data["instances"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def of(name: str, directory: Path = runfile.DIRECTORY, proc: Path = processes.PROC) -> Shown | None:
    """What a living watcher shows of one instance that it has looked at lately."""
    shown = (read(directory, proc) or {}).get(name)
    return shown if shown is not None and now() - shown.looked <= FRESH else None


def _tuples(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in shown.items()}
