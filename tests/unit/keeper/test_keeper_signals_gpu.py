# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs: what is made of NVML's answers, and what is wrong with them. Pure; the driver's side is in ..._gpu_reader."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_keeper import config
from vllm_keeper.signals import REMEDIES, GpuFault, Once, gpu, worst
from vllm_keeper.signals.gpu import Gpu, GpuProcess, Memory, Readings

GIB = 1 << 30
RECORDED = Path(__file__).parent / "recorded" / "gpu" / "h100-580.159.04.json"
WELL = Gpu(0, "GPU-aa11", "H100", "0000:3b:00", Memory(80 * GIB, 70 * GIB, GIB // 2), (GpuProcess(7, 70 * GIB),))


def seen(*gpus: Gpu, **more: Any) -> Readings:
    return Readings(gpu.OK, gpus=gpus, **more)


def only(faults: list[GpuFault]) -> tuple[str, str, bool]:
    assert len(faults) == 1, faults
    return faults[0].cause, faults[0].remedy, faults[0].urgent


def test_a_gpu_that_is_well() -> None:
    assert gpu.faults(seen(WELL)) == []
    assert gpu.faults(seen(WELL), seen(WELL)) == []


@pytest.mark.parametrize(
    ("change", "cause", "remedy", "urgent"),
    [
        ({"recovery_action": 1}, "recovery_action", "reset_gpu", True),
        ({"recovery_action": 2}, "recovery_action", "reboot", True),
        ({"recovery_action": 3}, "recovery_action", "restart_application", False),
        ({"recovery_action": 4}, "recovery_action", "reset_gpu", False),
        ({"recovery_action": 99}, "recovery_action", "ignore", False),
        ({"error": "gpu_is_lost"}, "gpu_lost", "reboot", True),
        ({"error": "reset_required"}, "reset_required", "reset_gpu", True),
        ({"error": "Unknown Error"}, "unreadable", "ignore", False),
        ({"notes": ("Unknown Error",)}, "unreadable", "ignore", False),
        ({"remap_failed": True}, "remap_failed", "replace", False),
        ({"remap_pending": True}, "remap_pending", "reset_gpu", False),
        ({"retired_pending": True}, "retirement_pending", "reset_gpu", False),
        ({"clock_events": ("hw_thermal_slowdown",), "temperature": 92}, "throttled", "ignore", False),
        ({"processes": ()}, "memory_of_nobody", "reset_gpu", False),
        ({"processes": (GpuProcess(7, 70 * GIB, alive=False),)}, "memory_of_nobody", "reset_gpu", False),
    ],
)
def test_one_thing_wrong(change: dict[str, Any], cause: str, remedy: str, urgent: bool) -> None:
    faults = gpu.faults(seen(replace(WELL, **change)))
    assert only(faults) == (cause, remedy, urgent)
    assert faults[0].gpu == WELL.uuid and faults[0].evidence.startswith("GPU 0: ")


@pytest.mark.parametrize(
    "change",
    [
        {"recovery_action": 0},
        {"clock_events": ("sw_power_cap", "sync_boost")},  # everyday life under load
        {"memory": None},
        {"memory": Memory(80 * GIB, 70 * GIB), "processes": ()},  # an old driver, whose own share is part of `used`
        {"processes": (GpuProcess(7, None),)},  # a share that is not told may be all of it
        {"processes": (), "all_processes": False},  # in a container nobody's processes are shown
        {"processes": (GpuProcess(7, 69 * GIB + GIB // 2),)},  # less than the threshold
        {"ecc_volatile": 5},  # nothing to compare with
    ],
)
def test_what_is_no_fault(change: dict[str, Any]) -> None:
    assert gpu.faults(seen(replace(WELL, **change))) == []


@pytest.mark.parametrize(("before", "now", "new"), [(0, 2, 2), (3, 3, 0), (5, 1, 1), (5, 0, 0), (None, 4, 0)])
def test_memory_errors_count_from_the_start_of_the_server(before: int | None, now: int, new: int) -> None:
    faults = gpu.faults(seen(replace(WELL, ecc_volatile=now)), seen(replace(WELL, ecc_volatile=before)))
    if new:
        assert only(faults) == ("ecc_uncorrected", "restart_application", False)
        assert f"{new} new" in faults[0].evidence
    else:
        assert faults == []


def test_a_gpu_that_was_there_and_is_gone() -> None:
    other = replace(WELL, index=1, uuid="GPU-bb22")
    faults = gpu.faults(seen(WELL), seen(WELL, other))
    assert only(faults) == ("gpu_lost", "reboot", True) and faults[0].gpu == "GPU-bb22"
    assert gpu.faults(seen(WELL, other), seen(WELL)) == []  # one more is no fault


def test_a_lost_gpu_that_does_not_even_tell_its_name() -> None:
    faults = gpu.faults(seen(Gpu(0, "", error="gpu_is_lost")), seen(WELL))
    assert only(faults) == ("gpu_lost", "reboot", True) and faults[0].gpu == WELL.uuid


@pytest.mark.parametrize(("missing", "lost"), [("driver", True), ("gpu", True), ("library", False), ("", False)])
def test_a_driver_that_went_away(missing: str, lost: bool) -> None:
    readings = Readings(gpu.ABSENT, "no NVIDIA driver", missing=missing)
    assert gpu.faults(readings) == []  # a host without GPUs
    causes = [fault.cause for fault in gpu.faults(readings, seen(WELL))]
    assert causes == (["gpu_lost"] if lost else [])


@pytest.mark.parametrize(("state", "cause"), [(gpu.HUNG, "driver_hung"), (gpu.BROKEN, "nvml_broken")])
def test_a_driver_that_does_not_answer_is_at_fault_after_several_looks(state: str, cause: str) -> None:
    assert gpu.faults(Readings(state, "x", missed=2)) == []
    faults = gpu.faults(Readings(state, "no answer within 5 s", missed=3), seen(WELL))
    # A server that goes on serving is not ended for it, so it is not urgent.
    assert only(faults) == (cause, "reboot", False)
    assert "no answer within 5 s" in faults[0].evidence


def test_the_worst_of_several() -> None:
    faults = [
        GpuFault("a", "x", "", "reset_gpu"),
        GpuFault("b", "y", "", "reset_gpu", urgent=True),
        GpuFault("c", "z", "", "restart_application", urgent=True),
    ]
    assert worst(faults) == faults[1] and worst([]) is None


def test_once() -> None:
    once = Once()
    assert not once.news("gpu", "")
    assert once.news("gpu", "absent") and not once.news("gpu", "absent")
    assert once.news("gpu", "") and not once.news("gpu", "")
    assert once.news("kernel log", "absent")


FOUR = tuple(Gpu(index, f"GPU-{index}{index}ab-cd", mig=index == 3) for index in range(4))


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ((), []),
        (("1",), [1]),
        (("2", "0"), [0, 2]),
        ((" 1 ", "1"), [1]),
        (("GPU-22",), [2]),
        (("gpu-11AB-CD", "3"), [1, 3]),
        (("0", "9", "1"), [0]),  # CUDA hides what follows a device that it does not know
        (("-1", "1"), []),
        (("MIG-0a1b",), [3]),
        (("GPU-",), []),
        (("",), []),
    ],
)
def test_the_gpus_of_an_instance(devices: tuple[str, ...] | None, expected: list[int]) -> None:
    assert [one.index for one in gpu.select(FOUR, devices)] == expected
    assert [one.index for one in gpu.chosen(seen(*FOUR), devices).gpus] == expected


def test_room_for_the_next_start() -> None:
    assert gpu.free([WELL]) == 80 * GIB - 70 * GIB - GIB // 2
    assert gpu.free([WELL, replace(WELL, memory=Memory(80 * GIB, 79 * GIB, GIB))]) == 0  # the fullest one counts
    assert gpu.free([WELL, replace(WELL, memory=None)]) is None
    assert gpu.free([]) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = ("index", "uuid", "name", "bus", "memory", "processes", "ecc_volatile", "remap_pending", "clock_events")
KEYS += ("recovery_action", "temperature", "mig", "notes", "error", "retired_pages", "all_processes")
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), JSON | st.integers(0, 9)), max_size=3)
ANSWERS = JSON | st.fixed_dictionaries({"state": st.sampled_from(["ok", "absent", "broken", "?"]), "gpus": ROWS | JSON})


