# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real HAProxy on loopback, with the role's own template and reload command, before small HTTP servers.

The system's haproxy.service is not touched: other ports, other sockets, a process of the test's own.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import typing as t
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jinja2
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _balancer_state
from ansible_collections.steadfast.vllm.plugins.module_utils._balancer import view

ROLE = Path(__file__).parents[2] / "roles" / "load_balancer"
STATE_COMMAND = ROLE / "files" / "haproxy_state.py"
# Quicker than any inventory may ask for, so that a test takes seconds.
QUICK_CHECK = {
    "path": "/health",
    "port": "traffic-port",
    "protocol": "HTTP",
    "interval": 1,
    "timeout": 1,
    "healthy_threshold": 2,
    "unhealthy_threshold": 2,
    "matcher": "200",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: t.Callable[[], object], seconds: float = 15.0, what: str = "") -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def instance(port: int, name: str = "qwen3vl", **changes: t.Any) -> dict[str, t.Any]:
    """What the normaliser says of an instance, as far as a balancer reads it."""
    return {
        "name": name,
        "port": port,
        "host": "0.0.0.0",
        "standby": False,
        "timeouts": {"keep_alive": 75},
        **changes,
    }


def options(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "mode": "active_active",
        "standby": [],
        "ports": {},
        "bind_address": "127.0.0.1",
        "stats_port": 8404,
        "slow_start": 0,
        "keep_alive": 60,
        "agent": False,
        "agent_port": 9410,
        "fleet": False,
        "fleet_port": 9411,
        "fleet_clients": [],
        "addresses": {},
        **changes,
    }


