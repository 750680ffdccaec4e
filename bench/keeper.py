# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How soon the keeper acts, in percentiles, against a stand-in for vLLM; beside the source guide's recipe.

    python -m bench.keeper [--samples 50] [--instances 4] [--fault hang_idle] [--json FILE]

The keeper's part is run for real, with the settings that are shipped: `vllm-keeper watch` and `vllm-keeper run`. The
server is a stand-in (tests/standin), which hangs and dies as vLLM does, and starts within a second: what vLLM itself
takes to start is no part of these figures. `make faults` has few samples of the whole, with real vLLM.

Of the recipe, check_vllm.sh is run for real (--recipe times a fault) on a server in that fault. Not slept but added:
the wait for cron's next five minutes, which is anything between 0 and 300 s; RestartSec=10; vLLM's own limit of 300 s
for one step. A hang that its /health never shows is censored at 600 s: it was not waited for, and would last longer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import site as sites
from tests.standin import rig

SCRIPT = Path(__file__).parent / "recipe/check_vllm.sh"
CRON, RESTART_SEC, STEP_LIMIT, CENSORED = 300.0, 10.0, 300.0, 600.0
GOAL_KILL, GOAL_STEPS, GOAL_START, GOAL_RATIO = 3.0, 4.0, 1.0, 100.0
GIVEN_UP = 90.0  # a sample that took so long counts as not found
# The watcher does not repair twice within 5 s: a fault that soon after another one would measure that.
SPACE = 5.0
USERS, TOKENS = 4, 200


@dataclass(frozen=True)
class Fault:
    """Signal NUMBER to WHICH of its processes; until it is killed, or (CRASH) until a new one is there."""

    text: str
    which: str
    number: int
    loaded: bool = False
    crash: bool = False


FAULTS = {
    "hang_idle": Fault("SIGSTOP of the engine, idle", "engine", signal.SIGSTOP),
    "hang_loaded": Fault("SIGSTOP of the engine, under load", "engine", signal.SIGSTOP, loaded=True),
    "hang_worker": Fault("SIGSTOP of the worker", "worker", signal.SIGSTOP),
    "hang_api": Fault("SIGSTOP of the API", "api", signal.SIGSTOP),
    "crash_api": Fault("SIGKILL of the API", "api", signal.SIGKILL, crash=True),
    "crash_engine": Fault("SIGKILL of the engine", "engine", signal.SIGKILL, crash=True),
}


@dataclass
class Figures:
    """Seconds, of each sample; lost: samples in which nothing was done within GIVEN_UP."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    def percentile(self, share: float) -> float:
        """The nearest rank: a value that was measured."""
        ordered = sorted(self.seconds) + [math.inf] * self.lost
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass
class Recipe:
    """seconds: of its script, a run each. fixed: what comes on top whenever cron comes. None: it never finds it."""

    acts: bool
    seconds: list[float]
    fixed: float
    note: str

    def percentile(self, share: float) -> float:
        if not self.acts:
            return self.fixed
        return share * CRON + (sum(self.seconds) / len(self.seconds)) + self.fixed


class Sampler:
    """Takes samples of one instance until none is left to take."""

    def __init__(self, instance: sites.Instance, orders: queue.SimpleQueue[str], results: dict[str, Figures]) -> None:
        self.instance, self.orders, self.results = instance, orders, results
        self.unasked = 0  # ends that were nobody's fault but the keeper's
        self.dice = random.Random(instance.name)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                self._sample(self.orders.get_nowait())
        except queue.Empty:
            return
        except Exception as error:  # told by the main thread, which cannot see it
            self.error = error

    def _sample(self, name: str) -> None:
        fault, figures = FAULTS[name], self.results[name]
        api = self.instance.serving()
        # At no fixed moment of the watcher's own second.
        end = time.monotonic() + SPACE + self.dice.random()
        if fault.loaded:
            with sites.Load(self.instance, USERS, TOKENS):
                self._take(fault, figures, api, end)
        else:
            self._take(fault, figures, api, end)

    def _take(self, fault: Fault, figures: Figures, api: int, at: float) -> None:
        death = sites.Death(api)
        try:
            if death.wait(at - time.monotonic()):
                self.unasked += 1
                return
            pids = {"api": api, **rig.below(api)}
            began = time.monotonic()
            os.kill(pids[fault.which], fault.number)
            found = death.wait(GIVEN_UP)
            if found and fault.crash:
                found = self._wait_for_another(api)
            took = time.monotonic() - began
            if found:
                figures.seconds.append(took)
            else:
                figures.lost += 1
                sites.send(signal.SIGKILL, api)
        finally:
            death.close()

    def _wait_for_another(self, api: int) -> bool:
        try:
            rig.until(lambda: self.instance.newest not in (None, api), GIVEN_UP, 0.002)
        except TimeoutError:
            return False
        return True


def measure(names: Sequence[str], samples: int, site: sites.Site) -> tuple[dict[str, Figures], int]:
    """The samples of each fault, mixed, and the number of ends that nobody had asked for."""
    order = [name for name in names for _ in range(samples)]
    random.Random(samples).shuffle(order)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in order:
        orders.put(name)
    results = {name: Figures() for name in names}
    samplers = [Sampler(instance, orders, results) for instance in site.instances]
    threads = [threading.Thread(target=sampler.run, daemon=True) for sampler in samplers]
    for thread in threads:
        thread.start()
    told = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        done = sum(len(figures.seconds) + figures.lost for figures in results.values())
        if not site.watched():
            raise RuntimeError(f"vllm-keeper watch has ended: see {site.folder}/keeper.log")
        if done >= told + 50:
            told = done
            print(f"  {done} of {len(order)} samples", flush=True)
    for sampler in samplers:
        if sampler.error is not None:
            raise sampler.error
    return results, sum(sampler.unasked for sampler in samplers)


def recipe(name: str, runs: int) -> Recipe:
    """The guide's script against a stand-in in that fault, with nobody else to repair it."""
    fault, seconds, codes = FAULTS[name], list[float](), set[int]()
    if name == "crash_api":
        return Recipe(False, [], RESTART_SEC, "its unit: RestartSec=10")
    for _ in range(runs):
        with rig.StandIn() as server:
            server.complete()
            began = time.monotonic()
            server.signal(fault.number, fault.which)
            if fault.crash:
                if server.process is None or server.process.wait(30) != 0:
                    raise RuntimeError(f"{name}: the stand-in's API did not exit with 0")
                seconds.append(time.monotonic() - began)
                continue
            api = server.pids["api"]
            # What `systemctl restart` sends to a unit's main process.
            command = ["sh", "-c", f"kill -TERM {api}; kill -CONT {api}"]
            done = subprocess.run([SCRIPT, f"http://127.0.0.1:{server.port}/health", *command], check=False)
            codes.add(done.returncode)
            if done.returncode and server.process is not None:
                server.process.wait(30)
            seconds.append(time.monotonic() - began)
    if fault.crash:
        return Recipe(False, [], RESTART_SEC + sum(seconds) / len(seconds), "vLLM's own exit, RestartSec=10")
    if codes == {0}:
        if fault.which == "worker":
            return Recipe(False, seconds, STEP_LIMIT, "never sees it; vLLM gives up a step after 300 s")
        return Recipe(False, seconds, CENSORED, "never sees it: censored")
    return Recipe(True, seconds, 0.0, f"cron's 0 to 300 s, then its script's {sum(seconds) / len(seconds):.0f} s")