@given(ANSWERS, st.integers(0, 9))
def test_no_answer_breaks_the_keeper(answer: object, missed: int) -> None:
    readings = replace(gpu.parse(json.loads(json.dumps(answer))), missed=missed)
    for fault in gpu.faults(readings, seen(WELL)) + gpu.faults(seen(WELL), readings):
        assert fault.remedy in REMEDIES and fault.evidence
        assert not fault.urgent or fault.remedy != "ignore"
    gpu.free(readings.gpus)


def test_a_real_gpu() -> None:
    """Recorded on an H100: what it held for a process is that process's, and nothing is wrong with it."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))

    def look(row: dict[str, Any]) -> Gpu:
        (found,) = gpu.parse({"state": "ok", "gpus": [{**row, "bus": row["slot"]}]}).gpus
        assert asdict(found) == {**row, "processes": tuple(row["processes"]), "clock_events": (), "notes": ()}
        return found

    idle, holding, after = (look(recorded["held"][when]) for when in ("idle", "holding", "after"))
    (process,) = holding.processes or ()
    assert process.pid == recorded["held"]["pid"] and process.used == recorded["held"]["nvidia_smi_mib"] * (1 << 20)
    assert holding.unattributed is not None and holding.unattributed < 64 << 20
    assert idle.processes == after.processes == ()
    assert after.memory == idle.memory
    before = seen(look(recorded["before"]["gpus"][0]))
    assert [gpu.faults(seen(one), before) for one in (idle, holding, after)] == [[], [], []]
    assert all(one["same"] for one in recorded["compared"])


def test_settings() -> None:
    problems: list[str] = []
    given_keys = {"enabled": False, "devices": [0, "GPU-1"], "interval": 2, "python": "/p", "hang_after": 5}
    settings = gpu.read(config.Reader(given_keys, "gpu.", problems))
    assert problems == []
    assert settings == gpu.Settings(False, "/p", "", ("0", "GPU-1"), 2, hang_after=5)
    assert gpu.read(config.Reader({}, "gpu.", problems)) == gpu.Settings() and problems == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"enabled": "yes"}, "gpu.enabled: 'yes' must be true or false"),
        ({"devices": "0,1"}, "gpu.devices: '0,1' must be a list of GPUs, by number or UUID, such as [0, 1]"),
        ({"devices": [True]}, "gpu.devices: [True] must be a list of GPUs, by number or UUID, such as [0, 1]"),
        ({"deadline": 0}, "gpu.deadline: 0 must be between 0.1 and 600"),
        ({"library": "fake.py"}, "gpu.library: 'fake.py' must be an absolute path"),
        ({"devises": []}, "gpu.devises: unknown key, did you mean devices?"),
    ],
)
def test_settings_that_cannot_be(data: dict[str, Any], problem: str) -> None:
    problems: list[str] = []
    reader = config.Reader(data, "gpu.", problems)
    gpu.read(reader)
    reader.refuse_unknown()
    assert problems == [problem]
