# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a file's own checker about the new content, before anything is changed.

Private to steadfast.vllm.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_commands import Runner, find_program, tail
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_files import parent
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Desired


@dataclass(frozen=True)
class Item:
    """One listed path with what is needed beside the plan: bytes and validator."""

    desired: Desired
    content: bytes = b""
    validate: str | None = None
    validate_as: str | None = None

    @property
    def path(self) -> str:
        return self.desired.path


@dataclass(frozen=True)
class Verdict:
    """Why a file is refused, or why there is no answer."""

    path: str
    reason: str
    refused: bool = True


def verdicts(items: Sequence[Item], changing: set[str], stage: str, run: Runner) -> list[Verdict]:
    """What the validators of the changing files have against them; nothing where they are content."""
    checked = [item for item in items if item.validate and item.path in changing]
    if not checked:
        return []
    with _staged(items, checked, stage) as places:
        found = [_ask(item, places[item.path], run) for item in checked]
    return [verdict for verdict in found if verdict is not None]


def _ask(item: Item, place: str, run: Runner) -> Verdict | None:
    command = item.validate or ""
    argv = [word.replace("%s", place) for word in shlex.split(command)]
    if find_program(argv[0]) is None:
        return Verdict(item.path, f"{item.path}: its validator {argv[0]} is not on this host (`{command}`)", False)
    done = run(argv)
    if done.code == 0:
        return None
    output = tail(done.output).replace(place, item.path) or "no output"
    if item.desired.secret:
        output = "its output is not shown, the file is secret"
    return Verdict(item.path, f"{item.path}: refused by its validator `{command}` (exit code {done.code}): {output}")


@contextmanager
def _staged(items: Sequence[Item], checked: Sequence[Item], stage: str) -> Iterator[dict[str, str]]:
    """The new files in a private place, those of one directory side by side, because one may refer to another.

    A secret file stands alone: the checker of another file could quote it.
    """
    shutil.rmtree(stage, ignore_errors=True)
    groups: dict[str, list[Item]] = {}
    directories = {parent(item.path) for item in checked if not item.desired.secret}
    for item in items:
        if item.desired.state == _manifest_plan.FILE:
            if item.desired.secret and item in checked:
                groups[item.path] = [item]
            elif not item.desired.secret and parent(item.path) in directories:
                groups.setdefault(parent(item.path), []).append(item)
    try:
        Path(stage).mkdir(mode=0o700, parents=True)
        places: dict[str, str] = {}
        for number, members in enumerate(groups.values()):
            folder = Path(stage, str(number))
            folder.mkdir(mode=0o700)
            for item in members:
                place = folder / (item.validate_as or Path(item.path).name)
                if place.exists():
                    # Two files that their checkers want under one name.
                    place = Path(stage, f"{number}-{len(places)}", place.name)
                    place.parent.mkdir(mode=0o700)
                places[item.path] = str(place)
                _write(str(place), item)
        yield places
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write(place: str, item: Item) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(item.content)
        os.fchmod(descriptor, (item.desired.mode & 0o700) | 0o600)
