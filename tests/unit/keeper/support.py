# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper's tests share: a clock that only moves when told, a manager that only remembers, a bad server."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vllm_keeper import state as st
from vllm_keeper.clock import Clock, Moment
from vllm_keeper.config import GateSettings, Instance
from vllm_keeper.context import Context
from vllm_keeper.log import Log
from vllm_keeper.managers.base import Completed, Manager, Observed
from vllm_keeper.probe import Server

DONE = Completed(0, "", "")
RUNNING = Observed("running", "active (running)", True, 4711, 1000.0, "/system.slice/q.service")
STOPPED = Observed("stopped", "inactive (dead)", True, None, None, "")


class FakeClock(Clock):
    def __init__(self, at: float = 10_000.0) -> None:
        super().__init__()
        self.at, self.wall, self.boot_id, self.slept = at, 1_800_000_000.0, "boot-1", 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> Moment:
        return Moment(self.wall, self.at, self.boot_id)

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.pass_(seconds)
        self.slept += seconds
        self.on_sleep()

    def pass_(self, seconds: float) -> None:
        self.at += seconds
        self.wall += seconds


class FakeManager(Manager):
    def __init__(self, instance: Instance, seen: Observed = RUNNING) -> None:
        super().__init__(instance)
        self.seen, self.calls = seen, list[str]()
        self.answers: dict[str, Completed] = {}
        self.pending, self.going_down, self.lines = "", False, list[str]()
        self.on_call: Callable[[str], None] = lambda verb: None

    def _do(self, verb: str) -> Completed:
        self.calls.append(verb)
        self.on_call(verb)
        return self.answers.get(verb, DONE)

    def observe(self) -> Observed:
        return self.seen

    def start(self, wait: float = 0) -> Completed:
        return self._do("start")

    def stop(self, wait: float = 0) -> Completed:
        return self._do("stop")

    def restart(self, wait: float = 0) -> Completed:
        return self._do("restart")

    def kill(self) -> Completed:
        return self._do("kill")

    def logs(self, lines: int) -> list[str]:
        return self.lines[-lines:]

    def follow(self, lines: int) -> list[str]:
        return ["true"]

    def job(self) -> str:
        return self.pending

    def definition(self) -> tuple[list[str], list[str]]:
        return [], []

    def enable(self, on: bool) -> Completed:
        return self._do("enable" if on else "disable")

    def host_going_down(self) -> bool:
        return self.going_down


def context_for(
    folder: Path,
    seen: Observed = RUNNING,
    port: int = 1,
    *,
    ready_check: str = "completion",
    model_path: str = "",
    start_timeout: float = 600,
    gate: GateSettings | None = None,
) -> Context:
    instance = Instance(
        name="q",
        unit="q.service",
        base_url=f"http://127.0.0.1:{port}",
        config_file=str(folder / "q.yaml"),
        ready_check=ready_check,
        model_path=model_path,
        start_timeout=start_timeout,
        gate=gate or GateSettings(),
    )
    log = Log("test", journal=str(folder / "no-journal"))
    return Context(
        instance=instance,
        store=st.Store(folder / "var", "q", log.warning),
        manager=FakeManager(instance, seen),
        server=Server(instance.base_url, "sk-secret-key"),
        log=log,
        clock=FakeClock(),
    )


def clock_of(context: Context) -> FakeClock:
    assert isinstance(context.clock, FakeClock)
    return context.clock


