# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher did and why: `/var/lib/vllm-keeper/<name>.watch`, read by `explain` and by the next watcher.

Beside the history that gate and check share, not in it: it is written by one process alone, and losing it loses no
decision. A file that cannot be read is as none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vllm_keeper import wholefile
from vllm_keeper.watch import steps as steps_
from vllm_keeper.watch.steps import NO_STEPS, Steps

VERSION = 2
KEEP = 20  # incidents
SUFFIX = ".watch"  # not .json: those are histories, one an instance


@dataclass
class Incident:
    """at: seconds since 1970. looks: what was seen up to the decision, a line each, oldest first.

    seconds: of nothing but evidence, from the first sign to the decision. served_again: seconds from the decision until
    a completion was answered, None if it has not been since.
    """

    at: float
    verdict: str
    action: str
    reason: str
    pid: int = 0
    seconds: float = 0.0
    looks: list[str] = field(default_factory=list)
    outcome: str = ""
    dry_run: bool = False
    served_again: float | None = None


@dataclass
class Book:
    """steps: the longest ones of this configuration's recent work; since seconds since 1970."""

    steps: Steps = NO_STEPS
    incidents: list[Incident] = field(default_factory=list)


def load(directory: Path, name: str) -> Book:
    try:
        data = json.loads((directory / f"{name}{SUFFIX}").read_text(encoding="utf-8"))
        # Version 1 knew one longest step and not when it was: that is forgotten.
        known = {1: Steps, VERSION: lambda: steps_.parse(data["steps"])}[data["version"]]()
        return Book(known, [Incident(**one) for one in data["incidents"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Book()


def save(directory: Path, name: str, book: Book) -> None:
    """Raises OSError. Replaced in one step."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    data: dict[str, Any] = {"version": VERSION, "steps": steps_.dump(book.steps)}
    data["incidents"] = [asdict(one) for one in book.incidents[-KEEP:]]
    wholefile.write(directory / f"{name}{SUFFIX}", json.dumps(data, indent=1) + "\n")


def forget(directory: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        (directory / f"{name}{SUFFIX}").unlink()


def open_incident(incidents: Sequence[Incident]) -> Incident | None:
    """The one that has not ended with a completion."""
    last = incidents[-1] if incidents else None
    return last if last is not None and last.served_again is None and not last.dry_run else None
