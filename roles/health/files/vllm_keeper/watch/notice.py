# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Told by the kernel at once when files of a directory are replaced or removed (inotify(7)).

The standard library has no inotify, so libc is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

MOVED_TO, DELETE, DELETE_SELF, MOVE_SELF = 0x80, 0x200, 0x400, 0x800
GONE = DELETE_SELF | MOVE_SELF | 0x2000 | 0x8000  # and IN_UNMOUNT, IN_IGNORED
EVENT = struct.Struct("iIII")
ENOUGH = 1 << 14  # bytes: some hundred events


class Notice:
    """Raises OSError where the directory is not there, or the kernel has no more of this for us."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        wanted = MOVED_TO | DELETE | DELETE_SELF | MOVE_SELF
        if libc.inotify_add_watch(self._handle, os.fsencode(directory), wanted) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, "inotify_add_watch", str(directory))

    def fileno(self) -> int:
        return self._handle

    def lasts(self) -> bool:
        """Take what was told so far; False once the directory itself has gone, and no more will be told."""
        with contextlib.suppress(BlockingIOError):
            told = os.read(self._handle, ENOUGH)
            while told:
                _watch, mask, _cookie, size = EVENT.unpack_from(told)
                if mask & GONE:
                    return False
                told = told[EVENT.size + size :]
        return True

    def close(self) -> None:
        os.close(self._handle)
