# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts that are slow for good reasons, beside some that stand still: real processes, all looked at at once.

`make slow` does the same with vLLM itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vllm_keeper.watch.settings import WatchSettings
from vllm_keeper.watch.start_judgement import StartMemory, judge_start
from vllm_keeper.watch.vital_signs import Signs, VitalSigns

LIMIT = 5.0  # seconds, in place of the 60 that are shipped
LOOK = 0.5
WATCHED = 16.0  # seconds
READ_A_PIPE = "import sys\nwhile sys.stdin.buffer.raw.read(4096): pass"
BURN = "while True: pass"
PROGRAMS = {
    "download": "import socket, sys\nlink = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
    "while link.recv(65536): pass",
    "compiler": f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])",
    "reader": READ_A_PIPE,
    "writer": "import time\nline = 'Loading safetensors checkpoint shards:  12% | 1/8 [00:10<01:10, 10.2s/it]'\n"
    "while True: print(line, flush=True) or time.sleep(1.5)",
    "children": "import subprocess, time\nwhile True: subprocess.run(['true']), time.sleep(1.5)",
    "lock": "import time, fcntl, sys\nwhile True:\n  with open(sys.argv[2], 'w') as file:\n    try:\n"
    "      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    except OSError: pass\n  time.sleep(0.05)",
    "deadlock": "import threading\nthreading.Event().wait()",
    # As quiet as vLLM's API that waits for its engine: a hundred short wakes a second.
    "hum": "import select\nwhile True: select.poll().poll(10)",
    "stopped": BURN,
}
SLOW = ("download", "compiler", "reader", "writer", "children", "lock")
STILL = ("deadlock", "hum")


class Download:
    """1 MB/s to whoever connects."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        try:
            link = self.listener.accept()[0]
            with link:
                while True:
                    link.sendall(bytes(100_000))
                    time.sleep(0.1)
        except OSError:
            return  # the test is over


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Why each was ended, "" for those that were not."""
    folder = tmp_path_factory.mktemp("flashinfer")
    download, lock = Download(), folder / "sampling.lock"
    keep = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); time.sleep(99)",
         str(lock)]
    )  # fmt: skip
    children = {
        name: subprocess.Popen(
            [sys.executable, "-c", program, str(download.port), str(lock)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
        )
        for name, program in PROGRAMS.items()
    }  # fmt: skip
    try:
        yield _watch(children, lock)
    finally:
        for child in children.values():
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        keep.kill()
        keep.wait()
        download.listener.close()


def _watch(children: dict[str, subprocess.Popen[bytes]], lock: Path) -> dict[str, str]:
    settings = replace(WatchSettings(), start_stall_after=LIMIT)
    signs = {name: VitalSigns() for name in children}
    memory = dict.fromkeys(children, StartMemory())
    ended = dict.fromkeys(children, "")
    begun, feed = time.monotonic(), children["reader"].stdin
    time.sleep(2)  # Python's own start
    os.kill(children["stopped"].pid, signal.SIGSTOP)
    while time.monotonic() - begun < WATCHED:
        assert feed is not None
        feed.write(bytes(8192))
        feed.flush()
        for name, child in children.items():
            seen = _alone(signs[name].look(child.pid, locks=True), name, lock)
            memory[name], found = judge_start(memory[name], time.monotonic(), child.pid, seen, False, settings)
            ended[name] = ended[name] or found.reason
        time.sleep(LOOK)
    return ended


def _alone(seen: Signs, name: str, lock: Path) -> Signs:
    """Without the locks of whatever else runs on this machine, and without the one that only `lock` waits for."""
    return replace(seen, lock=str(lock) if name == "lock" and seen.lock else "")


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_start_is_never_ended(ended: dict[str, str], name: str) -> None:
    assert ended[name] == ""


@pytest.mark.parametrize("name", STILL)
def test_a_start_that_stands_still_is_ended(ended: dict[str, str], name: str) -> None:
    assert "its start stands still: for " in ended[name]


def test_a_stopped_process_is_ended_though_its_limit_is_another(ended: dict[str, str]) -> None:
    assert "stopped by a signal for " in ended["stopped"]
