# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the three processes share: how one starts the next, and messages between them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

LARGEST = 1 << 17
# As on one CUDA GPU: the engine does the worker's part itself, and the API has a resource_tracker.
ONE_GPU = os.environ.get("STANDIN_ONE_GPU", "0") == "1"


class Link:
    """One end of a pair of sockets that keep messages whole."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    @classmethod
    def inherited(cls, number: int) -> Link:
        return cls(socket.socket(fileno=number))

    def send(self, message: object) -> None:
        self.end.send(json.dumps(message, separators=(",", ":")).encode())

    def receive(self, wait: bool = True) -> Any:
        """The next message; None once the other end is gone. Without WAIT: raises BlockingIOError if there is none."""
        try:
            content = self.end.recv(LARGEST, 0 if wait else socket.MSG_DONTWAIT)
        except ConnectionError:
            return None
        return json.loads(content) if content else None


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    return ours, theirs


def spawn(title: str, part: str, *words: str, keep: Sequence[int] = ()) -> tuple[subprocess.Popen[bytes], Link]:
    """A process of this program that calls itself TITLE, and the link to it. KEEP: files that it has open too."""
    ours, theirs = pair()
    # It finds its library by its home: its name, which is not that of a file, would not tell.
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    process = subprocess.Popen(
        [title, sys.argv[0], "--engine", part, str(theirs.fileno()), *words],
        executable="/proc/self/exe",
        pass_fds=[theirs.fileno(), *keep],
        env=environment,
    )
    theirs.close()
    return process, Link(ours)


def hold_on() -> None:
    """As an engine does: nothing but SIGKILL ends it, whatever becomes of its parent. SIGUSR2: a livelock."""
    # Its short name too: the kernel took that of the file.
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(_title()[:15])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, _spin)


def _title() -> str:
    with open("/proc/self/cmdline", encoding="utf-8") as file:
        return file.read().partition("\0")[0]


def _spin(_number: int, _frame: object) -> None:
    while True:
        pass
