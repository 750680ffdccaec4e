# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A log file that a server's output goes to beside the terminal, rotated by size, for managers that keep none."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from vllm_keeper.log import MARK

CHUNK = 1 << 16
PATIENCE = 0.5  # seconds that a terminal may take before its lines are left out


@dataclass(frozen=True)
class LogFile:
    """size: bytes after which a new file is begun. count: old files that are kept as <path>.1, .2 and so on."""

    path: Path
    size: int
    count: int


def tee(log: LogFile) -> int:
    """From now on what this process and its children print goes to the terminal and to the file.

    What log.MARK begins comes on a line of its own, also where a server has written half a line before. Returns the pid
    of the process that writes. It ends when everybody who prints has ended, and no full disk or closed terminal ever
    holds them up or ends them.
    """
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(theirs)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            _copy(ours, log)
        finally:
            os._exit(0)
    os.close(ours)
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    os.close(theirs)
    return pid


def _copy(source: int, log: LogFile) -> None:
    writer, terminal, ended = Writer(log), Terminal(), True
    while chunk := os.read(source, CHUNK):
        lines = in_lines(chunk, ended)
        ended = lines.endswith(b"\n") if lines else ended
        writer.write(lines)
        terminal.write(lines)


def in_lines(chunk: bytes, ended: bool) -> bytes:
    """With a new line in place of each mark that comes in the middle of one. ENDED: whether the last line had ended."""
    first, *ours = chunk.split(MARK)
    found = [first]
    ended = first.endswith(b"\n") if first else ended
    for piece in ours:
        found += [piece] if ended else [b"\n", piece]
        ended = not piece or piece.endswith(b"\n")
    return b"".join(found)


class Terminal:
    """Shows what it can. One that is held (Ctrl-S, a stopped tmux) or gone holds nobody up: its lines are left out."""

    def __init__(self, handle: int = 1) -> None:
        self.patience = PATIENCE
        try:
            # Opened anew: that it does not block is true for this handle only, and not for the shell that lent it.
            self.handle = os.open(os.ttyname(handle), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.handle = handle

    def write(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError):
            while chunk:
                if not select.select([], [self.handle], [], self.patience)[1]:
                    self.patience = 0  # and no more waiting, until it takes lines again
                    return
                chunk = chunk[os.write(self.handle, chunk) :]
                self.patience = PATIENCE


def tail(path: Path, lines: int) -> list[str]:
    """The last lines, also of the file before where a new one has just begun; read from the end."""
    found: list[str] = []
    for place in (path, path.with_name(f"{path.name}.1")):
        with contextlib.suppress(OSError):
            found = [*_last(place, lines - len(found)), *found]
        if len(found) >= lines:
            break
    return found


def _last(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END)
        text = b""
        while left and text.count(b"\n") <= lines:
            step = min(CHUNK, left)
            left -= step
            file.seek(left)
            text = file.read(step) + text
    # A line that was cut off by the end of what was read is among those before the wanted ones.
    return text.decode("utf-8", "replace").removesuffix("\n").split("\n")[-lines:] if text and lines > 0 else []


class Writer:
    """Appends, and begins a new file at the end of a line. What cannot be written, on a full disk, is dropped."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self._handle: int | None = None
        self._used = 0

    def write(self, chunk: bytes) -> None:
        try:
            if self._handle is None:
                self._open()
            elif self._used + len(chunk) > self.log.size:
                self._rotate()
            if self._handle is not None:
                os.write(self._handle, chunk)
                self._used += len(chunk)
        except OSError:
            self._close()  # looked at anew with the next lines

    def _open(self) -> None:
        self.log.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # 0640 at most: a server logs what it was asked.
        self._handle = os.open(self.log.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        seen = os.fstat(self._handle)
        if seen.st_mode & 0o137:  # another manager made it, for everybody to read
            os.fchmod(self._handle, seen.st_mode & 0o640)
        self._used = seen.st_size

    def _rotate(self) -> None:
        self._close()
        for number in range(self.log.count, 0, -1):
            older = self._numbered(number)
            newer = self.log.path if number == 1 else self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if self.log.count == 0:
            self.log.path.unlink(missing_ok=True)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.log.path.with_name(f"{self.log.path.name}.{number}")

    def _close(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
        self._handle = None