def render(seen: dict[str, t.Any], folder: Path, **variables: t.Any) -> str:
    """The role's template with the role's defaults, as Ansible would print it."""
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    template = jinja2.Template(
        (ROLE / "templates" / "haproxy.cfg.j2").read_text(),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text: str = template.render(
        {
            **defaults,
            "view": seen,
            "_load_balancer_admin_socket": str(folder / "admin.sock"),
            "_load_balancer_server_state": str(folder / "server-state"),
            **variables,
        }
    )
    return text


class Answers(ThreadingHTTPServer):
    """A stand-in for vLLM's HTTP side: /health by hand, 404 on /, a slow stream, and its own idle time."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: str, port: int = 0, keep_alive: float = 75.0, address: str = "127.0.0.1") -> None:
        self.name = name
        self.address = address
        self.keep_alive = keep_alive
        self.health = 200
        self.served: Counter[str] = Counter()
        self.hung_up_first = 0
        self.given_up = threading.Event()
        self.connections: set[socket.socket] = set()
        super().__init__((address, port), Handler)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """As a killed process: nothing listens, and what was open is closed."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A balancer that hangs up is what is tested here, not worth a traceback."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answers

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.keep_alive)
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: t.Any) -> None:
        pass

    def log_error(self, format: str, *args: t.Any) -> None:
        if "timed out" in format:
            self.server.hung_up_first += 1

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.served[self.path] += 1
        if self.path == "/health":
            self.answer(self.server.health)
        elif self.path == "/who":
            self.answer(200, self.server.name.encode())
        elif self.path == "/host":
            self.answer(200, str(self.headers["Host"]).encode())
        elif self.path.startswith("/stream"):
            self.stream(int(self.path.rpartition("=")[2]))
        else:
            self.answer(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.served[self.path] += 1
        if self.path == "/poison":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.path == "/slow":
            # Says whether the client went away before the answer was ready.
            self.connection.settimeout(10)
            try:
                gone = self.connection.recv(1) == b""
            except ConnectionResetError:
                gone = True
            except TimeoutError:
                gone = False
            if gone:
                self.server.given_up.set()
            self.close_connection = True
        else:
            self.answer(200, self.server.name.encode())

    def stream(self, chunks: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(chunks):
            token = f"token {number}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(token), token))
            self.wfile.flush()
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")


class Keeper(socketserver.ThreadingTCPServer):
    """A stand-in for the keeper's port, on its agent-check's side: it answers `says`; None is silence, "" hangs up."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, says: str | None, port: int = 0, address: str = "127.0.0.1") -> None:
        self.says = says
        self.asked: Counter[str] = Counter()
        super().__init__((address, port), Question)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def say(self, words: str | None) -> None:
        """From now on; returns when the balancer has heard it, or waits for an answer in vain."""
        self.says = words
        already = self.asked.total()
        wait_for(lambda: self.asked.total() > already, 5, "the balancer asks the keeper")

    def die(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class Question(socketserver.StreamRequestHandler):
    server: Keeper

    def handle(self) -> None:
        words = self.server.says
        asked = self.rfile.readline().decode()
        if words is None:
            self.server.asked[asked] += 1
            self.connection.settimeout(10)
            self.connection.recv(1)
            return
        if words:
            self.wfile.write(f"{words}\n".encode())
        self.server.asked[asked] += 1


class Balancer:
    """HAProxy in master-worker mode, as its systemd unit runs it, and reloaded as the role's drop-in does it."""

    def __init__(self, folder: Path, configuration: str, port: int, stats_port: int) -> None:
        self.folder = folder
        self.port = port
        self.stats_port = stats_port
        self.config = folder / "haproxy.cfg"
        self.config.write_text(configuration)
        self.log = (folder / "haproxy.log").open("wb")
        self.process = subprocess.Popen(
            ["haproxy", "-W", "-f", str(self.config), "-p", str(folder / "haproxy.pid")],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        wait_for(lambda: self.socket_answers() or self.process.poll() is not None, what="HAProxy started")
        assert self.process.poll() is None, self.logged()

    def logged(self) -> str:
        return (self.folder / "haproxy.log").read_text()

    def socket_answers(self) -> bool:
        try:
            return "Pid:" in self.api("show info")
        except OSError:
            return False

    def api(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.folder / "admin.sock"))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def state_command(self, *verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-I",
                str(STATE_COMMAND),
                verb[0],
                str(self.folder / "admin.sock"),
                str(self.folder / "server-state"),
                *verb[1:],
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def reload(self, configuration: str | None = None, patience: int = 20) -> subprocess.CompletedProcess[str]:
        if configuration is not None:
            self.config.write_text(configuration)
        saved = self.state_command("save", str(self.config))
        assert saved.returncode == 0, saved.stderr
        self.process.send_signal(signal.SIGUSR2)
        return self.state_command("confirm", str(patience))

    def stats(self) -> dict[str, dict[str, str]]:
        """By server, the row of the statistics page that people look at."""
        connection = http.client.HTTPConnection("127.0.0.1", self.stats_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/;csv")
            text = connection.getresponse().read().decode()
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        return {row["svname"]: row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}

    def told(self, server: str) -> dict[str, t.Any]:
        """What the module load_balancer_info tells of a server."""
        return {each["name"]: each for each in _balancer_state.servers(self.api("show stat"))}[server]

    def notices(self) -> list[str]:
        return _balancer_state.notices(_balancer_state.servers(self.api("show stat")))

    def state_of(self, server: str) -> str:
        return self.stats()[server]["status"]

    def request(self, method: str = "GET", path: str = "/who") -> tuple[int, str, str | None]:
        """Status, body and X-Served-By of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.getheader("X-Served-By")

    def end(self) -> None:
        # SIGTERM ends the workers too, also those that a reload left with their streams.
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Rig:
    """The servers by name, and the balancer before them; `end()` leaves nothing running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.stats_port = free_port()
        self.fleet_port = free_port()
        self.servers: dict[str, Answers] = {}
        self._ends: list[t.Callable[[], None]] = []

    def server(self, name: str, port: int = 0, keep_alive: float = 75.0, address: str = "127.0.0.1") -> Answers:
        server = Answers(name, port, keep_alive, address)
        self.servers[name] = server
        self._ends.append(server.die)
        return server

    def keeper(self, says: str | None, port: int = 0, address: str = "127.0.0.1") -> Keeper:
        keeper = Keeper(says, port, address)
        self._ends.append(keeper.die)
        return keeper

    def configuration(
        self,
        health_check: dict[str, t.Any] | None = None,
        variables: dict[str, t.Any] | None = None,
        server_keep_alive: int = 75,
        **changes: t.Any,
    ) -> str:
        backends = [
            {
                "host": name,
                "address": server.address,
                "instances": [instance(server.port, timeouts={"keep_alive": server_keep_alive})],
            }
            for name, server in self.servers.items()
        ]
        chosen = options(
            ports={"qwen3vl": self.port}, stats_port=self.stats_port, fleet_port=self.fleet_port, **changes
        )
        seen = view(backends, {**QUICK_CHECK, **(health_check or {})}, chosen)
        printed = {
            "load_balancer_stats_port": self.stats_port,
            "load_balancer_timeout_keep_alive": chosen["keep_alive"],
        }
        return render(seen, self.folder, **printed, **(variables or {}))

    def balancer(self, **changes: t.Any) -> Balancer:
        balancer = Balancer(self.folder, self.configuration(**changes), self.port, self.stats_port)
        self._ends.append(balancer.end)
        return balancer

    def end(self) -> None:
        for end in reversed(self._ends):
            with contextlib.suppress(OSError):
                end()
