# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts and restarts under a manager without hooks: the gate before, readiness after, and parking from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vllm_keeper import decision as d
from vllm_keeper import exits
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import GateSettings, Instance
from vllm_keeper.context import Context
from vllm_keeper.managers.base import Completed, Observed
from vllm_keeper.verbs import check, operate, orders, status

from tests.unit.keeper.support import FakeManager, context_for, free_port, healthy, manager_of, serving, status_503

ME = Observed("running", "running", True, os.getpid(), 5.0, "")
EXITED = Observed("stopped", "exited, exit status 2", True, None, None, "")
AGAIN = Observed("held", "restarting, exit status 2", True, None, None, "")


class Unhooked(FakeManager):
    """Starts by itself, and tells afterwards what it did."""

    HOOKED = False

    def __init__(self, instance: Instance, seen: Observed) -> None:
        super().__init__(instance, seen)
        self.news: list[Callable[[st.State, Moment], list[str]]] = []

    def catch_up(self, state: st.State, now: Moment, words: Callable[[list[str]], str]) -> list[str]:
        told: list[str] = []
        for change in self.news:
            told += change(state, now)
        return told

    def owns(self, listener: object) -> bool:
        return True


def made(folder: Path, seen: Observed, port: int = 1, gate: GateSettings | None = None) -> Context:
    context = context_for(folder, seen, port, gate=gate, start_timeout=20)
    return replace(context, manager=Unhooked(context.instance, seen))


def unhooked(context: Context) -> Unhooked:
    assert isinstance(context.manager, Unhooked)
    return context.manager


@pytest.fixture
def port() -> Iterator[int]:
    with serving(healthy) as server:
        yield server.port


def starts_up(context: Context) -> None:
    manager_of(context).on_call = lambda verb: setattr(
        manager_of(context), "seen", ME if verb == "start" else EXITED if verb == "stop" else manager_of(context).seen
    )


def test_a_start_goes_through_the_gate_and_waits_for_an_answer(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, EXITED, port)
    starts_up(context)
    assert operate.start(context) == exits.OK
    (start,) = context.state().starts
    assert (start.planned, start.pid, start.ready_at is not None) == (True, os.getpid(), True)
    assert context.state().intent is None


def test_a_start_that_is_under_way_is_waited_for(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, ME, port)
    assert operate.start(context) == exits.OK
    assert manager_of(context).calls == []
    assert context.state().starts[-1].ready_at is not None


def test_what_is_ready_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = made(tmp_path, ME, free_port())
    context.update(
        lambda state, now: state.starts.append(st.Start(at=now, planned=True, pid=os.getpid(), ready_at=now))
    )
    assert operate.start(context) == exits.OK
    assert "already running" in capsys.readouterr().out


def test_a_restart_stops_passes_the_gate_and_starts(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, ME, port)
    starts_up(context)
    assert operate.restart(context) == exits.OK
    assert manager_of(context).calls == ["stop", "start"]


def test_what_the_manager_cannot_start_has_failed_with_its_words(tmp_path: Path) -> None:
    context = made(tmp_path, EXITED)
    manager_of(context).answers["start"] = Completed(1, "", "Error response from daemon: no GPU\n")
    assert operate.start(context) == exits.BAD
    assert (context.state().starts[-1].end, context.state().starts[-1].reason) == (
        st.FAILED,
        "Error response from daemon: no GPU",
    )


def test_a_missing_model_is_parked_by_the_gate_and_never_started(tmp_path: Path) -> None:
    context = made(tmp_path, EXITED)
    context = replace(context, instance=replace(context.instance, model_path=str(tmp_path / "gone")))
    assert operate.start(context) == exits.PARKED
    assert "start" not in manager_of(context).calls


