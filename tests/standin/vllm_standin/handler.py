# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API answers: vLLM's paths, statuses and shapes, for text and pictures."""

from __future__ import annotations

import base64
import binascii
import json
import queue
import select
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .api import Pending, Server

if TYPE_CHECKING:
    import socket

VERSION = "0.32.0+standin"
GUARDED = ("/v1", "/v2", "/inference", "/cohere")
PICTURE = 64  # tokens
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
LOOK = 0.2  # how soon it is seen that a user has gone
GETS = ("/health", "/ping", "/load", "/version", "/metrics", "/v1/models", "/openapi.json", "/docs")
POSTS = ("/v1/completions", "/v1/chat/completions", "/ping", "/tokenize")


class Refusal(Exception):
    """A request that is answered with an error: status, type and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Gone(Exception):
    """The user hung up."""


def tokens_in(text: object) -> int:
    """Of a prompt: text, a list of token numbers, or several of either. About four letters make a token."""
    if isinstance(text, str):
        return max(1, len(text) // 4)
    if isinstance(text, list) and text:
        return len(text) if isinstance(text[0], int) else sum(map(tokens_in, text))
    raise Refusal(400, "BadRequestError", "Either prompt or prompt_embeds must be provided and non-empty.")


def check_picture(part: dict[str, Any]) -> None:
    url = part["image_url"]["url"]
    head, comma, content = url.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise Refusal(400, "BadRequestError", "the stand-in fetches nothing: only data:image/...;base64 is read")
    try:
        picture = base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise Refusal(400, "BadRequestError", f"Failed to load image: {error}") from error
    if not picture.startswith(MAGIC):
        raise Refusal(400, "BadRequestError", "Failed to load image: cannot identify image file")


def read_messages(messages: object) -> tuple[int, int]:
    """(tokens, pictures) of a chat."""
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "BadRequestError", "messages: Field required")
    tokens = pictures = 0
    try:
        for message in messages:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if part["type"] == "text":
                    tokens += tokens_in(part["text"])
                elif part["type"] == "image_url":
                    check_picture(part)
                    pictures += 1
                else:
                    raise Refusal(400, "BadRequestError", f"Unknown part type: {part['type']}")
    except (KeyError, TypeError, AttributeError) as error:
        raise Refusal(400, "BadRequestError", f"messages: {type(error).__name__}: {error}") from error
    return tokens + pictures * PICTURE, pictures


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "vllm-standin"
    disable_nagle_algorithm = True
    server: Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.settings.keep_alive)

    def log_message(self, *arguments: object) -> None:
        pass

    def reply(self, status: int, content: object = b"", kind: str = "application/json") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.status, self.sent = status, len(body)
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply_in_chunks(self, body: bytes, kind: str) -> None:
        self.status, self.sent = 200, len(body)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        last = b"0\r\n\r\n"
        self.wfile.write(b"%x\r\n%b\r\n%b" % (len(body), body, last) if body else last)

    def refuse(self, status: int, kind: str, message: str) -> None:
        self.reply(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_HEAD(self) -> None:
        self.reply(405)

    def _answer(self, verb: Any) -> None:
        began = time.monotonic()
        self.route = urlsplit(self.path).path
        self.status, self.sent, self.length = 500, 0, int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(self.length)
        if self.server.settings.keys and self.route.startswith(GUARDED) and not self._has_key():
            self.reply(401, {"error": "Unauthorized"})
        else:
            verb(body)
        handler = self.route if self.route in GETS + POSTS else "none"
        self.server.metrics.http(handler, self.command, self.status, time.monotonic() - began, self.length, self.sent)

    def _has_key(self) -> bool:
        kind, _space, key = self.headers.get("Authorization", "").partition(" ")
        return kind == "Bearer" and key in self.server.settings.keys

    def _get(self, _body: bytes) -> None:
        settings = self.server.settings
        if self.route in ("/health", "/ping"):
            self.reply(503 if self.server.dead else 200)
        elif self.route == "/metrics":
            self.reply(200, self.server.metrics.render(), "text/plain; version=1.0.0; charset=utf-8")
        elif self.route.startswith("/metrics/"):
            # Behind the exact path vLLM has prometheus_client's own application, which can be asked for some samples.
            names = parse_qs(urlsplit(self.path).query).get("name[]")
            self.reply_in_chunks(self.server.metrics.render(names), "text/plain; version=0.0.4; charset=utf-8")
        elif self.route == "/v1/models":
            card = {
                "id": settings.name, "object": "model", "created": int(time.time()), "owned_by": "vllm",
                "root": settings.model, "parent": None, "max_model_len": settings.longest, "permission": [],
            }  # fmt: skip
            self.reply(200, {"object": "list", "data": [card]})
        elif self.route == "/version":
            self.reply(200, {"version": VERSION})
        elif self.route == "/load":
            self.reply(200, {"server_load": self.server.answering})
        elif self.route == "/openapi.json":
            paths: dict[str, Any] = {path: {"get": {}} for path in GETS[:6]} | {path: {"post": {}} for path in POSTS}
            self.reply(200, {"openapi": "3.1.0", "info": {"title": "vLLM stand-in", "version": "0"}, "paths": paths})
        elif self.route == "/docs":
            self.reply(200, b"<title>vLLM stand-in</title>", "text/html; charset=utf-8")
        else:
            self._no_such(POSTS)

    def _post(self, body: bytes) -> None:
        if self.route == "/ping":
            self.reply(503 if self.server.dead else 200)
        elif self.route == "/tokenize":
            self.reply(200, {"count": len(body) // 4, "max_model_len": self.server.settings.longest})
        elif self.route in ("/v1/completions", "/v1/chat/completions"):
            with self.server.count:
                self.server.answering += 1
            try:
                self._complete(body)
            except Refusal as refusal:
                self.refuse(refusal.status, refusal.kind, str(refusal))
            except Gone:
                self.close_connection = True
            finally:
                with self.server.count:
                    self.server.answering -= 1
        else:
            self._no_such(GETS)

    def _no_such(self, other: tuple[str, ...]) -> None:
        if self.route in other:
            self.reply(405, {"detail": "Method Not Allowed"})
        else:
            self.reply(404, {"detail": "Not Found"})

    def _complete(self, body: bytes) -> None:
        settings, engine = self.server.settings, self.server.engine
        try:
            asked = json.loads(body)
            tokens = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 16)
            priority = int(asked.get("priority") or 0)
        except (ValueError, TypeError, AttributeError) as error:
            raise Refusal(400, "BadRequestError", f"the body is not understood: {error}") from error
        model = asked.get("model")
        if model not in (None, settings.name):
            raise Refusal(404, "NotFoundError", f"The model `{model}` does not exist.")
        self.chat = self.route.endswith("/chat/completions")
        prompt, pictures = read_messages(asked.get("messages")) if self.chat else (tokens_in(asked.get("prompt")), 0)
        if tokens < 1 or prompt + tokens > settings.longest:
            raise Refusal(
                400, "BadRequestError",
                f"This model's maximum context length is {settings.longest} tokens. However, you requested {tokens} "
                f"output tokens and your prompt contains {prompt} input tokens.",
            )  # fmt: skip
        if engine is None or self.server.draining or self.server.dead:
            raise Refusal(500, "InternalServerError", "EngineCore encountered an issue. See stack trace for details.")
        if pictures:
            self.server.metrics.seen(pictures)
        pending = engine.submit(prompt, tokens, priority)
        self.looked = pending.at
        try:
            if asked.get("stream"):
                self._stream(pending)
            else:
                self._whole(pending)
        finally:
            engine.abort(pending)  # if it is not complete, nobody waits for it any more

    def _next(self, pending: Pending) -> str | None:
        """None for a token, else why it ended. Raises Gone, or Refusal once the engine is dead."""
        while True:
            now = time.monotonic()
            if now - self.looked >= LOOK:
                self.looked = now
                look = select.poll()
                look.register(self.connection, select.POLLRDHUP)
                if look.poll(0):
                    raise Gone
            try:
                told = pending.told.get(timeout=LOOK)
            except queue.Empty:
                continue
            if told == "dead":
                raise Refusal(
                    500, "InternalServerError", "EngineCore encountered an issue. See stack trace for details."
                )
            return told

    def _whole(self, pending: Pending) -> None:
        while (reason := self._next(pending)) is None:
            pass
        self.reply(
            200,
            {
                **self._head(pending),
                "object": "chat.completion" if self.chat else "text_completion",
                "choices": [self._choice(" a" * pending.made, reason, "message")],
                "usage": {
                    "prompt_tokens": pending.prompt,
                    "completion_tokens": pending.made,
                    "total_tokens": pending.prompt + pending.made,
                },
            },
        )

    def _stream(self, pending: Pending) -> None:
        self.status = 200
        begun, reason = False, None
        while reason is None:
            try:
                reason = self._next(pending)
            except Refusal as refusal:
                if not begun:
                    raise
                self.wfile.write(f"data: {json.dumps({'error': {'message': str(refusal)}})}\n\n".encode())
                break
            if not begun:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Connection", "close")
                self.end_headers()
                begun = self.close_connection = True
            chunk = {
                **self._head(pending),
                "object": "chat.completion.chunk" if self.chat else "text_completion",
                "choices": [self._choice("" if reason == "abort" else " a", reason, "delta")],
            }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _head(self, pending: Pending) -> dict[str, Any]:
        kind = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{kind}-{pending.number}", "created": int(time.time()), "model": self.server.settings.name}

    def _choice(self, text: str, reason: str | None, part: str) -> dict[str, Any]:
        content = {part: {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason, "stop_reason": None}
