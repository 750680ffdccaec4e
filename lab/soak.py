# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make soak`: a server that is only busy is never taken for dead. Saturates one with real vLLM, and counts repairs.

The queue is always full: long prompts, long answers and pictures at once, from more clients than the server runs at a
time, while neighbours burn every core of the host. The keeper has the settings that are shipped, which are the
tightest. Passed when it repaired nothing and the server kept its processes.

    python -m lab.soak [--minutes 20]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from lab import client
from lab.pictures import pictures

CLIENTS = 40  # the lab's server runs 16 at a time
WORDS = ("wing", "river", "stone", "lamp", "north", "quiet", "amber", "seven")
BURN = "while True: pass"
NOT_WATCHED: dict[str, Any] = {"verdict": "not watched", "running": 0, "waiting": 0, "stalled": 0}


@dataclass
class Soaked:
    """What a soak saw. longest: seconds that one request took at most."""

    seconds: float
    answered: int = 0
    failed: int = 0
    longest: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    most_running: int = 0
    most_waiting: int = 0
    longest_stall: float = 0.0
    incidents: list[dict[str, Any]] = field(default_factory=list)
    same_processes: bool = False

    @property
    def good(self) -> bool:
        return not self.incidents and self.same_processes and self.answered > 0 and self.most_waiting > 0

    def __str__(self) -> str:
        verdicts = ", ".join(f"{count} times {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return (
            f"{self.seconds:.0f} s, {self.answered} answered, {self.failed} failed, the slowest took "
            f"{self.longest:.0f} s, up to {self.most_running} at once and {self.most_waiting} waiting, no progress for "
            f"up to {self.longest_stall:.1f} s; the keeper said {verdicts}; {len(self.incidents)} repairs"
        )


def soak(host: str, seconds: float, clients: int = CLIENTS) -> Soaked:
    """Saturate the server of one lab host."""
    lab = client.Lab.read()
    before = set(client.processes(host))
    known = len(_explained(host, lab.instance)["incidents"])
    seen, lock, stop = Soaked(seconds), threading.Lock(), threading.Event()
    burners = [
        subprocess.Popen(
            ["podman", "exec", client.container(host), "timeout", str(seconds + 60), "python3", "-c", BURN]
        )
        for _core in range(os.cpu_count() or 2)
    ]
    threads = [
        threading.Thread(target=_ask, args=(lab, host, number, stop, seen, lock), daemon=True)
        for number in range(clients)
    ]
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            shown = _explained(host, lab.instance)["watched"] or NOT_WATCHED
            seen.verdicts[shown["verdict"]] = seen.verdicts.get(shown["verdict"], 0) + 1
            seen.most_running = max(seen.most_running, int(shown["running"]))
            seen.most_waiting = max(seen.most_waiting, int(shown["waiting"]))
            seen.longest_stall = max(seen.longest_stall, float(shown["stalled"]))
            time.sleep(1)
    finally:
        stop.set()
        for burner in burners:
            burner.terminate()
        client.on(host, "pkill", "-KILL", "-f", f"[-]c {BURN}", check=False)
        for burner in burners:
            burner.wait(30)
    incidents = _explained(host, lab.instance)["incidents"]
    seen.incidents = incidents[: len(incidents) - known]  # the newest first
    seen.same_processes = set(client.processes(host)) == before
    return seen


def _explained(host: str, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(client.on(host, "vllm-keeper", "explain", "--json", "--count", "20", name))
    return told


def _ask(lab: client.Lab, host: str, number: int, stop: threading.Event, seen: Soaked, lock: threading.Lock) -> None:
    dice = random.Random(number)
    shown = pictures(1_000_000, seed=number)
    while not stop.is_set():
        if number % 3 == 0:
            body = {"messages": next(shown).messages, "max_tokens": 64, "ignore_eos": True}
            path = "/v1/chat/completions"
        else:
            prompt = " ".join(dice.choice(WORDS) for _word in range(dice.randrange(20, 180)))
            body, path = (
                {"prompt": prompt, "max_tokens": dice.randrange(50, 400), "ignore_eos": True},
                "/v1/completions",
            )
        began = time.monotonic()
        try:
            got = requests.post(f"{lab.direct(host)}{path}", json={"model": lab.model, **body}, timeout=600)
            good = got.status_code == 200
        except requests.RequestException:
            good = False
        with lock:
            seen.answered += good
            seen.failed += not good and not stop.is_set()
            seen.longest = max(seen.longest, time.monotonic() - began)
        if not good:
            stop.wait(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--host", default="gpu1")
    options = parser.parse_args()
    seen = soak(options.host, options.minutes * 60)
    print(f"soak of {options.host}: {seen}", flush=True)
    for incident in seen.incidents:
        print(json.dumps(incident, indent=1))
    print(
        "==== never taken for dead ====" if seen.good else "==== taken for dead, or its queue never full ====",
        flush=True,
    )
    return 0 if seen.good else 1


if __name__ == "__main__":
    sys.exit(main())
