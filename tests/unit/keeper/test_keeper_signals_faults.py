# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML and the kernel's log together, for the resident keeper and for the gate; over a fake NVML and a plain file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper.signals import faults, gpu, xid
from vllm_keeper.signals.faults import HostSignals, Reported
from vllm_keeper.signals.gpu import Gpu, GpuProcess, Memory, Readings

FAKE = Path(__file__).parents[2] / "fakes" / "fake_pynvml.py"
GIB = 1 << 30
TABLE = xid.load()
SETTINGS = gpu.Settings(python=sys.executable, library=str(FAKE), deadline=10)
ONE = Gpu(0, "GPU-aa", "H100", "0000:3b:00", Memory(80 * GIB, 0, 0), (), recovery_action=0)
RESET = "Xid (PCI:0000:3b:00): 95, pid=7, name=x, Uncontained"


def reported(text: str, at: float = 100.0) -> Reported:
    found = xid.parse(f"NVRM: {text}")
    assert found is not None
    return Reported(found, at)


def combined(
    *told: Reported,
    readings: Readings | None = None,
    looked_at: float = 0.0,
    baseline: Readings | None = None,
    pids: tuple[int, ...] = (),
) -> list[tuple[str, str, bool]]:
    found = faults.combine(readings, looked_at, baseline, told, SETTINGS, TABLE, pids)
    return [(one.cause, one.remedy, one.urgent) for one in found]


def test_an_xid_counts_until_nvml_was_looked_at_after_it() -> None:
    well = Readings(gpu.OK, gpus=(ONE,))
    assert combined(reported(RESET), readings=well, looked_at=99) == [("xid_95", "reset_gpu", True)]
    # The driver asks for nothing: the work goes on, and what the error hit has to be started anew.
    assert combined(reported(RESET), readings=well, looked_at=101) == [("xid_95", "restart_application", False)]
    asks = Readings(gpu.OK, gpus=(replace(ONE, recovery_action=1),))
    assert combined(reported(RESET), readings=asks, looked_at=101) == [
        ("recovery_action", "reset_gpu", True),
        ("xid_95", "reset_gpu", True),
    ]
    # A driver too old to say so.
    old = Readings(gpu.OK, gpus=(replace(ONE, recovery_action=None),))
    assert combined(reported(RESET), readings=old, looked_at=101) == [("xid_95", "reset_gpu", True)]
    hung = Readings(gpu.HUNG, missed=1)
    assert combined(reported(RESET), readings=hung, looked_at=101, baseline=well) == [("xid_95", "reset_gpu", True)]


def test_only_the_servers_own_gpus_count() -> None:
    well = Readings(gpu.OK, gpus=(ONE,))
    other = reported(RESET.replace("3b", "5e"))
    assert combined(other, readings=well) == []
    assert combined(other, readings=Readings(gpu.HUNG, missed=1), baseline=well) == []


def test_without_nvml_an_xid_ends_nobody_but_whom_it_names() -> None:
    assert combined(reported(RESET)) == [("xid_95", "reset_gpu", False)]
    assert combined(reported(RESET), pids=(7,)) == [("xid_95", "reset_gpu", True)]


def test_what_is_still_held() -> None:
    full = replace(ONE, memory=Memory(80 * GIB, 20 * GIB, 0), processes=(GpuProcess(1, 15 * GIB),))
    assert faults.still_held([ONE, replace(full, index=1)], SETTINGS) == (
        "GPU 1: 5120 MiB are held by no living process"
    )
    assert faults.still_held([replace(full, processes=(GpuProcess(1, 20 * GIB),))], SETTINGS) == ""
    assert faults.still_held([replace(full, memory=None)], SETTINGS) == ""


CARD: dict[str, Any] = {
    "uuid": "GPU-aa",
    "bus": "00000000:3B:00.0",
    "memory": {"total": 80 * GIB, "used": 0, "reserved": 0},
    "processes": [],
    "recovery_action": 0,
}
OTHER = {**CARD, "uuid": "GPU-bb", "bus": "00000000:5E:00.0"}


class Host:
    """A host that is a fake NVML, a file for the kernel's log and a clock."""

    def __init__(self, folder: Path) -> None:
        self.nvml, self.log, self.now = folder / "nvml.json", folder / "kmsg", 1000.0
        self.log.touch()
        self.say(CARD, OTHER)
        self.signals = HostSignals(replace(SETTINGS, kernel_log=str(self.log)), monotonic=lambda: self.now)

    def say(self, *cards: dict[str, Any], **more: Any) -> None:
        self.nvml.write_text(json.dumps({"driver": "580.1", "gpus": cards, **more}), encoding="utf-8")

    def write(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"NVRM: {text}\n")

    def look(self) -> None:
        self.now += 5
        self.signals.sampler.now()

    def causes(
        self, name: str = "a", pid: int = 1, age: float = 10, devices: tuple[str, ...] | None = ("0",)
    ) -> list[str]:
        self.now += 1
        return [one.cause for one in self.signals.faults(name, pid, age, devices, (pid,))]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("FAKE_PYNVML", str(tmp_path / "nvml.json"))
    found = Host(tmp_path)
    assert found.causes() == []  # opens the log, at its end
    found.look()
    yield found
    found.signals.stop()


