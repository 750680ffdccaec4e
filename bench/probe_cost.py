# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to look at a server: a cycle of the keeper's watcher, against a run of the source guide's script.

    python -m bench.probe_cost [--cycles 600] [--runs 200] [--neighbours 0]
    python -m bench.probe_cost --host gpu1 [--seconds 300] [--runs 200]

CPU seconds, user and system, of whoever looks and of what it starts; what the server spends on its answer is in
neither figure. Both look at the same server.

With --host that is real vLLM of the lab at its limit, and what looks is the keeper of that host as it runs there: what
the kernel says that its watcher's thread took in so many seconds, a look a second.

Otherwise it is a stand-in for vLLM whose /metrics is as large as vLLM's. Two kinds of cycle: while requests run, when a
look is /metrics, and now and then all there is to see; and while it is idle, when a canary goes with it: a whole
completion, which the guide's script does not ask for. The script is charged for bash and curl, not for cron's own
processes; curl alone, without the script around it, is told too.

Beside them stands the least that any look in Python can cost here: to sleep, ask and read the answer, and nothing else.
On a virtual machine most of that is waking up a core that slept, for which it pays more than others do; --neighbours
keeps so many cores awake, as an engine that generates does.

A cycle stands for a second, so that what the watcher does every ten minutes is in 600 of them once. Each is preceded by
the watcher's own wait, in which the CPU's caches grow as cold as they do between two looks.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from vllm_keeper import context
from vllm_keeper.log import Log
from vllm_keeper.watch import counters, wire
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.watcher import ROOM, Watcher

from bench import site as sites
from bench import started as commands
from bench import throughput
from bench.started import PAUSE, children, started
from lab import client

SCRIPT = Path(__file__).parent / "recipe/check_vllm.sh"
CURL = ["curl", "--silent", "--fail", "--output", "/dev/null", "--max-time", "10"]
GOAL = 50.0
WARM = 20  # cycles that are not counted: imports, first connection, first canary


def cost(cycle: Callable[[], object], number: int, clock: Callable[[], float]) -> float:
    """CPU seconds of one cycle by CLOCK, and of what it started; the wake-up before it included."""
    for _warm in range(WARM):
        cycle()
    begun = clock() + children()
    for _cycle in range(number):
        cycle()
    return (clock() + children() - begun) / number


def bare(instance: sites.Instance, cycles: int) -> float:
    """CPU seconds of a sleep, a question and its answer."""
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        question = f"GET {counters.SOME} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        nobody = select.poll()

        def ask() -> None:
            nobody.poll(int(PAUSE * 1000))
            link.send(question)
            while not link.recv(length + ROOM).endswith(wire.LAST_CHUNK):
                pass

        length = wire.LARGEST_PART
        link.send(question)
        time.sleep(PAUSE)
        length = len(link.recv(length))
        # As the watcher: to be woken once, by about all of it.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, length - ROOM)
        return cost(ask, cycles, time.thread_time)


def watcher(site: sites.Site, every: float) -> Watcher:
    """The keeper's own, in this process. EVERY: seconds of idleness until a canary is sent."""
    built = context.build(site.etc, site.state, site.instances[0].name, Log("bench"))
    watch = replace(built.instance.watch, canary=replace(built.instance.watch.canary, every=every))
    built.instance = replace(built.instance, watch=watch)
    # A cycle is a second of it: of the things that it does every few seconds, each comes as often as it would.
    return Watcher(built, Board(), clock=lambda: time.monotonic() / PAUSE)


def looks(one: Watcher) -> Iterator[None]:
    """A look of it and the wait that follows, each time, as in Watcher.run."""
    poll = one.family.poll

    def sooner(seconds: float | None, events: int) -> list[tuple[int, int]]:
        return poll((seconds or 0.0) * PAUSE, events)

    one.family.poll = sooner  # type: ignore[assignment]
    while True:
        for _pause in one.rest(one.step()):
            yield


def canaries(one: Watcher) -> int:
    return sum(one.canary.sent.values())


