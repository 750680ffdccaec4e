# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The adapters of tmux and screen: what they order, and what they make of the answers. No terminal is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from vllm_keeper import processes, runfile
from vllm_keeper.config import Instance
from vllm_keeper.managers import ManagerError, make
from vllm_keeper.managers.base import Completed
from vllm_keeper.managers.sessions import Screen, Session, Tmux

DONE = Completed(0, "", "")
NONE = Completed(1, "", "no server running on /run/vllm-keeper/q.tmux")


class Asked:
    """Remembers commands, and answers as told."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.answers: dict[str, Completed] = {}
        self.on_call: Callable[[str], None] = lambda words: None

    def __call__(self, command: Sequence[str], within: float) -> Completed:
        words = " ".join(command)
        self.commands.append(list(command))
        self.on_call(words)
        return next((answer for part, answer in self.answers.items() if part in words), DONE)


@pytest.fixture(params=["tmux", "screen"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def session(program: str, folder: Path, asked: Asked, booted: bool = True) -> Session:
    made = make(Instance(name="q", unit="q.service", base_url="http://127.0.0.1:1", manager=program), asked)
    assert isinstance(made, Session)
    made.scripts, made.run_directory, made.booted = folder / "etc", folder / "run", folder if booted else folder / "no"
    made.script.parent.mkdir(parents=True)
    made.script.write_text("#!/bin/sh\n")
    return made


def runs(folder: Path, phase: str = "running") -> None:
    """As if this very process were the runner."""
    me = processes.read(os.getpid())
    assert me is not None
    runfile.write("q", runfile.Run(me.pid, me.born, phase, phase), folder / "run")


def test_a_session_is_private_and_lives_in_a_unit_of_its_own(program: str, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = NONE
    asked.on_call = lambda words: runs(tmp_path) if words.startswith("systemd-run") else None
    made = session(program, tmp_path, asked)
    assert made.start() == DONE
    order = next(words for words in asked.commands if words[0] == "systemd-run")
    assert "--unit=vllm-session-q.service" in order
    assert "--property=KillMode=process" in order
    assert order[-1] == str(made.script) or str(made.script) in order
    assert any(word.startswith((f"SCREENDIR={tmp_path}/run", f"{tmp_path}/run")) for word in order)
    assert order[order.index("/dev/null") - 1] in ("-f", "-c"), "nobody's own settings"


def test_without_systemd_the_session_is_made_directly(program: str, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = NONE
    asked.on_call = lambda words: runs(tmp_path) if str(tmp_path / "etc") in words else None
    assert session(program, tmp_path, asked, booted=False).start() == DONE
    assert not any(words[0] in ("systemctl", "systemd-run") for words in asked.commands)


def test_what_runs_is_not_started_twice(program: str, tmp_path: Path) -> None:
    asked = Asked()
    runs(tmp_path)
    assert session(program, tmp_path, asked).start() == DONE
    assert not any("systemd-run" in words for words in asked.commands)


def test_a_unit_that_something_else_keeps_does_not_keep_us(program: str, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = NONE
    asked.answers["--unit=vllm-session-q.service"] = Completed(1, "", "Unit vllm-session-q.service was already loaded")
    asked.on_call = lambda words: runs(tmp_path) if f"--unit=vllm-session-q-{os.getpid()}.service" in words else None
    assert session(program, tmp_path, asked).start() == DONE


def test_no_script_is_no_instance(program: str, tmp_path: Path) -> None:
    made = session(program, tmp_path, Asked())
    made.script.unlink()
    assert (made.observe().phase, made.observe().enabled) == ("missing", False)
    assert made.start().code == 1


def test_enabled_is_remembered_beside_the_script_and_leaves_nothing(program: str, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = NONE
    made = session(program, tmp_path, asked)
    assert made.observe().enabled
    made.enable(False)
    assert not made.observe().enabled
    made.enable(True)
    assert made.observe().enabled
    made.enable(False)
    assert made.remove() == DONE
    assert list(made.script.parent.iterdir()) == [made.script]


def test_what_was_run_by_hand_is_seen_and_said(program: str, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = NONE
    runs(tmp_path, "running")
    made = session(program, tmp_path, asked)
    assert made.observe().phase == "running"
    assert f"outside of {program}" in made.known().detail


def test_neither_program_is_taken_for_highly_available(program: str, tmp_path: Path) -> None:
    made = session(program, tmp_path, Asked())
    assert "not highly available" in made.notice()
    assert not made.STARTS_ON_BOOT
    assert made.attach()
    assert made.leave


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (Completed(0, "q\n", ""), True),
        (Completed(0, "other\nq\n", ""), True),
        (Completed(0, "q2\n", ""), False),
        (DONE, False),
        (NONE, False),
        (Completed(1, "", "error connecting to /run/vllm-keeper/q.tmux (No such file or directory)"), False),
        (Completed(1, "", "server exited unexpectedly"), False),
    ],
)
def test_tmux_says_whether_the_session_is_there(answer: Completed, there: bool, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = answer
    made = session("tmux", tmp_path, asked)
    assert isinstance(made, Tmux)
    assert made.exists() is there


@pytest.mark.parametrize("answer", [Completed(127, "", "tmux: No such file"), Completed(124, "", "no end within 20 s")])
def test_a_tmux_that_cannot_be_asked_is_no_tmux_without_a_session(answer: Completed, tmp_path: Path) -> None:
    asked = Asked()
    asked.answers["list-sessions"] = answer
    with pytest.raises(ManagerError):
        session("tmux", tmp_path, asked).observe()


def test_screen_is_there_while_the_process_of_its_socket_is(tmp_path: Path) -> None:
    made = session("screen", tmp_path, Asked())
    assert isinstance(made, Screen)
    made.folder.mkdir(parents=True)
    assert not made.exists()
    (made.folder / "1.q").touch()  # of a process that is no screen of ours
    (made.folder / f"{os.getpid()}.other").touch()
    assert not made.exists()


def test_the_unit_s_end_leaves_a_runner_alone_that_is_not_in_it(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    made = session(program, tmp_path, Asked())
    runs(tmp_path)
    me = processes.read(os.getpid())
    other = processes.Process(1, 0, 0, ("x",), ("/elsewhere",))
    monkeypatch.setattr(processes, "read", lambda pid, proc=None: me)
    monkeypatch.setattr(made, "await_gone", lambda wait: DONE)
    assert made.hang_up(asked=False)
    assert len(sent) == 1
    answers = iter([me, other, me])
    monkeypatch.setattr(made, "_runner", lambda: runfile.read("q", tmp_path / "run"))
    monkeypatch.setattr(processes, "read", lambda pid, proc=None: next(answers))
    assert made.hang_up(asked=False)
    assert len(sent) == 1
