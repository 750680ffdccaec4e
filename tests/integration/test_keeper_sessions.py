# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real tmux and screen with the stand-in server, as on a host without systemd. With systemd: molecule/tmux."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from vllm_keeper import config, managers, processes, runfile
from vllm_keeper.managers.sessions import Session, Tmux

ROOT = Path(__file__).resolve().parents[2]
NAME = f"stest-{os.getpid()}"
SCRIPT = """#!/bin/sh
export PYTHONPATH={root}/roles/health/files STANDIN_START_SECONDS=0.2 STANDIN_STEP_SECONDS=0.1
exec {python} -m vllm_keeper --config-dir {folder}/etc --state-dir {folder}/var run {name} \\
    --forever --apart --delay 0 --log {folder}/server.log -- {root}/tests/standin/vllm serve --config {folder}/vllm.yaml
"""


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


class Rig:
    """One instance in a session, in folders of its own."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        with socket.socket() as link:
            link.bind(("127.0.0.1", 0))
            self.port = link.getsockname()[1]
        (folder / "etc").mkdir()
        (folder / "vllm.yaml").write_text(
            f"model: {folder}\nport: {self.port}\nhost: 127.0.0.1\nshutdown-timeout: 10\n"
        )
        settings = {
            "name": NAME, "manager": program, "base_url": f"http://127.0.0.1:{self.port}", "start_timeout": 20,
            "config_file": f"{folder}/vllm.yaml", "log_file": f"{folder}/server.log", "drain_timeout": 10,
            "gate": {"back_off": [0], "budget": 9, "jitter": 0},
        }  # fmt: skip
        (folder / "etc" / f"{NAME}.json").write_text(json.dumps(settings))
        made = managers.make(config.load(folder / "etc", NAME))
        assert isinstance(made, Session)
        self.session = made
        made.scripts, made.booted = folder / "scripts", folder / "no-systemd"
        made.script.parent.mkdir(parents=True)
        made.script.write_text(SCRIPT.format(root=ROOT, python=sys.executable, folder=folder, name=NAME))
        made.script.chmod(0o755)
        self.seen: set[int] = set()

    @property
    def run(self) -> runfile.Run:
        """The runner that lives."""
        found = runfile.living(NAME)
        assert found is not None
        self.seen.add(found.runner)
        return found

    @property
    def api(self) -> int:
        assert self.run.pid is not None
        return self.run.pid

    def runs_another(self, api: int) -> bool:
        """By one look: between two of them the server may end."""
        run = self.run
        return run.phase == "running" and run.pid not in (None, api)

    def start(self) -> None:
        done = self.session.start(30)
        assert done.code == 0, done
        until(lambda: len(self.family()) == 3)

    def family(self) -> list[processes.Process]:
        """Server, engine and worker of every runner that was seen: they are in its terminal's session."""
        if (found := runfile.living(NAME)) is not None:
            self.seen.add(found.runner)
        return [
            process
            for process in processes.everyone().values()
            if process.session in self.seen and ("serve" in process.command[1:3] or "--engine" in process.command)
        ]

    def last(self) -> dict[str, object]:
        """What is remembered of the last start."""
        found: dict[str, object] = json.loads((self.folder / "var" / f"{NAME}.json").read_text())["starts"][-1]
        return found

    def lost(self) -> None:
        """Wait until runner, servers and session are gone."""
        until(lambda: runfile.living(NAME) is None and not self.family() and not self.session.exists())


@pytest.fixture(params=["tmux", "screen"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    if (found := runfile.living(NAME)) is not None:
        os.kill(found.runner, signal.SIGKILL)
    processes.end(made.family())
    made.session.remove()
    runfile.forget(NAME)


def server(rig: Rig) -> int:
    """The pid of tmux's or screen's own process: the runner's parent."""
    return rig.run.parent


def test_start_twice_stop_and_nothing_is_left(rig: Rig) -> None:
    rig.start()
    before = rig.api
    assert rig.session.start(30).code == 0
    assert rig.api == before
    body = {"prompt": "x", "max_tokens": 20, "stream": True}
    with requests.post(f"http://127.0.0.1:{rig.port}/v1/completions", json=body, stream=True, timeout=10) as answer:
        assert rig.session.stop().code == 0
        text = answer.content
    assert text.count(b"data: {") == 20
    rig.lost()
    assert rig.last()["end"] == "purpose"


def test_the_terminal_s_death_drains_and_is_nobody_s_wish(rig: Rig) -> None:
    rig.start()
    os.kill(server(rig), signal.SIGKILL)
    rig.lost()
    assert rig.last()["end"] == "failed"
    assert "terminal was closed" in str(rig.last()["reason"])
    rig.start()


def test_a_closed_session_is_nobody_s_wish_either(rig: Rig) -> None:
    rig.start()
    assert rig.session.close().code == 0
    rig.lost()
    assert rig.last()["end"] == "failed"


def test_ctrl_c_is_a_wish(rig: Rig) -> None:
    rig.start()
    os.kill(rig.run.runner, signal.SIGINT)  # what the terminal makes of it, for its foreground process
    rig.lost()
    assert rig.last()["end"] == "purpose"


def test_a_killed_api_is_started_again_in_the_same_session(rig: Rig) -> None:
    rig.start()
    runner, api = rig.run.runner, rig.api
    os.kill(api, signal.SIGKILL)
    until(lambda: rig.runs_another(api))
    assert rig.run.runner == runner
    until(lambda: len(rig.family()) == 3)


def test_what_a_killed_runner_leaves_is_ended_by_the_next(rig: Rig) -> None:
    rig.start()
    old = {process.pid for process in rig.family()}
    os.kill(rig.run.runner, signal.SIGKILL)
    until(lambda: runfile.living(NAME) is None)
    until(lambda: rig.session.start(30).code == 0)
    until(lambda: len(rig.family()) == 3)
    assert not old & {process.pid for process in rig.family()}


@pytest.mark.parametrize("rig", ["tmux"], indirect=True)
def test_a_tmux_that_has_just_lost_its_last_session_has_none(rig: Rig) -> None:
    """Such a tmux ends within the blink of an eye; this one was told to stay."""
    assert isinstance(rig.session, Tmux)
    rig.session.run_directory.mkdir(exist_ok=True)
    tmux = rig.session._tmux()
    subprocess.run([*tmux, "start-server", ";", "set-option", "-g", "exit-empty", "off"], check=True, timeout=30)
    try:
        assert not rig.session.exists()
        assert rig.session.observe().phase == "stopped"
        rig.start()
        assert rig.session.exists()
    finally:
        subprocess.run([*tmux, "set-option", "-g", "exit-empty", "on"], check=True, timeout=30)


def test_a_terminal_that_stands_still_does_not_hold_up_the_server(rig: Rig) -> None:
    rig.start()
    parent = server(rig)
    os.kill(parent, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert requests.get(f"http://127.0.0.1:{rig.port}/health", timeout=5).status_code == 200
        api = rig.api
        os.kill(api, signal.SIGKILL)
        until(lambda: rig.runs_another(api))
        assert rig.session.logs(5)
    finally:
        os.kill(parent, signal.SIGCONT)


def test_the_script_refuses_by_hand_while_it_runs(rig: Rig) -> None:
    rig.start()
    second = subprocess.run([str(rig.session.script)], capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode != 0
    assert "run already, by pid" in second.stderr + second.stdout
