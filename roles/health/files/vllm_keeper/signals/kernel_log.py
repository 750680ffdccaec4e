# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's log as it is written, from /dev/kmsg.

One record a read, each with a sequence number. Nothing is waited for. Records that were overwritten before they were
read are counted, not mourned: the kernel says so once (EPIPE) and goes on with the oldest that it still has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_keeper.signals import xid

KMSG = Path("/dev/kmsg")
RECORD = re.compile(rb"^(?P<prefix>\d+),(?P<sequence>\d+),(?P<microseconds>\d+),(?P<flags>[^;,]*)[^;]*;")
DEVICE = os.makedev(1, 11)
LARGEST_RECORD = 1 << 14  # the kernel's own bound is half of it; a smaller buffer would be refused
AT_ONCE = 2000  # records a call, so that a log that floods holds nobody up
OPEN_AGAIN = 60.0


@dataclass(frozen=True)
class Line:
    """at: seconds on the kernel's clock (CLOCK_MONOTONIC, near enough), None where the source does not say."""

    text: str
    sequence: int | None = None
    at: float | None = None
    priority: int = 6
    kernel: bool = True  # False: some program wrote it, which cannot pass for the kernel here


def record(raw: bytes) -> Line | None:
    """Pure. One record of /dev/kmsg: `6,1234,987654,-;text`, then lines that begin with a space (the device)."""
    found = RECORD.match(raw)
    if found is None:
        return None
    prefix = int(found["prefix"])
    text = _unescape(raw[found.end() :].split(b"\n", 1)[0])
    return Line(text, int(found["sequence"]), int(found["microseconds"]) / 1e6, prefix & 7, prefix >> 3 == 0)


def _unescape(raw: bytes) -> str:
    # The kernel writes what is not printable as \x1b.
    plain = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes((int(found[1], 16),)), raw)
    return plain.decode("utf-8", "replace")


def xids(lines: Iterable[Line]) -> list[xid.Xid]:
    """Pure. The driver's reports. What a program wrote into the log is none, whatever it says."""
    found = [xid.parse(line.text) for line in lines if line.kernel]
    return [one for one in found if one is not None]


class KernelLog:
    """From the end on, or from the record after AFTER, which the caller remembered from the same boot.

    A plain file in place of the device is followed like any log (with AFTER: from its beginning), and each of its
    lines counts as the kernel's.
    """

    def __init__(
        self, path: Path = KMSG, after: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self._after, self._monotonic = path, after, monotonic
        self.problem = ""  # why nothing is read, for whoever tells it once
        self.lost = 0  # records that were overwritten, of which the kernel does not say how many
        self.sequence = after
        self._handle: int | None = None
        self._plain = False
        self._rest = b""
        self._open_at = 0.0
        self._seen = False  # opened once: what comes after that is new and is read whole

    def poll(self) -> list[Line]:
        """What is new. Never waits, never raises."""
        if self._handle is None and not self._open():
            return []
        try:
            handle = self._handle
            lines = [] if handle is None else self._plain_lines(handle) if self._plain else self._records(handle)
        except OSError as error:
            self._fail(error)
            return []
        if lines and lines[-1].sequence is not None:
            self.sequence = lines[-1].sequence
        return lines

    def close(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
        self._handle, self._rest = None, b""

    def _open(self) -> bool:
        now = self._monotonic()
        if now < self._open_at:
            return False
        self._open_at = now + OPEN_AGAIN
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._fail(error)
            return False
        self._handle = handle
        looked = os.fstat(handle)
        self._plain = not stat.S_ISCHR(looked.st_mode)
        if not self._plain and looked.st_rdev != DEVICE:
            # Containers like to put /dev/null or a console in its place.
            self._fail(OSError(errno.ENODEV, "it is another device, as in a container"))
            return False
        if self._plain:
            if not self._seen and self._after is None:
                with contextlib.suppress(OSError):  # a pipe has no end to go to
                    os.lseek(handle, 0, os.SEEK_END)
        elif self._after is None and self.sequence is None:
            os.lseek(handle, 0, os.SEEK_END)
        self._seen, self.problem = True, ""
        return True

    def _fail(self, error: OSError) -> None:
        self.close()
        if error.errno == errno.ENOENT:
            self._seen = True  # all that a file holds that is made from now on is new
        why = error.strerror or str(error)
        if error.errno in (errno.EPERM, errno.EACCES):
            why += "; it takes root or CAP_SYSLOG, and a container has to be given both"
        self.problem = f"{self.path}: the kernel's log cannot be read ({why}), so Xids are not seen"

    def _records(self, handle: int) -> list[Line]:
        lines: list[Line] = []
        for _line in range(AT_ONCE):
            try:
                raw = os.read(handle, LARGEST_RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:
                    self.lost += 1
                    continue
                if error.errno == errno.EINVAL:
                    continue  # larger than the bound: nothing that the driver writes
                raise
            if not raw:
                break
            line = record(raw)
            # After a reconnection the device begins at its oldest record again.
            if line is not None and (self.sequence is None or (line.sequence or 0) > self.sequence):
                lines.append(line)
        return lines

    def _plain_lines(self, handle: int) -> list[Line]:
        self._follow(handle)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(handle, 1 << 16):
                self._rest += chunk
                if len(self._rest) > AT_ONCE * xid.LONGEST:
                    break
        *whole, self._rest = self._rest.split(b"\n")
        if len(self._rest) > LARGEST_RECORD:
            self._rest = b""  # no end of line in sight: this is no log
        found = []
        for raw in whole:
            if raw and not raw.startswith(b" "):
                found.append(record(raw) or Line(raw.decode("utf-8", "replace")))
        return found

    def _follow(self, handle: int) -> None:
        """A file that became shorter was begun anew."""
        with contextlib.suppress(OSError):
            if os.fstat(handle).st_size < os.lseek(handle, 0, os.SEEK_CUR):
                os.lseek(handle, 0, os.SEEK_SET)
                self._rest = b""
