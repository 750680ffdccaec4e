# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor adapter with a real supervisord of the locked version, our program file, and the stand-in server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from ansible.template import Templar, trust_as_template
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances, _supervisor
from vllm_keeper import processes, runfile
from vllm_keeper.config import Instance
from vllm_keeper.managers.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/service"
STANDIN = {"STANDIN_START_SECONDS": "0.2", "STANDIN_STEP_SECONDS": "0.1"}
STREAM = {"prompt": "x", "max_tokens": 30, "stream": True}


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """supervisord and supervisorctl, installed as the role does."""
    folder = tmp_path_factory.mktemp("supervisor")
    uv = str(Path(sys.executable).with_name("uv"))
    lock = str(ROLE / "files/supervisor/requirements.txt")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), "--require-hashes", "-r", lock]
    subprocess.run(install, check=True)
    return folder / "bin"


class Bench:
    """A supervisord of its own, with up to two programs."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        for name in ("etc", "conf.d", "model"):
            (folder / name).mkdir()
        self.config = folder / "supervisord.conf"
        self.config.write_text(
            f"[unix_http_server]\nfile={folder}/socket\nchmod=0700\n"
            f"[supervisord]\nlogfile={folder}/supervisord.log\npidfile={folder}/pid\nuser=root\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{folder}/socket\n"
            f"[include]\nfiles={folder}/conf.d/*.conf\n"
        )
        self.keeper = folder / "vllm-keeper"
        words = [sys.executable, "-m", "vllm_keeper", "--config-dir", folder / "etc", "--state-dir", folder / "var"]
        self.keeper.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT}/roles/health/files exec {shlex.join(map(str, words))} "$@"\n'
        )
        self.keeper.chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "bin/vllm").symlink_to(ROOT / "tests/standin/vllm")
        self.ports: dict[str, int] = {}

    def add(self, letter: str, **environment: str) -> Supervisor:
        """Its configuration and its program file, from the role's own template; the adapter for it."""
        name = f"itest{os.getpid()}{letter}"
        if letter not in self.ports:
            with socket.socket() as link:
                link.bind(("127.0.0.1", 0))
                self.ports[letter] = link.getsockname()[1]
        port, log = self.ports[letter], str(self.folder / f"{name}.log")
        vllm = self.folder / f"{name}.yaml"
        vllm.write_text(f"model: {self.folder}/model\nport: {port}\nhost: 127.0.0.1\nshutdown-timeout: 10\n")
        control = [str(self.programs / "supervisorctl"), "-c", str(self.config)]
        settings = {
            "name": name, "manager": "supervisor", "control": control, "base_url": f"http://127.0.0.1:{port}",
            "config_file": str(vllm), "log_file": log, "start_timeout": 30, "drain_timeout": 10,
            "gate": {"back_off": [0], "budget": 50},
        }  # fmt: skip
        (self.folder / "etc" / f"{name}.json").write_text(json.dumps(settings))
        one = _instances.normalise([{"name": name, "model": "/m", "port": port, "drain_timeout": 10}])[0]
        one = {**one, "config_file": str(vllm), "environment": {**STANDIN, **environment}}
        options = {
            "keeper": str(self.keeper), "user": "root", "group": "root", "home": "/root",
            "release": str(self.folder), "path": os.environ["PATH"],
        }  # fmt: skip
        program = {**_supervisor.program(one, options), "log": log, "start_seconds": 1}
        source = trust_as_template((ROLE / "templates/supervisor_program.conf.j2").read_text())
        variables = {"instance": one, "program": program, "service_supervisor_start_retries": 999}
        text = Templar(variables={**variables, "service_enabled": True}).template(source)
        (self.folder / "conf.d" / f"{name}.conf").write_text(text)
        manager = Supervisor(
            Instance(name, "", settings["base_url"], control=tuple(control), log_file=log, drain_timeout=10)
        )
        manager.programs, manager.booted = self.folder / "conf.d", self.folder / "no-systemd"
        return manager

    def daemon(self) -> int:
        return int((self.folder / "pid").read_text())

    def served(self) -> list[processes.Process]:
        """Servers, engines and workers of this bench, wherever they are."""
        found = []
        for process in processes.everyone().values():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            except OSError:
                continue
            if str(self.folder).encode() in environment and {"serve", "--engine"} & set(process.command[1:3]):
                found.append(process)
        return found

    def whose(self, manager: Supervisor) -> set[int]:
        """Pids of what serves one instance."""
        run = runfile.living(manager.instance.name)
        known = processes.everyone()
        below = processes.descendants(run.runner, known) if run is not None else set()
        return {process.pid for process in self.served()} & below

    def clear(self) -> None:
        with_pid = [self.daemon()] if (self.folder / "pid").exists() else []
        # Its runners too: they would write down the end of their servers where the next test of this name looks.
        ours = str(self.keeper), str(self.folder / "etc")
        for process in processes.everyone().values():
            if process.pid in with_pid or any(one in word for word in process.command for one in ours):
                processes.end([process])
        until(lambda: not (processes.end(self.served()) or self.served()))
        for letter in self.ports:
            for kind in ("json", "lock"):
                (runfile.DIRECTORY / f"itest{os.getpid()}{letter}.{kind}").unlink(missing_ok=True)


