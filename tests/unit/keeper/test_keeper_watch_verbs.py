# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs beside a watcher: drain, explain, status, check, resume, and the gate's neighbours."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import exits
from vllm_keeper import state as st
from vllm_keeper.context import Context
from vllm_keeper.verbs import check, drain, explain, gate, operate, status
from vllm_keeper.watch import board as boards
from vllm_keeper.watch import evidence
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.steps import NO_STEP, TIME, Bucket, Step, Steps

from tests.unit.keeper import support
from tests.unit.keeper.support import clock_of, context_for, manager_of

Show = Callable[..., None]


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    """A living watcher shows this of an instance; nobody watches until it is called."""
    folder, board, read = tmp_path / "run", Board(), boards.read
    monkeypatch.setattr(boards, "read", lambda *_where: read(folder))

    def shown(name: str = "q", **changes: Any) -> None:
        board.show(name, **changes)
        boards.write(board, folder)

    return shown


def ready(context: Context) -> None:
    now = context.clock.now()
    context.update(lambda state, _now: state.starts.append(st.Start(now, True, pid=4711, ready_at=now)))


# --- check ----------------------------------------------------------------------------------------------------


def test_where_a_watcher_lives_check_only_tells_what_it_found(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks nobody and repairs nothing, however bad that is."""
    context = context_for(tmp_path, port=support.free_port())
    ready(context)
    show(verdict="hung", reason="no progress for 1.6 s", action=d.KILL)
    assert check.check(context) == exits.BAD
    assert capsys.readouterr().out == "q: hung: no progress for 1.6 s (watched by vllm-keeper watch)\n"
    show(verdict="healthy", reason="3 requests run", action=d.NONE)
    assert check.check(context) == exits.OK
    assert "q: healthy: 3 requests run (watched by" in capsys.readouterr().out
    assert check.check(context, quiet=True) == exits.OK
    assert capsys.readouterr().out == ""
    assert (manager_of(context).calls, clock_of(context).slept) == ([], 0)


@pytest.mark.parametrize("why", ["never", "other instance", "too long ago", "dead"])
def test_where_none_lives_check_takes_its_place(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    context = context_for(tmp_path, port=support.free_port())
    ready(context)
    if why != "never":
        show("other" if why == "other instance" else "q", verdict="healthy", reason="answers")
    if why == "too long ago":
        late = boards.now() + boards.FRESH + 1
        monkeypatch.setattr(boards, "now", lambda: late)
    if why == "dead":
        file = tmp_path / "run" / boards.FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": 2**22 + 7}))
    assert check.check(context) == exits.BAD
    assert manager_of(context).calls == ["restart"]


# --- drain and resume -----------------------------------------------------------------------------------------


class Requests:
    """/metrics of a server that has so many requests, look by look; the last number stays."""

    def __init__(self, *numbers: int | None) -> None:
        self.numbers, self.asked = list(numbers), 0

    def __call__(self, link: socket.socket, path: str) -> None:
        number = self.numbers[min(self.asked, len(self.numbers) - 1)]
        self.asked += 1
        if path != "/metrics" or number is None:
            link.sendall(support.answer(500))
            return
        text = f"vllm:generation_tokens_total 5\nvllm:num_requests_running {number}\nvllm:num_requests_waiting 0\n"
        link.sendall(support.answer(200, text.encode()))


def test_a_drain_waits_until_no_request_is_left(tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    show(verdict="busy")
    numbers = Requests(7, 3, 1, 0, 1, 0, 0)  # a canary is among them for a moment
    with support.serving(numbers) as server:
        context = context_for(tmp_path, port=server.port)
        assert drain.drain(context, reason="new GPU") == exits.OK
    assert numbers.asked == 7
    assert "q: drained, no request is left after 6 s; to have some again: vllm-keeper resume q" in (
        capsys.readouterr().out
    )
    drained = context.state().drained
    assert drained is not None
    assert drained.reason == "new GPU"
    assert manager_of(context).calls == [], "it runs on"


def test_a_drain_that_takes_too_long_says_so_and_stays(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    show(verdict="busy")
    with support.serving(Requests(7)) as server:
        context = context_for(tmp_path, port=server.port)
        assert drain.drain(context, within=10) == exits.BAD
    out = capsys.readouterr().out
    assert "still at work after 10 s (7 requests); ask again with vllm-keeper drain q, or give it up" in out
    assert 10 <= clock_of(context).slept <= 11
    assert context.state().drained is not None


def test_where_nobody_counts_requests_nobody_says_that_none_are_left(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    show(verdict="busy")
    with support.serving(Requests(None)) as server:
        context = context_for(tmp_path, port=server.port)
        assert drain.drain(context, within=5) == exits.BAD
    assert "(how many is unknown)" in capsys.readouterr().out


def test_the_instances_own_time_is_the_limit_where_none_is_given(tmp_path: Path, show: Show) -> None:
    show(verdict="busy")
    with support.serving(Requests(1)) as server:
        context = context_for(tmp_path, port=server.port)
        context.instance = replace(context.instance, drain_timeout=20)
        assert drain.drain(context) == exits.BAD
    assert 20 <= clock_of(context).slept <= 21


def test_one_that_does_not_run_is_drained_at_once(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    show(verdict="stopped")
    context = context_for(tmp_path, support.STOPPED, support.free_port())
    assert drain.drain(context) == exits.OK
    assert "q: drained; it does not run" in capsys.readouterr().out


def test_without_a_watcher_a_drain_says_that_no_balancer_is_told(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(tmp_path)
    assert drain.drain(context, wait=False) == exits.OK
    said = capsys.readouterr()
    assert "no watcher is running here, so no balancer is told; take it out there by hand" in said.err
    assert "q: drained; to have requests again: vllm-keeper resume q" in said.out
    assert clock_of(context).slept == 0
    show(verdict="healthy")
    drain.drain(context, wait=False)
    assert "no balancer is told" not in capsys.readouterr().err


def test_a_reason_holds_no_secret(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path)
    context.log.hide(["sk-secret-key"])
    drain.drain(context, wait=False, reason="key sk-secret-key leaked")
    drained = context.state().drained
    assert drained is not None
    assert drained.reason == "key *** leaked"


def test_a_drain_outlives_restarts_and_ends_with_resume(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(tmp_path)
    drain.drain(context, wait=False)
    assert gate.gate(context, dice=lambda: 0.0, kill=False) == exits.OK
    assert context.state().drained is not None
    capsys.readouterr()
    assert operate.resume(context) == exits.OK
    assert context.state().drained is None
    assert capsys.readouterr().out == "q: resumed, and has requests again\n"
    assert manager_of(context).calls == []
    assert context.state().intent is None
    assert operate.resume(context) == exits.OK
    assert "q: was not parked; its failures are forgotten" in capsys.readouterr().out


def test_resume_of_what_is_drained_and_ended_starts_it(
    tmp_path: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(tmp_path, support.STOPPED)
    drain.drain(context, wait=False)
    assert operate.resume(context) == exits.OK
    assert manager_of(context).calls == ["start"]
    assert "q: resumed, and has requests again; start ordered" in capsys.readouterr().out


# --- status ---------------------------------------------------------------------------------------------------


def test_status_is_what_the_watcher_knows_better_than_a_single_look(tmp_path: Path, show: Show) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        ready(context)
        show(verdict="hung", reason="a canary is not answered", action=d.KILL)
        facts = status.status(context)
    assert (facts["verdict"], facts["healthy"], facts["watched"]) == ("hung", False, True)
    assert "the watcher does now: kill and restart; why: vllm-keeper explain q" in status.render(facts)
    assert facts["health"]["kind"] == "ok", "as /health is while an engine hangs"


def test_status_of_a_watcher_that_does_not_know_yet_is_its_own(tmp_path: Path, show: Show) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        ready(context)
        show()
        facts = status.status(context)
    assert (facts["verdict"], facts["watched"]) == ("healthy", True)


def test_status_of_what_is_drained_says_by_whom_and_what_to_do(tmp_path: Path, show: Show) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        ready(context)
        drain.drain(context, wait=False, reason="new GPU")
        for watched in (False, True):
            if watched:
                show(verdict="healthy", reason="answers", drained="new GPU")
            facts = status.status(context)
            assert (facts["verdict"], facts["healthy"], facts["watched"]) == ("draining", False, watched)
            assert facts["reason"].startswith("new GPU; ")
            assert "to have requests again: vllm-keeper resume q" in status.render(facts)


def test_status_of_a_drained_server_that_hangs_is_hung(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path, port=support.free_port())
    ready(context)
    drain.drain(context, wait=False)
    show(verdict="hung", reason="x", action=d.KILL, drained="x")
    assert status.status(context)["verdict"] == "hung"


# --- explain --------------------------------------------------------------------------------------------------


def keep(context: Context, *incidents: evidence.Incident, step: Step = NO_STEP, age: float = 0.0) -> None:
    steps = Steps((Bucket(time.time() - age, 60.0, step),))
    evidence.save(context.store.directory, "q", evidence.Book(steps, list(incidents)))


def incident(at: float, **changes: Any) -> evidence.Incident:
    base = evidence.Incident(at, "hung", d.KILL, f"reason {at:g}", 4711, 1.62, ["first look", "last look"], "killed")
    return replace(base, **changes)


def test_explain_shows_the_newest_decisions_first_with_their_evidence(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path)
    keep(context, *(incident(number) for number in range(5)), step=Step(9.0, 8.0))
    show(
        verdict="healthy",
        reason="answers",
        canaries={"ok": 7, "status": 1},
        repairs={"hung": 5},
        longest=2.5,
        longest_idle=0.6,
    )
    facts = explain.explain(context)
    assert [one["reason"] for one in facts["incidents"]] == ["reason 4", "reason 3", "reason 2"]
    assert [one["at"] for one in explain.explain(context, 2)["incidents"]] == [4, 3]
    assert json.loads(json.dumps(facts))["incidents"] == facts["incidents"]
    text = explain.render(facts)
    assert text.splitlines()[:3] == [
        "q: healthy: answers",
        "  canaries 7 ok, 1 status; repairs 5 hung",
        "  the longest step of recent work took 2.5 s, and its processes were idle for up to 0.6 s in one; limits grow "
        "with them",
    ]
    assert text.index("reason 4") < text.index("reason 3")


def test_explain_without_a_watcher_knows_the_steps_that_were_written_down_unless_they_are_old(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    keep(context, step=Step(2.5, 0.5))
    facts = explain.explain(context)
    assert (facts["longest_step"], facts["longest_idle_step"]) == (2.5, 0.5)
    keep(context, step=Step(2.5, 0.5), age=TIME + 1)
    facts = explain.explain(context)
    assert (facts["longest_step"], facts["longest_idle_step"]) == (0, 0)
    assert "longest step" not in explain.render(facts)


def test_explain_tells_one_decision_whole(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path)
    keep(context, incident(1_700_000_000.0, served_again=31.4))
    lines = explain.render(explain.explain(context)).splitlines()
    assert lines[-6:] == [
        "  2023-11-14T22:13:20Z hung: reason 1.7e+09",
        "    decided  kill and restart, pid 4711, after 1.6 s",
        "    done     killed",
        "    since    serving again after 31 s",
        "    saw      first look",
        "    saw      last look",
    ]


def test_explain_tells_looks_that_say_the_same_once(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path)
    looks = [
        *(f"10:00:0{number} starting" for number in range(5)),
        "10:00:05 healthy",
        "10:00:06 healthy",
        "10:00:07 hung",
    ]
    keep(context, incident(1.0, looks=looks))
    saw = [line for line in explain.render(explain.explain(context)).splitlines() if "saw      " in line]
    assert [line.partition("saw      ")[2] for line in saw] == [
        "10:00:00 starting",
        "10:00:04 starting (the same 4 times since)",
        "10:00:05 healthy",
        "10:00:06 healthy",
        "10:00:07 hung",
    ]


def test_explain_tells_looks_that_differ_in_seconds_and_counters_by_the_first_and_the_last(
    tmp_path: Path, show: Show
) -> None:
    """As they were written down beside a GPU, with a limit of 6.7 s."""
    context = context_for(tmp_path)
    users, frozen = "256 run, 3 wait", "counters 0:91340, 256 run, 3 wait"
    looks = [
        f"10:00:00 busy, GET /health: 200 in 0.001 s, counters 0:52000, {users}",
        *(f"10:00:0{number} busy, counters 0:{60000 + 7835 * number}, {users}" for number in range(1, 5)),
        f"10:00:05 busy, {frozen}, no progress for 1.0 s",
        *(
            f"10:00:{6 + number // 5:02d} busy, GET /health: 200 in 0.00{number % 4} s, {frozen}, API idle, "
            f"engine idle, no progress for {1.2 + number / 5:.1f} s"
            for number in range(27)
        ),
        f"10:00:12 hung, GET /health: 200 in 0.001 s, {frozen}, API idle, engine idle, no progress for 6.8 s",
    ]
    keep(context, incident(1.0, looks=looks))
    facts = explain.explain(context)
    assert facts["incidents"][0]["looks"] == looks, "for programs, all of them"
    saw = [line for line in explain.render(facts).splitlines() if "saw      " in line]
    assert [line.partition("saw      ")[2] for line in saw] == [
        looks[0],
        f"{looks[4]} (the same 4 times since)",
        looks[5],
        looks[6],
        f"{looks[32]} (the same 26 times since)",
        looks[33],
    ]


@pytest.mark.parametrize(
    "other",
    [
        "busy, 1 run, 0 wait, engine active, no progress for 1.4 s",
        "busy, 2 run, 0 wait, engine idle, no progress for 1.4 s",
        "hung, 1 run, 0 wait, engine idle, no progress for 1.4 s",
        "busy, 1 run, 0 wait, engine idle",
    ],
)
def test_explain_folds_nothing_that_says_something_else(tmp_path: Path, show: Show, other: str) -> None:
    context = context_for(tmp_path)
    same = "busy, 1 run, 0 wait, engine idle, no progress for 1.2 s"
    keep(context, incident(1.0, looks=[f"10:00:00 {same}", f"10:00:01 {other}", f"10:00:02 {same}"]))
    assert explain.render(explain.explain(context)).count("saw      ") == 3


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "it has not served again", "serving again after"),
        ({"dry_run": True, "outcome": "nothing done, because of dry_run"}, "because of dry_run", "since "),
        ({"outcome": ""}, "done     nothing", "killed"),
        ({"seconds": 0.0}, "pid 4711\n", "after"),
    ],
)
def test_explain_of_what_is_different(
    tmp_path: Path, show: Show, changes: dict[str, Any], said: str, unsaid: str
) -> None:
    context = context_for(tmp_path)
    keep(context, incident(1.0, **changes))
    text = explain.render(explain.explain(context))
    assert said in text
    assert unsaid not in text


def test_explain_without_a_watcher_or_anything_to_explain(tmp_path: Path, show: Show) -> None:
    context = context_for(tmp_path)
    assert explain.render(explain.explain(context)).splitlines() == [
        "q: no watcher is looking; what one saw before:",
        "  nothing was ever decided against it",
    ]
    assert explain.explain(context)["watched"] is None


# --- the gate -------------------------------------------------------------------------------------------------


def test_neighbours_are_the_others_that_serve_now(show: Show) -> None:
    assert gate.neighbours("q") == 0
    show("q", verdict="healthy")
    show("r", verdict="busy")
    show("s", verdict="hung")
    show("t", verdict="healthy", drained="by hand")
    assert gate.neighbours("q") == 1
    assert gate.neighbours("s") == 2
