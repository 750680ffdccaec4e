# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's processes, held by the kernel's own handles: an end is told at once and a pid is never mistaken."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from vllm_keeper import processes
from vllm_keeper.watch.notice import Notice

ENGINE = "VLLM::EngineCore"
EVENTS = 16  # at a time; those beyond come at the next wait
OURS = "VLLM::"  # what vLLM calls its engines and workers


class Family:
    """The main process of a server and, among its descendants, the engines and what works for them.

    Where the kernel has no pidfd (before 5.3), ends are found by looking.
    """

    def __init__(self, proc: Path = processes.PROC) -> None:
        self.proc = proc
        self.main: processes.Process | None = None
        self.engines: dict[int, processes.Process] = {}
        self.workers: list[int] = []  # engines and all below them
        self.others: list[int] = []  # the API's own processes
        self._handles: dict[int, int] = {}
        self._wake_out, self._wake_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._events = select.epoll()  # is asked each second what it was told once
        self.poll = self._events.poll  # for who waits by itself: (seconds, EVENTS); wait(0) then takes what came
        self._events.register(self._wake_out, select.EPOLLIN)
        self.notice: Notice | None = None  # tells of changes of files

    def close(self) -> None:
        self.adopt(0)
        self._unheed()
        self._events.close()
        for handle in (self._wake_out, self._wake_in):
            os.close(handle)

    def heed(self, directory: Path) -> None:
        """To be woken by changes of its files too, where the kernel tells them."""
        self._unheed()
        with contextlib.suppress(OSError):
            self.notice = Notice(directory)
            self._events.register(self.notice, select.EPOLLIN)

    def _unheed(self) -> None:
        if self.notice is not None:
            self._events.unregister(self.notice)
            self.notice.close()
            self.notice = None

    def adopt(self, pid: int) -> None:
        """Watch this main process from now on; 0 for none."""
        for handle in self._handles.values():
            self._let_go(handle)
        self._handles, self.engines, self.workers, self.others = {}, {}, [], []
        main = processes.read(pid, self.proc) if pid else None
        self.main = None if main is None or main.zombie else main
        if self.main is not None:
            self._hold(pid)

    def refresh(self) -> None:
        """Who belongs to it now. An engine that was known and has ended stays known."""
        if self.main is None:
            return
        known = processes.kin(self.main.pid, self.proc)
        for pid in {pid for pid in known if known[pid].title.startswith(ENGINE)} - set(self.engines):
            self.engines[pid] = known[pid]
            self._hold(pid)
        works: set[int] = set()
        for pid in known:
            if known[pid].title.startswith(OURS):
                works |= processes.descendants(pid, known)
        self.workers = sorted(works)
        self.others = sorted(set(known) - works)

    def alive(self) -> bool:
        return self.main is not None and self._lives(self.main)

    def lost(self) -> int:
        """The pid of an engine that has ended, 0 for none."""
        return next((pid for pid, engine in self.engines.items() if not self._lives(engine)), 0)

    def _lives(self, process: processes.Process) -> bool:
        """By its handle, which is readable once it has ended: a hundredth of what reading /proc takes."""
        handle = self._handles.get(process.pid)
        if handle is None:
            return processes.alive(process, self.proc)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return not poll.poll(0)

    def give_up(self, pid: int) -> None:
        """It ended, and the server goes on without it."""
        self.engines.pop(pid, None)
        handle = self._handles.pop(pid, None)
        if handle is not None:
            self._let_go(handle)

    @property
    def held(self) -> bool:
        """Whether the kernel tells of an end."""
        return bool(self._handles)

    def wait(self, seconds: float) -> None:
        """So long, or until one of them ends, a file that is heeded changes, or somebody wakes us."""
        for handle, _kinds in self.poll(max(0.0, seconds), EVENTS):
            if handle == self._wake_out:
                with contextlib.suppress(BlockingIOError):
                    os.read(handle, 4096)
            elif self.notice is not None and handle == self.notice.fileno() and not self.notice.lasts():
                self._unheed()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_in, b"!")

    def _hold(self, pid: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it has just ended, or the kernel is too old
            self._handles[pid] = os.pidfd_open(pid)
            self._events.register(self._handles[pid], select.EPOLLIN)

    def _let_go(self, handle: int) -> None:
        self._events.unregister(handle)
        os.close(handle)
