# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident process: a watcher for each configured instance, the port, the heartbeat, systemd's watchdog."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_keeper import config, exits, runfile
from vllm_keeper.context import Context
from vllm_keeper.log import Log
from vllm_keeper.signals.faults import HostSignals
from vllm_keeper.watch import board as boards
from vllm_keeper.watch.endpoint import Endpoint
from vllm_keeper.watch.host_watch import HostWatch
from vllm_keeper.watch.watcher import Watcher

LONGEST_COMM = 15  # letters, proc_pid_comm(5)
TICK = 1.0
STUCK = 90.0  # a manager that does not answer costs 20 s a question
HEARTBEAT = 5.0  # unless there is news; systemd waits for four of them, who reads the board for three
FAREWELL = 1.5  # the agent check comes every second


@dataclass
class _Running:
    watcher: Watcher
    stop: threading.Event
    thread: threading.Thread
    marks: tuple[object, ...]


class Daemon:
    """MAKE: the context of an instance, raises ConfigError. LISTEN: (address, port) or None for no port."""

    def __init__(
        self,
        directory: Path,
        make: Callable[[str], Context],
        log: Log,
        listen: tuple[str, int] | None,
        environment: Mapping[str, str],
        run_directory: Path = runfile.DIRECTORY,
    ) -> None:
        self.directory, self.make, self.log, self.listen = directory, make, log, listen
        self.environment, self.run_directory = environment, run_directory
        self.board = boards.Board()
        self.stop = threading.Event()
        self._running: dict[str, _Running] = {}
        self._refused: dict[str, tuple[object, ...]] = {}
        self._heartbeat_told = ""
        self._gpus: HostSignals | None = None
        self._host = HostWatch(log)

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.stop.set())
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._refused.clear())
        endpoint = self._endpoint()
        self._reload()
        self._notify("READY=1")
        told, known = float("-inf"), dict[str, tuple[object, ...]]()
        try:
            while not self.stop.is_set():
                self._reload()
                self._tell_signals()
                news = self.board.gist()
                if news != known or time.monotonic() - told >= HEARTBEAT:
                    told, known = time.monotonic(), news
                    self._heartbeat()
                    stuck = self._stuck()
                    self._notify(f"STATUS={self._status()}" + ("" if stuck else "\nWATCHDOG=1"))
                self.stop.wait(TICK)
        finally:
            self._notify("STOPPING=1")
            if endpoint is not None:
                endpoint.leaving = True
                time.sleep(FAREWELL)
            for name in list(self._running):
                self._end(name)
            if self._gpus is not None:
                self._gpus.stop()
            with contextlib.suppress(OSError):
                (self.run_directory / boards.FILE).unlink()
            if endpoint is not None:
                endpoint.shutdown()
        return exits.OK

    def _endpoint(self) -> Endpoint | None:
        if self.listen is None:
            return None
        try:
            endpoint = Endpoint(self.listen, self.board)
        except OSError as error:
            # Watching matters more than being asked.
            self.log.error(
                f"port {self.listen[1]} at {self.listen[0]} cannot be listened on ({error.strerror or error}): nobody "
                "can ask /ready, /metrics or the agent; free the port or set health_port, then restart vllm-keeper"
            )
            return None
        threading.Thread(target=endpoint.serve_forever, name="endpoint", daemon=True).start()
        return endpoint

    def _reload(self) -> None:
        """Instances that came, went or changed. What is unchanged is watched on with all that is known of it."""
        try:
            names = set(config.names(self.directory))
        except config.ConfigError as error:
            self._tell_once("", (str(error),), str(error))
            return
        for name in set(self._running) - names:
            self._end(name)
            self.log.notice(f"{name}: not configured any more, not watched any more")
        for name in names:
            marks = self._marks(name)
            running = self._running.get(name)
            if running is not None and running.marks == marks and running.thread.is_alive():
                continue
            if self._refused.get(name) == marks:
                continue
            try:
                context = self.make(name)
            except config.ConfigError as error:
                # What was watched until now goes on as it was: a typo must not leave a server alone.
                self._tell_once(name, marks, str(error))
                continue
            if running is not None:
                self._end(name)
            self._refused.pop(name, None)
            if context.instance.watch.enabled:
                self._begin(context, self._marks(name, context))

    def _begin(self, context: Context, marks: tuple[object, ...]) -> None:
        watcher, stop = Watcher(context, self.board, self._signals(context)), threading.Event()
        name = context.instance.name
        thread = threading.Thread(target=watcher.run, args=(stop,), name=name, daemon=True)
        self._running[name] = _Running(watcher, stop, thread, marks)
        self.board.show(name)
        thread.start()
        with contextlib.suppress(OSError):  # for `top -H`; Python itself does it since 3.14
            Path(f"/proc/self/task/{thread.native_id}/comm").write_text(name[:LONGEST_COMM])

    def _signals(self, context: Context) -> HostSignals | None:
        """One reader of the GPUs for all instances of the host."""
        if self._gpus is None and context.instance.gpu.enabled:
            self._gpus = HostSignals(context.instance.gpu)
            self._gpus.start()
        return self._gpus

    def _tell_signals(self) -> None:
        """What is to be said of the host itself, once and again when it changes."""
        for text in self._gpus.news() if self._gpus is not None else ():
            self.log.notice(text)
        self._host.look([one.watcher.context.instance for one in self._running.values()])
        self.board.host = self._host.found

    def _end(self, name: str) -> None:
        running = self._running.pop(name)
        running.stop.set()
        running.watcher.family.wake()
        running.thread.join(timeout=5)
        if not running.thread.is_alive():
            running.watcher.close()
        self.board.remove(name)
        if self._gpus is not None:
            self._gpus.forget(name)

    def _marks(self, name: str, context: Context | None = None) -> tuple[object, ...]:
        """Change with the files that an instance is read from."""
        running = self._running.get(name)
        known = context or (running.watcher.context if running is not None else None)
        files = [os.path.join(self.directory, name + config.SUFFIX)]
        if known is not None and known.instance.env_file:
            files.append(known.instance.env_file)
        marks: list[object] = []
        for file in files:
            try:
                seen = os.stat(file)
                marks.append((seen.st_mtime_ns, seen.st_ino, seen.st_size))
            except OSError:
                marks.append(None)
        return tuple(marks)

    def _tell_once(self, name: str, marks: tuple[object, ...], text: str) -> None:
        if self._refused.get(name) != marks:
            self._refused[name] = marks
            self.log.error(f"{text}{'; watched on as before' if name in self._running else ''}")

    def _stuck(self) -> list[str]:
        return [name for name, one in self._running.items() if one.watcher.clock() - one.watcher.beat > STUCK]

    def _status(self) -> str:
        shown = self.board.all()
        return ", ".join(f"{name} {one.verdict}" for name, one in sorted(shown.items())) or "no instance to watch"

    def _heartbeat(self) -> None:
        try:
            boards.write(self.board, self.run_directory)
            self._heartbeat_told = ""
        except OSError as error:
            text = f"{self.run_directory} cannot be written ({error.strerror or error}): cron's check looks beside us"
            if text != self._heartbeat_told:
                self._heartbeat_told = text
                self.log.warning(text)

    def _notify(self, text: str) -> None:
        """sd_notify(3). Without systemd nobody asked for it."""
        path = self.environment.get("NOTIFY_SOCKET", "")
        if not path:
            return
        address = "\0" + path[1:] if path.startswith("@") else path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.settimeout(1)
            link.sendto(text.encode(), address)
