# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host: memory, disks and clock, as findings."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_keeper import config
from vllm_keeper.signals import host
from vllm_keeper.signals.host import CRITICAL, GIB, WARNING, Clock, Disk, Disks, Memory, Settings

DEFAULTS = Settings()
LEVELS = ["", WARNING, CRITICAL]


def levels(findings: list[host.Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def proc(folder: Path, meminfo: str, pressure: str | None = None) -> Path:
    (folder / "meminfo").write_text(meminfo, encoding="ascii")
    if pressure is not None:
        (folder / "pressure").mkdir()
        (folder / "pressure/memory").write_text(pressure, encoding="ascii")
    return folder


MEMINFO = "MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:   18220000 kB\nHugePages_Total:       0\n"
PRESSURE = "some avg10=12.50 avg60=1.00 avg300=0.10 total=123\nfull avg10=3.25 avg60=0.50 avg300=0.00 total=45\n"


def test_memory_as_the_kernel_tells_it(tmp_path: Path) -> None:
    assert host.memory(proc(tmp_path, MEMINFO, PRESSURE)) == Memory(24684084 << 10, 18220000 << 10, 12.5, 3.25)


def test_memory_of_an_old_kernel(tmp_path: Path) -> None:
    assert host.memory(proc(tmp_path, MEMINFO)) == Memory(24684084 << 10, 18220000 << 10)


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n", "\x00\x01"])
def test_memory_that_is_not_told(tmp_path: Path, text: str) -> None:
    seen = host.memory(proc(tmp_path, text))
    assert seen is None and host.judge_memory(seen, DEFAULTS) == []
    assert host.memory(tmp_path / "nowhere") is None


def test_this_hosts_memory() -> None:
    seen = host.memory()
    assert seen is not None and 0 < seen.available <= seen.total


@pytest.mark.parametrize(
    ("available", "full", "expected"),
    [
        (8, 0.0, {}),
        (8, None, {}),
        (1.9, 0.0, {"memory": WARNING}),
        (0.4, 0.0, {"memory": CRITICAL}),
        (8, 10.0, {}),
        (8, 11.0, {"pressure": WARNING}),
        (0.4, 41.0, {"memory": CRITICAL, "pressure": CRITICAL}),
    ],
)
def test_memory_that_is_short(available: float, full: float | None, expected: dict[str, str]) -> None:
    findings = host.judge_memory(Memory(16 * GIB, int(available * GIB), 50.0, full), DEFAULTS)
    assert levels(findings) == expected
    assert all(finding.evidence and finding.advice for finding in findings)


@given(st.integers(0, 64 * GIB), st.integers(0, 64 * GIB))
def test_less_memory_is_never_better(one: int, other: int) -> None:
    found = [levels(host.judge_memory(Memory(64 * GIB, left), DEFAULTS)).get("memory", "") for left in (one, other)]
    ranks = [LEVELS.index(level) for level in found]
    assert (ranks[0] >= ranks[1]) if one <= other else (ranks[0] <= ranks[1])


@given(st.text(st.characters(codec="ascii")))
def test_no_text_breaks_the_parsers(text: str) -> None:
    host._meminfo(text)
    host._pressure(text)


ROOMY = Disk("/var/log/vllm", 100 * GIB, 50 * GIB, 1000, 900)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, "", ""),
        ({"available": 4 * GIB}, WARNING, "4.00 GiB"),
        ({"available": GIB // 2}, CRITICAL, "0.50 GiB"),
        ({"total": 8 * GIB, "available": GIB}, "", ""),  # a small disk is judged by its own size
        ({"total": 8 * GIB, "available": GIB // 2}, WARNING, "0.50 GiB"),
        ({"total": 8 * GIB, "available": 0}, CRITICAL, "0.00 GiB"),
        ({"read_only": True}, CRITICAL, "read-only"),
        ({"files_available": 5}, WARNING, "inodes"),
        ({"files_total": 0, "files_available": 0}, "", ""),
        ({"stuck": 7.0}, CRITICAL, "7 s"),
        ({"problem": "Permission denied"}, WARNING, "Permission denied"),
    ],
)
def test_a_disk_that_is_written_to(change: dict[str, Any], level: str, words: str) -> None:
    findings = host.judge_disks([replace(ROOMY, **change)], DEFAULTS, [ROOMY.path])
    assert levels(findings) == ({f"disk {ROOMY.path}": level} if level else {})
    assert all(words in finding.evidence and finding.advice for finding in findings)


def test_a_disk_of_models_may_be_full_and_read_only_but_has_to_answer() -> None:
    full = replace(ROOMY, path="/models", available=0, read_only=True)
    assert host.judge_disks([full], DEFAULTS, ["/var/log/vllm"]) == []
    assert levels(host.judge_disks([replace(full, stuck=9.0)], DEFAULTS)) == {"disk /models": CRITICAL}


def test_a_path_that_is_not_made_yet(tmp_path: Path) -> None:
    here, later = host.look_at(str(tmp_path)), host.look_at(str(tmp_path / "a/b"))
    # What is free changes meanwhile.
    assert here.total > 0 and (later.total, later.files_total, later.problem) == (here.total, here.files_total, "")
    assert later.path == str(tmp_path / "a/b")
    (tmp_path / "file").touch()
    assert host.look_at(str(tmp_path / "file/below")).total == here.total


def test_a_disk_that_refuses() -> None:
    def refuse(path: str) -> os.statvfs_result:
        raise PermissionError(13, "Permission denied")

    assert host.look_at("/x", refuse) == Disk("/x", problem="Permission denied")


def test_a_disk_that_hangs_holds_nobody_up_and_is_asked_once() -> None:
    answer, asked = threading.Event(), []

    def look(path: str) -> Disk:
        asked.append(path)
        if path == "/nfs":
            answer.wait(30)
        return replace(ROOMY, path=path)

    now = [0.0]
    disks = Disks(look, monotonic=lambda: now[0])
    first = disks.read(["/nfs", "/", "/nfs"], 0.05)
    assert [disk.path for disk in first] == ["/nfs", "/"] and first[0].stuck > 0 and first[1].available
    now[0] += 60
    second = disks.read(["/nfs"], 0.05)
    assert second[0].stuck == 60 and asked.count("/nfs") == 1
    answer.set()
    disks._running["/nfs"][0].join(5)
    assert disks.read(["/nfs"], 5) == [replace(ROOMY, path="/nfs")]
    assert asked.count("/nfs") == 2


def test_a_look_that_breaks_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def look(path: str) -> Disk:
        raise RuntimeError(path)

    assert Disks(look).read(["/x"], 5) == [Disk("/x", problem="could not be looked at")]


NOW = Clock(1000.0, 100.0, True, 0.01)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (None, NOW, []),
        (Clock(990, 90), NOW, []),
        (Clock(986, 90), NOW, []),  # four seconds are not worth a word
        (Clock(900, 90), NOW, ["set forward by 90.0 s"]),
        (Clock(5000, 90), NOW, ["set back by 4010.0 s"]),
        (Clock(400, 40), replace(NOW, wall=1000.5, steady=640.0), []),  # a suspended hour is no jump
        (None, replace(NOW, synchronised=False, error=None), ["nobody keeps"]),
        (None, replace(NOW, synchronised=None, error=None), []),
        (None, replace(NOW, error=16.0), ["off by 16.0 s"]),
    ],
)
def test_the_clock(before: Clock | None, now: Clock, words: list[str]) -> None:
    found = host.judge_clock(before, now, DEFAULTS)
    assert len(found) == len(words)
    assert all(word in finding.evidence for word, finding in zip(words, found))


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e6), st.floats(-1e6, 1e6))
def test_a_jump_is_what_the_steady_clock_does_not_explain(wall: float, steady: float, passed: float, by: float) -> None:
    before, now = Clock(wall, steady), Clock(wall + passed + by, steady + passed)
    assert host.jump(before, now) == pytest.approx(by, abs=0.01)


def test_this_hosts_clock() -> None:
    seen = host.clock()
    assert seen.wall > 1.7e9 and seen.steady > 0
    assert seen.synchronised in (True, False)  # the kernel answers everybody
    assert (seen.error is not None) == seen.synchronised


def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(adjtimex=lambda _: -1))
    assert host.clock().synchronised is None
    monkeypatch.setattr(host.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    assert host.clock().synchronised is None


def test_the_worst_of_each_subject() -> None:
    found = [
        host.Finding("clock", WARNING, "a"),
        host.Finding("clock", CRITICAL, "b"),
        host.Finding("memory", WARNING, ""),
    ]
    assert {key: one.evidence for key, one in host.by_subject(found).items()} == {"clock": "b", "memory": ""}


def test_settings() -> None:
    problems: list[str] = []
    reader = config.Reader({"disk_warning": 10, "clock_jump": -1, "x": 1}, "host.", problems)
    settings = host.read(reader)
    reader.refuse_unknown()
    assert settings.disk_warning == 10
    assert problems[0] == "host.clock_jump: -1 must be between 0.1 and 86400" and "host.x: unknown key" in problems[1]
    assert host.read(config.Reader({}, "host.", problems)) == DEFAULTS and len(problems) == 2
