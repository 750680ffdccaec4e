# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm-keeper run` with real processes: the stand-in server, its engine and worker, signals, ends."""

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
from vllm_keeper import processes, runfile

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests/standin/vllm"
NAME = f"itest-{os.getpid()}"


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


class Rig:
    """One instance of the stand-in, run by the keeper in folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as link:
            link.bind(("127.0.0.1", 0))
            self.port = link.getsockname()[1]
        self.model = folder / "model"
        self.model.mkdir()
        (folder / "etc").mkdir()
        self.vllm = folder / f"{NAME}.yaml"
        self.configure()
        (folder / "secrets").write_text("SECRET_TOKEN='hunter2 and more'\n")
        self.keeper({})
        self.log = folder / "server.log"
        self.stall = folder / "stall"  # while it is there, the next start stands still
        self.runner: subprocess.Popen[bytes] | None = None
        self.sessions: set[int] = set()

    def configure(self, extra: str = "") -> None:
        self.vllm.write_text(f"model: {self.model}\nport: {self.port}\nhost: 127.0.0.1\nshutdown-timeout: 10\n{extra}")

    def keeper(self, changes: dict[str, object]) -> None:
        settings = {
            "name": NAME,
            "manager": "supervisor",
            "base_url": f"http://127.0.0.1:{self.port}",
            "config_file": str(self.vllm),
            "env_file": str(self.folder / "secrets"),
            "model_path": str(self.model),
            "log_file": str(self.folder / "server.log"),
            "start_timeout": 20,
            "drain_timeout": 10,
            "gate": {"back_off": [0, 0.5], "budget": 3, "jitter": 0},
            **changes,
        }
        (self.folder / "etc" / f"{NAME}.json").write_text(json.dumps(settings))

    def start(self, *options: str, program: Path = STANDIN, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """STDOUT: in place of the log, where stderr goes too."""
        command = [
            sys.executable, "-m", "vllm_keeper", "--config-dir", str(self.folder / "etc"),
            "--state-dir", str(self.folder / "var"), "run", NAME, *options,
            "--", str(program), "serve", "--config", str(self.vllm),
        ]  # fmt: skip
        standin = {"STANDIN_START_SECONDS": "0.2", "STANDIN_STEP_SECONDS": "0.1", "STANDIN_STALL": str(self.stall)}
        environment = {**os.environ, **standin, "PYTHONPATH": str(ROOT / "roles/health/files")}
        with self.log.open("ab") as log:
            where = log.fileno() if stdout is None else stdout
            self.runner = subprocess.Popen(
                command, env=environment, stdout=where, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.sessions.add(self.runner.pid)
        return self.runner

    @property
    def phase(self) -> str:
        run = runfile.living(NAME)
        return run.phase if run is not None else ""

    @property
    def api(self) -> int:
        run = runfile.living(NAME)
        assert run is not None
        assert run.pid is not None
        return run.pid

    def family(self) -> list[processes.Process]:
        """Server, engine and worker, wherever they are: those of the sessions that this rig began, and no other's."""
        return [
            process
            for process in processes.everyone().values()
            if process.session in self.sessions and ("serve" in process.command[1:3] or "--engine" in process.command)
        ]

    def engine(self) -> int:
        return next(p.pid for p in self.family() if p.command[0] == "VLLM::EngineCore")

    def ready(self) -> None:
        until(lambda: self.phase == "running")
        until(lambda: [p.command[0] for p in self.family()].count("VLLM::Worker") == 1)

    def state(self) -> dict[str, object]:
        file = self.folder / "var" / f"{NAME}.json"
        found: dict[str, object] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def last_start(self) -> dict[str, object]:
        starts = self.state()["starts"]
        assert isinstance(starts, list)
        return dict(starts[-1])


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    if made.runner is not None and made.runner.poll() is None:
        os.killpg(made.runner.pid, signal.SIGKILL)
        made.runner.wait()
    processes.end(made.family())
    (runfile.DIRECTORY / f"{NAME}.json").unlink(missing_ok=True)


