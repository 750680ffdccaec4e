# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request and its answer, with one deadline for the whole (private to this collection, runs on the host).

http.client and what is built on it (ansible.module_utils.urls too) time each read, so a server that drips one byte a
second holds them for ever. Here every step gets only what is left. No redirect is followed and no proxy is asked: what
counts is what a balancer would see.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LARGEST_BODY = 1 << 20

ANSWERED = "answered"  # with any status
REFUSED = "refused"  # nobody listens
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"  # no such name, no way there
BROKEN = "broken"  # somebody listens, and what came is no whole HTTP answer

Address = tuple[t.Any, ...]


class TargetError(ValueError):
    """What is asked for cannot be asked; says the place, the value and the mend."""


@dataclass(frozen=True)
class Target:
    """Where to ask: the parts of a base URL."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True)
class Answer:
    """What came of one request. `size` counts the bytes that were read; more may have followed if not `whole`."""

    outcome: str
    detail: str
    status: int | None = None
    seconds: float = 0.0
    body: bytes = b""
    whole: bool = True
    location: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def size(self) -> int:
        return len(self.body)


def target(url: str, place: str) -> Target:
    """The parts of a base URL; TargetError if it is none. Its text is not repeated where it may hold a password."""
    mend = "write it as http://HOST:PORT"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetError(f"{place}: is no URL ({error}); {mend}") from None
    if parts.username is not None or parts.password is not None:
        raise TargetError(f"{place}: holds a user or password, which would be shown; {mend}, and the key in api_key")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TargetError(f"{place}: {url!r} is no URL of a server; {mend}")
    if parts.query or parts.fragment or re.search(r"[^!-~]", url):
        raise TargetError(f"{place}: {url!r} has more than a base URL can have; {mend}")
    return Target(
        parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], parts.path.rstrip("/")
    )


def bearer(key: str | None) -> str:
    """A key as a header can carry it. http.client would show one that it refuses."""
    if key and not re.fullmatch(r"[!-~]+", key):
        raise TargetError(
            "api_key: holds spaces or characters that no HTTP header can carry; give it as the server has it"
        )
    return key or ""


def tls(validate: bool, ca_file: str | None) -> ssl.SSLContext:
    """How HTTPS is spoken."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise TargetError(
            f"ca_path: {ca_file} cannot be read ({error.strerror or error}); give a file of PEM certificates"
        ) from None
    if not validate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = _TLSSocket
    return context


class _Late(OSError):
    pass


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _Late("deadline")
    return left


class _Socket(socket.socket):
    deadline = 0.0

    def recv_into(self, *arguments: t.Any, **keywords: t.Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*arguments, **keywords)

    def sendall(self, *arguments: t.Any, **keywords: t.Any) -> None:
        self.settimeout(_left(self.deadline))
        super().sendall(*arguments, **keywords)


