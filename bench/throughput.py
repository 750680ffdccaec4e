# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What watching costs a busy server: tokens a second with the keeper's watcher and without, in turn, with real vLLM.

    python -m bench.throughput [--rounds 20] [--seconds 15] [--host gpu1]
    python -m bench.throughput --cpu

Users who always have a request under way keep the server at its limit throughout. Tokens are counted by the server
itself. Each round has a window of each kind, in an order that changes from round to round; what is printed is the
median of the rounds' ratios, with the 95 % interval that resampling the rounds gives. Goal: 0.5 % lost at most.

Where cores are shared, windows differ by more than that from each other. --cpu asks for what could be lost at most: the
CPU time that watching takes, of the keeper (all of it, while users keep the server at its limit) and of the server for
its answers (to as many of the same questions, while it has nothing else to do), against all that the host has.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import requests
from vllm_keeper.watch import counters
from vllm_keeper.watch.daemon import LONGEST_COMM

from lab import client

GOAL = 0.005
USERS, TOKENS = 24, 200
SETTLE = 3.0  # seconds after the watcher came or went, its own start being no part of the figure
COUNTER = re.compile(r"^vllm:generation_tokens_total\{[^}]*\} (\S+)", re.MULTILINE)


def generated(url: str) -> float:
    """Tokens since the server's start."""
    return sum(float(value) for value in COUNTER.findall(requests.get(f"{url}/metrics", timeout=10).text))


def use(url: str, model: str, stop: threading.Event) -> None:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True}
    while not stop.is_set():
        try:
            requests.post(f"{url}/v1/completions", json=body, timeout=120).raise_for_status()
        except requests.RequestException:
            stop.wait(0.5)


def window(host: str, url: str, watched: bool, seconds: float) -> float:
    """Tokens a second."""
    client.on(host, "systemctl", "start" if watched else "stop", "vllm-keeper")
    time.sleep(SETTLE)
    began, before = time.monotonic(), generated(url)
    time.sleep(seconds)
    return (generated(url) - before) / (time.monotonic() - began)


def spent(host: str, unit: str, thread: str = "") -> float:
    """CPU seconds of a unit's main process, by the scheduler's own count of nanoseconds.

    THREAD: of the one with this name only; else of all.
    """
    tasks = f"/proc/$(systemctl show -p MainPID --value {unit})/task/*"
    script = f"cat {tasks}/schedstat"
    if thread:
        script = f"one=$(grep -lx '{thread[:LONGEST_COMM]}' {tasks}/comm) && cat ${{one%comm}}schedstat"
    return sum(int(line.split()[0]) for line in client.on(host, "sh", "-c", script).splitlines()) / 1e9


@contextlib.contextmanager
def at_its_limit(url: str, model: str) -> Iterator[None]:
    """Users keep the server busy, who always have a request under way."""
    stop = threading.Event()
    users = [threading.Thread(target=use, args=(url, model, stop), daemon=True) for _ in range(USERS)]
    try:
        for user in users:
            user.start()
        time.sleep(SETTLE)
        yield
    finally:
        stop.set()
        for user in users:
            user.join(150)


def keepers(host: str, url: str, model: str, seconds: float) -> float:
    """CPU seconds that the keeper takes in one, while users keep the server at its limit."""
    with at_its_limit(url, model):
        began, before = time.monotonic(), spent(host, "vllm-keeper")
        time.sleep(seconds)
        return (spent(host, "vllm-keeper") - before) / (time.monotonic() - began)


def servers(host: str, url: str, unit: str, looks: int) -> float:
    """CPU seconds that one answer to the keeper's question takes of the API."""
    client.on(host, "systemctl", "stop", "vllm-keeper")
    try:
        time.sleep(SETTLE)
        with requests.Session() as session:
            began, before = time.monotonic(), spent(host, unit)
            for _ in range(looks):
                session.get(f"{url}{counters.SOME}", timeout=10).raise_for_status()
            asked, took = spent(host, unit) - before, time.monotonic() - began
        before = spent(host, unit)
        time.sleep(took)
        return (asked - (spent(host, unit) - before)) / looks
    finally:
        client.on(host, "systemctl", "start", "vllm-keeper")


def cpu(host: str, url: str, model: str, seconds: float) -> int:
    """Print what watching takes; whether that is below the goal."""
    cores = int(client.on(host, "nproc"))
    keeper = keepers(host, url, model, seconds)
    server = servers(host, url, client.instance()["name"], 1000)
    share = (keeper + server) / cores  # a look a second
    print(f"each second: {keeper * 1000:.2f} ms of CPU for the keeper, {server * 1000:.2f} ms for the answer")
    print(f"of {cores} cores: {share * 100:.3f} % (goal {GOAL * 100:g} % of throughput lost at most)")
    return 0 if share <= GOAL else 1


def interval(ratios: list[float]) -> tuple[float, float]:
    """Of the median, 95 %, by resampling."""
    dice = random.Random(len(ratios))
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(4000))
    return medians[100], medians[3899]


def main() -> int:
    """Measure and print; the keeper watches again afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15, help="of one window")
    parser.add_argument("--host", default="gpu1")
    parser.add_argument("--cpu", action="store_true", help="what watching takes of the CPU, instead")
    options = parser.parse_args()
    lab = client.Lab.read()
    url = lab.direct(options.host)
    client.wait_until(lambda: client.answers(url, lab.model), 600, f"{options.host} serves")
    if options.cpu:
        return cpu(options.host, url, lab.model, 4 * options.seconds)
    ratios: list[float] = []
    try:
        with at_its_limit(url, lab.model):
            for number in range(options.rounds):
                rates = {
                    watched: window(options.host, url, watched, options.seconds)
                    for watched in ((True, False) if number % 2 else (False, True))
                }
                ratios.append(rates[True] / rates[False])
                print(f"  round {number + 1}: watched {rates[True]:.0f}, not {rates[False]:.0f} tokens/s", flush=True)
    finally:
        client.on(options.host, "systemctl", "start", "vllm-keeper")
    low, high = interval(ratios)
    lost = 1 - statistics.median(ratios)
    print(
        f"throughput with the watcher against without: {1 - lost:.4f} (95 %: {low:.4f} to {high:.4f}), "
        f"{lost * 100:.2f} % lost (goal {GOAL * 100:g} %)"
    )
    return 0 if lost <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
