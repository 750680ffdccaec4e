# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor adapter against what supervisorctl says; with a real supervisord: tests/integration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from vllm_keeper.config import Instance
from vllm_keeper.managers.base import Completed, ManagerError
from vllm_keeper.managers.supervisor import ABSENT, DOWN, Supervisor, autostarts, read_status

INSTANCE = Instance(name="q", unit="q.service", base_url="http://127.0.0.1:1")
RUNNING = "q                                RUNNING   pid 4711, uptime 0:01:02\n"
NO_SOCKET = "unix:///var/run/supervisor.sock no such file\n"

# As supervisorctl 4.2.5 and 4.3.0 print it.
SAID = [
    (RUNNING, "RUNNING"),
    ("q                                STARTING  \n", "STARTING"),
    ("q                                BACKOFF   Exited too quickly (process log may have details)\n", "BACKOFF"),
    ("q                                STOPPING  \n", "STOPPING"),
    ("q                                STOPPED   Nov 22 06:00 AM\n", "STOPPED"),
    ("q                                EXITED    Nov 22 06:00 AM\n", "EXITED"),
    ("q                                FATAL     Exited too quickly (process log may have details)\n", "FATAL"),
    ("q: ERROR (no such group)\n", ABSENT),
    ("q: ERROR (no such process)\n", ABSENT),
    (NO_SOCKET, DOWN),
    ("unix:///run/supervisor.sock refused connection\n", DOWN),
]


@pytest.mark.parametrize(("out", "state"), SAID)
def test_status_is_read(out: str, state: str) -> None:
    assert read_status(Completed(3, out, ""), "q")[0] == state


@pytest.mark.parametrize(
    "done", [Completed(127, "", "supervisorctl: No such file or directory"), Completed(0, "other RUNNING pid 1", "")]
)
def test_what_cannot_be_read_is_said(done: Completed) -> None:
    with pytest.raises(ManagerError, match="supervisorctl status q"):
        read_status(done, "q")


class Rig:
    """A Supervisor whose commands are answered from a table, by their last words."""

    def __init__(self, folder: Path, program: str | None = "[program:q]\nautostart=true\n") -> None:
        self.asked: list[str] = []
        self.answers = {"status q": Completed(0, RUNNING, ""), "is-enabled": Completed(0, "enabled\n", "")}
        self.manager = Supervisor(INSTANCE, self.run)
        self.manager.run_directory = folder / "run"
        self.manager.programs = folder
        self.manager.booted = folder
        self.manager.socket = folder / "socket"
        if program is not None:
            (folder / "q.conf").write_text(program)

    def run(self, command: Sequence[str], within: float) -> Completed:
        words = " ".join(command)
        self.asked.append(words)
        return next((done for key, done in self.answers.items() if key in words), Completed(0, "", ""))


def test_what_runs_without_a_runner_yet_is_held(tmp_path: Path) -> None:
    seen = Rig(tmp_path).manager.observe()
    assert (seen.phase, seen.enabled) == ("held", True)


@pytest.mark.parametrize(
    ("out", "phase"),
    [
        (NO_SOCKET, "failed"),
        ("q: ERROR (no such group)\n", "stopped"),
        ("q FATAL x\n", "failed"),
        ("q STOPPED x\n", "stopped"),
    ],
)
def test_what_does_not_run_but_has_a_file_is_for_check_to_start(tmp_path: Path, out: str, phase: str) -> None:
    rig = Rig(tmp_path)
    rig.answers["status q"] = Completed(4, out, "")
    seen = rig.manager.observe()
    assert (seen.phase, seen.enabled, seen.main_pid) == (phase, True, None)


@pytest.mark.parametrize("out", [NO_SOCKET, "q: ERROR (no such group)\n"])
def test_without_a_file_it_is_missing(tmp_path: Path, out: str) -> None:
    rig = Rig(tmp_path, program=None)
    rig.answers["status q"] = Completed(4, out, "")
    assert rig.manager.observe().phase == "missing"


