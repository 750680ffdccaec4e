# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper remembers of one instance, `/var/lib/vllm-keeper/<name>.json`.

Written atomically and synced, so that it survives a power cut. A file that cannot be read all the same is set
aside and said, never fatal: a keeper that forgot is better than a server that does not start.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

from vllm_keeper import wholefile
from vllm_keeper.clock import Moment

DEFAULT_DIRECTORY = Path("/var/lib/vllm-keeper")
VERSION = 1
KEEP_STARTS = 100  # as many as the largest budget, so that the budget is always judged on whole evidence
KEEP_TORN = 3

# How a run ended.
PURPOSE = "purpose"  # somebody stopped or restarted it
SHUTDOWN = "shutdown"  # the host went down
REPAIR = "repair"  # the keeper ended it, because it was bad
FAILED = "failed"  # it ended by itself
LOST = "lost"  # no end was seen: a power cut, or a keeper that could not write


class StateError(Exception):
    """The state cannot be read or written (not: it was torn; that is mended)."""


@dataclass
class Start:
    at: Moment
    planned: bool
    config: str = ""
    pid: int | None = None
    ready_at: Moment | None = None
    stopping: str = ""  # "" | "purpose" | "self": what ExecStop saw
    note: str = ""  # why wait-ready gave up
    ended_at: Moment | None = None
    end: str = ""
    exit_code: str = ""
    exit_status: str = ""
    reason: str = ""
    forgiven: bool = False
    # Process group, session and birth of the server's first process, where `vllm-keeper run` started it.
    processes: tuple[int, int, int] | None = None


@dataclass
class Parked:
    at: Moment
    cause: str  # operator | budget | bad_argument | model_missing
    reason: str
    config: str = ""


@dataclass
class Stopped:
    at: Moment
    by: str  # purpose | shutdown


@dataclass
class Drained:
    """Somebody wants no more requests to come: balancers are told so, the server itself runs on."""

    at: Moment
    reason: str


@dataclass
class Intent:
    kind: str  # start | restart | stop | repair | revive
    at: Moment
    reason: str = ""


@dataclass
class LastCheck:
    at: Moment
    verdict: str
    action: str
    reason: str


@dataclass
class Waiting:
    """The gate is holding a start back; for `status` to say until when."""

    at: Moment
    seconds: float
    reason: str


@dataclass
class State:
    starts: list[Start] = field(default_factory=list)
    parked: Parked | None = None
    stopped: Stopped | None = None
    intent: Intent | None = None
    waiting: Waiting | None = None
    last_check: LastCheck | None = None
    drained: Drained | None = None
    followed: int = 0  # up to which of its manager's events the history goes, where hooks do not write it

    def open_start(self) -> Start | None:
        """The run that has not ended as far as is known."""
        last = self.starts[-1] if self.starts else None
        return last if last is not None and not last.end else None


def encode(state: State) -> str:
    data = asdict(state)
    data["starts"] = data["starts"][-KEEP_STARTS:]
    return json.dumps({"version": VERSION, **data}, indent=1, sort_keys=True) + "\n"


def decode(text: str) -> State:
    """Raises ValueError for anything that is not a whole state."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError("no state of this version")
        return State(
            starts=[_start(item) for item in data["starts"]],
            parked=_optional(data.get("parked"), Parked),
            stopped=_optional(data.get("stopped"), Stopped),
            intent=_optional(data.get("intent"), Intent),
            waiting=_optional(data.get("waiting"), Waiting),
            last_check=_optional(data.get("last_check"), LastCheck),
            drained=_optional(data.get("drained"), Drained),
            followed=int(data.get("followed") or 0),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a whole state: {error!r}") from error


def _moment(data: Any) -> Moment:
    return Moment(wall=float(data["wall"]), boot=float(data["boot"]), boot_id=str(data["boot_id"]))


def _start(data: dict[str, Any]) -> Start:
    fields = dict(data)
    for key in ("at", "ready_at", "ended_at"):
        fields[key] = None if fields.get(key) is None else _moment(fields[key])
    if fields.get("processes") is not None:
        group, session, born = fields["processes"]
        fields["processes"] = (int(group), int(session), int(born))
    start = Start(**fields)
    if not isinstance(start.at, Moment) or not isinstance(start.planned, bool):
        raise ValueError("a start without its moment")
    return start


def _optional(data: Any, kind: Callable[..., Any]) -> Any:
    return None if data is None else kind(**{**data, "at": _moment(data["at"])})


class Store:
    def __init__(self, directory: Path, name: str, warn: Callable[[str], None]) -> None:
        self.directory, self.name, self._warn = directory, name, warn
        self.path = directory / f"{name}.json"

    @contextlib.contextmanager
    def lock(self, purpose: str = "state", wait: float = 10.0) -> Iterator[bool]:
        """Yields whether the lock was had within `wait` seconds. The kernel drops it with its holder."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(
                self.directory / f".{self.name}.{purpose}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StateError(f"{self.directory}: cannot be used ({error.strerror or error}); run as root") from error
        with wholefile.lock(handle, wait) as held:
            yield held

    def load(self) -> State:
        """Reading takes no lock: a replaced file is always whole."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise StateError(f"{self.path}: cannot be read ({error.strerror or error}); run as root") from error
        try:
            return decode(text.decode("utf-8"))
        except ValueError as error:
            self._set_aside(str(error))
            return State()

    def update(self, change: Callable[[State], None]) -> State:
        with self.lock() as held:
            if not held:
                raise StateError(f"{self.path}: another vllm-keeper holds its lock for more than 10 s")
            state = self.load()
            before = encode(state)
            change(state)
            if encode(state) != before or not self.path.exists():
                self._save(state)
            return state

    def _save(self, state: State) -> None:
        try:
            # 0600: its fingerprint covers the environment file, which holds secrets.
            wholefile.write(self.path, encode(state))
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def forget(self) -> None:
        """Everything of this instance, torn files and locks too. Raises StateError."""
        try:
            for path in (self.path, *self.directory.glob(f"{self.name}.json.torn-*")):
                path.unlink(missing_ok=True)
            for purpose in ("state", "check", "order"):
                (self.directory / f".{self.name}.{purpose}.lock").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{self.path}: cannot be removed ({error.strerror or error})") from error

    def _set_aside(self, why: str) -> None:
        aside = self.directory / f"{self.name}.json.torn-{int(time.time())}"
        try:
            self.path.replace(aside)
        except FileNotFoundError:
            return  # another keeper was quicker
        except OSError as error:
            self._warn(f"{self.path} is torn ({why}) and cannot be set aside ({error}); going on without history")
            return
        self._warn(f"{self.path} is torn ({why}); kept as {aside}, going on without history")
        for old in sorted(self.directory.glob(f"{self.name}.json.torn-*"))[:-KEEP_TORN]:
            with contextlib.suppress(OSError):
                old.unlink()
