# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd adapter, against what systemd 252 (bookworm) and 257 (trixie) really said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from vllm_keeper import decision as d
from vllm_keeper.config import Instance
from vllm_keeper.managers import ManagerError, make, run, systemd
from vllm_keeper.managers.base import Completed

RECORDED = Path(__file__).parent / "recorded"
INSTANCE = Instance(name="q", unit="q.service", base_url="http://127.0.0.1:8000")


def recorded(version: str, state: str) -> str:
    return (RECORDED / f"{version}-{state}.txt").read_text()


@pytest.mark.parametrize("version", ["252", "257"])
@pytest.mark.parametrize(
    ("state", "phase", "with_pid"),
    [
        ("running", d.RUNNING, True),
        ("activating", d.STARTING, True),
        ("auto-restart", d.HELD, False),
        ("condition", d.HELD, False),
        ("parked", d.STOPPED, False),
        ("stopped", d.STOPPED, False),
        ("deactivating", d.STOPPING, True),
        ("missing", d.MISSING, False),
    ],
)
def test_recorded_states(version: str, state: str, phase: str, with_pid: bool) -> None:
    shown = systemd.parse_show(recorded(version, state))
    seen = systemd.interpret(shown, "q.service", 1e9)
    assert seen.phase == phase
    assert (seen.main_pid is not None) == with_pid
    assert (seen.process_age is not None) == with_pid
    assert seen.enabled == (state != "missing")
    if with_pid or state == "condition":
        assert seen.group == "/system.slice/q.service"


@pytest.mark.parametrize(
    ("sub", "pausing"), [("auto-restart", True), ("auto-restart-queued", False), ("start-pre", False)]
)
def test_it_is_known_when_systemd_only_lets_time_pass(sub: str, pausing: bool) -> None:
    shown = {"LoadState": "loaded", "ActiveState": "activating", "SubState": sub}
    assert systemd.interpret(shown, "q.service", 1.0).pausing is pausing


def test_the_age_is_counted_on_the_clock_that_systemd_uses() -> None:
    shown = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MainPID": "7"}
    shown["ExecMainStartTimestampMonotonic"] = "5000000"
    assert systemd.interpret(shown, "q.service", 65.0).process_age == 60.0


@pytest.mark.parametrize(
    ("shown", "phase"),
    [
        ({"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}, d.FAILED),
        ({"LoadState": "masked", "ActiveState": "inactive", "SubState": "dead"}, d.STOPPED),
        ({"LoadState": "bad-setting", "ActiveState": "inactive"}, d.MISSING),
        ({"LoadState": "loaded", "ActiveState": "reloading", "SubState": "reload", "MainPID": "x"}, d.RUNNING),
        ({"LoadState": "loaded", "ActiveState": "activating", "SubState": "auto-restart-queued"}, d.HELD),
        ({"LoadState": "loaded", "ActiveState": "activating", "SubState": "start", "MainPID": "7"}, d.STARTING),
    ],
)
def test_states_that_were_not_recorded(shown: dict[str, str], phase: str) -> None:
    assert systemd.interpret(shown, "q.service", 1.0).phase == phase


def test_a_state_that_nobody_knows_is_said() -> None:
    with pytest.raises(ManagerError, match="unknown ActiveState 'dreaming'"):
        systemd.interpret({"LoadState": "loaded", "ActiveState": "dreaming"}, "q.service", 1.0)


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("303 q.service start running\n", "start"),
        ("1 x.service stop running\n2 q.service stop running\n", "stop"),
        ("1 q.service restart waiting\n", "restart"),
        ("1 q.service try-restart waiting\n", "restart"),
        ("1 aq.service stop running\n", ""),
        ("No jobs running.\n", ""),
        ("", ""),
    ],
)
def test_jobs(text: str, job: str) -> None:
    assert systemd.parse_jobs(text, "q.service") == job


@pytest.mark.parametrize("version", ["252", "257"])
def test_recorded_job(version: str) -> None:
    assert systemd.parse_jobs(recorded(version, "jobs-start"), "q.service") == "start"


class Runner:
    def __init__(self, *answers: Completed) -> None:
        self.commands: list[list[str]] = []
        self._answers = list(answers)

    def __call__(self, command: Sequence[str], within: float) -> Completed:
        assert within > 0
        self.commands.append(list(command))
        return self._answers.pop(0) if self._answers else Completed(0, "", "")


def test_the_definition_follows_the_link_to_the_release(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    release = tmp_path / "releases" / "1"
    release.touch()
    (tmp_path / "current").symlink_to(release)
    text = recorded("252", "definition").replace("path=/opt/box/vllm_stand_in.py", f"path={tmp_path}/current")
    text = text.replace("DropInPaths=", 'DropInPaths=/run/a.conf "/run/with blank.conf"')
    files, facts = make(INSTANCE, Runner(Completed(0, text, ""))).definition()
    assert files == ["/etc/systemd/system/q.service", "/run/a.conf", "/run/with blank.conf"]
    assert facts == [str(release)]


def test_orders() -> None:
    runner = Runner()
    manager = make(INSTANCE, runner)
    manager.start()
    manager.restart(60)
    manager.stop(60)
    manager.kill()
    assert runner.commands == [
        ["systemctl", "start", "--no-block", "--", "q.service"],
        ["systemctl", "restart", "--", "q.service"],
        ["systemctl", "stop", "--", "q.service"],
        ["systemctl", "kill", "--signal=SIGKILL", "--", "q.service"],
    ]


def test_a_systemd_that_does_not_answer_is_said() -> None:
    manager = make(INSTANCE, Runner(Completed(1, "", "Failed to connect to bus: Host is down\n")))
    with pytest.raises(ManagerError, match="Failed to connect to bus"):
        manager.observe()


def test_the_runner_survives_what_commands_do() -> None:
    assert run(["sleep", "30"], 0.1).code == 124
    assert run(["/nonexistent"], 1).code == 127
    assert run(["sh", "-c", "printf '\\377'; echo bad >&2; exit 3"], 5) == Completed(3, "\ufffd", "bad\n")
