# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM's /metrics says about progress. Pure.

Only what moves when the engine moves is read, by engine (`engine="0"`), so that one dead engine of several is seen.
Asked for by name, which costs the server a tenth of all of them: on the path behind `/metrics` vLLM mounts
prometheus_client's own application, and that knows `name[]`. Names as vLLM 0.32 has them:
https://docs.vllm.ai/en/stable/usage/metrics/
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

NAMES = (
    "iteration_tokens_total_count", "prompt_tokens_total", "generation_tokens_total", "request_success_total",
    "num_requests_running", "num_requests_waiting",
)  # fmt: skip
ALL = "/metrics"
SOME = f"{ALL}/?{'&'.join(f'name[]=vllm:{name}' for name in NAMES)}"
LINE = re.compile(rf"^vllm:({'|'.join(NAMES)})(?:\{{([^}}\n]*)\}})? ([^\s]+)".encode(), re.MULTILINE)
# What a glance looks for, each at the beginning of a line.
STEPS = b"\nvllm:iteration_tokens_total_count"
QUEUE = b"\nvllm:num_requests_waiting{"
EMPTY = (b" 0.0", b" 0")
DIGITS = b"0123456789"
REQUESTS = re.compile(rb"\nvllm:num_requests_(running|waiting)(?:\{[^}\n]*\})? (\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=\n)")
ENGINE = re.compile(rb'\bengine="([^"]*)"')
RUNNING, WAITING = "num_requests_running", "num_requests_waiting"


@dataclass(frozen=True)
class Engine:
    """moved: every counter that grows with work; which way it changes does not matter, since counters are reset."""

    moved: tuple[float, ...]
    running: float = 0.0
    waiting: float = 0.0

    @property
    def has_work(self) -> bool:
        return self.running > 0 or self.waiting > 0


@dataclass(frozen=True)
class Counters:
    engines: Mapping[str, Engine]

    @property
    def running(self) -> float:
        return sum(engine.running for engine in self.engines.values())

    @property
    def waiting(self) -> float:
        return sum(engine.waiting for engine in self.engines.values())


def goes_on(before: bytes, now: bytes) -> bool:
    """Whether between two answers of /metrics every engine has made steps, and none came or went.

    Compared as they stand there: a tenth of what parse() takes.
    """
    was, at = before.find(STEPS), now.find(STEPS)
    if at < 0:
        return False
    while at >= 0 <= was:
        ended, end = before.find(b"\n", was + 1), now.find(b"\n", at + 1)
        if now[end - 1] not in DIGITS or before[was:ended] == now[at:end]:
            return False
        was, at = before.find(STEPS, ended), now.find(STEPS, end)
    return at == was


def queued(text: bytes) -> bool:
    """Whether requests wait at any engine."""
    at = text.find(QUEUE)
    while at >= 0:
        end = text.find(b"\n", at + 1)
        if not text.endswith(EMPTY, at, end):
            return True
        at = text.find(QUEUE, end)
    return False


def requests(text: bytes) -> tuple[float, float]:
    """(how many run, how many wait)"""
    sums = {b"running": 0.0, b"waiting": 0.0}
    for name, number in REQUESTS.findall(text):
        sums[name] += float(number)
    return sums[b"running"], sums[b"waiting"]


def parse(text: bytes) -> Counters | None:
    """None when it says nothing about progress: no vLLM, its statistics switched off, or garbled."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in LINE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if not math.isfinite(number):
            continue
        engine = ENGINE.search(labels)
        sums = found.setdefault(engine.group(1).decode("utf-8", "replace") if engine else "0", {})
        key = name.decode("ascii")
        # Several lines of one name differ in labels that do not matter here, such as finished_reason.
        sums[key] = sums.get(key, 0.0) + number
    engines = {
        name: Engine(
            moved=tuple(value for key, value in sorted(sums.items()) if key not in (RUNNING, WAITING)),
            running=sums.get(RUNNING, 0.0),
            waiting=sums.get(WAITING, 0.0),
        )
        for name, sums in found.items()
    }
    return Counters(engines) if any(engine.moved for engine in engines.values()) else None
