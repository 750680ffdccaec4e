# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of GPUs as it runs: a real process beside the keeper, over a fake NVML (tests/fakes/fake_pynvml.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper.signals import gpu, gpu_reader
from vllm_keeper.signals.gpu_reader import Reader, Sampler

FAKE = Path(__file__).parents[2] / "fakes" / "fake_pynvml.py"
GIB = 1 << 30
CARD = {
    "uuid": "GPU-aa11",
    "name": "Fake H100",
    "bus": "00000000:3B:00.0",
    "memory": {"total": 80 * GIB, "used": 10 * GIB, "reserved": GIB // 2},
    "processes": [{"pid": os.getpid(), "used": 10 * GIB}],
    "ecc_volatile": 1,
    "ecc_aggregate": 2,
    "remap_pending": True,
    "remap_failed": False,
    "retired_pages": 3,
    "retired_pending": False,
    "recovery_action": 4,
    "clock_events": 0x44,
    "temperature": 41,
    "utilisation": 90,
    "mig": False,
}


class Fake:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "nvml.json"
        self.say()

    def say(self, *cards: dict[str, Any], **more: Any) -> None:
        # In one step: the reader may be looking.
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"driver": "580.1", "gpus": list(cards or (CARD,)), **more}), encoding="utf-8")
        fresh.replace(self.path)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    told = Fake(tmp_path)
    monkeypatch.setenv("FAKE_PYNVML", str(told.path))
    return told


SETTINGS = gpu.Settings(python=sys.executable, library=str(FAKE), deadline=10)


@pytest.fixture
def reader(fake: Fake) -> Iterator[Reader]:
    found = Reader(SETTINGS)
    yield found
    found.close()


def child(reader: Reader) -> int:
    assert reader._child is not None
    return reader._child.pid


