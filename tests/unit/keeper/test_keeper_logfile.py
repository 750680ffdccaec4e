# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log file of sessions: its end, its rotation, and a terminal that takes nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs
from vllm_keeper import logfile
from vllm_keeper.log import MARK


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


# --- our words beside a server's ------------------------------------------------------------------------------

BAR = b"Loading safetensors checkpoint shards:  25% Completed | 1/4"


def program(body: str, *, stdout: int | None = subprocess.PIPE, arguments: tuple[str, ...] = ()) -> bytes:
    """What a process of its own has printed, stdout and stderr into one, which that process and its children share."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, pathlib, sys\n{body}", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path)},
        stdout=stdout, stderr=subprocess.STDOUT, check=True, timeout=20,
    )  # fmt: skip
    return done.stdout or b""


TEE = """
from vllm_keeper.log import MARK, Log
from vllm_keeper.logfile import LogFile, tee
log = Log("run", journal="/nowhere")
writer = tee(LogFile(pathlib.Path(sys.argv[1]), 1 << 20, 1))
log.mark = MARK.decode()
for number, piece in enumerate(sys.argv[2:]):
    os.write(1, os.fsencode(piece))
    log.notice(f"word {number}")
os.write(2, b"last")
os.close(1), os.close(2)
os.waitpid(writer, 0)
"""


def in_lines(pieces: list[bytes]) -> bytes:
    """A server's pieces, with a word of ours after each."""
    found = b""
    for number, piece in enumerate(pieces):
        found += piece
        found += (b"" if not found or found.endswith(b"\n") else b"\n") + f"vllm-keeper run: word {number}\n".encode()
    return found


def test_our_words_are_lines_of_their_own_on_the_terminal_and_in_the_file(tmp_path: Path) -> None:
    pieces = ["", f"\r{BAR.decode()}", "", "\n", "whole\n", "half"]
    shown = program(TEE, arguments=(str(tmp_path / "q.log"), *pieces))
    assert shown == in_lines([piece.encode() for piece in pieces]) + b"last"
    assert (tmp_path / "q.log").read_bytes() == shown


@given(pieces=hs.lists(hs.text("ab\r\n", max_size=5).map(str.encode), max_size=9), cuts=hs.lists(hs.integers(0, 200)))
def test_law_our_words_are_lines_of_their_own_however_it_is_read(pieces: list[bytes], cuts: list[int]) -> None:
    """In the order in which they came, and nothing of the server is lost."""
    sent = b"".join(piece + MARK + f"vllm-keeper run: word {number}\n".encode() for number, piece in enumerate(pieces))
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    shown, ended = b"", True
    for begin, end in zip(places, places[1:]):
        shown += logfile.in_lines(sent[begin:end], ended)
        ended = shown.endswith(b"\n") if shown else ended
    assert shown == in_lines(pieces)


SHARED = """
from vllm_keeper.log import Log
log = Log("run", journal="/nowhere")
log.notice("before there is a server")
log.shared = True
for piece in sys.argv[1:]:
    os.write(2, os.fsencode(piece))
    log.notice("a word")
log.result("a result")
"""


def test_into_a_pipe_each_of_our_words_begins_a_line_though_nobody_knows_where_the_server_is() -> None:
    shown = program(SHARED, arguments=(f"\r{BAR.decode()}", "\n"))
    assert shown == (
        b"vllm-keeper run: before there is a server\n\r" + BAR + b"\nvllm-keeper run: a word\n"
        b"\n\nvllm-keeper run: a word\n\na result\n"
    )


def test_into_a_file_there_is_no_line_without_words(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with path.open("ab") as file:
        program(SHARED, stdout=file.fileno(), arguments=(f"\r{BAR.decode()}", "\n", "whole\n"))
    assert path.read_bytes() == (
        b"vllm-keeper run: before there is a server\n\r" + BAR + b"\nvllm-keeper run: a word\n"
        b"\nvllm-keeper run: a word\nwhole\nvllm-keeper run: a word\na result\n"
    )
