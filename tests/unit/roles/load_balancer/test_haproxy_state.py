# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command behind `systemctl reload haproxy`, against a socket that speaks as HAProxy does."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import socket
import threading
import types
import typing as t
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[4] / "roles" / "load_balancer" / "files" / "haproxy_state.py"


class Loader(importlib.machinery.SourceFileLoader):
    def set_data(self, path: str, data: t.Any, *, _mode: int = 0o666) -> None:
        """No bytecode beside a file that is copied to hosts."""


def load() -> types.ModuleType:
    loader = Loader("haproxy_state", str(COMMAND))
    spec = importlib.util.spec_from_loader("haproxy_state", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


state = load()


class Api:
    """A runtime API whose process number the test can change."""

    def __init__(self, path: Path) -> None:
        self.pid = 100
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                command = connection.recv(100).decode().strip()
                answer = {"show info": f"Name: HAProxy\nPid: {self.pid}\n", "show servers state": "1\n# state\n"}[
                    command
                ]
                connection.sendall(answer.encode())


@pytest.fixture
def api(tmp_path: Path) -> t.Iterator[Api]:
    made = Api(tmp_path / "admin.sock")
    yield made
    made.listener.close()


def run(verb: str, folder: Path, *more: str) -> int:
    return int(state.main([verb, str(folder / "admin.sock"), str(folder / "server-state"), *more]))


def test_the_state_is_saved_whole_with_the_process_in_charge(api: Api, tmp_path: Path) -> None:
    assert run("save", tmp_path) == 0
    assert (tmp_path / "server-state").read_text() == "1\n# state\n"
    assert (tmp_path / "server-state.pid").read_text() == "100"
    assert sorted(os.listdir(tmp_path)) == ["admin.sock", "server-state", "server-state.pid"]


def test_a_reload_is_confirmed_by_another_process(api: Api, tmp_path: Path) -> None:
    run("save", tmp_path)
    api.pid = 101
    assert run("confirm", tmp_path, "1") == 0


def test_a_reload_that_did_not_take_is_told(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("save", tmp_path)
    assert run("confirm", tmp_path, "1") == 1
    assert "process 100 is still in charge, with the old configuration" in capsys.readouterr().err


def test_without_an_api_no_old_state_is_left_to_believe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server-state").write_text("old")
    assert run("save", tmp_path) == 0
    assert not (tmp_path / "server-state").exists()
    assert "not carried over" in capsys.readouterr().err
    assert run("confirm", tmp_path, "0") == 1


def test_names_are_waited_for_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tries = []

    def known(name: str) -> bool:
        tries.append(name)
        return name == "gpu1" and len(tries) > 2

    monkeypatch.setattr(state, "known", known)
    monkeypatch.setattr(state.time, "sleep", lambda seconds: None)
    assert state.resolve(["gpu1"], 5) == 0
    assert len(tries) == 3
    assert state.resolve(["gpu1", "gone"], 0) == 1
    assert "no address for gone within 0 s" in capsys.readouterr().err


def test_localhost_is_known_and_nonsense_is_not() -> None:
    assert state.known("localhost")
    assert not state.known("a" * 64 + ".invalid")


@pytest.mark.parametrize("arguments", [[], ["save"], ["unknown", "a", "b"], ["resolve"]])
def test_wrong_use_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert state.main(arguments) == 2
    assert "save SOCKET FILE" in capsys.readouterr().err