def test_everything_that_a_gpu_tells(reader: Reader) -> None:
    readings = reader.read()
    assert (readings.state, readings.driver, readings.library) == (gpu.OK, "580.1", str(FAKE))
    assert readings.gpus == (
        gpu.Gpu(
            index=0,
            uuid="GPU-aa11",
            name="Fake H100",
            slot="0000:3b:00",
            memory=gpu.Memory(80 * GIB, 10 * GIB, GIB // 2),
            processes=(gpu.GpuProcess(os.getpid(), 10 * GIB, True),),
            ecc_volatile=1,
            ecc_aggregate=2,
            remap_pending=True,
            remap_failed=False,
            retired_pages=3,
            retired_pending=False,
            recovery_action=4,
            clock_events=("sw_power_cap", "hw_thermal_slowdown"),
            temperature=41,
            utilisation=90,
            mig=False,
        ),
    )


def test_a_gpu_that_tells_little(reader: Reader, fake: Fake) -> None:
    fake.say({"uuid": "GPU-1", "memory": {"total": 8 * GIB, "used": GIB}})
    (found,) = reader.read().gpus
    # The first call for memory is asked where the second is unknown, and does not tell what is reserved.
    assert found == gpu.Gpu(0, "GPU-1", memory=gpu.Memory(8 * GIB, GIB))


def test_the_dead_are_told_from_the_living(reader: Reader, fake: Fake) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    held = [{"pid": pid, "used": GIB} for pid in (os.getpid(), gone.pid, zombie.pid)]
    fake.say({**CARD, "memory": {"total": 80 * GIB, "used": 3 * GIB, "reserved": 0}, "processes": held})
    (found,) = reader.read().gpus
    zombie.wait()
    assert {process.pid: process.alive for process in found.processes or ()} == {
        os.getpid(): True,
        gone.pid: False,
        zombie.pid: False,
    }
    assert found.unattributed == 2 * GIB
    (fault,) = [one for one in gpu.faults(gpu.Readings(gpu.OK, gpus=(found,))) if one.cause == "memory_of_nobody"]
    assert f"{min(gone.pid, zombie.pid)}, {max(gone.pid, zombie.pid)}" in fault.evidence


def test_compute_and_graphics_of_one_process_count_once(reader: Reader, fake: Fake) -> None:
    fake.say({**CARD, "graphics": [{"pid": os.getpid(), "used": 10 * GIB}, {"pid": 1, "used": GIB}]})
    (found,) = reader.read().gpus
    assert {process.pid: process.used for process in found.processes or ()} == {1: GIB, os.getpid(): 10 * GIB}


def test_one_process_serves_all_looks(reader: Reader, fake: Fake) -> None:
    reader.read()
    first = child(reader)
    fake.say({**CARD, "temperature": 77})
    assert reader.read().gpus[0].temperature == 77
    assert child(reader) == first


@pytest.mark.parametrize(("number", "error"), [(15, "gpu_is_lost"), (16, "reset_required"), (999, "Unknown Error")])
def test_a_gpu_that_fails_does_not_hide_the_others(reader: Reader, fake: Fake, number: int, error: str) -> None:
    fake.say({**CARD, "error": number}, {**CARD, "uuid": "GPU-bb22"})
    failed, well = reader.read().gpus
    assert (failed.error or "; ".join(failed.notes)) == error
    assert (well.error, well.notes, well.uuid) == ("", (), "GPU-bb22")


@pytest.mark.parametrize(
    ("more", "state", "missing", "words"),
    [
        ({"init_error": 9}, gpu.ABSENT, "driver", "Driver Not Loaded"),
        ({"init_error": 12}, gpu.ABSENT, "driver", "Shared Library Not Found"),
        ({"init_error": 18}, gpu.BROKEN, "", "reboot"),
        ({"init_error": 999}, gpu.BROKEN, "", "cannot be initialised"),
        ({"gpus": []}, gpu.ABSENT, "gpu", "sees no GPU"),
        ({"crash": True}, gpu.BROKEN, "", f"exit status -{int(signal.SIGSEGV)}"),
    ],
)
def test_an_nvml_that_cannot_be_used(
    reader: Reader, fake: Fake, more: dict[str, Any], state: str, missing: str, words: str
) -> None:
    fake.say(**more)
    readings = reader.read()
    assert (readings.state, readings.missing) == (state, missing)
    assert words in readings.detail
    assert readings.missed == (1 if state == gpu.BROKEN else 0)


def test_a_crash_is_over_with_the_next_look(reader: Reader, fake: Fake) -> None:
    fake.say(crash=True)
    assert [reader.read().missed for _ in range(2)] == [1, 2]
    fake.say()
    assert (reader.read().state, reader.read().missed) == (gpu.OK, 0)


def test_an_absent_gpu_is_looked_for_again_only_later(fake: Fake) -> None:
    now = [1000.0]
    reader = Reader(replace(SETTINGS, retry=300), monotonic=lambda: now[0])
    fake.say(init_error=9)
    assert reader.read().state == gpu.ABSENT
    fake.say()
    now[0] += 299
    assert reader.read().state == gpu.ABSENT
    now[0] += 2
    assert reader.read().state == gpu.OK
    reader.close()


def test_a_reader_that_is_not_installed() -> None:
    readings = Reader(gpu.Settings(python="/nonexistent/bin/python")).read()
    assert (readings.state, readings.missing, readings.missed) == (gpu.ABSENT, "library", 0)
    assert "/nonexistent/bin/python" in readings.detail and "health_gpu" in readings.detail
    assert gpu.faults(readings, gpu.Readings(gpu.OK, gpus=(gpu.Gpu(0, "GPU-1"),))) == []


def test_an_environment_without_the_library(tmp_path: Path) -> None:
    # -S: without the site-packages of this very environment, whatever they hold.
    argv = [sys.executable, "-I", "-S", str(gpu_reader.PROGRAM)]
    readings = Reader(SETTINGS, argv).read()
    assert (readings.state, readings.missing) == (gpu.ABSENT, "library")
    assert "nvidia-ml-py" in readings.detail and "site.yml" in readings.detail


def test_a_stand_in_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def (", encoding="utf-8")
    readings = Reader(replace(SETTINGS, library=str(tmp_path / "x.py"))).read()
    assert readings.state == gpu.BROKEN and str(tmp_path / "x.py") in readings.detail


def test_switched_off() -> None:
    readings = Reader(replace(SETTINGS, enabled=False)).read()
    assert (readings.state, readings.missing) == (gpu.ABSENT, "library") and "health_gpu" in readings.detail


def test_a_driver_that_hangs_holds_nobody_up(fake: Fake) -> None:
    reader = Reader(replace(SETTINGS, deadline=0.3))
    reader.settings = SETTINGS  # the first look also starts the interpreter
    assert reader.read().state == gpu.OK
    reader.settings = replace(SETTINGS, deadline=0.3)
    pid = child(reader)
    fake.say(hang=60)
    for missed in (1, 2):
        begun = time.monotonic()
        readings = reader.read()
        assert time.monotonic() - begun < 10  # of 60
        assert (readings.state, readings.missed) == (gpu.HUNG, missed)
        assert "0.3 s" in readings.detail
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # gone and reaped
    fake.say()
    reader.settings = SETTINGS
    assert (reader.read().state, reader.read().missed) == (gpu.OK, 0)
    reader.close()


def test_a_reader_that_cannot_die_gets_no_company(reader: Reader) -> None:
    """As in an uninterruptible sleep, which no signal ends: played by a process whose end is not seen."""
    reader.read()
    stuck = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        reader.close()
        reader._stuck.append(stuck)
        for missed in (1, 2, 3):
            readings = reader.read()
            assert (readings.state, readings.missed) == (gpu.HUNG, missed)
            assert "cannot die" in readings.detail and reader._child is None
        assert [fault.cause for fault in gpu.faults(readings)] == ["driver_hung"]
    finally:
        stuck.kill()
        stuck.wait()
    assert reader.read().state == gpu.OK  # the driver let go of it


@pytest.mark.parametrize("answer", ["not json", "[1]", '{"state": "odd"}', '{"state": "ok", "gpus": 3}'])
def test_an_answer_that_is_none(answer: str) -> None:
    argv = [sys.executable, "-I", "-c", f"import sys; sys.stdin.readline(); print({answer!r}, flush=True)"]
    reader = Reader(SETTINGS, argv)
    readings = reader.read()
    assert readings.state in (gpu.BROKEN, gpu.OK) and readings.gpus == ()
    assert (readings.state == gpu.OK) == answer.startswith('{"state": "ok"')
    reader.close()


def test_an_answer_without_an_end() -> None:
    argv = [sys.executable, "-I", "-c", "import sys\nwhile True: sys.stdout.write('x' * 65536)"]
    readings = Reader(SETTINGS, argv).read()
    assert readings.state == gpu.BROKEN and "larger than" in readings.detail


def test_the_reader_ends_with_the_keeper(fake: Fake) -> None:
    program = (
        "import os, sys; from dataclasses import replace; sys.path.insert(0, sys.argv[1])\n"
        "from vllm_keeper.signals import gpu, gpu_reader\n"
        "reader = gpu_reader.Reader(gpu.Settings(python=sys.executable, library=sys.argv[2], deadline=10))\n"
        "assert reader.read().state == 'ok'\n"
        "print(reader._child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    lib = str(gpu_reader.PROGRAM.parents[2])
    done = subprocess.run([sys.executable, "-c", program, lib, str(FAKE)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the reader outlived the keeper")


def test_the_sampler_has_an_answer_at_once(reader: Reader, fake: Fake) -> None:
    sampler = Sampler(reader, 0.05)
    assert sampler.latest() == (None, 0.0)
    sampler.start()
    deadline = time.monotonic() + 10
    while (latest := sampler.latest()[0]) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert latest is not None and latest.state == gpu.OK
    fake.say({**CARD, "temperature": 99})
    while time.monotonic() < deadline:
        latest, age = sampler.latest()
        if latest is not None and latest.gpus[0].temperature == 99:
            break
        time.sleep(0.01)
    assert latest is not None and latest.gpus[0].temperature == 99 and age < 5
    # Let go of for a reset: the driver is closed, and nobody opens it meanwhile.
    with sampler.released():
        assert reader._child is None
        time.sleep(0.2)
        assert reader._child is None
    assert sampler.now().state == gpu.OK
    sampler.stop()
    assert reader._child is None
    assert sampler.now().state == gpu.ABSENT and reader._child is None
    assert not any(thread.name == "gpu" and thread.is_alive() and _lives_on(thread) for thread in threading.enumerate())


def _lives_on(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()