def test_a_stream_completes_while_it_stops_and_nothing_is_left(rig: Rig) -> None:
    runner = rig.start()
    rig.ready()
    body = {"prompt": "x", "max_tokens": 20, "stream": True}
    with requests.post(f"http://127.0.0.1:{rig.port}/v1/completions", json=body, stream=True, timeout=10) as answer:
        runner.send_signal(signal.SIGTERM)
        text = answer.content
    assert text.count(b"data: {") == 20
    assert b"[DONE]" in text
    assert runner.wait(10) == 0
    assert rig.family() == []
    assert rig.last_start()["end"] == "purpose"
    assert rig.state()["stopped"] is not None


def test_a_killed_api_leaves_no_engine_and_its_status_is_passed_on(rig: Rig) -> None:
    runner = rig.start()
    rig.ready()
    os.kill(rig.api, signal.SIGKILL)
    assert runner.wait(10) == 128 + signal.SIGKILL
    assert rig.family() == []
    start = rig.last_start()
    assert (start["end"], start["exit_code"], start["exit_status"]) == ("failed", "killed", "KILL")


def test_a_dead_engine_ends_the_run_with_the_api_s_own_zero(rig: Rig) -> None:
    runner = rig.start()
    rig.ready()
    os.kill(rig.engine(), signal.SIGKILL)
    assert runner.wait(10) == 0
    assert rig.family() == []
    assert rig.last_start()["end"] == "failed"


def test_forever_starts_again_by_itself(rig: Rig) -> None:
    runner = rig.start("--forever", "--delay", "0")
    rig.ready()
    first = rig.api
    os.kill(first, signal.SIGKILL)
    until(lambda: rig.phase == "running" and rig.api != first)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(15) == 0
    assert rig.family() == []


def test_what_a_killed_runner_leaves_is_ended_by_the_next(rig: Rig) -> None:
    runner = rig.start()
    rig.ready()
    runner.kill()
    runner.wait()
    until(lambda: not any(str(rig.vllm) in p.command for p in rig.family()), 5)  # the API goes with its runner
    old = {p.pid for p in rig.family()}
    assert old, "the engine outlives them, as vLLM's does"
    rig.start()
    rig.ready()
    assert not old & {p.pid for p in rig.family()}


def test_a_bad_argument_is_parked_and_held_until_the_file_changes(rig: Rig) -> None:
    rig.configure("no-such-option: 1\n")
    runner = rig.start("--forever", "--delay", "0")
    until(lambda: rig.phase == "held" and rig.state().get("parked") is not None)
    time.sleep(1.5)
    assert runner.poll() is None
    assert rig.family() == []
    parked = rig.state()["parked"]
    assert isinstance(parked, dict)
    assert parked["cause"] == "bad_argument"
    rig.configure()
    rig.ready()


def test_one_that_had_run_is_started_at_once_and_one_that_had_not_after_its_delay(rig: Rig) -> None:
    rig.start("--forever", "--delay", "6")
    rig.ready()
    first = time.monotonic()
    os.kill(rig.api, signal.SIGKILL)
    until(lambda: rig.phase == "starting")
    waited = time.monotonic() - first
    assert waited > 2, "a start that soon after another is slowed down"
    rig.ready()
    time.sleep(6.5)
    api = rig.api
    os.kill(api, signal.SIGKILL)
    until(lambda: rig.phase in ("starting", "running") and rig.api != api, 4)


def test_what_is_mended_in_the_keeper_s_own_configuration_is_seen_while_parked(rig: Rig) -> None:
    rig.keeper({"model_path": str(rig.folder / "gone")})
    runner = rig.start("--forever", "--delay", "0")
    until(lambda: rig.phase == "held" and rig.state().get("parked") is not None)
    (rig.folder / "etc" / f"{NAME}.json").write_text("{torn")
    time.sleep(1.5)
    assert (runner.poll(), rig.family()) == (None, []), "a configuration that cannot be read changes nothing"
    (rig.folder / "secrets").write_text("SECRET_TOKEN=another\n")
    rig.keeper({})
    rig.ready()
    assert b"SECRET_TOKEN=another" in Path(f"/proc/{rig.api}/environ").read_bytes().split(b"\0")


