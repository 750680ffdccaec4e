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
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NAMES = (
    "iteration_tokens_total_count", "prompt_tokens_total", "generation_tokens_total", "request_success_total",
    "num_requests_running", "num_requests_waiting",
)  # fmt: skip
ALL = "/metrics"
SOME = f"{ALL}/?{'&'.join(f'name[]=vllm:{name}' for name in NAMES)}"
LINE = re.compile(rf"^vllm:({'|'.join(NAMES)})(?:\{{([^}}\n]*)\}})? ([^\s]+)".encode(), re.MULTILINE)
# Of one beginning each, which is found without reading every line.
NUMBER = rb"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=\n)"
STEPS = re.compile(rb"\nvllm:iteration_tokens_total_count((?:\{[^}\n]*\})?) " + NUMBER)
REQUESTS = re.compile(rb"\nvllm:num_requests_(running|waiting)(?:\{[^}\n]*\})? " + NUMBER)
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


class Pulse(NamedTuple):
    """What a glance reads of /metrics, as it stands there: it is compared each second, and seldom asked for a number.

    steps: labels of each engine, with its count of them. requests: b"running" or b"waiting", with how many.
    """

    steps: Sequence[tuple[bytes, bytes]] = ()
    requests: Sequence[tuple[bytes, bytes]] = ()

    def goes_on_from(self, before: Pulse) -> bool:
        """Whether every engine has made steps since, there is none more and none less, and a queue neither came nor
        went, which would be another verdict.
        """
        if not len(self.steps) == len(before.steps) > 0 or any(map(operator.eq, self.steps, before.steps)):
            return False
        if self.requests == before.requests:
            return True
        return len(self.requests) == len(before.requests) and bool(self.waiting) == bool(before.waiting)

    @property
    def running(self) -> float:
        return sum(float(number) for name, number in self.requests if name == b"running")

    @property
    def waiting(self) -> float:
        return sum(float(number) for name, number in self.requests if name == b"waiting")


def pulse(text: bytes) -> Pulse:
    """Enough to see that all engines go on, at a fifth of what parse() takes."""
    return Pulse(STEPS.findall(text), REQUESTS.findall(text))


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
