# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log file of sessions: its end, its rotation, and a terminal that takes nothing."""

from __future__ import annotations

import os
import pty
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs
from vllm_keeper import logfile


@given(hs.lists(hs.text("ab \r", max_size=9), max_size=30), hs.integers(0, 40), hs.integers(1, 20))
def test_the_end_of_a_file_whatever_the_step(lines: list[str], wanted: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfile, "CHUNK", chunk)
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"steadfast-tail-{os.getpid()}.log"
        try:
            path.write_bytes("".join(f"{line}\n" for line in lines).encode())
            assert logfile.tail(path, wanted) == (lines[-wanted:] if wanted else [])
        finally:
            path.unlink()


def test_a_file_that_has_just_begun_is_continued_backwards(tmp_path: Path) -> None:
    path = tmp_path / "q.log"
    (tmp_path / "q.log.1").write_text("a\nb\nc\n")
    path.write_text("d\n")
    assert logfile.tail(path, 3) == ["b", "c", "d"]
    assert logfile.tail(tmp_path / "none.log", 3) == []


def test_it_rotates_and_keeps_so_many(tmp_path: Path) -> None:
    writer = logfile.Writer(logfile.LogFile(tmp_path / "q.log", 10, 2))
    for number in range(9):
        writer.write(f"line {number}\n".encode())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.log", "q.log.1", "q.log.2"]
    assert (tmp_path / "q.log").read_text() == "line 8\n"
    assert (tmp_path / "q.log").stat().st_mode & 0o777 & ~0o640 == 0


def test_a_log_that_another_manager_left_for_everybody_to_read_is_no_longer(tmp_path: Path) -> None:
    log = tmp_path / "q.log"
    log.write_text("of supervisor\n")
    for before, after in ((0o644, 0o640), (0o600, 0o600)):
        log.chmod(before)
        writer = logfile.Writer(logfile.LogFile(log, 1000, 1))
        writer.write(b"ours\n")
        assert log.stat().st_mode & 0o777 == after


def test_a_held_terminal_holds_nobody_up() -> None:
    outer, inner = pty.openpty()
    try:
        terminal = logfile.Terminal(inner)
        terminal.patience = 0.05
        termios.tcflow(inner, termios.TCOOFF)  # Ctrl-S
        began = time.monotonic()
        for _ in range(50):
            terminal.write(b"x" * 4096)
        assert time.monotonic() - began < 5
        termios.tcflow(inner, termios.TCOON)
        os.set_blocking(outer, False)
        shown = b""
        end = time.monotonic() + 5
        while b"again" not in shown and time.monotonic() < end:
            terminal.write(b"again\n")
            try:
                shown += os.read(outer, 65536)
            except BlockingIOError:
                time.sleep(0.01)
        assert b"again" in shown
    finally:
        os.close(outer)
        os.close(inner)
