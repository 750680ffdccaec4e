# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm-keeper watch` as a process of its own, beside a stand-in server under `vllm-keeper run`: faults, repairs, ends.

In order, as one story: the later tests look at what the earlier ones left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from vllm_keeper import processes, runfile
from vllm_keeper.watch.start_judgement import STOPPED_AFTER

from tests.integration.test_keeper_run import NAME, ROOT, Rig, until

SUPERVISORCTL = ROOT / "tests/standin/supervisorctl"
KEY, SECRET = "sk-itest-5f0c1d", "hunter2 and more"
LONG = 60.0  # for what takes a few seconds on a machine that has time
PATIENCE = 4.0
STALL = 8.0  # longer than what a stopped process has, so that the reasons are told apart


class Kept(Rig):
    """A server that is kept: by a runner that starts it again, and by a watcher."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "secrets").write_text(f"SECRET_TOKEN='{SECRET}'\nVLLM_API_KEY='{KEY}'\n")
        self.keeper(
            {
                "control": [str(SUPERVISORCTL)],
                "gate": {"back_off": [0], "budget": 100, "jitter": 0},
                "watch": {"patience": PATIENCE, "start_stall_after": STALL},
            }
        )
        with socket.socket() as link:
            link.bind(("127.0.0.1", 0))
            self.asked_at = link.getsockname()[1]
        self.told = folder / "watch.log"
        self.watcher: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        where = ["--config-dir", str(self.folder / "etc"), "--state-dir", str(self.folder / "var")]
        return [sys.executable, "-m", "vllm_keeper", *where, *words]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT / "roles/health/files")}

    def watch(self) -> subprocess.Popen[bytes]:
        command = self.command("watch", "--listen", f"127.0.0.1:{self.asked_at}")
        with self.told.open("ab") as log:
            self.watcher = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        return self.watcher

    def say(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=LONG, check=False
        )
        return done.stdout + done.stderr

    def explain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.say("explain", NAME, "--json", "-n", "20"))
        return found

    def incidents(self) -> list[dict[str, Any]]:
        """As they stand in the file, oldest first."""
        try:
            found: list[dict[str, Any]] = json.loads((self.folder / "var" / f"{NAME}.watch").read_text())["incidents"]
        except FileNotFoundError:
            return []
        return found

    def get(self, path: str) -> tuple[int, str]:
        try:
            answer = requests.get(f"http://127.0.0.1:{self.asked_at}{path}", timeout=5)
        except requests.RequestException as error:
            return 0, str(error)
        return answer.status_code, answer.text

    def agent(self) -> str:
        with socket.create_connection(("127.0.0.1", self.asked_at), timeout=5) as link:
            link.sendall(f"agent {NAME}\n".encode())
            return link.makefile().read()

    def serving(self) -> bool:
        """Whether the watcher says so, and a user's request says so too."""
        return self.get(f"/ready/{NAME}")[0] == 200 and self.complete() == 200

    def complete(self) -> int:
        body = {"prompt": "x", "max_tokens": 2}
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        try:
            return requests.post(url, json=body, headers=headers, timeout=5).status_code
        except requests.RequestException:
            return 0

    def end(self) -> None:
        if self.watcher is not None and self.watcher.poll() is None:
            self.watcher.terminate()  # so that it takes its view with it
            try:
                self.watcher.wait(LONG)
            except subprocess.TimeoutExpired:
                self.watcher.kill()
                self.watcher.wait()
        if self.runner is not None and self.runner.poll() is None:
            os.killpg(self.runner.pid, signal.SIGKILL)
            self.runner.wait()
        processes.end(self.family())
        runfile.forget(NAME)


