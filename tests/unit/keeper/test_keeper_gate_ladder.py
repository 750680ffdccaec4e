# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and ladder together: the gate stays the one that parks, and each rung gets one start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import exits, remedies, repair
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import GateSettings
from vllm_keeper.context import Context
from vllm_keeper.managers.base import Completed, Observed
from vllm_keeper.signals import GpuFault, faults, gpu
from vllm_keeper.verbs import gate, orders

from tests.unit.keeper.support import DONE, FakeManager, clock_of, context_for

BUDGET = 3
TOOLS = remedies.Tools
WELL = faults.Before(devices=("GPU-1",))


class Rig:
    """A host with one GPU on which the ladder may do what it is told, and the commands that it ran there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.seen = folder, list[str](), WELL
        self.on_run: Callable[[str], None] = lambda line: None

    def runner(self, command: Sequence[str], _within: float) -> Completed:
        self.ran.append(" ".join(command))
        self.on_run(self.ran[-1])
        return DONE

    def tools(self, **given: Any) -> remedies.Tools:
        return TOOLS(**{**given, "runner": self.runner, "systemd": self.folder})

    def look(self, _settings: gpu.Settings, since: float | None = None) -> faults.Before:
        return self.seen

    def did(self) -> list[str]:
        return [line for line in self.ran if "gpu-reset" in line or "systemctl reboot" in line]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(tmp_path)
    monkeypatch.setattr(remedies, "Tools", made.tools)
    monkeypatch.setattr(faults, "before_start", made.look)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return made


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "proc").mkdir()
    made = context_for(tmp_path, gate=GateSettings(budget=BUDGET, back_off=(0,)))
    ladder = repair.Settings(reset_gpu=True, reboot=True)
    return replace(made, instance=replace(made.instance, ladder=ladder, gpu=gpu.Settings()), proc=tmp_path / "proc")


def fail(context: Context, ready: bool = False, reason: str = "") -> None:
    """The start that the gate allowed ends badly."""

    def change(state: st.State, now: Moment) -> None:
        start = state.open_start()
        assert start is not None, "the gate allowed no start"
        start.ready_at = now if ready else None
        start.ended_at, start.end, start.reason = now, st.FAILED, reason

    context.update(change)
    clock_of(context).pass_(60)


def fail_until_spent(context: Context) -> None:
    for number in range(BUDGET):
        assert gate.gate(context, lambda: 0.0) == exits.OK
        fail(context, ready=number == 0)


def test_a_rung_and_one_start_before_parking(context: Context, rig: Rig) -> None:
    fail_until_spent(context)
    assert rig.did() == []
    assert gate.gate(context, lambda: 0.0) == exits.OK
    assert rig.did() == ["nvidia-smi --gpu-reset -i GPU-1"] and context.state().parked is None
    fail(context)
    clock = clock_of(context)

    def boot() -> None:
        """The host goes down while the gate holds the start back."""
        if clock.boot_id == "boot-1" and len(rig.did()) == 2:
            clock.boot_id, clock.at = "boot-2", clock.at - 9000.0

    clock.on_sleep = boot
    assert gate.gate(context, lambda: 0.0) == exits.OK
    assert clock.boot_id == "boot-2" and rig.did()[1].startswith("systemctl reboot")
    fail(context)
    assert gate.gate(context, lambda: 0.0) == exits.PARKED
    parked = context.state().parked
    assert parked is not None and parked.cause == "budget" and "reboot was tried already" in parked.reason
    assert len(rig.did()) == 2


def test_a_fault_takes_its_rung_without_waiting_for_more_failures(context: Context, rig: Rig) -> None:
    assert gate.gate(context, lambda: 0.0) == exits.OK
    fail(context, reason="gpu_fault: Xid 95")
    rig.seen = replace(WELL, faults=(GpuFault("GPU-1", "Xid 95", "kernel log", "reset_gpu", True),))
    rig.on_run = lambda line: setattr(rig, "seen", WELL) if "reset" in line else None
    assert gate.gate(context, lambda: 0.0) == exits.OK
    assert rig.did() == ["nvidia-smi --gpu-reset -i GPU-1"]
    fail(context)
    assert gate.gate(context, lambda: 0.0) == exits.OK
    assert len(rig.did()) == 1, "the reset has mended it"


def test_what_somebody_orders_meanwhile_counts_for_more(context: Context, rig: Rig) -> None:
    fail_until_spent(context)

    def park(line: str) -> None:
        if "gpu-reset" in line:
            parked = st.Parked(context.clock.now(), "operator", "disk swap")
            context.update(lambda state, _now: setattr(state, "parked", parked))

    rig.on_run = park
    assert gate.gate(context, lambda: 0.0) == exits.PARKED
    parked = context.state().parked
    assert parked is not None and parked.cause == "operator"


def test_without_opting_in_the_gate_parks_as_ever(context: Context, rig: Rig) -> None:
    plain = replace(context, instance=replace(context.instance, ladder=repair.Settings()))
    fail_until_spent(plain)
    assert gate.gate(plain, lambda: 0.0) == exits.PARKED
    assert rig.did() == []


class Engine(FakeManager):
    """Restarts by itself what ends, as Docker does, and runs no gate."""

    HOOKED = False


def test_what_a_manager_without_hooks_restarts_in_vain_has_its_rung_before_it_is_parked(
    context: Context, rig: Rig
) -> None:
    fail_until_spent(context)
    manager = Engine(context.instance, Observed(d.HELD, "restarting, exit status 1", True, None, None, ""))
    context.manager = manager
    context.update(lambda state, now: state.starts.append(st.Start(at=now, planned=False)))
    assert "is spent" in orders.judge(context)
    assert (rig.did(), manager.calls) == (["nvidia-smi --gpu-reset -i GPU-1"], ["kill", "stop", "start"])
    assert context.state().parked is None
    fail(context)
    plain = replace(context, instance=replace(context.instance, ladder=repair.Settings(reset_gpu=True)))
    plain.update(lambda state, now: state.starts.append(st.Start(at=now, planned=False)))
    orders.judge(plain)
    assert len(rig.did()) == 1
    assert manager.calls[3:] == ["kill", "stop"]
    parked = plain.state().parked
    assert parked is not None and parked.cause == "budget"
