# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a server over HTTP, with one deadline for the whole exchange.

http.client and every library on top of it time each read, so a server that drips one byte a second holds them for
ever. Here each read gets only what is left of the deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LARGEST_BODY = 1 << 20


@dataclass(frozen=True)
class Answer:
    """kind: ok (200) | status (any other) | refused (nobody listens) | timeout | broken (no valid HTTP)"""

    kind: str
    detail: str
    status: int | None = None
    seconds: float = 0.0
    body: bytes = b""


class _Late(OSError):
    pass


class _DeadlineSocket(socket.socket):
    deadline = 0.0

    def _spend(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _Late("deadline")
        self.settimeout(left)

    def recv_into(self, *arguments: Any, **keywords: Any) -> int:
        self._spend()
        return super().recv_into(*arguments, **keywords)

    def sendall(self, *arguments: Any, **keywords: Any) -> None:
        self._spend()
        super().sendall(*arguments, **keywords)


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, port: int, deadline: float) -> None:
        super().__init__(host, port)
        self._deadline = deadline

    def connect(self) -> None:
        problem: OSError | None = None
        for family, kind, protocol, _name, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            link = _DeadlineSocket(family, kind, protocol)
            link.deadline = self._deadline
            try:
                link._spend()
                link.connect(address)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                link.close()
                problem = error
                continue
            self.sock = link
            return
        raise problem or OSError(f"{self.host}: no address")


class Server:
    def __init__(self, base_url: str, api_key: str = "") -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._api_key = api_key

    def get(self, path: str, within: float, *, with_key: bool = False) -> Answer:
        return self._ask("GET", path, None, within, with_key)

    def post(self, path: str, content: object, within: float) -> Answer:
        return self._ask("POST", path, json.dumps(content).encode(), within, True)

    def _ask(self, method: str, path: str, body: bytes | None, within: float, with_key: bool) -> Answer:
        begun = time.monotonic()
        headers = {"Connection": "close", "User-Agent": "vllm-keeper", "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if with_key and self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        connection = _Connection(self._host, self._port, begun + within)
        what = f"{method} {path}"

        def answer(kind: str, detail: str, status: int | None = None, content: bytes = b"") -> Answer:
            return Answer(kind, f"{what}: {detail}", status, time.monotonic() - begun, content)

        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read(LARGEST_BODY)
        except (_Late, socket.timeout):
            return answer("timeout", f"no whole answer within {within:g} s")
        except ConnectionRefusedError:
            return answer("refused", "connection refused")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return answer("broken", f"{type(error).__name__}: {error}"[:200])
        finally:
            connection.close()
        if response.status == 200:
            return answer("ok", f"200 in {time.monotonic() - begun:.3f} s", 200, content)
        return answer("status", f"status {response.status}{_said(content)}", response.status, content)


def _said(content: bytes) -> str:
    """The server's own words, where it has some: they are the reason."""
    text = content.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        data = json.loads(text)
        text = str(data.get("message") or data["error"].get("message") or "")
    text = " ".join(text.split())[:200]
    return f" ({text})" if text else ""


def health(
    server: Server,
    path: str,
    tries: int,
    delay: float,
    timeout: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Answer, int]:
    """The guide's loop: the first good answer, or the last bad one, and the number of tries it took."""
    for number in range(1, tries + 1):
        answer = server.get(path, timeout)
        if answer.kind == "ok" or number == tries:
            return answer, number
        sleep(delay)
    raise ValueError("tries must be at least 1")


def completion(server: Server, within: float) -> Answer:
    """One token from the first model: shows that the engine behind the API answers."""
    begun = time.monotonic()
    models = server.get("/v1/models", within, with_key=True)
    if models.kind != "ok":
        return models
    try:
        model = json.loads(models.body)["data"][0]["id"]
    except (ValueError, KeyError, IndexError, TypeError):
        return Answer("broken", "GET /v1/models: names no model", models.status, time.monotonic() - begun)
    left = max(0.1, within - (time.monotonic() - begun))
    request = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    answer = server.post("/v1/completions", request, left)
    if answer.kind == "ok":
        try:
            json.loads(answer.body)["choices"][0]["text"]
        except (ValueError, KeyError, IndexError, TypeError):
            return Answer("broken", "POST /v1/completions: 200, but no completion in it", 200, answer.seconds)
    return answer