@pytest.mark.parametrize(("program", "unit", "enabled"), [
    ("[program:q]\nautostart=true\n", "enabled\n", True),
    ("[program:q]\nautostart=false\n", "enabled\n", False),
    ("[program:q]\nautostart=true\n", "disabled\n", False),
])  # fmt: skip
def test_it_starts_on_boot_if_its_daemon_does_and_starts_it(
    tmp_path: Path, program: str, unit: str, enabled: bool
) -> None:
    rig = Rig(tmp_path, program)
    rig.answers["is-enabled"] = Completed(0, unit, "")
    assert rig.manager.observe().enabled is enabled


@pytest.mark.parametrize(("text", "expected"), [
    ("[program:q]\n", True), ("autostart = no", False), ("; autostart=false\n", True), ("autostart:true", True),
])  # fmt: skip
def test_autostart_is_read(text: str, expected: bool) -> None:
    assert autostarts(text) is expected


def test_no_order_is_for_anybody_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answers["start q"] = Completed(0, "q: started\n", "")
    for order in (rig.manager.start, rig.manager.restart, rig.manager.stop, rig.manager.remove):
        assert order().code == 0
    assert [words for words in rig.asked if "update" in words]
    for words in rig.asked:
        if any(verb in words.split() for verb in ("update", "start", "stop", "restart", "remove")):
            assert " q" in words, f"{words} is for all"


def test_a_file_of_somebody_else_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answers["reread"] = Completed(1, "ERROR: CANT_REREAD: invalid literal in section 'program:other'\n", "")
    for order in (rig.manager.start, rig.manager.restart):
        done = order()
        assert done.code
        assert "program:other" in done.err
    assert not any("update" in words for words in rig.asked)


def test_a_runner_that_ends_at_once_is_told_with_where_to_look(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answers["start q"] = Completed(7, "q: ERROR (abnormal termination)\n", "")
    done = rig.manager.start(60)
    assert done.code
    assert "abnormal termination" in done.err
    rig.answers["start q"] = Completed(0, "q: ERROR (already started)\n", "")
    assert rig.manager.start().code == 0


def test_a_runner_that_never_says_anything_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_keeper.managers.supervisor.SLICE", 0.2)
    rig = Rig(tmp_path)
    rig.answers["start q"] = Completed(0, "q: ERROR (already started)\n", "")
    rig.answers["status q"] = Completed(3, "q BACKOFF Exited too quickly (process log may have details)\n", "")
    began = time.monotonic()
    done = rig.manager.start(60)
    assert done.code
    assert "ends at once" in done.err
    assert time.monotonic() - began < 5


def test_a_daemon_that_is_down_is_started_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answers["status q"] = Completed(4, NO_SOCKET, "")
    rig.answers["systemctl start"] = Completed(1, "", "Unit supervisor.service not found.")
    done = rig.manager.start()
    assert done.code
    assert "Unit supervisor.service not found." in done.err
    assert not any("reread" in words for words in rig.asked)


def test_what_its_file_says_is_not_enabled_behind_its_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.manager.enable(True).code == 0
    assert "systemctl enable supervisor.service" in rig.asked
    done = rig.manager.enable(False)
    assert done.code
    assert "service_enabled" in done.err


def test_an_open_socket_is_noticed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.manager.notice() == ""
    rig.manager.socket.touch(0o600)
    rig.manager.socket.chmod(0o700)
    assert rig.manager.notice() == ""
    rig.manager.socket.chmod(0o770)
    assert "0770" in rig.manager.notice()


def test_its_own_command_is_used(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.manager.instance = Instance(
        name="q", unit="q.service", base_url="http://127.0.0.1:1", control=("/opt/s/bin/supervisorctl", "-c", "/c")
    )
    rig.manager.observe()
    assert "/opt/s/bin/supervisorctl -c /c status q" in rig.asked