def test_a_server_is_told_of_its_own_faults_until_it_is_started_anew(host: Host) -> None:
    assert host.causes("a", 1) == host.causes("b", 2, devices=("1",)) == []
    host.write(RESET)
    assert host.causes("a", 1) == ["xid_95"] and host.causes("b", 2, devices=("1",)) == []
    (fault,) = host.signals.faults("a", 1, 10, ("0",), (1,))
    assert (fault.remedy, fault.urgent) == ("reset_gpu", True)
    host.now += 60
    assert host.causes("a", 3, age=5) == []  # another process, begun after it
    host.say({**CARD, "recovery_action": 1}, OTHER)
    host.look()
    assert host.causes("a", 3) == ["recovery_action"] and host.causes("b", 2, devices=("1",)) == []


def test_an_xid_from_before_the_keeper_looked_at_a_server_counts_when_the_server_was_there(host: Host) -> None:
    host.write(RESET)
    assert host.causes("other", 9, devices=("1",)) == []  # reads the log
    host.now += 3
    assert host.causes("late", 5, age=20) == ["xid_95"]
    assert host.causes("later", 6, age=1) == []


def test_a_lost_gpu_is_the_fault_of_its_own_server_though_numbers_move_up(host: Host) -> None:
    assert host.causes("a", 1) == host.causes("b", 2, devices=("1",)) == []
    host.say(OTHER)  # which is number 0 now
    host.look()
    assert host.causes("a", 1) == ["gpu_lost"]
    assert host.causes("b", 2, devices=("1",)) == []


def test_errors_count_from_the_start_of_each_server(host: Host) -> None:
    host.say({**CARD, "ecc_volatile": 3})
    host.look()
    assert host.causes("a", 11) == []
    host.say({**CARD, "ecc_volatile": 4})
    host.look()
    assert host.causes("a", 11) == ["ecc_uncorrected"]
    assert host.causes("a", 12) == []
    host.signals.forget("a")
    assert host.causes("a", 11) == []


def test_news_is_told_once(host: Host) -> None:
    (stand_in,) = host.signals.news()
    assert "not from NVML" in stand_in and str(FAKE) in stand_in
    assert host.signals.news() == []
    host.say()
    host.look()
    assert [text for text in host.signals.news() if "GPUs are not read" in text and "sees no GPU" in text] != []
    assert host.signals.news() == []
    host.say(CARD)
    host.now += SETTINGS.retry
    host.look()
    assert host.signals.news() == ["GPUs are read again"]


def test_memory_in_use_is_told_of_the_gpus_of_an_instance_while_it_is_fresh(host: Host) -> None:
    signals, size = host.signals, {"total": 80 * GIB, "reserved": 0}
    host.say({**CARD, "memory": {**size, "used": 3 * GIB}}, {**OTHER, "memory": {**size, "used": 5 * GIB}})
    host.look()
    assert [signals.used(None), signals.used(["0"]), signals.used(["1"])] == [8 * GIB, 3 * GIB, 5 * GIB]
    host.now += 3600
    assert signals.used(None) is None, "an old look"
    host.say({**CARD, "memory": None})
    host.look()
    assert signals.used(None) is None, "a GPU that does not tell"


def test_a_host_without_gpus_and_log_says_so_and_finds_no_fault(tmp_path: Path) -> None:
    signals = HostSignals(gpu.Settings(python=str(tmp_path / "python"), kernel_log=str(tmp_path / "kmsg")))
    signals.start()
    signals.sampler.now()
    assert signals.faults("a", 1, 10, None, ()) == []
    told = signals.news()
    assert len(told) == 2 and any("Xids are not seen" in text for text in told) and any("GPUs" in text for text in told)
    assert signals.news() == []
    signals.stop()


def before(host: Host, since: float | None = 100, devices: tuple[str, ...] | None = ("0",)) -> faults.Before:
    return faults.before_start(replace(SETTINGS, devices=devices, kernel_log=str(host.log)), since)


def test_the_gate_asks_nvml(host: Host) -> None:
    assert before(host) == faults.Before((), ("GPU-aa",), "")
    host.say({**CARD, "recovery_action": 2}, OTHER)
    assert before(host).calls_for == "reboot" and before(host, devices=("1",)).calls_for == ""
    host.say({**CARD, "memory": {"total": 80 * GIB, "used": 9 * GIB, "reserved": 0}}, OTHER)
    found = before(host)
    assert found.held == "GPU 0: 9216 MiB are held by no living process" and found.calls_for == "reset_gpu"
    host.say(init_error=9)
    assert before(host) == faults.Before()


def test_the_gate_asks_the_kernels_log_only_under_a_driver_that_does_not_sum_up(host: Host) -> None:
    host.write(RESET)
    assert before(host).calls_for == ""  # NVML asks for nothing: it has been reset, or needs none
    old = {key: value for key, value in CARD.items() if key != "recovery_action"}
    host.say(old, {**old, "uuid": "GPU-bb", "bus": "00000000:5E:00.0"})
    assert before(host).calls_for == "reset_gpu"
    assert before(host, devices=("1",)).calls_for == "" and before(host, since=None).calls_for == ""


def test_the_gate_takes_only_lines_of_the_run_that_ended(host: Host) -> None:
    old = {key: value for key, value in CARD.items() if key != "recovery_action"}
    host.say(old)
    host.log.write_text(f"3,1,50000000,-;NVRM: {RESET}\n", encoding="utf-8")  # 50 s after boot

    def asked(since: float) -> str:
        settings = replace(SETTINGS, kernel_log=str(host.log))
        return faults.before_start(settings, since, monotonic=lambda: 60.0).calls_for

    assert asked(20) == "reset_gpu" and asked(5) == ""
