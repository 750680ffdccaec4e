# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of `python3 -m bench.gpu`. Each writes what it finds as it finds it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_keeper import processes, runfile
from vllm_keeper.signals import gpu
from vllm_keeper.watch import board, counters

from bench.gpu import ask, estimates, log_lines, readings, starts
from bench.gpu.place import Eyes, Place, Run, Users
from bench.gpu.results import Results
from bench.gpu.users import USERS

NOT_FOUND = 30.0  # seconds after which a hang counts as not found
KERNEL_SECONDS = 9.0  # how long the kernel runs that does not end: longer than any verdict should take
SETTLE = 5.0  # seconds until users keep a server busy
FILE = "vllm_memory.json"


@dataclass
class Bench:
    """runs: the ways to start for `memory`, the first one also for all other parts. total: MiB of the card."""

    place: Place
    memory: readings.Memory
    results: Results
    runs: Sequence[Run]
    start_limit: float
    served: str
    hangs: Mapping[str, int]
    soak_seconds: float
    turn_seconds: float
    rounds: int
    window: float
    compare: tuple[str, Sequence[str]] | None
    lighter: int = 1  # users are divided by it
    started: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: str = ""
    load_seconds: float = 15.0

    def serve(self, run: Run) -> None:
        """With RUN: as it runs, or started."""
        if self.place.serves(run):
            return
        if run.label in self.failed:
            raise starts.NotServing(f"{run.label}: it did not start before")
        number = len(self.started) + len(self.failed) + 1  # whoever failed keeps its files
        name = "start" if run == self.runs[0] and number == 1 else f"start {number}"
        self.failed.add(run.label)
        self.started[run.label] = starts.start(self.place, run, self.memory, self.results, self.start_limit, name)
        self.failed.discard(run.label)

    def users(self, kind: str, seconds: float) -> Users:
        return self.place.users(kind, seconds, max(2, USERS[kind] // self.lighter))


def start(bench: Bench) -> None:
    """A start from nothing; the preflight's word before it."""
    run = bench.runs[0]
    _preflight(bench, run, "preflight before the start")
    bench.place.end(10)
    bench.serve(run)
    _memory_of(bench, run)


def _preflight(bench: Bench, run: Run, name: str) -> None:
    words = {**bench.place.options.words, **run.words}
    try:
        found = estimates.findings(bench.place.options.model, bench.place.options.served, words, "13.0")
        bench.results.keep(name, found)
    except Exception as error:  # the preflight is judged here, it must not end the measurement
        bench.results.keep(name, f"{type(error).__name__}: {error}")


def memory(bench: Bench) -> None:
    """Each run: what vLLM says, what NVML says after the start and after loads, what the preflight estimates."""
    # The one that runs already comes first, and its start is saved.
    for run in sorted(bench.runs, key=lambda run: not bench.place.serves(run)):
        try:
            bench.serve(run)
        except starts.NotServing as error:
            bench.results.say("not measured:", error)
            continue
        _memory_of(bench, run, loads=True)


def _memory_of(bench: Bench, run: Run, loads: bool = False) -> None:
    words = {**bench.place.options.words, **run.words}
    said = bench.started.get(run.label, {}).get("figures") or log_lines.figures(
        bench.place.log.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    value: dict[str, Any] = {
        "arguments": words, "model": bench.served, "standin": bench.place.options.standin, "vllm": said,
        "after_start": bench.memory.seen(),
    }  # fmt: skip
    if loads:
        for kind in ("picture", "short") if run.pictures else ("long", "short"):
            with bench.users(kind, bench.load_seconds) as users:
                value[f"after_{kind}_answers"] = users.wait(bench.load_seconds + 60).get("answers")
            value[f"after_{kind}"] = bench.memory.seen()
    card = None
    try:
        card = estimates.card() if not bench.place.options.standin else None
        told = estimates.estimate(bench.place.options.model, bench.place.options.served, words, card)
    except Exception as error:  # as above
        told = {"problem": f"{type(error).__name__}: {error}"}
    real = log_lines.real(said, told.get("weights"))
    value |= {"preflight": told, "real": real, "ratios": ratios(told, real)}
    bench.results.keep(f"memory: {run.label}", value)
    if card is not None and "total" in told and "total" in real:
        held = {
            key: seen.get("used_mib") for key, seen in value.items() if isinstance(seen, dict) and "used_mib" in seen
        }
        more = {"at": time.strftime("%Y-%m-%d"), "vllm": bench.versions, "model": bench.served, "nvml_used_mib": held}
        bench.entries[run.label] = estimates.entry(said, told, card, words, **more)
        bench.results.file(FILE, {"runs": list(bench.entries.values())})


def ratios(told: Mapping[str, Any], real: Mapping[str, float]) -> dict[str, float]:
    """What is real against what was estimated."""
    return {name: round(value / told[name], 4) for name, value in real.items() if told.get(name)}


# Hangs.


@dataclass(frozen=True)
class Fault:
    text: str
    loaded: bool = False
    api: bool = False
    kernel: bool = False
    remembers: bool = False  # for a watcher with the memory of the one that saw the start


FAULTS = {
    "remembers": Fault("SIGSTOP of the engine, idle, for a watcher that saw the start", remembers=True),
    "idle": Fault("SIGSTOP of the engine, idle"),
    "loaded": Fault("SIGSTOP of the engine, users at work", loaded=True),
    "kernel": Fault("a kernel on the GPU that does not end, idle", kernel=True),
    "api": Fault("SIGSTOP of the API, idle", api=True),
}


def hangs(bench: Bench) -> None:
    """Each with a watcher that knows nothing of the one before, but for "remembers"; nothing is restarted."""
    bench.serve(bench.runs[0])
    for name, count in bench.hangs.items():
        found: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            if FAULTS[name].loaded and count:
                stack.enter_context(bench.users("short", 600))
                time.sleep(SETTLE)
            for number in range(count):
                try:
                    one = _hang(bench, name)
                except (OSError, RuntimeError) as error:
                    one = {"error": f"{type(error).__name__}: {error}"}
                found.append(one)
                bench.results.keep(f"hang {name} {number + 1}", one)
        _hang_summary(bench, name, found)


def _hang_summary(bench: Bench, name: str, found: Sequence[Mapping[str, Any]]) -> None:
    seconds = sorted(one["seconds"] for one in found if one.get("found"))
    if found:
        bench.results.keep(
            f"hangs {name}",
            {
                "text": FAULTS[name].text, "n": len(found), "found": len(seconds), "seconds": seconds,
                "median": round(statistics.median(seconds), 2) if seconds else None,
                "most": seconds[-1] if seconds else None,
            },
        )  # fmt: skip


def _hang(bench: Bench, name: str) -> dict[str, Any]:
    fault, place = FAULTS[name], bench.place
    tree = readings.Tree(place.server, 0.1)
    with Eyes(place, kept=fault.remembers) as eyes:
        known = len(eyes.incidents())
        if not eyes.ready:
            return {"error": "the watcher did not call it ready", **eyes.told()}
        main, engine = place.api(), place.engine()
        if main is None or engine is None:
            return {"error": "no server"}
        tree.start()
        # At no fixed moment of the watcher's own second.
        time.sleep(1.5 + random.random())
        longest, at = eyes.longest, time.monotonic()
        target = main if fault.api else engine
        try:
            _harm(bench, fault, target)
            while len(eyes.incidents()) <= known and time.monotonic() - at < NOT_FOUND:
                time.sleep(0.01)
            took, threads = time.monotonic() - at, readings.threads(engine)
        finally:
            if not fault.kernel or place.options.standin:
                _send(target, signal.SIGCONT)
        samples = tree.stop()
        incidents = eyes.incidents()[known:]
        one = {
            "found": bool(incidents), "seconds": round(took, 2), "longest_step": longest,
            "verdict": incidents[0].get("verdict") if incidents else None,
            "reason": incidents[0].get("reason") if incidents else None,
            "threads": threads, **({} if incidents else eyes.told()),
        }  # fmt: skip
        hurt = round(at - tree.begun, 2)
        bench.results.row(
            "recorded/hangs.jsonl",
            {"fault": name, "hurt_at": hurt, "verdict_at": round(hurt + took, 2), "samples": samples},
        )  # fmt: skip
    one["answers_again_after"] = _recovered(place)
    return one


def _harm(bench: Bench, fault: Fault, target: int) -> None:
    if fault.kernel and not bench.place.options.standin:
        bench.place.trigger.write_text(str(KERNEL_SECONDS))
    else:
        os.kill(target, signal.SIGSTOP)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _recovered(place: Place, within: float = 30.0) -> float | None:
    """Seconds until it answers again."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        if place.complete(1, 5).status == 200:
            return round(time.monotonic() - begun, 2)
        time.sleep(0.1)
    return None


# At its limit.

TURNS = ("short", "picture", "long", "huge", "mixed")


def soak(bench: Bench) -> None:
    """Kinds of load in turn, each with a watcher that knows nothing yet; no verdict may come."""
    bench.serve(bench.runs[0])
    until, number, false = time.monotonic() + bench.soak_seconds, 0, 0
    so_far = {"seconds": 0.0, "turns": 0, "incidents": 0}
    while time.monotonic() < until:
        kind = TURNS[number % len(TURNS)]
        seconds = min(bench.turn_seconds, max(3.0, until - time.monotonic()))
        with Eyes(bench.place) as eyes:
            begun = time.monotonic()
            with bench.users(kind, seconds) as users:
                said = users.wait(seconds + 40)
            spent = time.monotonic() - begun
            told = eyes.told()
        false += len(told["incidents"])
        number += 1
        so_far = {"seconds": round(so_far["seconds"] + spent, 1), "turns": number, "incidents": false}
        bench.results.keep(
            f"soak {number} {kind}", {"seconds": round(spent, 1), "gpu_mib": bench.memory.used(), **said, **told}
        )
        bench.results.keep("soak", so_far)
        _recovered(bench.place)


# What watching costs.


def throughput(bench: Bench) -> None:
    """Tokens a second, watched and not in turn: the watcher is stopped and continued, so its start is no part of it."""
    bench.serve(bench.runs[0])
    dice, spent, spent_time = random.Random(1), 0.0, 0.0
    values: list[float] = []
    rows: list[list[int]] = []
    total = bench.rounds * 2 * (bench.window + 2) + 60
    with bench.users("short", total), Eyes(bench.place, poll=False) as eyes:
        time.sleep(SETTLE + 2)
        for number in range(bench.rounds):
            rates: dict[bool, float] = {}
            for watched in (True, False) if number % 2 else (False, True):
                _send(eyes.process.pid, signal.SIGCONT if watched else signal.SIGSTOP)
                time.sleep(1)
                below = processes.descendants(eyes.process.pid, processes.everyone())
                before = readings.cpu(below)
                rates[watched], took = _rate(bench, bench.window)
                if watched:
                    spent, spent_time = spent + readings.cpu(below) - before, spent_time + took
            if rates[False] > 0:
                values.append(rates[True] / rates[False])
            rows.append([round(rates[True]), round(rates[False])])
            medians = (
                sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(2000)) if values else []
            )
            bench.results.keep(
                "throughput",
                {
                    "rows_watched_not": rows,
                    "median_ratio": round(statistics.median(values), 4) if values else None,
                    "interval95": [round(medians[50], 4), round(medians[1949], 4)] if medians else None,
                    "watcher_cpu_ms_a_second": round(1000 * spent / spent_time, 3) if spent_time else None,
                    "incidents": len(eyes.incidents()),
                },
            )  # fmt: skip


def _rate(bench: Bench, seconds: float) -> tuple[float, float]:
    """(tokens a second by the server's own count, seconds)"""
    name = "vllm:generation_tokens_total"
    before, at = _counter(bench, name), time.monotonic()
    time.sleep(seconds)
    after, took = _counter(bench, name), time.monotonic() - at
    return (after - before) / took, took


def _counter(bench: Bench, name: str) -> float:
    return ask.metric(bench.place.get("/metrics", 10).text, name)


def compare(bench: Bench) -> None:
    """Starts that differ in one variable of the environment: tokens a second, and what a start takes."""
    if bench.compare is None:
        bench.results.say("nothing to compare: give --compare NAME=VALUE,VALUE")
        return
    name, values = bench.compare
    found: dict[str, Any] = {}
    for value in values:
        run = Run(bench.runs[0].words, {name: value})
        try:
            bench.serve(run)
        except starts.NotServing as error:
            bench.results.say("not measured:", error)
            continue
        for kind in ("sampled", "short"):
            with bench.users(kind, bench.rounds * bench.window + 60):
                time.sleep(SETTLE + 2)
                rates = [round(_rate(bench, bench.window)[0]) for _ in range(max(2, bench.rounds // 2))]
            found.setdefault(value, {})[kind] = {"tokens_a_second": rates, "median": statistics.median(rates)}
            bench.results.keep(f"compare {name}", found)
        begun = bench.started.get(run.label, {})
        found[value] |= {key: begun.get(key) for key in ("health_200", "first_completion", "compiled_by_flashinfer")}
        bench.results.keep(f"compare {name}", found)


# What tests can use.


def record(bench: Bench) -> None:
    """The real server's processes, metrics, answers and what NVML shows of it."""
    run = bench.runs[0]
    bench.serve(run)
    place, results = bench.place, bench.results
    tree = readings.Tree(place.server, 0.5)
    tree.start()
    time.sleep(2)
    results.file("recorded/processes-idle.json", tree.stop())
    with bench.users("short", 6) as users:
        time.sleep(3)
        tree = readings.Tree(place.server, 0.5)
        tree.start()
        time.sleep(2)
        results.file("recorded/processes-loaded.json", tree.stop())
        results.file("recorded/metrics-loaded.txt", place.get("/metrics", 10).text)
        users.wait(30)
    results.file("recorded/metrics.txt", place.get(counters.ALL, 10).text)
    results.file("recorded/question.txt", place.get(counters.SOME, 10).text)
    results.file("recorded/models.json", place.get("/v1/models", 10).text)
    results.file("recorded/completion.json", place.complete(2).text)
    readings_now = bench.memory.look()
    if readings_now.state == gpu.OK:
        results.file("recorded/gpu.json", {"driver": readings_now.driver, **bench.memory.seen()})
    _preflight(bench, run, "preflight beside the server")
    shown = _shown(bench)
    names = sorted(set(re.findall(r"^(vllm:\w+)", place.get("/metrics", 10).text, re.MULTILINE)))
    results.keep(
        "recorded",
        {"processes": [one.title for one in place.server()], "metrics": len(names), "gpu": bench.memory.seen(),
         "keeper": shown, "api_cpu_of_an_answer_ms": _cost(bench)},
    )  # fmt: skip


def _shown(bench: Bench) -> dict[str, Any]:
    with Eyes(bench.place):
        time.sleep(2)
        one = board.of(bench.place.name)
        run = runfile.living(bench.place.name)
    return {"watcher": vars(one) if one else None, "runner": run.phase if run else None}


def _cost(bench: Bench) -> dict[str, float]:
    """CPU of the API for one answer, in ms, above what it uses anyway."""
    main, found = bench.place.api(), {}
    if main is None:
        return {}
    for name, path in (("question", counters.SOME), ("metrics", counters.ALL), ("health", "/health")):
        before, at = readings.cpu([main]), time.monotonic()
        for _ in range(100):
            bench.place.get(path, 5)
        spent, took = readings.cpu([main]) - before, time.monotonic() - at
        before = readings.cpu([main])
        time.sleep(took)
        found[name] = round((spent - (readings.cpu([main]) - before)) * 10, 3)
    return found


PARTS: dict[str, Callable[[Bench], None]] = {
    "start": start, "hangs": hangs, "memory": memory, "soak": soak, "throughput": throughput, "compare": compare,
    "record": record,
}  # fmt: skip


class Late(BaseException):
    """A part took longer than it may."""


@contextlib.contextmanager
def within(seconds: float) -> Any:
    """Late is raised in the main thread when they are over."""

    def over(_number: int, _frame: object) -> None:
        raise Late(f"not within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
