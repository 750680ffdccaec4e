# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's port: `GET /ready`, `GET /ready/NAME`, `GET /metrics`, and HAProxy's agent check on the same port.

An agent check that sends `agent NAME` gets one line: `up 100%`, `up 0% #why` or `down #why`. It needs no credential and
changes nothing, so it may stand where the balancer reaches it.
"""

from __future__ import annotations

import io
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vllm_keeper import __version__
from vllm_keeper.watch.board import FRESH, SERVING, Board, Shown, now

VERDICTS = ("starting", "healthy", "busy", "hung", "dead", "draining", "gpu_fault", "parked", "stopped", "unknown")
PATIENCE = 5.0  # seconds for one exchange
LARGEST = 16384  # bytes of a request
MOST = 64  # askers at a time; a balancer's checks are a few


def told(shown: Shown) -> Shown:
    """What is told outside: a view that nobody renews any more is none."""
    return shown if now() - shown.looked <= FRESH else Shown(reason="the watcher has not looked for a while")


def agent(shown: Shown | None) -> str | None:
    """HAProxy's agent protocol; None where nothing is to be said, which leaves the server to its health check.

    Never `ready` or `drain`: they would undo what somebody has set by hand. A weight of 0 gives no new requests and
    lets those that are there finish.
    """
    if shown is None or shown.verdict == "unknown":
        return None
    if shown.drained or shown.verdict in ("draining", "stopped"):
        return f"up 0% #{'stopped' if shown.verdict == 'stopped' else 'draining'}"
    if shown.ready:
        return "up 100%"
    # One that may speak again in a moment is not down: what it has is left to it, and its way back is a short one.
    return "up 0% #mute" if shown.verdict in SERVING else f"down #{shown.verdict}"


def farewell(shown: Shown | None) -> str | None:
    """Before an orderly end: HAProxy holds on to the last word, and health checks alone are to decide from now on."""
    return agent(shown) if shown is not None and shown.drained else "up 100%"


def ready(all_shown: dict[str, Shown], name: str = "") -> tuple[int, str]:
    """(status, text), of one instance or of all. 404 for one that nobody watches."""
    if name and name not in all_shown:
        return 404, f"{name}: not watched here\n"
    chosen = {name: all_shown[name]} if name else all_shown
    lines = [
        f"{one}: {'ready' if shown.ready else 'not ready'}: {shown.why}\n" for one, shown in sorted(chosen.items())
    ]
    good = bool(chosen) and all(shown.ready for shown in chosen.values())
    return (200 if good else 503), "".join(lines) or "no instance is watched here\n"


def metrics(all_shown: dict[str, Shown], host: Mapping[str, tuple[str, str]] | None = None) -> str:
    """Prometheus's text format, version 0.0.4."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.append(f"# HELP vllm_keeper_{name} {text}")
        lines.append(f"# TYPE vllm_keeper_{name} {kind}")
        lines.extend(f"vllm_keeper_{labels} {value:.10g}" for labels, value in samples)

    def gauge(name: str, text: str, values: dict[str, float], kind: str = "gauge") -> None:
        family(name, kind, text, ((f"{name}{{{_label('instance', one)}}}", value) for one, value in values.items()))

    def by(name: str, label: str, kind: str, text: str, values: dict[str, dict[str, float]]) -> None:
        family(
            name,
            kind,
            text,
            (
                (f"{name}{{{_label('instance', one)},{_label(label, key)}}}", value)
                for one, counts in values.items()
                for key, value in counts.items()
            ),
        )

    at, shown = now(), sorted(all_shown.items())
    times = os.times()
    family("info", "gauge", "The keeper's version.", [(f"info{{{_label('version', __version__)}}}", 1)])
    family("cpu_seconds_total", "counter", "CPU time of the watcher.", [("cpu_seconds_total", times[0] + times[1])])
    short = [
        (f"host_short{{{_label('subject', subject)},{_label('level', level)}}}", 1.0)
        for subject, (level, _evidence) in sorted((host or {}).items())
    ]
    family("host_short", "gauge", "1 for what the host is short of: memory, disk, clock.", short)
    gauge("ready", "Whether a user's request would be answered now.", {n: float(s.ready) for n, s in shown})
    by(
        "verdict", "verdict", "gauge", "1 for the verdict that holds.",
        {n: {verdict: float(s.verdict == verdict) for verdict in VERDICTS} for n, s in shown},
    )  # fmt: skip
    gauge("verdict_seconds", "How long the verdict has held.", {n: max(0.0, at - s.since) for n, s in shown})
    gauge("look_age_seconds", "How long ago it was looked at.", {n: max(0.0, at - s.looked) for n, s in shown})
    gauge("drained", "Whether somebody drained it.", {n: float(bool(s.drained)) for n, s in shown})
    gauge("stalled_seconds", "How long work has been waiting without progress.", {n: s.stalled for n, s in shown})
    gauge("longest_step_seconds", "The longest step of recent work.", {n: s.longest for n, s in shown})
    gauge(
        "longest_idle_step_seconds",
        "The longest that its processes were idle in a step of recent work; the limit of a hang grows with it.",
        {n: s.longest_idle for n, s in shown},
    )
    gauge("requests_running", "Requests that run, by vLLM's own count.", {n: s.running for n, s in shown})
    gauge("requests_waiting", "Requests that wait, by vLLM's own count.", {n: s.waiting for n, s in shown})
    by("canaries_total", "outcome", "counter", "Canaries by outcome.", {n: dict(s.canaries) for n, s in shown})
    gauge("canary_seconds_total", "Time spent in canaries.", {n: s.canary_seconds for n, s in shown}, "counter")
    by(
        "repairs_total",
        "verdict",
        "counter",
        "Repairs by verdict.",
        {n: dict(s.repairs) for n, s in shown},
    )
    for name, text in (("detection", "From the first sign to the decision."), ("recovery", "To a completion again.")):
        values = {n: getattr(s, name) for n, s in shown}
        samples = []
        for one, (count, total, _last) in values.items():
            samples.append((f"{name}_seconds_count{{{_label('instance', one)}}}", float(count)))
            samples.append((f"{name}_seconds_sum{{{_label('instance', one)}}}", float(total)))
        family(f"{name}_seconds", "summary", text, samples)
    return "\n".join(lines) + "\n"


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], board: Board) -> None:
        self.board, self.leaving = board, False
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(MOST)
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's, which asks the name service who we are.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up in the middle is no news."""

    def shown(self) -> dict[str, Shown]:
        return {name: told(shown) for name, shown in self.board.all().items()}


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    raw_requestline: bytes
    protocol_version = "HTTP/1.0"
    server_version, sys_version = "vllm-keeper", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BytesIO(self._request())

    def _request(self) -> bytes:
        """What is asked, b"" when it does not come in time. One deadline for all of it: nobody holds a thread."""
        end, data = time.monotonic() + PATIENCE, b""
        while b"\n" not in data if data.startswith(b"agent") else b"\r\n\r\n" not in data and b"\n\n" not in data:
            left = end - time.monotonic()
            if left <= 0 or len(data) > LARGEST:
                return b""
            self.connection.settimeout(left)
            try:
                part = self.connection.recv(4096)
            except OSError:
                return b""
            if not part:
                break
            data += part
        self.connection.settimeout(PATIENCE)  # for the answer
        return data

    def parse_request(self) -> bool:
        words = self.raw_requestline.split()
        if words[:1] == [b"agent"] and len(words) <= 2:
            name = words[1].decode("utf-8", "replace") if len(words) == 2 else ""
            all_shown = self.server.shown()
            one = all_shown.get(name) if name else (next(iter(all_shown.values())) if len(all_shown) == 1 else None)
            word = farewell(one) if self.server.leaving else agent(one)
            if word is not None:
                self.wfile.write(f"{word}\n".encode())
            self.close_connection = True
            return False
        return super().parse_request()

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0].rstrip("/")
        if path == "/metrics":
            self._send(
                200, metrics(self.server.shown(), self.server.board.host), "text/plain; version=0.0.4; charset=utf-8"
            )
        elif path == "/ready" or path.startswith("/ready/"):
            self._send(*ready(self.server.shown(), path[len("/ready/") :]))
        else:
            self._send(404, "GET /ready, /ready/NAME or /metrics\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Each second, from each balancer: nobody reads that."""
