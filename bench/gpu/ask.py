# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the server, and pictures to send."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import random
import re
import struct
import time
import zlib
from typing import Any, NamedTuple

BLOCK = 8  # pixels that have one colour: what no server can have seen before, and small to send
PROMPT = "Once upon a time"


class Answer(NamedTuple):
    """status 0: none came; text then says why."""

    status: int
    text: str
    seconds: float


def ask(port: int, path: str, body: object = None, timeout: float = 2.0) -> Answer:
    """GET, or POST where there is a BODY."""
    begun = time.monotonic()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if body is None:
            link.request("GET", path)
        else:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read().decode(errors="replace")
        return Answer(answer.status, text, time.monotonic() - begun)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"{type(error).__name__}: {error}", time.monotonic() - begun)
    finally:
        link.close()


def completion(model: str, tokens: int, prompt: str = PROMPT, **more: object) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **more}


def picture_question(model: str, url: str, tokens: int, text: str = "What is it?") -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {
        "model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens, "ignore_eos": True
    }  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@functools.lru_cache(maxsize=256)
def picture(side: int, seed: int) -> str:
    """A PNG of coloured blocks, SIDE x SIDE, as a data URL. The same for the same SEED."""
    dice = random.Random(seed)
    rows = []
    same = b"\x02" + bytes(3 * side)  # filter "up": as the row above
    for top in range(0, side, BLOCK):
        blocks = b"".join(dice.randbytes(3) * BLOCK for _ in range(-(-side // BLOCK)))
        rows.append(b"\0" + blocks[: 3 * side] + same * (min(BLOCK, side - top) - 1))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(rows), 1)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def metric(text: str, name: str) -> float:
    """The sum of its samples, 0.0 where it has none."""
    return sum(float(v) for v in re.findall(rf"^{re.escape(name)}(?:\{{[^}}\n]*\}})? (\S+)$", text, re.MULTILINE))
