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


# As HAProxy 2.6 and 3.0 print it.
TITLES = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state"
    " bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr"
    " srv_agent_addr srv_agent_port"
)


def line(name: str = "gpu1", uweight: int = 0, agent: int = 22, port: int = 8000, *settings: str) -> str:
    ports = " ".join(settings or ("9410", "10.0.0.9", "10.0.0.1", "9410"))
    return f"4 qwen3vl 1 {name} 10.0.0.1 2 1 {uweight} 1 7 15 0 4 7 {agent} 0 0 - {port} - 0 {ports}"


STATE = f"1\n# {TITLES}\n{line()}\n\n"
NOTHING = ("0", "-", "-", "0")


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
                answer = {"show info": f"Name: HAProxy\nPid: {self.pid}\n", "show servers state": STATE}[command]
                connection.sendall(answer.encode())


@pytest.fixture
def api(tmp_path: Path) -> t.Iterator[Api]:
    made = Api(tmp_path / "admin.sock")
    yield made
    made.listener.close()


def run(verb: str, folder: Path, *more: str) -> int:
    if verb == "save":
        config = folder / "haproxy.cfg"
        config.write_text("backend qwen3vl\n    default-server agent-check\n    server gpu1 10.0.0.1:8001\n")
        more = (str(config),)
    return int(state.main([verb, str(folder / "admin.sock"), str(folder / "server-state"), *more]))


def test_the_state_is_saved_whole_with_the_process_in_charge(api: Api, tmp_path: Path) -> None:
    assert run("save", tmp_path) == 0
    # The port is the new configuration's.
    assert (tmp_path / "server-state").read_text() == f"1\n# {TITLES}\n{line('gpu1', 0, 22, 8001, *NOTHING)}\n\n"
    assert (tmp_path / "server-state.pid").read_text() == "100"
    assert sorted(os.listdir(tmp_path)) == ["admin.sock", "haproxy.cfg", "server-state", "server-state.pid"]


CONFIG = """
frontend chat
    bind *:80
backend chat
    default-server check inter 5s agent-check agent-port 9410
    server gpu1 10.0.0.1:8000
    server gpu2 [2001:db8::2]:8001 backup
backend embed
    default-server check inter 5s
    server gpu1 gpu1.example.org:9000
"""


def test_what_the_new_configuration_says_is_read_by_backend_and_server() -> None:
    assert state.configured(CONFIG) == {
        ("chat", "gpu1"): ("8000", True),
        ("chat", "gpu2"): ("8001", True),
        ("embed", "gpu1"): ("9000", False),
    }


@pytest.mark.parametrize(
    ("before", "agent", "after"),
    [
        (line(), True, line("gpu1", 0, 22, 8001, *NOTHING)),
        # An agent's weight goes with the agent, one that a person gave does not.
        (line(), False, line("gpu1", 1, 22, 8001, *NOTHING)),
        (line(agent=0), False, line("gpu1", 0, 0, 8001, *NOTHING)),
        # Not of the configuration: HAProxy leaves it out itself.
        (line("gone"), True, line("gone", 0, 22, 8000, *NOTHING)),
        ("no line of the state", True, "no line of the state"),
    ],
)
def test_the_state_says_nothing_that_the_configuration_decides(before: str, agent: bool, after: str) -> None:
    servers = {("qwen3vl", "gpu1"): state.Configured("8001", agent)}
    assert state.fitted(f"1\n# {TITLES}\n{before}\n", servers) == f"1\n# {TITLES}\n{after}\n"


def test_a_state_without_the_newer_fields_is_taken() -> None:
    old = " ".join(TITLES.split()[:20])
    short = " ".join(line().split()[:20])
    expected = " ".join(line("gpu1", 0, 22, 8001).split()[:20])
    servers = {("qwen3vl", "gpu1"): state.Configured("8001", True)}
    assert state.fitted(f"1\n# {old}\n{short}\n", servers) == f"1\n# {old}\n{expected}\n"


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


@pytest.mark.parametrize("arguments", [[], ["save"], ["save", "a", "b"], ["unknown", "a", "b"], ["resolve"]])
def test_wrong_use_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert state.main(arguments) == 2
    assert "save SOCKET FILE" in capsys.readouterr().err
