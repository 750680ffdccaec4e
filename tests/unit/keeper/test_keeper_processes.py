# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes: what is ours to end, and what is not; against real ones where it can be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from vllm_keeper import processes
from vllm_keeper.processes import Process

CONFIG = "/etc/vllm/q.yaml"
SERVE = ("python", "/opt/vllm/bin/vllm", "serve", "--config", CONFIG)
GROUP = "/system.slice/q.service"


def process(pid: int, parent: int, command: tuple[str, ...], *groups: str) -> Process:
    return Process(pid, parent, 100, command, groups)


def pids(found: tuple[Process, ...]) -> list[int]:
    return [one.pid for one in found]


def look(*others: Process) -> processes.Leftovers:
    gate = (process(1, 0, ("init",)), process(50, 1, ("sh",), GROUP), process(51, 50, ("gate",), GROUP))
    return processes.leftovers({one.pid: one for one in (*gate, *others)}, 51, GROUP, CONFIG)


def test_the_gate_itself_its_shell_and_its_children_are_no_leftovers() -> None:
    found = look(process(52, 51, ("systemctl",), GROUP))
    assert found == processes.Leftovers()


def test_what_is_left_in_the_units_control_group() -> None:
    found = look(process(90, 1, ("VLLM::EngineCore",), GROUP), process(91, 90, ("VLLM::Worker",), f"{GROUP}/sub"))
    assert pids(found.orphans) == [90, 91]


def test_an_abandoned_server_and_its_engine() -> None:
    found = look(process(90, 1, SERVE, "/user.slice/session-3.scope"), process(91, 90, ("VLLM::EngineCore",)))
    assert pids(found.orphans) == [90, 91]


def test_a_server_under_somebodys_shell_is_not_ours_to_end() -> None:
    found = look(process(89, 1, ("tmux",)), process(90, 89, SERVE), process(91, 90, ("VLLM::EngineCore",)))
    assert pids(found.orphans) == [] and pids(found.strangers) == [90]


@pytest.mark.parametrize(
    "other",
    [
        process(90, 1, ("VLLM::EngineCore",)),  # whose it is cannot be told
        process(90, 1, ("vllm", "serve", "--config", "/etc/vllm/q.yaml.old")),
        process(90, 1, ("vllm", "serve", "--config", "/etc/vllm/other.yaml")),
        process(90, 1, ("vi", CONFIG)),
        replace(process(90, 1, SERVE), here=False),  # in a container of this host
        process(90, 1, ("x",), "/system.slice/q.service2"),
        process(90, 1, ("x",), "/system.slice/aq.service"),
    ],
)
def test_what_is_left_alone(other: Process) -> None:
    assert look(other) == processes.Leftovers()


def test_a_server_of_another_service_is_waited_for_not_ended() -> None:
    found = look(process(90, 1, SERVE, "/system.slice/other.service"))
    assert pids(found.orphans) == [] and pids(found.strangers) == [90]


def test_without_a_group_nothing_is_in_it() -> None:
    everyone = {7: process(7, 1, ("x",), "/"), 51: process(51, 1, ("gate",), "/")}
    assert processes.leftovers(everyone, 51, "", CONFIG) == processes.Leftovers()
    assert processes.leftovers(everyone, 51, "/", CONFIG) == processes.Leftovers()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (SERVE, True),
        (("vllm", "serve", f"--config={CONFIG}"), True),
        (("vllm", "--config", CONFIG), False),
        (("vllm", "serve", "--config"), False),
        ((), False),
    ],
)
def test_serves(command: tuple[str, ...], expected: bool) -> None:
    assert processes.serves(command, CONFIG) is expected


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as one:
        yield one
        one.kill()


def test_a_real_process_lives_dies_and_is_not_mistaken(child: subprocess.Popen[bytes]) -> None:
    seen = processes.read(child.pid)
    assert seen is not None and seen.parent == os.getpid()
    assert processes.alive(seen)
    reused = Process(seen.pid, seen.parent, seen.born + 1, seen.command, seen.groups)
    assert not processes.alive(reused)
    processes.end([reused])
    assert processes.alive(seen)
    processes.end([seen])
    for _ in range(100):
        if not processes.alive(seen):  # a zombie, until it is waited for
            break
        time.sleep(0.02)
    assert not processes.alive(seen)
    assert child.wait(5) == -9


def test_who_listens_on_a_port(child: subprocess.Popen[bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert os.getpid() in processes.holders(processes.listeners(port))
        assert processes.foreign_listener(port, os.getpid(), "") is None
        stranger = processes.foreign_listener(port, child.pid, "")
        assert stranger is not None and stranger.pid == os.getpid()
    assert processes.foreign_listener(port, child.pid, "") is None


def test_kin_is_the_process_and_all_below_it_and_nobody_else() -> None:
    with subprocess.Popen(["bash", "-c", "(sleep 60; true) & wait"], start_new_session=True) as shell:
        try:
            end = time.monotonic() + 20
            while len(processes.kin(shell.pid)) < 3 and time.monotonic() < end:
                time.sleep(0.01)
            everyone = processes.everyone()
            found = processes.kin(shell.pid)
            assert set(found) == processes.descendants(shell.pid, everyone)
            assert len(found) == 3
            assert all(found[pid] == everyone[pid] for pid in found)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert processes.kin(shell.pid) == {}
