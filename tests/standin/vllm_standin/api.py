# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API: HTTP on one side, the engine on the other. Of the engine's state it knows what the engine told it last."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from multiprocessing import resource_tracker
from typing import Any

from . import settings as given
from .metrics import Metrics
from .processes import ONE_GPU, spawn

# After its engine's death, in seconds, as vLLM 0.32 was seen to: /health 503, then nobody listens, then exit 0.
SICK, DEAF, GONE = 0.2, 0.4, 1.3
TICK = 0.1  # how often it looks whether it is to stop listening, as uvicorn does
GOODBYE = 2.0  # for the last words of streams that are cut off


@dataclass
class Pending:
    """A request that the engine has. told: None for a token, or a word for the end: length, abort, dead."""

    number: int
    prompt: int
    asked: int
    at: float = field(default_factory=time.monotonic)
    last: float = 0.0
    made: int = 0
    told: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)


class EngineClient:
    """The engine's process and what is outstanding there."""

    def __init__(self, settings: given.Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        # It ends when nobody has its pipe any more: it outlives an API that is killed, as long as the engine does.
        tracker = resource_tracker.getfd() if ONE_GPU else None
        keep = [] if tracker is None else [tracker]
        self.process, self.link = spawn(
            "VLLM::EngineCore", "core", str(settings.most_running), settings.policy, keep=keep
        )
        self.worker = 0
        self.dead = False
        self.pending: dict[int, Pending] = {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        # Never waited for: an engine that reads nothing holds up nobody but its own requests.
        self.outbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def loaded(self) -> bool:
        """Waits until the engine has loaded; False when it ended instead."""
        told = self.link.receive()
        if told is None:
            return False
        self.worker = told["worker"]
        threading.Thread(target=self._hear, daemon=True).start()
        threading.Thread(target=self._send, daemon=True).start()
        return True

    def submit(self, prompt: int, tokens: int, priority: int) -> Pending:
        made = Pending(next(self.numbers), prompt, tokens)
        with self.lock:
            self.pending[made.number] = made
        if self.dead:
            made.told.put("dead")
        self.outbox.put(
            {
                "kind": "new",
                "number": made.number,
                "prompt": prompt,
                "tokens": tokens,
                "priority": priority,
                "at": made.at,
            }
        )
        return made

    def abort(self, pending: Pending) -> None:
        """Its user has gone, or the server goes."""
        with self.lock:
            known = self.pending.pop(pending.number, None)
        if known is not None:
            self.outbox.put({"kind": "abort", "number": pending.number})
            self.metrics.finished("abort", pending.prompt, pending.made, pending.asked, time.monotonic() - pending.at)
            pending.told.put("abort")

    def die(self) -> None:
        self.dead = True
        with self.lock:
            for pending in self.pending.values():
                pending.told.put("dead")

    def _send(self) -> None:
        while True:
            message = self.outbox.get()
            try:
                self.link.send(message)
            except OSError:
                return  # whoever waits for the engine's process knows

    def _hear(self) -> None:
        while (told := self.link.receive()) is not None:
            self.metrics.stepped(told["running"], told["waiting"], told["prompts"], told["generated"], told["cache"])
            now = time.monotonic()
            for number, *times in told["outputs"]:
                with self.lock:
                    pending = self.pending.get(number)
                    if pending is None:
                        continue  # aborted meanwhile
                    if times:
                        del self.pending[number]
                self.metrics.token(now - (pending.last or pending.at), not pending.made)
                pending.made, pending.last = pending.made + 1, now
                if times:
                    self.metrics.finished(
                        "length", pending.prompt, pending.made, pending.asked, now - pending.at, times
                    )
                pending.told.put("length" if times else None)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, settings: given.Settings) -> None:
        from .handler import Handler

        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        socketserver.TCPServer.__init__(self, (settings.host, settings.port), Handler, bind_and_activate=False)
        # Bound at once and listening only when loaded, as vLLM: until then connections are refused.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = settings.host, self.server_address[1]
        self.settings = settings
        self.metrics = Metrics(settings.name, settings.longest)
        self.engine: EngineClient | None = None
        self.draining = False
        self.answering = 0
        self.count = threading.Lock()

    @property
    def dead(self) -> bool:
        return self.engine is None or self.engine.dead

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A user who has gone is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def finish(server: Server) -> None:
    """The orderly end: what is being answered may complete within the time for it, then all goes."""
    server.draining = True
    end = time.monotonic() + server.settings.shutdown_timeout
    while server.answering and time.monotonic() < end:
        time.sleep(0.02)
    engine = server.engine
    if engine is not None:
        for pending in list(engine.pending.values()):
            engine.abort(pending)
        end = time.monotonic() + GOODBYE
        while server.answering and time.monotonic() < end:
            time.sleep(0.02)
        if os.environ.get("STANDIN_LEAVE_ENGINE", "0") != "1":
            engine.process.kill()
            if engine.worker:
                _kill(engine.worker)
    os._exit(0)


def watch(server: Server, process: subprocess.Popen[bytes]) -> None:
    """What the engine's death does to the API."""
    process.wait()
    died = time.monotonic()
    time.sleep(SICK)
    if server.engine is not None:
        server.engine.die()
    if server.settings.stays:
        return
    time.sleep(max(0.0, died + DEAF - time.monotonic()))
    server.shutdown()
    server.socket.close()
    time.sleep(max(0.0, died + GONE - time.monotonic()))
    os._exit(0)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    settings = given.read()
    try:
        server = Server(settings)
    except OSError as error:
        print(f"OSError: {settings.host}:{settings.port}: {error}", file=sys.stderr)
        sys.exit(1)
    signal.signal(
        signal.SIGTERM, lambda _number, _frame: threading.Thread(target=finish, args=(server,), daemon=True).start()
    )
    engine = server.engine = EngineClient(settings, server.metrics)
    if not engine.loaded():
        print("RuntimeError: Engine core initialization failed", file=sys.stderr)
        sys.exit(1)
    try:
        server.server_activate()
    except OSError as error:
        engine.process.kill()
        print(f"OSError: {settings.host}:{settings.port}: {error}", file=sys.stderr)
        sys.exit(1)
    threading.Thread(target=watch, args=(server, engine.process), daemon=True).start()
    print(f"stand-in for vllm: serving at port {server.server_port}", flush=True)
    server.serve_forever(TICK)
    # It listens no more. How the process ends is for those to say who ended that.
    while True:
        signal.pause()
