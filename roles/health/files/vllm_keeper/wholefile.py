# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files that are never seen half written, and locks that the kernel drops with their holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

STEP = 0.05


def write(path: Path, text: str, mode: int = 0o600, durable: bool = True) -> None:
    """Replaces PATH in one step. Raises OSError. DURABLE: it survives a power cut from then on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def lock(handle: int, wait: float) -> Iterator[bool]:
    """Yields whether the lock on this open file was had within WAIT seconds; closes the file in the end."""
    try:
        deadline = time.monotonic() + wait
        held = _try_lock(handle)
        while not held and time.monotonic() < deadline:
            time.sleep(STEP)
            held = _try_lock(handle)
        yield held
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
