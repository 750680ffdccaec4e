# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that a manifest has run: found, run, and their failure told in half a sentence.

Private to steadfast.vllm.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

TAIL = 4000
# A login without a shell often lacks the directories of the administrator's programs.
MORE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Finished:
    code: int
    output: str


if TYPE_CHECKING:
    Runner = Callable[[Sequence[str]], Finished]
else:
    # Python 3.9.0 cannot subscript collections.abc.Callable while it runs.
    Runner = Callable


def find_program(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def failure_of(argv: Sequence[str], run: Runner) -> str:
    """Run a command and say in half a sentence why it failed; nothing where it did not."""
    shown = " ".join(shlex.quote(word) for word in argv)
    if find_program(argv[0]) is None:
        return f"`{shown}` could not be run: {argv[0]} is not on this host"
    try:
        done = run(argv)
    except OSError as error:
        return f"`{shown}` could not be run: {error.strerror}"
    if done.code == 0:
        return ""
    return f"`{shown}` failed with exit code {done.code}: {tail(done.output) or 'no output'}"


def tail(text: str) -> str:
    """The end of an output, where the reason usually stands."""
    return text if len(text) <= TAIL else "..." + text[-TAIL:]


def search_path() -> str:
    given = os.environ.get("PATH", "")
    return f"{given}:{MORE_PATH}" if given else MORE_PATH
