# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What real servers' processes looked like, sample by sample, through Activity and judge().

recorded/activity/*.json: `what` happened; `taken_from`: a recording, or figures that one left; `ticks_per_second`: the
kernel's, mostly 100; `hung_at`: when it hung, on the clock of the samples, null where it did not. Each of `samples`:
`at` in seconds; `health`: the status of /health, null for no answer; `moved`: the sum of the engine's counters,
`running` and `waiting`: its requests; and of each process the `title`, how many `threads` are in which state, and the
`ticks` that it has used (utime + stime). Samples lie at most 0.2 s apart, as looks do while progress is missing.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper.watch.activity import TICK, Activity
from vllm_keeper.watch.counters import Counters, Engine
from vllm_keeper.watch.family import OURS
from vllm_keeper.watch.judgement import CanaryNews, Look, Memory, judge
from vllm_keeper.watch.settings import WatchSettings

from tests.unit.keeper.support import Proc

RECORDED = sorted((Path(__file__).parent / "recorded/activity").glob("*.json"))
SETTINGS = WatchSettings()
RUNS = d.Observation(phase=d.RUNNING, detail="active (running)", process_age=1000.0, ready=True)


class Replay:
    def __init__(self, recording: dict[str, Any], folder: Path) -> None:
        self.recording, self.proc = recording, Proc(folder)
        self.workers, self.memory, self.doubt = Activity(folder), Memory(), False
        self.api = Activity(folder)
        self.canary = CanaryNews()
        self.activity: list[bool | None] = []
        self.states: dict[int, str] = {}
        self.at = 0.0

    def _set(self, processes: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """Into /proc; the pids of the engine's processes, and of all others."""
        engines: list[int] = []
        api: list[int] = []
        for number, one in enumerate(processes):
            pid = 1000 * (number + 1)
            states = "".join(state * count for state, count in one["threads"].items())
            ticks = one["ticks"] * TICK // self.recording["ticks_per_second"]
            # The kernel shows a stopped process by its first thread.
            stopped = [state for state in states if state in "Tt"]
            first = (stopped or ["S"] if "S" in states else list(states))[0]
            others = ""
            if self.states.get(pid) != states:  # hundreds of files
                shutil.rmtree(self.proc.folder / str(pid), ignore_errors=True)
                others, self.states[pid] = states.replace(first, "", 1), states
            self.proc.set(pid, ticks, first, others, name=one["title"])
            (engines if one["title"].startswith(OURS) else api).append(pid)
        return engines, api

    def look(self, sample: dict[str, Any]) -> str:
        """The action after this sample."""
        at, hung_at = sample["at"], self.recording["hung_at"]
        engines, api = self._set(sample["processes"])
        api_active = None
        if self.doubt:
            api_active = self.api.look(api, at)
            self.activity.append(self.workers.look(engines, at))
        else:
            self.api.forget()
            self.workers.forget()
            self.activity.append(None)
        if self.canary.since is not None and (hung_at is None or self.canary.since < hung_at):
            self.canary = CanaryNews(done=at, kind="ok")
        health = d.Health("timeout", "no answer") if sample["health"] is None else d.Health("ok", "200")
        engine = Engine((sample["moved"],), sample["running"], sample["waiting"])
        # Who gets no answer has waited for it since the sample before, and hears nothing about progress either.
        begun, self.at = (self.at if sample["health"] is None else at), at
        counters = None if sample["health"] is None else Counters({"0": engine})
        self.memory, told = judge(
            self.memory,
            Look(
                at=at, begun=begun, process=RUNS, pid=7, health=health, counters=counters,
                metrics=sample["health"] is not None, canary=self.canary, engine_active=self.activity[-1],
                api_active=api_active,
            ),
            SETTINGS,
        )  # fmt: skip
        self.doubt = told.doubt
        if told.canary:
            self.canary = replace(self.canary, since=at)
        return told.action

    def killed_at(self) -> float | None:
        for sample in self.recording["samples"]:
            if self.look(sample) != d.NONE:
                return float(sample["at"])
        return None


def recording(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "recorded/activity" / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_hang_is_found_within_three_seconds_and_what_is_none_is_not(path: Path, tmp_path: Path) -> None:
    one = recording(path.stem)
    killed = Replay(one, tmp_path).killed_at()
    if one["hung_at"] is None:
        assert killed is None
    else:
        assert killed is not None
        assert one["hung_at"] + SETTINGS.stall_after <= killed <= one["hung_at"] + 3.0


@pytest.mark.parametrize("name", ["gpu_hang_idle", "gpu_hang_loaded"])
def test_who_waits_for_a_gpu_sleeps(name: str, tmp_path: Path) -> None:
    """A CUDA synchronisation does not spin there, so a hang of the GPU is one of idle processes."""
    one = Replay(recording(name), tmp_path)
    one.killed_at()
    assert True not in one.activity
    assert one.activity[-1] is False


def test_a_first_batch_that_compiles_leaves_the_limit_alone(tmp_path: Path) -> None:
    one = Replay(recording("gpu_first_batch_compiles"), tmp_path)
    assert one.killed_at() is None
    assert True in one.activity
    assert one.memory.steps.longest.idle == 0
    assert one.memory.first.taken == pytest.approx(2.2, abs=0.3)
