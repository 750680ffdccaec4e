# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`retire`: the end of an instance under one manager, before its files go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from vllm_keeper import exits
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.verbs import operate

from tests.unit.keeper.support import RUNNING, STOPPED, clock_of, context_for, manager_of

MISSING = replace(STOPPED, phase="missing", detail="q.service does not exist")


def test_it_is_stopped_and_not_started_on_boot_and_its_history_is_kept(tmp_path: Path) -> None:
    context = context_for(tmp_path, RUNNING)
    manager = manager_of(context)

    def stops(verb: str) -> None:
        if verb == "stop":
            manager.seen = STOPPED

    manager.on_call = stops
    assert operate.retire(context, known=True) == exits.OK
    assert manager.calls == ["stop", "disable"]
    state = context.state()
    assert state.stopped is not None
    assert state.intent is None


def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    context = context_for(tmp_path, RUNNING)
    manager = manager_of(context)

    def dies(verb: str) -> None:
        if verb == "kill":
            manager.seen = STOPPED

    manager.on_call = dies
    assert operate.retire(context, known=True) == exits.OK
    assert manager.calls == ["stop", "kill", "stop", "disable"]


def test_one_that_cannot_be_ended_is_told_and_not_forgotten(tmp_path: Path) -> None:
    context = context_for(tmp_path, RUNNING)
    assert operate.retire(context, known=False) == exits.BAD


@pytest.mark.parametrize("seen", [RUNNING, MISSING])
def test_nothing_is_remembered_of_an_instance_that_is_no_more(tmp_path: Path, seen: object) -> None:
    context = context_for(tmp_path, RUNNING)
    manager = manager_of(context)

    def tells_its_end(verb: str) -> None:
        # as the unit's hooks and the runner do, after the settings have gone
        if verb == "stop":
            manager.seen = STOPPED
            now: Moment = clock_of(context).now()
            context.store.update(lambda state: state.starts.append(st.Start(at=now, planned=True)))

    manager.on_call = tells_its_end
    if seen is MISSING:
        manager.seen = MISSING
    assert operate.retire(context, known=False) == exits.OK
    assert not context.store.path.exists()


def test_what_is_not_there_needs_no_end(tmp_path: Path) -> None:
    context = context_for(tmp_path, MISSING)
    assert operate.retire(context, known=True) == exits.OK
    assert manager_of(context).calls == []
