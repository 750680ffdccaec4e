# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, the launcher and the log."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from vllm_keeper import cli, exits, log
from vllm_keeper.managers.base import Completed
from vllm_keeper.verbs import gate

FILES = Path(__file__).parents[3] / "roles" / "health" / "files"


def no_systemd(_command: Sequence[str], _within: float) -> Completed:
    return Completed(1, "", "Failed to connect to bus: Host is down")


def keeper(folder: Path, *words: str) -> int:
    return cli.main(["--config-dir", str(folder / "etc"), "--state-dir", str(folder / "var"), *words], no_systemd)


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "q.json").write_text(
        json.dumps({"name": "q", "base_url": "http://127.0.0.1:1", "config_file": str(tmp_path / "q.yaml")})
    )
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check"], exits.WORSE),
        (["check", "nosuch"], exits.CONFIG),
        (["status"], exits.BAD),
        (["status", "--json", "q"], exits.BAD),
        (["gate", "q"], exits.OK),
        (["gate", "nosuch"], exits.OK),
        (["gate"], exits.OK),
        (["wait-ready", "nosuch"], exits.OK),
        (["wait-ready", "q"], exits.BAD),
        (["stopping", "q"], exits.OK),
        (["stopped", "q"], exits.OK),
        (["start", "q"], exits.INTERNAL),
        (["start", "nosuch"], exits.CONFIG),
        (["park", "q", "--reason", "x"], exits.OK),
        (["park", "q"], exits.USAGE),
        (["bogus"], exits.USAGE),
        (["check", "--tries", "0"], exits.USAGE),
        (["check", "--delay", "-1"], exits.USAGE),
        ([], exits.USAGE),
        (["--help"], exits.OK),
    ],
)
def test_exit_codes(configured: Path, words: list[str], code: int) -> None:
    assert keeper(configured, *words) == code


def test_one_bad_configuration_does_not_hide_the_others(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configured / "etc" / "a.json").write_text("{")
    assert keeper(configured, "check") == exits.CONFIG
    said = capsys.readouterr()
    assert "a.json: is not JSON" in said.err and "q: unknown: systemctl show q.service" in said.out


def test_a_host_without_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keeper(tmp_path, "check") == exits.OK
    assert keeper(tmp_path, "status", "--json") == exits.OK
    assert json.loads(capsys.readouterr().out) == {"version": 1, "instances": []}


def test_the_gate_survives_a_fault_of_its_own(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*_arguments: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(gate, "gate", fault)
    assert keeper(configured, "gate", "q") == exits.OK
    said = capsys.readouterr().err
    assert "a fault of the keeper itself: ZeroDivisionError: oh" in said and "Traceback" not in said


def launch(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "VLLM_KEEPER_LIB": str(FILES), **environment}
    where = ["--config-dir", str(folder / "etc"), "--state-dir", str(folder / "var")]
    return subprocess.run(
        [FILES / "vllm-keeper", *where, *words], capture_output=True, text=True, check=False, env=given
    )


def test_the_launcher_runs_the_package(configured: Path) -> None:
    done = launch(configured, "status", "nosuch")
    assert (done.returncode, "no such instance; configured here: q" in done.stdout) == (exits.CONFIG, True), done


def test_the_launcher_is_deaf_to_the_callers_environment(configured: Path, tmp_path: Path) -> None:
    (tmp_path / "vllm_keeper").mkdir()
    (tmp_path / "vllm_keeper" / "__init__.py").write_text("raise SystemExit(99)")
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    assert launch(configured, "check", "nosuch", PYTHONPATH=str(tmp_path)).returncode == exits.CONFIG


@pytest.mark.parametrize(("word", "code"), [("check", 69), ("gate", 0)])
def test_a_python_that_does_not_work_is_said(configured: Path, tmp_path: Path, word: str, code: int) -> None:
    broken = tmp_path / "python"
    broken.symlink_to("/nonexistent/python")
    done = launch(configured, word, "q", VLLM_KEEPER_PYTHON=str(broken))
    assert done.returncode == code and f"{broken} is no working Python" in done.stderr


@pytest.mark.parametrize(
    ("word", "code"), [("check", 69), ("gate", 0), ("wait-ready", 0), ("stopping", 0), ("stopped", 0)]
)
def test_a_broken_package_is_said_and_the_hooks_let_the_service_go_on(tmp_path: Path, word: str, code: int) -> None:
    done = launch(tmp_path, word, "q", VLLM_KEEPER_LIB=str(tmp_path / "nothing"))
    assert done.returncode == code
    assert "is broken" in done.stderr and "Traceback" not in done.stderr


def test_the_hooks_of_the_launcher_are_those_of_the_command_line() -> None:
    text = (FILES / "vllm-keeper").read_text()
    assert f"case $word in {' | '.join(cli.HOOKS)}) broken=0" in text


def test_journald_gets_fields_and_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(2)
        one = log.Log("check", str(path))
        one.instance, one.unit = "q", "q.service"
        one.hide(["sk-secret", "1", ""])
        one.warning("key sk-secret, 1 try\nsecond line")
        raw = journal.recv(4096)
    text = b"key ***, 1 try\nsecond line"
    assert b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n" in raw
    assert b"PRIORITY=4\n" in raw and b"KEEPER_INSTANCE=q\n" in raw
    assert "vllm-keeper check: q: key ***, 1 try" in capsys.readouterr().err
