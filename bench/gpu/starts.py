# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A start, watched: what it consists of, what it takes, and what its processes do meanwhile."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import Any

from bench.gpu import log_lines, readings
from bench.gpu.place import Eyes, Place, Run
from bench.gpu.results import Results

POLL = 0.1
SIDE = 512
FAILED = re.compile(r"Engine core initialization failed|error: unrecognized arguments")
LAST_WORDS = 60  # lines of a start that failed
LONGEST_CAUSE = 1000


class NotServing(RuntimeError):
    """It did not come to serve."""


class Follower(threading.Thread):
    """The lines of a log as they come, each with its seconds since the start began. A progress bar is one line."""

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self.path, self.begun = place.log, time.monotonic()
        self.at = self.path.stat().st_size if self.path.exists() else 0
        self.lines: list[log_lines.Line] = []
        self.rest = ""
        self.ended = threading.Event()

    def take(self) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                data = file.read(1 << 20)
        except OSError:
            return
        self.at += len(data)
        parts = re.split(r"[\r\n]+", self.rest + data.decode("utf-8", "replace"))
        self.rest = parts.pop()
        now = round(time.monotonic() - self.begun, 2)
        self.lines += [(now, part) for part in parts if part.strip()]

    def run(self) -> None:
        while not self.ended.wait(POLL):
            self.take()

    def stop(self) -> list[log_lines.Line]:
        self.ended.set()
        self.join(5)
        self.take()
        return self.lines


def _await(place: Place, runner: subprocess.Popen[bytes], follower: Follower, limit: float) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    while time.monotonic() - follower.begun < limit:
        answer = place.get("/health", 1.0)
        now = round(time.monotonic() - follower.begun, 2)
        if answer.status and "answers" not in marks:
            marks["answers"] = now
        if answer.status == 200:
            return marks | {"health_200": now}
        if runner.poll() is not None:
            return marks | {"runner_ended": runner.returncode, "ended": now}
        if any(FAILED.search(text) for _at, text in follower.lines[-200:]):
            return marks | {"failed": now}
        time.sleep(POLL)
    return marks | {"late": round(limit, 1)}


def first_answers(place: Place, run: Run, begun: float) -> dict[str, Any]:
    """The first completion and the first picture: when they had come, how long they took."""
    found: dict[str, Any] = {}
    answer = place.complete(1)
    found["first_completion"] = round(time.monotonic() - begun, 2)
    found["first_completion_took"], found["first_completion_status"] = round(answer.seconds, 3), answer.status
    if answer.status != 200:
        found["said"] = answer.text[-400:]
        return found
    if run.pictures:
        answer = place.picture(SIDE, 1)
        found["first_picture"] = round(time.monotonic() - begun, 2)
        found["first_picture_took"], found["first_picture_status"] = round(answer.seconds, 3), answer.status
        if answer.status != 200:
            found["picture_said"] = answer.text[-400:]
    found["completions_ms"] = [round(1000 * place.complete(1).seconds, 1) for _ in range(5)]
    found["completion_of_100_s"] = round(place.complete(100).seconds, 3)
    return found


def start(place: Place, run: Run, memory: readings.Memory, results: Results, limit: float, what: str) -> dict[str, Any]:
    """What a start of RUN shows; kept under the name WHAT. Raises NotServing."""
    place.end(10)
    place.log.write_bytes(b"")
    for file in place.state.glob(f"{place.name}*"):
        file.unlink()  # of starts before: each is to be the first one
    before = memory.used()
    follower = Follower(place)
    samples = readings.Samples(memory)
    tree = readings.Tree(place.server, 1.0, io=True)
    tree.notes = lambda: {
        "log_lines": len(follower.lines),
        "gpu_mib": samples.rows[-1][1] if samples.rows else None,
    }
    runner = place.run(run)
    for thread in (follower, samples, tree):
        thread.start()
    begun = follower.begun
    eyes = Eyes(place, wait=False, kept=True)
    try:
        with eyes:
            marks = _await(place, runner, follower, limit)
            if "health_200" in marks:
                marks |= first_answers(place, run, begun)
                marks["watcher_ready"] = eyes.becomes_ready(10)
    finally:
        lines, over, processes = follower.stop(), samples.stop(), tree.stop()
    served = marks.get("health_200")
    value = {
        "run": run.label, "standin": place.options.standin, **marks, "phases": log_lines.phases(lines, served),
        "compiled_by_flashinfer": log_lines.compiled(lines), "figures": log_lines.figures(text for _at, text in lines),
        "watched": eyes.told(), "gpu_before_mib": before, "gpu_over_start": over, "gpu": memory.seen(),
        "warnings": log_lines.warnings(text for _at, text in lines)[:25],
    }  # fmt: skip
    results.keep(what, value)
    name = re.sub(r"[^a-z0-9]+", "-", what.lower())
    results.file(f"recorded/{name}-log.json", [[at, text[:400]] for at, text in lines][:3000])
    for sample in processes:
        results.row(f"recorded/{name}-processes.jsonl", sample)
    results.log(place.log, f"{name}-server.log")
    if served is None or marks.get("first_completion_status") != 200:
        texts = [text for _at, text in lines]
        why = log_lines.cause(texts)[:LONGEST_CAUSE]
        last = [text[-300:] for text in texts[-LAST_WORDS:]]
        results.keep(f"{what}: not serving", {"run": run.label, "cause": why, "last": last})
        place.end(10)
        raise NotServing(f"{run.label}: {why or marks}")
    return value