def in_the_lab(host: str, seconds: float, runs: int) -> int:
    """Print what a look costs beside real vLLM that is at its limit."""
    lab = client.Lab.read()
    client.wait_until(lambda: client.answers(lab.direct(host), lab.model), 600, f"{host} serves")
    copied = f"{client.container(host)}:/root/{SCRIPT.name}"
    subprocess.run(["podman", "cp", str(SCRIPT), copied], check=True)
    url, name, asks = f"http://127.0.0.1:{lab.port}/health", lab.instance, Path(commands.__file__).read_text()
    with throughput.at_its_limit(lab.direct(host), lab.model):
        began, before = time.monotonic(), throughput.spent(host, "vllm-keeper", name)
        time.sleep(seconds)
        look = (throughput.spent(host, "vllm-keeper", name) - before) / (time.monotonic() - began)
        took = [
            float(client.on(host, "python3", "-c", asks, str(runs), *command, timeout=600))
            for command in ([f"/root/{SCRIPT.name}", url, "false"], [*CURL, url])
        ]
    script, curl = took
    print(f"CPU of one look at real vLLM at its limit (on {os.cpu_count()} cores, which it uses):")
    print(f"  {f'check_vllm.sh, {runs} runs':60} {script * 1000:7.3f} ms")
    print(f"  {f'curl alone, {runs} runs':60} {curl * 1000:7.3f} ms")
    print(f"  {f'the keeper as it runs, {seconds:.0f} looks':60} {look * 1000:7.3f} ms")
    print(f"ratio: {script / look:.0f} x less than the script (goal {GOAL:.0f}), {curl / look:.0f} x less than curl")
    return 0 if script / look >= GOAL else 1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=600)
    parser.add_argument("--runs", type=int, default=200, help="of the guide's script, and of curl alone")
    parser.add_argument("--neighbours", type=int, default=0, help="processes that keep a core each awake")
    parser.add_argument("--host", help="of the lab: measure the keeper there, beside real vLLM")
    parser.add_argument("--seconds", type=float, default=300, help="of that")
    given = parser.parse_args()
    if given.host:
        return in_the_lab(given.host, given.seconds, given.runs)

    sites.private_run_directory()
    with contextlib.ExitStack() as stack:
        for _neighbour in range(given.neighbours):
            spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(spinning.wait)
            stack.callback(spinning.kill)
        site = stack.enter_context(sites.Site(1))
        url = f"http://127.0.0.1:{site.instances[0].port}/health"
        curl = started([*CURL, url], given.runs)
        script = started([str(SCRIPT), url, "false"], given.runs)
        with sites.Load(site.instances[0], 2, 1000):
            time.sleep(0.5)
            loaded = watcher(site, 1.0)

            # The users are threads of this process.
            busy = cost(functools.partial(next, looks(loaded)), given.cycles, time.thread_time)
            sent = canaries(loaded)
            loaded.close()
            least = bare(site.instances[0], given.cycles)
        idle_watcher = watcher(site, 0.0)

        def idle() -> None:
            idle_watcher.family.wait(PAUSE)
            idle_watcher.step()
            while idle_watcher.canary.news.since is not None:
                idle_watcher.family.wait(1)

        resting = cost(idle, given.cycles, time.process_time)
        idle_sent = canaries(idle_watcher)
        idle_watcher.close()
    print(f"CPU of one look at the same server (on {os.cpu_count()} cores, {given.neighbours} neighbours):")
    for what, seconds in (
        (f"check_vllm.sh, {given.runs} runs", script),
        (f"curl alone, {given.runs} runs", curl),
        (f"sleep, question and answer alone, {given.cycles} cycles", least),
        (f"watcher while requests run, {given.cycles} cycles, {sent} canaries", busy),
        (f"watcher while idle, {given.cycles} cycles, {idle_sent} canaries", resting),
    ):
        print(f"  {what:60} {seconds * 1000:7.3f} ms")
    print(f"watching at 1 Hz takes {busy * 100:.2f} % of a core, with a canary each time {resting * 100:.2f} %")
    print(
        f"ratio: {script / busy:.0f} x less than the script (goal {GOAL:.0f}), {curl / busy:.0f} x less than curl, "
        f"where {script / least:.0f} x and {curl / least:.0f} x are the most there can be; "
        f"with a canary each time {script / resting:.0f} x and {curl / resting:.0f} x"
    )
    return 0 if script / busy >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