def test_a_stopped_api_is_killed_after_its_time(rig: Rig) -> None:
    rig.keeper({"drain_timeout": 0})
    runner = rig.start()
    rig.ready()
    os.kill(rig.api, signal.SIGSTOP)
    runner.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert runner.wait(45) == 0
    assert time.monotonic() - began < 40
    assert rig.family() == []


def test_secrets_reach_the_server_and_no_command_line(rig: Rig) -> None:
    rig.start()
    rig.ready()
    environment = Path(f"/proc/{rig.api}/environ").read_bytes().split(b"\0")
    assert b"SECRET_TOKEN=hunter2 and more" in environment
    assert not any("hunter2" in " ".join(p.command) for p in processes.everyone().values())
    assert "hunter2" not in rig.log.read_text()


def test_secrets_reach_a_server_whose_account_cannot_read_their_file(rig: Rig) -> None:
    (rig.folder / "secrets").chmod(0o600)
    # Only root can be somebody else. /bin/sh in the server's place, which needs no folder of ours.
    another = ["--user", "daemon"] if os.geteuid() == 0 else []
    command = [
        sys.executable, "-m", "vllm_keeper", "--config-dir", str(rig.folder / "etc"),
        "--state-dir", str(rig.folder / "var"), "run", NAME, *another,
        "--", "/bin/sh", "-c", 'test "$SECRET_TOKEN" = "hunter2 and more" && id -un && exit 7',
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "roles/health/files")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert not another or "daemon" in done.stdout.split()


def test_limits_are_enforced(rig: Rig) -> None:
    rig.start("--limit", "files=512", "--oom-score-adjust", "300")
    rig.ready()
    limits = Path(f"/proc/{rig.api}/limits").read_text()
    assert next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")) == [
        "512",
        "512",
    ]
    assert Path(f"/proc/{rig.api}/oom_score_adj").read_text().strip() == "300"


def test_a_second_runner_of_the_same_instance_is_refused(rig: Rig) -> None:
    rig.start()
    rig.ready()
    second = subprocess.run(
        [sys.executable, "-m", "vllm_keeper", "--config-dir", str(rig.folder / "etc"), "run", NAME, "--", "true"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "roles/health/files")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode != 0
    assert "run already" in second.stderr
    assert rig.phase == "running"


@pytest.mark.parametrize("way", ["a pipe", "its own log"])
def test_the_runner_s_words_are_no_part_of_a_server_s_progress_bar(rig: Rig, tmp_path: Path, way: str) -> None:
    """As vLLM's tqdm writes it: a return at its beginning, and no new line."""
    own = tmp_path / "own.log"
    server = tmp_path / "vllm"
    bar = "while sleep 0.02; do printf '\\rLoading:  25%%'; done &"
    server.write_text(f'#!/bin/sh\n{bar}\nexec {STANDIN} "$@"\n')
    server.chmod(0o755)
    runner = rig.start(*(["--log", str(own)] if way == "its own log" else []), program=server, stdout=subprocess.PIPE)
    rig.ready()
    runner.send_signal(signal.SIGTERM)
    shown, _none = runner.communicate(timeout=20)
    assert b"\rLoading:  25%" in shown
    words = [line for line in shown.split(b"\n") if b"vllm-keeper run:" in line]
    assert words, shown
    assert all(line.startswith(b"vllm-keeper run:") for line in words), shown
    if way == "its own log":
        assert own.read_bytes() == shown
        assert b"\n\n" not in shown, "it is known where a line ends"


def test_its_own_log_is_rotated(rig: Rig) -> None:
    own = rig.folder / "own.log"
    rig.start("--log", str(own), "--log-size", "60", "--log-count", "2")
    rig.ready()
    until(lambda: own.exists() and own.with_name("own.log.1").exists())
    told = "".join(path.read_text() for path in rig.folder.glob("own.log*"))
    assert "stand-in for vllm: serving" in told
