# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's repairs of the opt-in rungs, `/var/lib/vllm-keeper/.repairs.json`, shared by its instances.

Unlike an instance's state it is never forgotten lightly: a ladder that does not know that it has just rebooted the
host would do so again. A torn ledger therefore counts as if every rung had just been taken, and one that cannot be
written forbids them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vllm_keeper import wholefile
from vllm_keeper.clock import Moment
from vllm_keeper.repair import DONE, HEAVY, Repair

VERSION = 1
KEEP = 200  # more than any budget can bring together in the longest window
LOCK_WAIT = 10.0


class LedgerError(Exception):
    """It cannot be read or written, so nothing that must be remembered may be done."""


def encode(repairs: Sequence[Repair]) -> str:
    kept = [asdict(one) for one in repairs[-KEEP:]]
    return json.dumps({"version": VERSION, "repairs": kept}, indent=1, sort_keys=True) + "\n"


def decode(text: str) -> list[Repair]:
    """Raises ValueError for anything that is not a whole ledger."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError("no ledger of this version")
        return [_repair(item) for item in data["repairs"]]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a whole ledger: {error!r}") from error


def _repair(data: dict[str, Any]) -> Repair:
    at = data["at"]
    texts = {key: data[key] for key in ("rung", "cause", "outcome", "instance")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a repair without its words")
    return Repair(at=Moment(float(at["wall"]), float(at["boot"]), str(at["boot_id"])), **texts)


class Ledger:
    def __init__(self, directory: Path, warn: Callable[[str], None]) -> None:
        self.directory, self._warn = directory, warn
        # No instance can have such a name.
        self.path = directory / ".repairs.json"

    def read(self, now: Moment) -> list[Repair]:
        """Reading takes no lock: a replaced file is always whole. NOW: when a torn one counts as filled."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read ({error.strerror or error}); run as root") from error
        try:
            return decode(text.decode("utf-8"))
        except ValueError as error:
            self._warn(
                f"{self.path} is torn ({error}): GPU resets, reboots and replacements are taken to have just been "
                "done. Remove the file if you know better"
            )
            return [Repair(now, rung, "the ledger was torn", DONE) for rung in HEAVY]

    def update(self, now: Moment, change: Callable[[list[Repair]], None]) -> list[Repair]:
        with self._lock():
            repairs = self.read(now)
            before = encode(repairs)
            change(repairs)
            if encode(repairs) != before or _differs(self.path, before):
                self._save(encode(repairs))
            return repairs

    def settle(self, repair: Repair, outcome: str, now: Moment) -> None:
        """What became of a repair that `update` had written down."""

        def change(repairs: list[Repair]) -> None:
            for number, one in enumerate(repairs):
                if one == repair:
                    repairs[number] = replace(one, outcome=outcome)

        self.update(now, change)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Two instances of one host must not both see that nothing was done yet."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.directory / ".repairs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"{self.directory}: cannot be used ({error.strerror or error}); run as root") from error
        with wholefile.lock(handle, LOCK_WAIT) as held:
            if not held:
                raise LedgerError(f"{self.path}: another vllm-keeper holds its lock for more than {LOCK_WAIT:g} s")
            yield

    def _save(self, text: str) -> None:
        try:
            wholefile.write(self.path, text)
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") != text
    except (OSError, UnicodeDecodeError):
        return path.exists()
