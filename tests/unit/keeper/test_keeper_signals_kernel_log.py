# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's log: the device's records, its ways to fail, and plain files in its place."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_keeper.signals import kernel_log
from vllm_keeper.signals.kernel_log import KernelLog, Line

XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"6,1234,987654321,-;hello\n", Line("hello", 1234, 987.654321, 6, True)),
        (
            b"3,1,0,-,caller=T1;with; semicolon\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n",
            Line("with; semicolon", 1, 0, 3),
        ),
        (b"12,7,5000000,-;from a program\n", Line("from a program", 7, 5.0, 4, False)),
        (rb"6,1,0,c;caf\xc3\xa9 and \x1b[0m", Line("café and \x1b[0m", 1, 0.0)),
        (b"", None),
        (b"6,1234;no time\n", None),
        (b"hello\n", None),
        (b"-6,1,0,-;x", None),
    ],
)
def test_records(raw: bytes, expected: Line | None) -> None:
    assert kernel_log.record(raw) == expected


@given(st.binary() | st.binary().map(b"6,1,2,-;".__add__))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    found = kernel_log.record(raw)
    assert found is None or "\n" not in found.text or b"\\x0a" in raw
    kernel_log.xids([] if found is None else [found])


def test_a_program_cannot_pass_for_the_kernel() -> None:
    lines = [kernel_log.record(f"{prefix},1,0,-;{XID}".encode()) for prefix in (3, 11)]
    assert [line.kernel for line in lines if line] == [True, False]
    assert [xid.code for line in lines if line for xid in kernel_log.xids([line])] == [79]


class Device:
    """/dev/kmsg as the kernel answers; everything else is the real os."""

    def __init__(self, *answers: bytes | int, node: int = kernel_log.DEVICE, refuse: int = 0) -> None:
        self.answers, self.node, self.refuse, self.sought = list(answers), node, refuse, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int) -> int:
        assert flags & os.O_NONBLOCK
        if self.refuse:
            raise OSError(self.refuse, os.strerror(self.refuse))
        return 999

    def fstat(self, handle: int) -> Any:
        return SimpleNamespace(st_mode=stat.S_IFCHR | 0o600, st_rdev=self.node)

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        assert (offset, whence) == (0, os.SEEK_END)
        self.sought += 1
        return 0

    def read(self, handle: int, size: int) -> bytes:
        assert size >= 8192  # else the kernel refuses a long record
        if not self.answers:
            raise BlockingIOError(errno.EAGAIN, "")
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    def close(self, handle: int) -> None:
        assert handle == 999


def install(monkeypatch: pytest.MonkeyPatch, device: Device) -> Device:
    monkeypatch.setattr(kernel_log, "os", device)
    return device


def rec(sequence: int, text: str = "x", prefix: int = 6) -> bytes:
    return f"{prefix},{sequence},1000000,-;{text}\n".encode()


def test_from_the_end_on(monkeypatch: pytest.MonkeyPatch) -> None:
    device = install(monkeypatch, Device())
    log = KernelLog()
    assert log.poll() == [] and device.sought == 1 and log.problem == ""
    device.answers = [rec(5), rec(6, XID, 3)]
    assert [line.sequence for line in log.poll()] == [5, 6]
    assert log.poll() == [] and log.sequence == 6


def test_from_where_an_earlier_keeper_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    device = install(monkeypatch, Device(rec(3), rec(4), rec(5)))
    assert [line.sequence for line in KernelLog(after=4).poll()] == [5]
    assert device.sought == 0


def test_records_that_were_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Device(rec(1), errno.EPIPE, rec(9), errno.EINVAL, rec(11)))
    log = KernelLog()
    assert [line.sequence for line in log.poll()] == [1, 9, 11]
    assert log.lost == 1 and log.problem == ""


def test_a_flood_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Device(*(rec(number) for number in range(kernel_log.AT_ONCE + 10))))
    log = KernelLog()
    log.sequence = -1
    assert len(log.poll()) == kernel_log.AT_ONCE and len(log.poll()) == 10


def test_a_device_that_fails_is_opened_again_later_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    device, now = install(monkeypatch, Device(rec(1))), [0.0]
    log = KernelLog(monotonic=lambda: now[0])
    assert len(log.poll()) == 1
    device.answers = [errno.EIO]
    assert log.poll() == [] and "Input/output error" in log.problem
    now[0] += kernel_log.OPEN_AGAIN - 1
    device.answers = [rec(1), rec(2)]  # the device begins with its oldest record
    assert log.poll() == []
    now[0] += 1
    assert [line.sequence for line in log.poll()] == [2]
    assert log.problem == ""


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Device(refuse=errno.EPERM), "CAP_SYSLOG"),
        (Device(refuse=errno.EACCES), "CAP_SYSLOG"),
        (Device(refuse=errno.ENOENT), "No such file"),
        (Device(node=os.makedev(1, 3)), "another device"),  # /dev/null, as containers like to have it
    ],
)
def test_a_log_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch, device: Device, words: str) -> None:
    install(monkeypatch, device)
    log = KernelLog()
    assert log.poll() == [] and log.poll() == []
    assert words in log.problem and "/dev/kmsg" in log.problem and "Xids are not seen" in log.problem


def test_a_plain_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("old\n", encoding="utf-8")
    log = KernelLog(path)
    assert log.poll() == []
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{XID}\n3,77,5000000,-;as the device writes it\n SUBSYSTEM=pci\nhalf a li")
    assert log.poll() == [Line(XID), Line("as the device writes it", 77, 5.0, 3)]
    with path.open("a", encoding="utf-8") as file:
        file.write("ne\n")
    assert [line.text for line in log.poll()] == ["half a line"]
    path.write_text("new\n", encoding="utf-8")
    assert [line.text for line in log.poll()] == ["new"]
    log.close()


def test_a_plain_file_that_is_made_later_is_read_whole(tmp_path: Path) -> None:
    path, now = tmp_path / "kmsg", [0.0]
    log = KernelLog(path, monotonic=lambda: now[0])
    assert log.poll() == [] and str(path) in log.problem
    path.write_text(f"{XID}\n", encoding="utf-8")
    now[0] += kernel_log.OPEN_AGAIN
    assert [xid.code for xid in kernel_log.xids(log.poll())] == [79]
    assert log.problem == ""
    log.close()


def test_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    log = KernelLog(path)
    assert log.poll() == []
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, f"{XID}\n".encode())
    assert [line.text for line in log.poll()] == [XID]
    assert log.poll() == []  # open, and nothing new
    os.close(writer)
    log.close()


def test_a_file_without_lines_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.touch()
    log = KernelLog(path)
    assert log.poll() == []
    path.write_bytes(b"x" * (kernel_log.LARGEST_RECORD + 1))
    assert log.poll() == [] and log._rest == b""
    log.close()


def test_the_real_device() -> None:
    try:
        writer = os.open("/dev/kmsg", os.O_WRONLY)
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be written here: {error}")
    log = KernelLog()
    if log.poll() == [] and log.problem:
        os.close(writer)
        pytest.skip(log.problem)
    text = f"steadfast.vllm: a test of its unit tests wrote this, {os.getpid()} {time.time_ns()}"
    os.write(writer, f"<0>{text}\n".encode())
    os.close(writer)
    found = [line for line in log.poll() if line.text == text]
    assert len(found) == 1 and found[0].sequence == log.sequence and found[0].at is not None
    # Even with the kernel's own prefix a program stays a program.
    assert found[0].kernel is False
    log.close()
