# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose adapter, against what Docker 26.1 (trixie) really said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import processes
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import Instance
from vllm_keeper.managers import ManagerError, compose, make
from vllm_keeper.managers.base import Completed

RECORDED = Path(__file__).parent / "recorded" / "docker"
INSTANCE = Instance(name="rec", unit="rec.service", base_url="http://127.0.0.1:8000", manager="compose")
NOW = Moment(1795330430.0, 5000.0, "boot-1")
NONE_THERE = Completed(1, "[]\n", "Error response from daemon: No such container: rec\n")


def shown(state: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads((RECORDED / f"26-{state}.json").read_text())
    return found[0]


@pytest.mark.parametrize(
    ("state", "phase", "detail", "enabled"),
    [
        ("starting", d.RUNNING, "running, starting by its own check", True),
        ("healthy", d.RUNNING, "running, healthy by its own check", True),
        ("unhealthy", d.RUNNING, "running, unhealthy by its own check", True),
        ("restarted", d.RUNNING, "running, healthy by its own check", True),
        ("paused", d.RUNNING, "paused, unhealthy by its own check", True),
        ("disabled", d.RUNNING, "running, unhealthy by its own check", False),
        ("restarting-oom", d.HELD, "restarting, exit status 137, out of memory", True),
        ("stopped", d.STOPPED, "exited, exit status 165", True),
        ("killed", d.STOPPED, "exited, exit status 137", True),
        ("given-up", d.STOPPED, "exited, exit status 2", True),
    ],
)
def test_recorded_states(state: str, phase: str, detail: str, enabled: bool) -> None:
    seen = compose.interpret(shown(state), True, "rec", 12.5)
    assert (seen.phase, seen.detail, seen.enabled) == (phase, detail, enabled)
    runs = phase == d.RUNNING
    assert (seen.main_pid is not None) == runs
    assert seen.process_age == (12.5 if runs else None)
    assert seen.group == ""


def test_a_container_that_docker_could_not_start_has_failed_with_dockers_words() -> None:
    seen = compose.interpret(shown("port-taken"), True, "rec", None)
    assert seen.phase == d.FAILED
    assert "listen tcp4 0.0.0.0:8123: bind: address already in use" in seen.detail


@pytest.mark.parametrize(("defined", "phase"), [(True, d.STOPPED), (False, d.MISSING)])
def test_without_a_container_the_project_decides(defined: bool, phase: str) -> None:
    seen = compose.interpret(None, defined, "rec", None)
    assert (seen.phase, seen.enabled) == (phase, defined)


def test_a_state_that_nobody_knows_is_said() -> None:
    with pytest.raises(ManagerError, match="unknown state 'dreaming'"):
        compose.interpret({"State": {"Status": "dreaming"}}, True, "rec", None)


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-11-22T06:53:19.178135925Z", 1795330399178135925),
        ("2026-11-22T07:53:19.5+01:00", 1795330399500000000),
        ("2026-11-22T06:53:19Z", 1795330399000000000),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
        (None, 0),
        ("yesterday", 0),
    ],
)
def test_docker_writes_nanoseconds(stamp: object, expected: int) -> None:
    assert compose.nanoseconds(stamp) == expected


def test_the_summary_of_a_restarted_container() -> None:
    seen = compose.summary(shown("restarted"), 7)
    assert (seen.exists, seen.running, seen.pid, seen.kept_up, seen.engine_since) == (True, True, 2467, True, 7)
    assert seen.finished < seen.started
    assert not compose.summary(None, 7).exists
    assert compose.summary(shown("restarting-oom"), 0).comes_back
    assert compose.summary(shown("restarting-oom"), 0).oom
    assert not compose.summary(shown("disabled"), 0).kept_up


def test_recorded_events() -> None:
    events = compose.parse_events((RECORDED / "26-events.jsonl").read_text())
    assert [(event.action, event.exit_status, event.signal) for event in events] == [
        ("start", 0, ""),
        ("healthy", 0, ""),
        ("kill", 0, "37"),
        ("stop", 0, ""),
        ("die", 165, ""),
        ("start", 0, ""),
        ("kill", 0, "9"),
        ("die", 137, ""),
        ("start", 0, ""),
        ("die", 137, ""),
        ("start", 0, ""),
        ("healthy", 0, ""),
    ]


def test_events_that_are_none_are_left_out() -> None:
    text = 'nonsense\n{"Action": "start"}\n{"Action": "die", "timeNano": "x"}\n[]\n'
    assert compose.parse_events(text) == []


class Docker:
    """Answers by the first words of a command."""

    def __init__(self, **answers: Completed) -> None:
        self.commands: list[list[str]] = []
        self.answers = answers

    def __call__(self, command: Sequence[str], within: float) -> Completed:
        assert within > 0
        self.commands.append(list(command))
        return self.answers.get(command[1], Completed(0, "", ""))


def manager(docker: Docker, directory: Path) -> compose.Compose:
    made = make(INSTANCE, docker)
    assert isinstance(made, compose.Compose)
    made.directory = directory
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec" / "compose.yaml").touch()
    return tmp_path