def told(seconds: float) -> str:
    return ">= 600" if seconds == CENSORED else f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"


def show(results: dict[str, Figures], recipes: dict[str, Recipe], longest: float, unasked: int) -> bool:
    """The table; whether the goals were met."""
    print(f"{'':35} {'':5} {'keeper':^26}   {'recipe of the guide':^18}")
    print(f"{'seconds':35} {'n':>5} {'p50':>8} {'p99':>8} {'max':>8}   {'p50':>8} {'p99':>9} {'ratio':>7}")
    good = unasked == 0
    for crash in (False, True):
        print("from the crash to a new process:" if crash else "from the hang to the kill:")
        for name, figures in results.items():
            if FAULTS[name].crash != crash:
                continue
            its = recipes[name]
            middle, late, most = (figures.percentile(share) for share in (0.5, 0.99, 1.0))
            line = f"  {FAULTS[name].text:33} {len(figures.seconds) + figures.lost:5} {middle:8.2f} {late:8.2f}"
            line += f" {most:8.2f}   {told(its.percentile(0.5)):>8} {told(its.percentile(0.99)):>9}"
            print(f"{line} {its.percentile(0.5) / middle:6.0f}x  {its.note}")
            goal = GOAL_START if crash else max(GOAL_KILL, GOAL_STEPS * longest)
            good = good and late <= goal
    goal = max(GOAL_KILL, GOAL_STEPS * longest)
    print(f"longest idle step that the watcher saw: {longest:.2f} s, so the goal for a hang's p99 is {goal:.1f} s")
    print(f"goal for a crash's p99: {GOAL_START:g} s; ends that nobody had asked for: {unasked} (goal 0)")
    print("goals met" if good else "goals not met")
    return good


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50, help="of each fault")
    parser.add_argument("--instances", type=int, default=4, help="stand-ins that are measured at once by one keeper")
    parser.add_argument("--recipe", type=int, default=1, help="runs of the guide's script for each fault")
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), help="only this one; may be repeated")
    parser.add_argument("--watch", type=json.loads, default={}, help='other settings, as JSON: {"stall_after": 3}')
    parser.add_argument("--json", type=Path, help="write every sample there too")
    given = parser.parse_args()
    names = given.fault or list(FAULTS)

    if not sites.private_run_directory():
        print("this machine's own /run/vllm-keeper is used: nothing of the keeper may run here meanwhile")
    began, load = time.monotonic(), os.getloadavg()[0]
    with sites.Site(given.instances, watch=given.watch) as site:
        site.watch()
        results, unasked = measure(names, given.samples, site)
        longest = site.longest_step()
    recipes = {name: recipe(name, given.recipe) for name in names}
    print(
        f"stand-in for vLLM, {given.instances} at once on {os.cpu_count()} cores (load {load:.0f} before, "
        f"{os.getloadavg()[0]:.0f} after), {time.monotonic() - began:.0f} s:"
    )
    good = show(results, recipes, longest, unasked)
    if given.json is not None:
        data = {name: {"seconds": figures.seconds, "lost": figures.lost} for name, figures in results.items()}
        given.json.write_text(json.dumps({"longest": longest, "unasked": unasked, "faults": data}) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
