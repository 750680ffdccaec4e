# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose process is whose, and that an end is told at once; with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_keeper.watch.family import ENGINE, Family

LONG = 30.0  # seconds; what returns at once returns long before
SOON = 10.0


class Server:
    """A shell as the API; below it what calls itself engines, workers and something else."""

    def __init__(self, *titles: str) -> None:
        starts = "".join(f'(exec -a "{title}" sleep 60) & echo $!; ' for title in titles)
        # Builtins alone after that: a `sleep` would be one more process of the API.
        script = f"{starts} echo done; while :; do wait; read -r _ < /proc/self/fd/0; done"
        self.process = subprocess.Popen(
            ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdout is not None
        self.below = [int(line) for line in iter(self.process.stdout.readline, b"done\n")]

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(*titles: str) -> Server:
        made.append(Server(*titles))
        # The shell's own child has its new name only after exec.
        until(lambda: all(command(pid).startswith(title) for title, pid in zip(titles, made[-1].below)))
        return made[-1]

    yield start
    for server in made:
        server.end()


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.close()


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end, "not soon"
        time.sleep(0.01)


def took(family: Family, seconds: float = LONG) -> float:
    begun = time.monotonic()
    family.wait(seconds)
    return time.monotonic() - begun


def test_engines_their_workers_and_the_apis_own_are_told_apart(make: Callable[..., Server], family: Family) -> None:
    server = make("VLLM::EngineCore_DP0", "VLLM::EngineCore_DP1", "VLLM::Worker_TP0", "resource_tracker")
    family.adopt(server.pid)
    family.refresh()
    first, second, worker, other = server.below
    assert sorted(family.engines) == sorted([first, second])
    assert family.workers == sorted([first, second, worker])
    assert family.others == sorted([server.pid, other])


def test_what_an_engine_starts_works_for_it_whatever_it_is_called(make: Callable[..., Server], family: Family) -> None:
    server = make("API")
    script = f"import os, time; os.execvp('bash', ['{ENGINE}', '-c', 'sleep 61 & echo $!; wait'])"
    engine = subprocess.Popen(["python3", "-S", "-c", script], stdout=subprocess.PIPE)
    try:
        assert engine.stdout is not None
        child = int(engine.stdout.readline())
        family.adopt(os.getpid())
        family.refresh()
        assert engine.pid in family.engines
        assert {engine.pid, child} <= set(family.workers)
        assert server.pid not in family.workers
        assert {os.getpid(), server.pid} <= set(family.others)
    finally:
        os.kill(child, signal.SIGKILL)
        engine.kill()
        engine.communicate()


def test_the_end_of_the_main_process_is_told_at_once(make: Callable[..., Server], family: Family) -> None:
    server = make()
    family.adopt(server.pid)
    assert family.alive()
    threading.Timer(0.1, server.process.kill).start()
    assert took(family) < SOON
    assert not family.alive()


def test_the_end_of_an_engine_is_told_at_once_and_by_name(make: Callable[..., Server], family: Family) -> None:
    server = make("VLLM::EngineCore_DP0", "VLLM::EngineCore_DP1")
    family.adopt(server.pid)
    family.refresh()
    assert family.lost() == 0
    threading.Timer(0.1, os.kill, (server.below[1], signal.SIGKILL)).start()
    assert took(family) < SOON
    until(lambda: family.lost() == server.below[1])
    family.refresh()
    assert family.lost() == server.below[1], "it stays known"
    assert family.alive()
    family.give_up(server.below[1])
    assert family.lost() == 0
    assert took(family, 0.2) >= 0.19, "a given up engine wakes nobody"


def test_a_stranger_with_an_engines_name_is_not_ours(make: Callable[..., Server], family: Family) -> None:
    server, other = make("VLLM::EngineCore"), make("VLLM::EngineCore")
    family.adopt(server.pid)
    family.refresh()
    assert list(family.engines) == server.below
    os.kill(other.below[0], signal.SIGKILL)
    assert took(family, 0.1) >= 0.09
    assert family.lost() == 0


def test_a_main_process_that_nobody_waited_for_is_dead(make: Callable[..., Server], family: Family) -> None:
    server = make()
    family.adopt(server.pid)
    server.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert not family.alive()
    family.adopt(server.pid)
    assert family.main is None


@pytest.mark.parametrize("pid", [0, 2**22 + 7])
def test_nobody_is_adopted_where_nobody_is(pid: int, family: Family) -> None:
    family.adopt(pid)
    assert (family.main, family.alive(), family.lost()) == (None, False, 0)
    family.refresh()
    assert family.engines == {}


def test_another_server_replaces_all_that_was_known(make: Callable[..., Server], family: Family) -> None:
    first, second = make("VLLM::EngineCore"), make("VLLM::EngineCore")
    family.adopt(first.pid)
    family.refresh()
    family.adopt(second.pid)
    assert (family.engines, family.workers, family.others) == ({}, [], [])
    family.refresh()
    assert list(family.engines) == second.below
    os.kill(first.below[0], signal.SIGKILL)
    assert took(family, 0.1) >= 0.09
    assert family.lost() == 0


def test_a_wait_lasts_as_long_as_it_is_told(family: Family) -> None:
    assert 0.14 <= took(family, 0.15) < SOON
    assert took(family, 0) < SOON
    assert took(family, -5) < SOON


def test_who_is_woken_returns_at_once_also_when_that_came_before(family: Family) -> None:
    threading.Timer(0.1, family.wake).start()
    assert took(family) < SOON
    family.wake()
    assert took(family) < SOON
    assert took(family, 0.1) >= 0.09, "once"


def test_waking_never_blocks_however_often(family: Family) -> None:
    for _ in range(70_000):  # more than the pipe holds
        family.wake()
    assert took(family) < SOON


def test_it_gives_its_handles_back(make: Callable[..., Server]) -> None:
    server = make("VLLM::EngineCore")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        family = Family()
        for _ in range(3):
            family.adopt(server.pid)
            family.refresh()
        family.give_up(server.below[0])
        family.close()
        family.wake()  # a canary that ends late
    assert len(os.listdir("/proc/self/fd")) == before
