# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verb gpus: the page that people read, from a fake NVML and a fake kernel log, read by the real reader."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper.context import Context
from vllm_keeper.verbs import gpus

from tests.unit.keeper import support

FAKE = Path(__file__).parents[2] / "fakes/fake_pynvml.py"
GIB = 1 << 30
CARD = {"uuid": "GPU-0", "name": "Fake H100", "bus": "00000000:3B:00.0", "recovery_action": 0}
XID = "NVRM: Xid (PCI:0000:{slot}:00): {code}, pid=1, name=x, GPU has fallen off the bus."


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """An instance on GPU 0 of a host with a fake NVML."""
    monkeypatch.setenv("FAKE_PYNVML", str(tmp_path / "nvml.json"))
    made = support.context_for(tmp_path, support.STOPPED, 1)
    settings = replace(
        made.instance.gpu,
        enabled=True,
        python=sys.executable,
        library=str(FAKE),
        kernel_log=str(tmp_path / "kmsg"),
        devices=("0",),
        deadline=60,
    )
    made.instance = replace(made.instance, gpu=settings)
    say(tmp_path)
    (tmp_path / "kmsg").touch()
    return made


def say(folder: Path, **changes: Any) -> None:
    cards = [{**CARD, **changes}, {**CARD, "uuid": "GPU-1", "bus": "00000000:5E:00.0"}]
    (folder / "nvml.json").write_text(json.dumps({"driver": "580.159.04", "gpus": cards}))


def test_a_host_on_which_all_is_well(context: Context) -> None:
    facts = gpus.gpus(context)
    assert [one["uuid"] for one in facts["gpus"]] == ["GPU-0"], "its own alone"
    assert (facts["state"], facts["faults"], facts["xids"]) == ("ok", [], [])
    page = gpus.render(facts).splitlines()
    assert page[0] == "q: GPUs ok, driver 580.159.04"
    assert page[1] == f"  readings come from {FAKE}, not from NVML"
    assert page[-2:] == ["  fault    none", "  Xids     none in the kernel's log"]
    json.dumps(facts)


def test_faults_holders_and_xids_are_told(context: Context, tmp_path: Path) -> None:
    held = [{"pid": os.getpid(), "used": 3 * GIB}]
    say(tmp_path, recovery_action=1, memory={"total": 80 * GIB, "used": 5 * GIB, "reserved": 0}, processes=held)
    lines = [XID.format(slot="3b", code=code) for code in (31, 43, 79, 79, 31, 79)]
    lines.append(XID.format(slot="5e", code=79))  # another's
    (tmp_path / "kmsg").write_text("".join(f"{line}\n" for line in lines))
    facts = gpus.gpus(context)
    assert facts["xids_in_all"] == 6 and len(facts["xids"]) == gpus.LAST
    page = gpus.render(facts)
    assert "5120 of 81920 MiB used" in page and "2048 MiB of nobody's" in page
    assert f"held by {Path(sys.executable).name.split('3')[0]}" in page and f"(pid {os.getpid()}) 3072 MiB" in page
    assert "fault    recovery_action" in page and "asks for: reset_gpu" in page
    assert "6 in the kernel's log; the last:" in page and "fallen off the bus" in page


def test_a_host_without_and_a_log_that_cannot_be_read(context: Context, tmp_path: Path) -> None:
    context.instance = replace(
        context.instance,
        gpu=replace(context.instance.gpu, python="/nonexistent/python", kernel_log=str(tmp_path / "no/kmsg")),
    )
    page = gpus.render(gpus.gpus(context))
    assert page.startswith("q: GPUs absent: the reader of GPUs cannot be started (/nonexistent/python: No such file")
    assert "Xids     not known: " in page and "cannot be read" in page