def content(path: Path) -> str:
    """Nothing, of a file that was only there to be renamed, or of a folder."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory.mktemp("kept"))
    try:
        made.start("--forever", "--delay", "0")
        made.watch()
        until(made.serving, LONG)
        yield made
    finally:
        made.end()


def test_a_server_that_serves_is_told_to_everybody_and_left_alone(kept: Kept) -> None:
    assert kept.get("/ready") == (200, f"{NAME}: ready: healthy\n") or kept.get("/ready")[1].endswith("ready: busy\n")
    assert kept.agent() == "up 100%\n"
    # Another watcher of this machine may write over the view for a moment; ours comes every two seconds.
    until(lambda: "(watched by vllm-keeper watch)" in kept.say("check", NAME), LONG)
    # The canary knows the key, and is answered.
    until(lambda: re.search(r'canaries_total\{[^}]*outcome="ok"\} [1-9]', kept.get("/metrics")[1]), LONG)
    assert 'outcome="status"' not in kept.get("/metrics")[1]


@pytest.mark.parametrize("stopped", [False, True], ids=["deadlocked", "stopped"])
def test_a_start_that_stands_still_is_ended_and_the_next_one_serves(kept: Kept, stopped: bool) -> None:
    until(kept.serving, LONG)
    before, known = kept.api, len(kept.incidents())
    kept.stall.touch()
    os.kill(before, signal.SIGKILL)
    until(lambda: kept.phase == "starting" and kept.api != before and not kept.stall.exists(), LONG)
    api = kept.api
    if stopped:
        os.kill(api, signal.SIGSTOP)
    until(lambda: not Path(f"/proc/{api}").exists(), LONG)
    until(kept.serving, LONG)
    until(lambda: kept.incidents()[-1]["served_again"] is not None, LONG)
    dead, stalled = kept.incidents()[known:]
    assert (dead["verdict"], dead["pid"]) == ("dead", before)
    assert (stalled["verdict"], stalled["pid"]) == ("hung", api)
    assert ("stopped by a signal" if stopped else "its start stands still") in stalled["reason"]
    assert stalled["seconds"] >= (STOPPED_AFTER if stopped else STALL)
    # A failure with its reason, which the gate counts, and nobody's wish.
    starts = kept.state()["starts"]
    assert isinstance(starts, list)
    ended = next(start for start in starts if start["pid"] == api)
    assert (ended["end"], ended["reason"]) == ("repair", f"hung: {stalled['reason']}")
    assert kept.state()["stopped"] is None


@pytest.mark.parametrize(
    ("part", "number", "verdict", "reason"),
    [
        ("engine", signal.SIGSTOP, "hung", "a canary is not answered and no progress"),
        ("api", signal.SIGSTOP, "hung", "no answer for"),
        ("engine", signal.SIGKILL, "dead", "ended"),
        ("api", signal.SIGKILL, "dead", "ended by itself"),
        ("engine", signal.SIGUSR2, "hung", "though its processes are active"),
    ],
    ids=["engine stopped", "API stopped", "engine killed", "API killed", "engine spins"],
)
def test_a_fault_is_found_and_mended(kept: Kept, part: str, number: int, verdict: str, reason: str) -> None:
    until(kept.serving, LONG)
    api, engine, known = kept.api, kept.engine(), len(kept.incidents())
    os.kill(engine if part == "engine" else api, number)
    until(lambda: not (Path(f"/proc/{api}").exists() or Path(f"/proc/{engine}").exists()), LONG)
    until(lambda: kept.phase == "running" and kept.api != api, LONG)
    until(kept.serving, LONG)
    until(lambda: len(kept.incidents()) > known and kept.incidents()[-1]["served_again"] is not None, LONG)
    incident = kept.incidents()[known]
    assert (incident["verdict"], incident["pid"]) == (verdict, api)
    assert reason in incident["reason"]
    assert incident["looks"], "without evidence nothing is decided"
    assert kept.agent() == "up 100%\n"
    if number == signal.SIGUSR2:
        assert incident["seconds"] >= PATIENCE


def test_every_repair_is_counted_and_explained(kept: Kept) -> None:
    text = kept.get("/metrics")[1]
    counted = {found[1]: int(found[2]) for found in re.finditer(r'repairs_total\{[^}]*verdict="(\w+)"\} (\d+)', text)}
    assert counted["hung"] >= 3
    assert counted["dead"] >= 2
    assert sum(counted.values()) == len(kept.incidents())
    facts = kept.explain()
    assert [one["at"] for one in facts["incidents"]] == [one["at"] for one in reversed(kept.incidents())]
    told = kept.say("explain", NAME)
    assert told.count("serving again after") == 3, "as many as it shows unless it is asked for more"
    # What the watcher did counts as a repair in the history that the gate reads, and not as somebody's wish.
    starts = kept.state()["starts"]
    assert isinstance(starts, list)
    assert {start["end"] for start in starts[:-1]} <= {"repair", "failed"}
    assert [start["end"] for start in starts].count("repair") >= 3
    assert kept.state()["parked"] is None


def test_a_drained_server_is_out_but_runs_on_until_it_is_resumed(kept: Kept) -> None:
    api = kept.api
    drained = kept.say("drain", NAME, "--reason", "new GPU")
    assert "drained, no request is left after" in drained
    until(lambda: kept.agent() == "up 0% #draining\n", LONG)
    assert kept.get(f"/ready/{NAME}") == (503, f"{NAME}: not ready: new GPU\n")
    assert kept.complete() == 200, "who asks all the same is answered"
    assert "has requests again" in kept.say("resume", NAME)
    until(lambda: kept.agent() == "up 100%\n", LONG)
    assert kept.api == api


def test_a_watcher_that_is_stopped_says_goodbye_and_leaves_the_server_alone(kept: Kept) -> None:
    api, incidents = kept.api, kept.incidents()
    watcher = kept.watcher
    assert watcher is not None
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(LONG) == 0
    assert (kept.api, kept.complete()) == (api, 200)
    # Cron's check takes over at once.
    check = kept.say("check", NAME)
    assert f"{NAME}: healthy: GET /health: 200" in check
    assert "watched by" not in check
    assert kept.incidents() == incidents
    assert "no watcher is looking; what one saw before" in kept.say("explain", NAME)


def test_the_next_watcher_goes_on_with_what_was_known(kept: Kept) -> None:
    api, incidents = kept.api, kept.incidents()
    kept.watch()
    until(kept.serving, LONG)
    assert kept.incidents()[: len(incidents)] == incidents
    assert (kept.api, len(kept.explain()["incidents"])) == (api, len(incidents))


def test_a_watcher_that_is_killed_leaves_the_check_in_charge(kept: Kept) -> None:
    api = kept.api
    watcher = kept.watcher
    assert watcher is not None
    watcher.kill()
    watcher.wait()
    assert "watched by" not in kept.say("check", NAME)
    assert (kept.api, kept.complete()) == (api, 200)
    kept.watch()
    until(kept.serving, LONG)


def test_no_secret_is_anywhere(kept: Kept) -> None:
    told = "".join(
        [
            kept.told.read_text(), kept.log.read_text(), kept.get("/metrics")[1], kept.get("/ready")[1],
            kept.say("explain", NAME), kept.say("explain", NAME, "--json"), kept.say("status", "--json", NAME),
            *map(content, (kept.folder / "var").iterdir()),
            *map(content, runfile.DIRECTORY.glob("*.json")),
        ]
    )  # fmt: skip
    assert NAME in told
    assert KEY not in told
    assert "hunter2" not in told
    assert not any(KEY in word for process in processes.everyone().values() for word in process.command)
    assert kept.complete() == 200
    url = f"http://127.0.0.1:{kept.port}/v1/completions"
    assert requests.post(url, json={"prompt": "x"}, timeout=5).status_code == 401, "the key is one"


def test_nobody_had_a_fault_of_his_own(kept: Kept) -> None:
    told = kept.told.read_text()
    assert "Traceback" not in told
    assert "fault of the keeper" not in told
