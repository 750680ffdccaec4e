# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GET on one connection that stays, for who asks every second: a fifth of what http.client takes for it.

Reads of an answer what a look needs: the status, and the body by its length or its chunks. One deadline holds for the
whole exchange. Of one thread only.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from urllib.parse import urlsplit

from vllm_keeper.probe import LARGEST_BODY, Answer

PARTS = 3  # of an answer, at most, to who asks by itself: head and body often come one after the other
LARGEST_PART = 1 << 16
OK = b"HTTP/1.1 200 "
IN_CHUNKS = b"chunked"  # as nearly all write it
LAST_CHUNK = b"\r\n0\r\n\r\n"
HEAD_END = b"\r\n\r\n"
LARGEST_HEAD = 1 << 16
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection:[^\r\n]*close", re.IGNORECASE)
EMPTY = (204, 304)


def ended(answer: bytes) -> bool:
    """Whether a head is there, and nothing in chunks follows it: where that ends is for get() to find."""
    return HEAD_END in answer and IN_CHUNKS not in answer


class _Broken(Exception):
    """What came is no HTTP, or ended too soon."""


class Wire:
    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        shown = f"[{self._host}]" if ":" in self._host else self._host
        head = f" HTTP/1.1\r\nHost: {shown}:{self._port}\r\nUser-Agent: vllm-keeper\r\nAccept: */*\r\n\r\n"
        self._head = head.encode()
        self._link: socket.socket | None = None
        self._lent = False
        self._deadline = 0.0
        self._read = b""  # what has come and is not used yet

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._read, self._lent = None, b"", False

    def get(self, path: str, within: float) -> Answer:
        begun = time.monotonic()
        self._deadline = begun + within

        def answer(kind: str, detail: str, status: int | None = None, body: bytes = b"") -> Answer:
            return Answer(kind, f"GET {path.partition('?')[0]}: {detail}", status, time.monotonic() - begun, body)

        try:
            status, body = self._exchange(b"GET " + path.encode("ascii") + self._head)
        except socket.timeout:  # TimeoutError only since Python 3.10
            self.close()
            return answer("timeout", f"no whole answer within {within:g} s")
        except ConnectionRefusedError:
            self.close()
            return answer("refused", "connection refused")
        except (OSError, ValueError, _Broken) as error:
            self.close()
            return answer("broken", f"{type(error).__name__.lstrip('_')}: {error}"[:200])
        if status == 200:
            return answer("ok", f"200 in {time.monotonic() - begun:.3f} s", 200, body)
        return answer("status", f"status {status}", status, body)

    def lend(self, path: str, within: float) -> tuple[socket.socket, bytes] | None:
        """The connection and a question to send on it, None where there is none; until the next get(), or close().

        For who asks the same each second and reads no more of the answer than it must. The kernel itself waits, WITHIN
        seconds for each part of an answer, so that a part is one system call rather than three.
        """
        if self._link is None or self._read:
            return None
        self._lent = True
        self._link.settimeout(None)
        limit = struct.pack("ll", int(within), int(within % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._link.setsockopt(socket.SOL_SOCKET, option, limit)
        return self._link, b"GET " + path.encode("ascii") + self._head

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._read:
            self.close()  # more came than was the answer: whose it is cannot be told
        if self._link is not None:
            try:
                if self._lent:
                    self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                    self._lent = False
                self._link.settimeout(self._left())
                self._link.sendall(request)
                self._more()
            except (ConnectionError, _Broken):
                # The server closes what was unused for a while, and may do so just now: a new connection tells.
                self.close()
        if self._link is None:
            self._link = socket.create_connection((self._host, self._port), self._left())
            self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._link.sendall(request)
        return self._response()

    def _response(self) -> tuple[int, bytes]:
        while HEAD_END not in self._read:
            if len(self._read) > LARGEST_HEAD:
                raise _Broken(f"headers longer than {LARGEST_HEAD} bytes")
            self._more()
        head, _end, self._read = self._read.partition(HEAD_END)
        head += b"\r\n"
        found = STATUS.match(head)
        if found is None:
            raise _Broken(f"not HTTP: {head[:40]!r}")
        status = int(found[1])
        length = LENGTH.search(head)
        closes = CLOSES.search(head) is not None
        if CHUNKED.search(head):
            body = self._chunks()
        elif length is not None:
            body = self._exactly(min(int(length[1]), LARGEST_BODY))
            closes = closes or int(length[1]) > LARGEST_BODY
        elif status in EMPTY:
            body = b""
        else:
            body, closes = self._rest_of_it(), True
        if closes:
            self.close()
        return status, body

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int(self._line().partition(b";")[0], 16)
            if size == 0:
                while self._line():
                    pass  # trailers
                return b"".join(parts)
            if size + sum(map(len, parts)) > LARGEST_BODY:
                raise _Broken(f"a body of more than {LARGEST_BODY} bytes")
            parts.append(self._exactly(size))
            self._line()

    def _line(self) -> bytes:
        while b"\r\n" not in self._read:
            if len(self._read) > LARGEST_HEAD:
                raise _Broken("a line without an end")
            self._more()
        line, _end, self._read = self._read.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        if len(self._read) < size:
            parts, have = [self._read], len(self._read)
            while have < size:
                self._read = b""
                self._more()
                parts.append(self._read)
                have += len(self._read)
            self._read = b"".join(parts)
        body, self._read = self._read[:size], self._read[size:]
        return body

    def _rest_of_it(self) -> bytes:
        try:
            while len(self._read) < LARGEST_BODY:
                self._more()
        except _Broken:
            pass  # that is its end
        return self._read

    def _more(self) -> None:
        if self._link is None:
            raise _Broken("no connection")
        self._link.settimeout(self._left())
        part = self._link.recv(LARGEST_PART)
        if not part:
            raise _Broken("the server closed the connection")
        self._read += part

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("deadline")
        return left