def test_orders(project: Path) -> None:
    docker = Docker()
    asked = manager(docker, project)
    asked.start()
    asked.stop(60)
    asked.kill()
    asked.enable(False)
    asked.remove()
    file = str(project / "rec" / "compose.yaml")
    up = ["--file", file, "up", "--detach", "--no-build", "--remove-orphans"]
    assert docker.commands == [
        ["docker", "compose", "--ansi", "never", "--progress", "quiet", *up],
        ["docker", "stop", "rec"],
        ["docker", "kill", "--signal", "KILL", "rec"],
        ["docker", "update", "--restart", "no", "rec"],
        ["docker", "compose", "--project-name", "rec", "down", "--volumes", "--remove-orphans"],
    ]


def test_the_secrets_are_the_second_file_where_there_is_one(project: Path) -> None:
    (project / "rec" / "compose.override.yaml").touch()
    docker = Docker()
    manager(docker, project).start()
    files = [word for word in docker.commands[0] if word.endswith(".yaml")]
    assert files == [str(project / "rec" / name) for name in ("compose.yaml", "compose.override.yaml")]


def test_what_is_not_there_is_stopped(project: Path) -> None:
    gone = Completed(1, "", "Error response from daemon: No such container: rec\n")
    assert manager(Docker(stop=gone), project).stop().code == 0
    assert manager(Docker(container=NONE_THERE), project).observe().phase == d.STOPPED


def test_a_docker_that_does_not_answer_is_said(project: Path) -> None:
    refused = Completed(1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n")
    with pytest.raises(ManagerError, match="Cannot connect to the Docker daemon"):
        manager(Docker(container=refused), project).observe()
    with pytest.raises(ManagerError, match="Cannot connect"):
        manager(Docker(container=NONE_THERE, events=refused), project).catch_up(st.State(), NOW, lambda lines: "")


def test_both_streams_of_the_logs_come_in_their_order(project: Path) -> None:
    out = "2026-11-22T06:53:19.100000000Z first\n2026-11-22T06:53:21.000000000Z third\n"
    said = Completed(0, out, "2026-11-22T06:53:20.000000000Z second\n")
    lines = manager(Docker(logs=said), project).logs(2)
    assert [line.split(" ", 1)[1] for line in lines] == ["second", "third"]


def test_events_are_asked_for_from_where_the_history_ends(project: Path) -> None:
    docker = Docker(container=NONE_THERE)
    manager(docker, project).catch_up(st.State(followed=1795330399_000000042), NOW, lambda lines: "")
    command = next(command for command in docker.commands if command[1] == "events")
    assert command[command.index("--since") + 1] == "1795330399.000000042"
    assert "container=rec" in command


def test_the_recorded_history_in_one_go(project: Path) -> None:
    restarted = Completed(0, json.dumps([shown("restarted")]), "")
    docker = Docker(
        container=restarted,
        events=Completed(0, (RECORDED / "26-events.jsonl").read_text(), ""),
        logs=Completed(0, "", ""),
    )
    state = st.State()
    asked: list[list[str]] = []

    def words(lines: list[str]) -> str:
        asked.append(lines)
        return "out of words"

    told = manager(docker, project).catch_up(state, NOW, words)
    assert [(start.end, start.exit_status) for start in state.starts] == [
        (st.PURPOSE, "37"),
        (st.PURPOSE, "KILL"),
        (st.FAILED, "KILL"),
        ("", ""),
    ]
    assert [start.planned for start in state.starts] == [True, True, True, False]
    assert state.starts[-1].pid == 2467
    assert state.starts[-1].ready_at is not None
    assert state.stopped is None
    assert told[-1] == "killed by signal KILL; out of words"
    assert len(asked) == 1, "only an end that nobody asked for is looked up in the logs"
    again = st.decode(st.encode(state))
    assert manager(docker, project).catch_up(again, NOW, words) == []
    assert again == state


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (("/usr/bin/docker-proxy", "-proto", "tcp", "-host-port", "8000"), True),
        (("/usr/sbin/nginx",), False),
        ((), False),
    ],
)
def test_docker_listens_for_its_container(project: Path, command: tuple[str, ...], ours: bool) -> None:
    assert manager(Docker(), project).owns(processes.Process(1, 0, 0, command, ())) == ours


def test_a_container_that_was_told_to_end_is_under_a_stop_job_until_it_has() -> None:
    """`docker stop` by somebody: the engine ends before the API does, and that is no crash."""
    asked: list[list[str]] = []
    told = {"events": ""}

    def docker(command: Sequence[str], within: float) -> Completed:
        asked.append(list(command))
        if "inspect" in command:
            return Completed(0, json.dumps([shown("healthy")]), "")
        return Completed(0, told["events"], "")

    manager = make(INSTANCE, docker)
    assert manager.job() == "", "nobody asked Docker yet, so nothing is known to run"
    manager.observe()
    assert manager.job() == ""
    for signal, job in (("1", ""), ("15", "stop"), ("SIGTERM", "stop")):
        event = {"Action": "kill", "timeNano": 1, "Actor": {"Attributes": {"signal": signal}}}
        told["events"] = json.dumps(event) + "\n"
        assert manager.job() == job, signal
    assert "event=kill" in asked[-1]
