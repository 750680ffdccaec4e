# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`wait-ready`: after the process was started, until it answers a user."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from vllm_keeper import exits, probe, processes
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, duration
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError

POLL = 0.2
PROGRESS = 15.0
HEALTH_TIMEOUT = 2.0  # short, so that the death of the process is noticed soon
COMPLETION_TIMEOUT = 60.0  # the first one may still compile kernels
REFUSALS = 5  # as many definite refusals in a row are no matter of time
FOREIGN = 5.0  # how long somebody else must hold the port: a dying predecessor is gone by then


def wait_ready(context: Context, main_pid: int | None) -> int:
    with _told_to_stop() as stop:
        try:
            pid = main_pid or context.manager.observe().main_pid
        except ManagerError as error:
            return _fail(context, f"no main process known: {error}")
        process = processes.read(pid, context.proc) if pid else None
        if process is None or process.zombie:
            return _gone(context, pid, stop)
        return _Wait(context, process, stop).run()


class _Wait:
    def __init__(self, context: Context, process: processes.Process, stop: threading.Event) -> None:
        self.context, self.process, self.stop = context, process, stop
        self.refusals = 0
        self.foreign_since: float | None = None
        self.last = "not asked yet"
        try:
            self.group = context.manager.observe().group
        except ManagerError:
            self.group = ""

    def run(self) -> int:
        context, clock = self.context, self.context.clock
        pid = self.process.pid

        def began(state: st.State, now: Moment) -> None:
            start = state.open_start()
            if start is None:  # started without a gate
                start = st.Start(at=now, planned=True)
                state.starts.append(start)
            start.pid = pid

        context.try_update(began)
        limit = context.instance.start_timeout
        begun = clock.monotonic()
        progress = begun + PROGRESS
        while not self.stop.is_set():
            if not processes.alive(self.process, context.proc):
                return _gone(context, pid, self.stop)
            spent = clock.monotonic() - begun
            if spent >= limit:
                return _fail(context, f"not ready within start_timeout ({duration(limit)}); last answer: {self.last}")
            failure, ready = self._ask(limit - spent)
            if failure:
                return _fail(context, failure)
            if ready:
                return self._ready(clock.monotonic() - begun)
            if clock.monotonic() >= progress:
                spent = clock.monotonic() - begun
                context.log.info(f"waiting until ready: {duration(spent)} of {duration(limit)}; {self.last}")
                progress += PROGRESS
            self.stop.wait(POLL)
        return _called_off(context)

    def _ask(self, left: float) -> tuple[str, bool]:
        """(why it is no use to wait on, ready)"""
        answer = self.context.server.get(self.context.instance.health_path, min(HEALTH_TIMEOUT, left))
        self.last = answer.detail
        if answer.kind == "refused":
            self.foreign_since = None
            return "", False
        foreign = self._foreign()
        if foreign is not None:
            return foreign, False
        if answer.kind != "ok" or self.context.instance.ready_check == "health":
            return "", answer.kind == "ok"
        return self._complete(left)

    def _foreign(self) -> str | None:
        """None: the port is not somebody else's; "": it is, for a moment; else why it is no use to wait on."""
        port = self.context.instance.port
        stranger = processes.foreign_listener(port, self.process.pid, self.group, self.context.proc)
        if stranger is None or self.context.manager.owns(stranger):
            self.foreign_since = None
            return None
        now = self.context.clock.monotonic()
        self.foreign_since = now if self.foreign_since is None else self.foreign_since
        self.last = f"port {port} is taken by another program, pid {stranger.pid} ({stranger.title})"
        return self.last if now - self.foreign_since >= FOREIGN else ""

    def _complete(self, left: float) -> tuple[str, bool]:
        answer = probe.completion(self.context.server, min(COMPLETION_TIMEOUT, left))
        self.last = answer.detail
        definite = answer.kind == "status" and answer.status in range(400, 500) and answer.status not in (408, 429)
        self.refusals = self.refusals + 1 if definite else 0
        if self.refusals >= REFUSALS:
            return (
                f"it answers, but refuses a completion: {answer.detail}; for such a model set ready_check: health",
                False,
            )
        return "", answer.kind == "ok"

    def _ready(self, seconds: float) -> int:
        def change(state: st.State, now: Moment) -> None:
            start = state.open_start()
            if start is not None:
                start.pid, start.ready_at, start.note = self.process.pid, now, ""

        self.context.try_update(change)
        self.context.log.notice(f"ready after {duration(seconds)} ({self.last})")
        return exits.OK


def _gone(context: Context, pid: int | None, stop: threading.Event) -> int:
    if stop.wait(0.5):  # the main process and we are told to stop at the same moment, in any order
        return _called_off(context)
    # Not remembered as the reason: ExecStopPost knows how it ended.
    context.log.error(f"not ready: the main process{f' {pid}' if pid else ''} ended")
    return exits.BAD


def _called_off(context: Context) -> int:
    # 0, because this is no failure of the service: the manager is ending the start itself and knows why.
    context.log.info("the start was called off")
    return exits.OK


def _fail(context: Context, why: str) -> int:
    def change(state: st.State, _now: Moment) -> None:
        start = state.open_start()
        if start is not None:
            start.note = context.log.clean(why)

    context.try_update(change)
    context.log.error(f"not ready: {why}")
    return exits.BAD


@contextlib.contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