def manager_of(context: Context) -> FakeManager:
    assert isinstance(context.manager, FakeManager)
    return context.manager


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def answer(status: int, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(status: int, body: bytes) -> bytes:
    """As vLLM answers /metrics."""
    head = f"HTTP/1.1 {status} OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
    return head.encode() + body + b"\r\n0\r\n\r\n"


class RawServer:
    """Answers each request as `behave` says, byte by byte if it likes: sees what http.server would hide.

    stays: whether a connection is for more than one request.
    """

    def __init__(self, behave: Callable[[socket.socket, str], None], stays: bool = False) -> None:
        self.requests: list[str] = []
        self._behave, self._stays = behave, stays
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stop = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                link, _peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(link,), daemon=True).start()

    def _one(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            while self._request(link) and self._stays:
                pass

    def _request(self, link: socket.socket) -> bool:
        request = b""
        while b"\r\n\r\n" not in request:
            more = link.recv(65536)
            if not more:
                return False
            request += more
        head, _blank, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        # All of it: what is left unread would reset the connection, and with it the answer.
        while length and len(body) < int(length[1]):
            more = link.recv(65536)
            if not more:
                return False
            body += more
        text = (head + b"\r\n\r\n" + body).decode()
        self.requests.append(text)
        self._behave(link, text.split(" ")[1])
        return True

    def close(self) -> None:
        self._stop.set()
        self._listener.close()


@contextlib.contextmanager
def serving(behave: Callable[[socket.socket, str], None]) -> Iterator[RawServer]:
    server = RawServer(behave)
    try:
        yield server
    finally:
        server.close()


def healthy(link: socket.socket, path: str) -> None:
    bodies = {
        "/health": b"",
        "/v1/models": b'{"data": [{"id": "m"}]}',
        "/v1/completions": b'{"choices": [{"text": "x"}]}',
    }
    link.sendall(answer(200, bodies[path]) if path in bodies else answer(404))


def hanging(link: socket.socket, _path: str) -> None:
    time.sleep(30)


def dripping_headers(link: socket.socket, _path: str) -> None:
    link.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    for _ in range(600):
        link.sendall(b"a")
        time.sleep(0.05)


def dripping_body(link: socket.socket, _path: str) -> None:
    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    for _ in range(600):
        link.sendall(b"a")
        time.sleep(0.05)


def status_503(link: socket.socket, _path: str) -> None:
    link.sendall(answer(503, b'{"error": {"message": "engine is dead"}}'))


def garbage(link: socket.socket, _path: str) -> None:
    link.sendall(b"SSH-2.0-hello\r\n\r\n")


class Peer:
    """Answers each request with the next of what it was told to say; None: says nothing more, and keeps it open."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answers: list[bytes | None] = []
        self.connections, self.requests = 0, list[bytes]()
        self.close_after = False
        self.pause = 0.0
        self.parts = 0, 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                link, _address = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(link,), daemon=True).start()

    def _talk(self, link: socket.socket) -> None:
        with link, contextlib.suppress(ConnectionError):  # who asks may give up
            while request := link.recv(65536):
                self.requests.append(request)
                # As it was when it was asked: a test may change it once it has its answer.
                answer, closes = self.answers.pop(0), self.close_after
                if answer is None:
                    link.recv(1)
                    return
                if self.pause:
                    for number in range(len(answer)):
                        link.sendall(answer[number : number + 1])
                        time.sleep(self.pause)
                first, pause = self.parts
                if first:
                    link.sendall(answer[:first])
                    time.sleep(pause)
                link.sendall(b"" if self.pause else answer[first:])
                if closes:
                    return


class Proc:
    """As much of /proc as is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(
        self, pid: int, ticks: int = 0, state: str = "S", threads: str = "", name: str = "VLLM::EngineCore"
    ) -> None:
        """STATE: of its first thread; THREADS: of all others, a letter each."""
        stat = (
            f"{pid} ({name}) {{}} 1 1 1 0 -1 4194304 0 0 0 0 {ticks - ticks // 3} {ticks // 3} 0 0 20 0 1 0 100 0 0\n"
        )
        for number, letter in enumerate(state + threads):
            task = self.folder / str(pid) / "task" / str(pid + number)
            task.mkdir(parents=True, exist_ok=True)
            (task / "stat").write_text(stat.format(letter))
        (self.folder / str(pid) / "stat").write_text(stat.format(state))
