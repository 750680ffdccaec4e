# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users who always have a request under way, as a program of its own so that it takes no turn from who measures.

    python3 -m bench.gpu.users KIND SECONDS USERS --port 8000 --model NAME

KIND: short (a few words, 200 tokens), sampled (the same with top-k, top-p and a temperature), long (900 letters of
prompt, 100 tokens), picture (928 x 928, each another), huge (3000 x 3000, which a max-model-len of 1024 refuses),
mixed. Prints JSON when the time is over or it is told to end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from typing import Any

from bench.gpu import ask

KINDS = ("short", "sampled", "long", "picture", "huge", "mixed")
USERS = {"short": 256, "sampled": 256, "long": 256, "picture": 64, "huge": 32, "mixed": 96}
SIDE, HUGE = 928, 3000
PICTURES, HUGE_PICTURES = 128, 4
GIVE_UP = 120.0  # seconds for one answer
SAMPLED = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
Told = tuple[str, str, float]  # kind, status, seconds


def request(kind: str, model: str, dice: random.Random) -> tuple[str, str, bytes]:
    """(its kind, path, body)"""
    if kind == "mixed":
        kind = dice.choice(["short", "long", "picture", "picture", "huge"])
    path = "/v1/completions"
    if kind in ("short", "sampled"):
        more: dict[str, Any] = dict(SAMPLED) if kind == "sampled" else {}
        body = ask.completion(model, 200, f"{ask.PROMPT} {dice.random()}", **more)
    elif kind == "long":
        body = ask.completion(model, 100, "".join(dice.choice("abcdefghij klmnop") for _ in range(900)))
    else:
        path = "/v1/chat/completions"
        side, count = (HUGE, HUGE_PICTURES) if kind == "huge" else (SIDE, PICTURES)
        # Another text each time: a cache of prefixes would answer the same question again without any work.
        url = ask.picture(side, dice.randrange(count))
        body = ask.picture_question(model, url, 32, f"What? {dice.random()}")
    return kind, path, json.dumps(body).encode()


def prepare(kind: str) -> None:
    """Pictures take time to make: before, and not meanwhile."""
    if kind in ("picture", "mixed"):
        for seed in range(PICTURES):
            ask.picture(SIDE, seed)
    if kind in ("huge", "mixed"):
        for seed in range(HUGE_PICTURES):
            ask.picture(HUGE, seed)


class Link:
    """One connection, kept as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> int:
        if self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        if self.reader is None:
            raise OSError("no connection")
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" in headers:
            await self.reader.readexactly(int(headers["content-length"]))
        elif "chunked" in headers.get("transfer-encoding", ""):
            while (size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)) > 0:
                await self.reader.readexactly(size + 2)
            await self.reader.readuntil(b"\r\n")
        else:
            await self.reader.read()
            self.close()
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def user(number: int, given: argparse.Namespace, told: list[Told]) -> None:
    dice, link = random.Random(number), Link(given.port)
    while True:
        kind, path, body = request(given.kind, given.model, dice)
        begun = time.monotonic()
        try:
            status = str(await asyncio.wait_for(link.post(path, body), GIVE_UP))
        except (OSError, ValueError, IndexError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError) as error:
            link.close()
            status = type(error).__name__
            await asyncio.sleep(0.2)
        told.append((kind, status, time.monotonic() - begun))


async def run(given: argparse.Namespace) -> list[Told]:
    told: list[Told] = []
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(user(number, given, told)) for number in range(given.users)]
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), given.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return told


def short(told: list[Told]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    took: dict[str, list[float]] = {}
    for kind, status, seconds in told:
        counts[f"{kind} {status}"] = counts.get(f"{kind} {status}", 0) + 1
        took.setdefault(kind, []).append(seconds)
    return {
        "answers": counts,
        "median_s": {kind: round(statistics.median(values), 3) for kind, values in took.items()},
        "max_s": {kind: round(max(values), 3) for kind, values in took.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("users", type=int)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", required=True)
    given = parser.parse_args()
    prepare(given.kind)
    print(json.dumps({"kind": given.kind, "users": given.users, **short(asyncio.run(run(given)))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