class _TLSSocket(ssl.SSLSocket):
    deadline = 0.0

    def recv_into(self, *arguments: t.Any, **keywords: t.Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*arguments, **keywords)

    # Its sendall sends piece by piece through this.
    def send(self, *arguments: t.Any, **keywords: t.Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().send(*arguments, **keywords)


class _NoWay(Exception):
    """No connection came about."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, where: Target, addresses: Sequence[Address], deadline: float, context: ssl.SSLContext | None):
        super().__init__(where.host, where.port)
        self._addresses, self._deadline, self._context = addresses, deadline, context

    def connect(self) -> None:
        problem: OSError | None = None
        for number, (family, kind, protocol, _name, address) in enumerate(self._addresses):
            link = _Socket(family, kind, protocol)
            link.deadline = self._deadline
            try:
                # The first address must not spend the time of the others.
                link.settimeout(_left(self._deadline) / (len(self._addresses) - number))
                link.connect(address)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                link.close()
                problem = error
                continue
            self.sock = self._secured(link)
            return
        if problem is None or isinstance(problem, (ConnectionRefusedError, socket.timeout, _Late)):
            raise problem or _NoWay("no address")
        raise _NoWay(problem.strerror or str(problem))

    def _secured(self, link: _Socket) -> socket.socket:
        if self._context is None:
            return link
        link.settimeout(_left(self._deadline))
        try:
            secured = self._context.wrap_socket(link, server_hostname=self.host)
        except OSError:
            link.close()
            raise
        t.cast(_TLSSocket, secured).deadline = self._deadline
        return secured


class Client:
    """Asks one server. May be used by several threads at once."""

    def __init__(self, where: Target, key: str = "", context: ssl.SSLContext | None = None) -> None:
        self.where, self._key = where, key
        self._context = context if where.scheme == "https" else None
        self._addresses: list[Address] = []

    def resolve(self, within: float) -> Answer | None:
        """Look the name up, once for all requests; what is in the way, if anything is."""
        found: list[Address] = []
        problem: list[OSError] = []

        def look() -> None:
            try:
                found.extend(socket.getaddrinfo(self.where.host, self.where.port, 0, socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                problem.append(error if isinstance(error, OSError) else OSError(str(error)))

        # The C library takes no deadline; a thread that is left behind ends with the module.
        begun = time.monotonic()
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(within)
        seconds = time.monotonic() - begun
        if looking.is_alive():
            return Answer(TIMEOUT, f"the name {self.where.host} was not found within {within:g} s", seconds=seconds)
        if problem:
            return Answer(UNREACHABLE, f"{self.where.host}: {problem[0].strerror or problem[0]}", seconds=seconds)
        self._addresses = found
        return None

    def get(self, path: str, within: float, *, with_key: bool = False) -> Answer:
        return self._ask("GET", path, None, within, with_key)

    def post(self, path: str, content: object, within: float) -> Answer:
        return self._ask("POST", path, json.dumps(content).encode(), within, True)

    def _ask(self, method: str, path: str, body: bytes | None, within: float, with_key: bool) -> Answer:
        begun = time.monotonic()
        headers = {"Connection": "close", "User-Agent": "steadfast.vllm", "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if with_key and self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connection = _Connection(self.where, self._addresses, begun + within, self._context)
        try:
            connection.request(method, self.where.prefix + path, body, headers)
            response = connection.getresponse()
            content = response.read(LARGEST_BODY + 1)
            _complete(content, response.getheader("Content-Length"))
        except (OSError, http.client.HTTPException, ValueError, _NoWay) as error:
            outcome, detail = _trouble(error, within)
            return Answer(outcome, detail[:200], seconds=time.monotonic() - begun)
        finally:
            connection.close()
        return Answer(
            ANSWERED,
            f"status {response.status}{said(content) if response.status >= 400 else ''}",
            response.status,
            time.monotonic() - begun,
            content[:LARGEST_BODY],
            len(content) <= LARGEST_BODY,
            _place(response.getheader("Location") or ""),
        )


def _complete(content: bytes, declared: str | None) -> None:
    """http.client says nothing of an end that comes too early when it was asked for a number of bytes."""
    if declared and declared.isdecimal() and len(content) < min(int(declared), LARGEST_BODY):
        raise http.client.IncompleteRead(content, int(declared) - len(content))


def _trouble(error: Exception, within: float) -> tuple[str, str]:
    """Outcome and words of an exchange that came to nothing."""
    if isinstance(error, (_Late, socket.timeout)):
        return TIMEOUT, f"no whole answer within {within:g} s"
    if isinstance(error, ConnectionRefusedError):
        return REFUSED, "connection refused"
    if isinstance(error, _NoWay):
        return UNREACHABLE, str(error)
    if isinstance(error, ssl.SSLError):
        return BROKEN, f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    return BROKEN, f"no whole HTTP answer ({type(error).__name__}: {error})"


def _place(location: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(location)
        server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
        return (server + parts.path)[:200]
    return ""


def said(content: bytes) -> str:
    """The server's own words about an error, where it has some: they are the reason."""
    text = content[:100_000].decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
        data = json.loads(text)
        text = str(data.get("message") or data.get("detail") or data["error"]["message"] or "")
    if text.startswith("<"):
        return ""  # a page of HTML says nothing in a line
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]
    return f" ({text})" if text else ""