@pytest.fixture
def bench(tmp_path: Path, programs: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, programs)
    yield made
    if (tmp_path / "pid").exists():
        subprocess.run([str(programs / "supervisorctl"), "-c", str(made.config), "shutdown"], check=False)
        deadline = time.monotonic() + 15
        while (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    made.clear()


def stream(manager: Supervisor) -> Callable[[], bytes]:
    """Begins to read a stream of three seconds; the function returned waits for its end."""
    parts: list[bytes] = []
    began = threading.Event()

    def read() -> None:
        url = f"{manager.instance.base_url}/v1/completions"
        with requests.post(url, json=STREAM, stream=True, timeout=30) as answer:
            for part in answer.iter_content(None):
                parts.append(part)
                began.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert began.wait(10)

    def whole() -> bytes:
        thread.join(30)
        return b"".join(parts)

    return whole


def phase(manager: Supervisor) -> str:
    return manager.observe().phase


def test_a_start_starts_the_daemon_and_returns_when_it_is_ready(bench: Bench) -> None:
    one = bench.add("a")
    assert phase(one) == "failed"
    assert one.start(60).code == 0
    seen = one.observe()
    assert (seen.phase, seen.enabled) == ("running", True)
    assert requests.get(f"{one.instance.base_url}/health", timeout=5).status_code == 200
    assert seen.main_pid in bench.whose(one)
    assert any("serving" in line for line in one.logs(50))
    assert (bench.folder / "socket").stat().st_mode & 0o777 == 0o700


def test_whatever_becomes_of_one_program_the_other_goes_on(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    before = one.observe().main_pid
    two = bench.add("b")
    assert two.start(60).code == 0  # added
    first = two.observe().main_pid
    bench.add("b", CHANGED="1")
    bench.add("a", CHANGED="1")  # owed, but not yet asked for
    assert two.restart(60).code == 0  # changed
    second = two.observe().main_pid
    assert second != first
    assert b"CHANGED=1" in Path(f"/proc/{second}/environ").read_bytes().split(b"\0")
    assert two.stop(60).code == 0  # and removed
    assert two.remove().code == 0
    two._file().unlink()
    assert phase(two) == "missing"
    assert one.observe().main_pid == before
    assert {process.pid for process in bench.served()} == bench.whose(one)
    assert one.restart(60).code == 0
    assert b"CHANGED=1" in Path(f"/proc/{one.observe().main_pid}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize("which", ["api", "engine"])
def test_a_killed_server_is_started_again_and_leaves_nothing(bench: Bench, which: str) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    old = bench.served()
    api = one.observe().main_pid
    os.kill(next(p.pid for p in old if (p.pid == api) == (which == "api")), signal.SIGKILL)
    until(lambda: phase(one) == "running" and one.observe().main_pid != api)
    assert not {p.pid for p in old} & {p.pid for p in bench.served()}


def test_a_stop_lets_a_stream_finish_and_leaves_nothing(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    whole = stream(one)
    assert one.stop(60).code == 0
    assert b"[DONE]" in whole()
    assert phase(one) == "stopped"
    assert bench.served() == []
    assert one.start(60).code == 0


def test_a_killed_daemon_costs_no_stream_and_leaves_no_orphan(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    old = {p.pid for p in bench.served()}
    os.kill(bench.daemon(), signal.SIGKILL)
    assert phase(one) == "running", "what it ran serves on"
    assert requests.get(f"{one.instance.base_url}/health", timeout=5).status_code == 200
    whole = stream(one)
    (bench.folder / "socket").unlink()  # as a host's start would
    subprocess.run([str(bench.programs / "supervisord"), "-c", str(bench.config)], check=True)
    assert b"[DONE]" in whole()
    until(lambda: phase(one) == "running" and one.observe().main_pid not in old)
    assert not old & {p.pid for p in bench.served()}


def test_a_restart_of_the_daemon_drains_and_starts_again(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    old = one.observe().main_pid
    daemon = bench.daemon()
    whole = stream(one)
    os.kill(daemon, signal.SIGTERM)
    assert b"[DONE]" in whole()
    until(lambda: not Path(f"/proc/{daemon}").exists())
    assert bench.served() == []
    subprocess.run([str(bench.programs / "supervisord"), "-c", str(bench.config)], check=True)
    until(lambda: phase(one) == "running")
    assert one.observe().main_pid != old


def test_two_restarts_at_once_that_nobody_waits_for_leave_one_server(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    old = one.observe().main_pid
    assert [one.restart().code, one.restart().code] == [0, 0]
    until(lambda: one.observe().main_pid not in (old, None) and phase(one) == "running")
    time.sleep(3)
    until(lambda: phase(one) == "running")
    assert [p.command[0] for p in bench.served()].count("VLLM::EngineCore") == 1


def test_a_keeper_that_is_broken_is_told_and_not_waited_for(bench: Bench) -> None:
    one = bench.add("a")
    bench.keeper.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    began = time.monotonic()
    done = one.start(120)
    assert done.code
    assert "see" in done.err
    assert time.monotonic() - began < 60
    assert any("broken" in line for line in one.logs(10))


def test_a_program_of_somebody_else_that_cannot_be_read_is_told(bench: Bench) -> None:
    one = bench.add("a")
    assert one.start(60).code == 0
    (bench.folder / "conf.d/other.conf").write_text("[program:other]\ncommand=%(no)s\n")
    done = one.restart(30)
    assert done.code
    assert "other" in done.err
