# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make nemesis`: random faults, several at once, while the lab's servers serve and while they start; all whole again.

    python -m lab.nemesis --seed 3 --steps 15            one sequence, the same each time
    python -m lab.nemesis --seed 3 --steps 15 --from 7   from its seventh step on

A seed is a sequence of steps. In each step up to three processes are stopped or killed: API, engine or worker of
either host, or its keeper, while it serves or at a random moment of a start that is ordered first. Then both hosts
have to be whole within twice the time that a start takes here, and what it takes to find a fault: a completion is
answered, there is one family of processes with nothing stopped, the keeper looks and calls it healthy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lab import client, faults
from lab.labkit.story import Deed, Step, story

FINDS = 45.0  # systemd kills a stopped keeper after 20 s, and what is stopped in a start takes that 5 s more
FIRST = 420.0  # for a lab that is found in whatever state


def hurt(subject: faults.Subject, deed: Deed) -> str:
    """Do it; what was hurt. Of a start, a part may not be there yet or any more."""
    if deed.part == "keeper":
        pids = subject.on("pgrep -f '[w]atch --listen' || true").split()
    else:
        pids = subject.pids(deed.part)
    if not pids:
        return "not there"
    subject.on(f"kill -{deed.signal} {' '.join(pids)}", check=False)
    return f"pid {', '.join(pids)}"


def ill(subject: faults.Subject) -> str:
    """Why it is not whole, "" if it is."""
    processes = client.processes(subject.host)
    apis = [title for title in processes.values() if "vllm serve" in title]
    engines = [title for title in processes.values() if title.startswith("VLLM::EngineCore")]
    if (len(apis), len(engines)) != (1, 1):
        return f"{len(apis)} APIs and {len(engines)} engines"
    stopped = subject.on("ps -eo stat=,args= | grep '^[Tt]' | grep -i vllm || true").strip()
    if stopped:
        return f"stopped: {stopped}"
    if not subject.answers():
        return "no completion is answered"
    status = subject.status()
    if status["verdict"] not in ("healthy", "busy"):
        return f"{status['verdict']}: {status['reason']}"
    watched = "watched by vllm-keeper watch" in subject.keeper("check", subject.name, check=False)
    return "" if watched else "nobody watches it"


def whole(subjects: Sequence[faults.Subject], within: float) -> float:
    """Seconds until all of them are; TimeoutError with what is ill."""
    began, found = time.monotonic(), {subject.host: "not looked at" for subject in subjects}
    while time.monotonic() - began < within:
        for subject in subjects:
            try:
                found[subject.host] = ill(subject)
            except (RuntimeError, ValueError, KeyError, OSError) as error:
                found[subject.host] = f"{type(error).__name__}: {str(error)[:200]}"
        if not any(found.values()):
            return time.monotonic() - began
        time.sleep(1)
    raise TimeoutError("; ".join(f"{host}: {why}" for host, why in found.items() if why))


def suffer(subjects: Sequence[faults.Subject], step: Step, within: float, say: Callable[[str], None]) -> float:
    """One step; seconds from its last deed until all were whole."""
    by_host = {subject.host: subject for subject in subjects}
    with ThreadPoolExecutor(len(subjects)) as pool:
        # What earlier steps did to it is forgiven: no back-off of theirs counts.
        list(pool.map(lambda one: one.keeper("resume", one.name), subjects))
        list(pool.map(lambda host: by_host[host].keeper("restart", "--no-wait", by_host[host].name), step.restarted))
    for deed in step.deeds:
        time.sleep(deed.after)
        say(f"  {deed}: {hurt(by_host[deed.host], deed)}")
    time.sleep(2)  # what was just killed may look whole for a moment
    return whole(subjects, within) + 2


def measured_start(subjects: Sequence[faults.Subject]) -> float:
    """Seconds that a start takes, with all of them starting at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(subjects)) as pool:
        list(pool.map(lambda one: one.keeper("restart", one.name), subjects))
    whole(subjects, FIRST)
    return time.monotonic() - began


def run(
    subjects: Sequence[faults.Subject],
    seed: int,
    steps: int,
    first: int = 1,
    say: Callable[[str], None] = print,
    start: float | None = None,
) -> list[float]:
    """Seconds that each step took to be whole again. START: what a start takes, None to measure it. AssertionError with
    the seed and step to repeat."""
    whole(subjects, FIRST)
    if start is None:
        start = measured_start(subjects)
    within = 2 * start + FINDS
    say(f"seed {seed}: a start takes {start:.0f} s, so each step has {within:.0f} s")
    took = []
    for number, step in enumerate(story(seed, steps, [one.host for one in subjects]), 1):
        if number < first:
            continue
        say(f"seed {seed} step {number}: {step}")
        try:
            took.append(suffer(subjects, step, within, say))
        except TimeoutError as error:
            again = f"python -m lab.nemesis --seed {seed} --steps {number} --from {number}"
            raise AssertionError(f"not whole after {within:.0f} s: {error}; again: {again}") from error
        say(f"seed {seed} step {number}: whole after {took[-1]:.0f} s")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="several: one after the other (default 1 to 5)")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="STEP")
    parser.add_argument("--manager", default="systemd")
    options = parser.parse_args()
    subjects = [faults.Subject(host, options.manager) for host in client.Lab.read().hosts]
    bad = 0

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    for seed in options.seed or range(1, 6):
        try:
            took = run(subjects, seed, options.steps, options.first, say)
            say(f"seed {seed} PASSED: {len(took)} steps, whole after {max(took, default=0):.0f} s at most")
        except (AssertionError, TimeoutError) as error:
            bad += 1
            say(f"seed {seed} FAILED: {error}")
    say(f"==== {bad} seeds not survived ====" if bad else "==== all whole ====")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