def test_two_orders_at_once_come_one_after_the_other(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, EXITED, port)
    starts_up(context)
    with context.store.lock("order"):
        waiting = replace(
            context, instance=replace(context.instance, gate=GateSettings(back_off=(0,)), drain_timeout=0)
        )
        began = time.monotonic()
        margin, orders.MARGIN = orders.MARGIN, 0.1
        try:
            assert orders.start(waiting).err.startswith("another start or restart")
        finally:
            orders.MARGIN = margin
        assert time.monotonic() - began < 5
    assert manager_of(context).calls == []


def failed_by_itself(status: str) -> Callable[[st.State, Moment], list[str]]:
    def change(state: st.State, now: Moment) -> list[str]:
        start = state.open_start()
        if start is None or not start.planned:
            return []
        start.ended_at, start.end, start.reason = now, st.FAILED, f"exited with status {status}; --no-such-option"
        start.exit_code, start.exit_status = "exited", status
        return [start.reason]

    return change


def test_a_bad_argument_is_parked_at_the_first_check(tmp_path: Path) -> None:
    context = made(tmp_path, AGAIN)
    context.update(lambda state, now: state.starts.append(st.Start(at=now, planned=True, pid=1)))
    unhooked(context).news = [failed_by_itself("2")]
    manager_of(context).on_call = lambda verb: setattr(manager_of(context), "seen", EXITED)
    assert check.check(context) == exits.OK
    parked = context.state().parked
    assert parked is not None
    assert (parked.cause, "--no-such-option" in parked.reason) == ("bad_argument", True)
    assert manager_of(context).calls == ["kill", "stop"]


def test_one_failure_is_left_to_the_manager(tmp_path: Path) -> None:
    context = made(tmp_path, AGAIN)
    context.update(lambda state, now: state.starts.append(st.Start(at=now, planned=True, pid=1)))
    unhooked(context).news = [failed_by_itself("1")]
    assert check.check(context) == exits.OK
    assert context.state().parked is None
    assert manager_of(context).calls == []


def spent(context: Context) -> None:
    def change(state: st.State, now: Moment) -> None:
        for _number in range(3):
            state.starts.append(
                st.Start(at=now, planned=False, ended_at=now, end=st.FAILED, exit_code="exited", exit_status="1")
            )
        state.starts.append(st.Start(at=now, planned=False, pid=os.getpid()))

    context.update(change)


def test_a_spent_budget_parks_what_still_loads(tmp_path: Path) -> None:
    with serving(status_503) as server:
        context = made(tmp_path, ME, server.port, GateSettings(budget=3))
        spent(context)
        assert "budget of 3 is spent" in orders.judge(context)
    assert manager_of(context).calls == ["kill", "stop"]
    assert context.state().starts[-1].end == st.PURPOSE


def test_a_spent_budget_does_not_end_what_has_come_to_answer(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, ME, port, GateSettings(budget=3))
    spent(context)
    assert orders.judge(context) == ""
    assert context.state().parked is None
    assert manager_of(context).calls == []


def test_what_answers_is_ready_although_nobody_watched_its_start(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, ME, port)
    assert check.check(context) == exits.OK
    assert context.state().starts[-1].ready_at is not None


def test_what_still_loads_is_left_alone(tmp_path: Path) -> None:
    context = made(tmp_path, ME, free_port())
    assert check.check(context) == exits.OK
    assert manager_of(context).calls == []
    assert context.state().starts == []


def test_what_does_not_become_ready_in_time_is_ended_and_counts(tmp_path: Path) -> None:
    with serving(status_503) as server:
        context = made(tmp_path, EXITED, server.port)
        starts_up(context)
        context = replace(context, instance=replace(context.instance, start_timeout=0))
        assert operate.start(context) == exits.BAD
    assert "kill" in manager_of(context).calls
    assert context.state().intent is not None
    assert d.failed(replace(context.state().starts[-1], end=st.REPAIR))


def test_status_remembers_too_that_it_answered(tmp_path: Path, port: int) -> None:
    context = made(tmp_path, ME, port)
    assert status.status(context)["verdict"] == "healthy"
    assert context.state().starts[-1].ready_at is not None
