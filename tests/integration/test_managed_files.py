# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""managed_files through ansible-playbook, on this machine, in folders of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest
from ansible_collections.steadfast.vllm.plugins.modules import managed_files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files get the owner root, so this needs root")

COLLECTIONS = Path(__file__).parents[2] / ".collections"
SECRET = "hunter2-never-shown"


class Playbook:
    """A role with templates and files, and a host in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.host, self.state = root, root / "host", root / "state"
        self.role = root / "roles" / "thing"
        for folder in (self.host, self.role / "templates", self.role / "files", self.role / "tasks"):
            folder.mkdir(parents=True)

    def template(self, name: str, text: str) -> None:
        (self.role / "templates" / name).write_text(text, encoding="utf-8")

    def path(self, name: str) -> str:
        return str(self.host / name)

    def start(self, files: Any, *options: str, **variables: Any) -> subprocess.Popen[str]:
        arguments = {"manifest": "thing", "state_directory": str(self.state), "files": files}
        arguments["exclusive"] = variables.pop("exclusive", [])
        arguments["actions"] = variables.pop("actions", [{"name": "systemd", "command": ["true"]}])
        return self.start_tasks([{"name": "Keep", "steadfast.vllm.managed_files": arguments}], *options, **variables)

    def start_tasks(self, tasks: list[dict[str, Any]], *options: str, **variables: Any) -> subprocess.Popen[str]:
        (self.role / "tasks" / "main.yml").write_text(json.dumps(tasks), encoding="utf-8")
        play = {"hosts": "localhost", "gather_facts": False, "roles": ["thing"], "vars": variables}
        (self.root / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        (self.root / "ansible.cfg").touch()
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.root / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
        }
        inventory = f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n"
        (self.root / "hosts").write_text(inventory, encoding="utf-8")
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts", "play.yml", *options]
        return subprocess.Popen(
            command, cwd=self.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, files: Any, *options: str, **variables: Any) -> Result:
        return Result(self.start(files, "-v", *options, **variables))


class Result:
    """The one task's result, and everything that was printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.output = process.communicate(timeout=120)[0]
        self.code = process.returncode
        self.task: dict[str, Any] = {}
        at = self.output.find("=> {")
        if at != -1:
            self.task = json.JSONDecoder().raw_decode(self.output[at + 3 :])[0]

    @property
    def message(self) -> str:
        assert self.code != 0, self.output
        return str(self.task["msg"])

    def __getitem__(self, key: str) -> Any:
        assert self.code == 0, self.output
        return self.task[key]


@pytest.fixture
def playbook(tmp_path: Path) -> Playbook:
    return Playbook(tmp_path)


@pytest.fixture
def system_log() -> Iterator[list[bytes]]:
    """What modules write to the system log, on a machine without one."""
    place = Path("/dev/log")
    if place.exists():
        pytest.skip("this machine has a system log of its own")
    received: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    received.append(listener.recv(65536))
                except TimeoutError:
                    continue

        reader = threading.Thread(target=listen)
        reader.start()
        try:
            yield received
        finally:
            stop.set()
            reader.join()
            place.unlink()


def test_a_role_leaves_its_files_and_nothing_twice(playbook: Playbook) -> None:
    playbook.template("unit.j2", "[Unit]\n{% if instance.port %}\nPort={{ instance.port }}\n{% endif %}\nBy={{ by }}\n")
    binary = bytes(range(256)) * 20
    (playbook.role / "files" / "blob.bin").write_bytes(binary)
    files = [
        {"path": playbook.path("etc"), "state": "directory", "mode": "0750"},
        {
            "path": playbook.path("etc/unit"),
            "template": "unit.j2",
            "vars": {"instance": {"port": "{{ base_port + 1 }}"}},
            "validate": "grep -q Port=8001 %s",
            "owes": ["systemd", "qwen"],
        },
        {"path": playbook.path("etc/blob"), "source": "blob.bin", "mode": "0600", "owner": "nobody"},
        {"path": playbook.path("etc/text"), "content": "Grüße {{ by }}"},
    ]
    told = playbook.run(files, "--check", "--diff", base_port=8000, by="task")
    assert told["changed"] is True
    assert "+Port=8001" in told.output
    assert list(playbook.host.iterdir()) == []
    did = playbook.run(files, base_port=8000, by="task")
    for key in ("changed", "files", "removed", "actions", "owed"):
        assert did[key] == told[key], key
    assert did["owed"] == ["qwen"]
    assert (playbook.host / "etc/unit").read_text(encoding="utf-8") == "[Unit]\nPort=8001\nBy=task\n"
    assert (playbook.host / "etc/blob").read_bytes() == binary
    assert (playbook.host / "etc/blob").owner() == "nobody"
    assert (playbook.host / "etc/text").read_text(encoding="utf-8") == "Grüße task"
    again = playbook.run(files, "--diff", base_port=8000, by="task")
    assert (again["changed"], again["files"], again["owed"]) == (False, [], ["qwen"])
    assert _manifest.settle(str(playbook.state), ["qwen"]) == {"qwen"}
    (playbook.host / "etc/blob").unlink()
    (playbook.host / "etc/text").write_text("changed by hand", encoding="utf-8")
    mended = playbook.run(files, "--diff", base_port=8000, by="task")
    assert mended["files"] == [playbook.path("etc/blob"), playbook.path("etc/text")]
    assert "-changed by hand" in mended.output
    gone = playbook.run([], base_port=8000, by="task")
    assert gone["actions"] == ["systemd"]
    assert list(playbook.host.iterdir()) == []


def test_a_secret_is_neither_printed_nor_logged(playbook: Playbook, system_log: list[bytes]) -> None:
    playbook.template("env.j2", "KEY={{ key }}\n")
    files: list[dict[str, Any]] = [
        {"path": playbook.path("a.env"), "template": "env.j2", "vars": {"key": "{{ secret }}"}, "secret": True},
        {"path": playbook.path("b.env"), "content": "KEY={{ secret }}\n", "secret": True, "mode": "0600"},
    ]
    for options in (["--check", "--diff", "-vvv"], ["--diff", "-vvv"]):
        result = playbook.run(files, *options, secret=SECRET)
        assert result.code == 0, result.output
        assert "not shown" in result.output
        assert SECRET not in result.output
    assert (playbook.host / "b.env").read_text(encoding="utf-8") == f"KEY={SECRET}\n"
    files[0]["validate"] = "sh -c 'cat $0; exit 1' %s"
    refused = playbook.run(files, "--diff", "-vvv", secret=SECRET + "2")
    assert "not shown, the file is secret" in refused.message
    playbook.template("env.j2", "KEY={{ key | from_json }}\n")
    broken = playbook.run(files, "-vvv", secret=SECRET)
    assert "files[0].template: env.j2" in broken.message
    for output in (refused.output, broken.output):
        assert SECRET not in output
    removed = playbook.run([], "--diff", "-vvv", secret="")
    assert removed["removed"] == [playbook.path("a.env"), playbook.path("b.env")]
    assert SECRET not in removed.output
    logged = b"".join(system_log).decode()
    assert "managed_files" in logged
    assert SECRET not in logged
    assert SECRET not in (playbook.state / ".lock").read_text(encoding="utf-8")


def test_wrong_options_are_all_told_at_once_and_nothing_is_changed(playbook: Playbook) -> None:
    playbook.template("undefined.j2", "a={{ nowhere.to.be.found }}\n")
    playbook.template("native.j2", "{{ {'a': 1} }}")
    wrong = [
        {"path": playbook.path("a"), "content": "x", "mode": 420},
        {"path": playbook.path("b"), "content": "x", "owns": ["a"]},
    ]
    message = playbook.run(wrong).message
    assert 'files[0].mode: 420 is a number, because it is not quoted. Write mode: "0644"' in message
    assert "files[1].owns: unknown key, did you mean owes?" in message
    wrong = [
        {"path": playbook.path("a"), "template": "undefined.j2"},
        {"path": playbook.path("b"), "template": "missing.j2"},
        {"path": playbook.path("c"), "template": "native.j2"},
        {"path": playbook.path("d"), "source": "missing.bin"},
    ]
    message = playbook.run(wrong).message
    assert "files[0].template: undefined.j2" in message
    assert "'nowhere' is undefined" in message
    assert "files[1].template: missing.j2 was not found in the templates/ folders" in message
    assert "files[2].template: native.j2" in message
    assert "renders to a map" in message
    assert "files[3].source: missing.bin was not found in the files/ folders" in message
    nobody = [{"path": playbook.path("a"), "content": "x", "owner": "no-such-user"}]
    assert "files[0].owner: there is no user no-such-user on this host" in playbook.run(nobody).message
    told = playbook.run(nobody, "--check")
    assert told["changed"] is True
    assert "no-such-user" in told.output
    assert list(playbook.host.iterdir()) == []


def test_a_run_killed_in_its_own_command_is_finished_by_the_next(playbook: Playbook) -> None:
    """The command ends its parent, which is the module's process: a real kill between two steps."""
    kill = ["sh", "-c", "kill -9 $PPID"]
    old = {"path": playbook.path("old"), "content": "x", "owes": ["qwen"], "before_remove": kill}
    unit = {"path": playbook.path("unit"), "content": "new", "owes": ["systemd", "gemma"]}
    first = playbook.run([unit], actions=[{"name": "systemd", "command": kill}])
    assert first.code != 0
    assert _manifest.owed(str(playbook.state)) == {"systemd", "gemma"}
    second = playbook.run([unit, old])
    assert (second["files"], second["actions"]) == ([playbook.path("old")], ["systemd"])
    assert _manifest.settle(str(playbook.state), ["qwen", "gemma"]) == {"qwen", "gemma"}
    assert playbook.run([unit]).code != 0
    assert (playbook.host / "old").exists()
    (playbook.state / "thing.json").write_text(
        (playbook.state / "thing.json").read_text(encoding="utf-8").replace("kill -9", "true"), encoding="utf-8"
    )
    third = playbook.run([unit])
    assert (third["removed"], third["owed"]) == ([playbook.path("old")], ["qwen"])


def test_a_drop_in_put_there_by_hand_is_taken_away(playbook: Playbook) -> None:
    unit = {"path": playbook.path("qwen.service"), "content": "[Service]\n", "owes": ["systemd", "qwen"]}
    rule = {"path": playbook.path("qwen.service.d"), "pattern": "*.conf", "owes": ["systemd", "qwen"]}
    assert playbook.run([unit], exclusive=[rule])["changed"] is True
    _manifest.settle(str(playbook.state), ["qwen"])
    folder = playbook.host / "qwen.service.d"
    folder.mkdir()
    odd = os.fsdecode(b"odd-\xff.conf")
    (folder / "override.conf").write_text("[Service]\nUser=nobody\n", encoding="utf-8")
    (folder / odd).touch()
    told = playbook.run([unit], "--check", "--diff", exclusive=[rule])
    assert told["removed"] == [str(folder / "odd-\\xff.conf"), str(folder / "override.conf")]
    assert "-User=nobody" in told.output
    assert len(list(folder.iterdir())) == 2
    did = playbook.run([unit], "--diff", exclusive=[rule])
    for key in ("changed", "files", "removed", "kept", "actions", "owed"):
        assert did[key] == told[key], key
    assert (did["changed"], did["files"], did["actions"], did["owed"]) == (True, [], ["systemd"], ["qwen"])
    assert list(folder.iterdir()) == []
    assert _manifest.owed(str(playbook.state)) == {"qwen"}
    again = playbook.run([unit], exclusive=[rule])
    assert (again["changed"], again["removed"], again["owed"]) == (False, [], ["qwen"])
    wrong = playbook.run([unit], exclusive=[{**rule, "patern": "*", "pattern": "a/*"}])
    assert "exclusive[0].patern: unknown key, did you mean pattern?" in wrong.message
    assert "exclusive[0].pattern: a/* holds a /" in wrong.message


def test_two_runs_at_once_take_turns(playbook: Playbook) -> None:
    marks = playbook.root / "marks"
    slow = f"echo in >> {marks}; sleep 1; echo out >> {marks}"
    files = [{"path": playbook.path("unit"), "content": "{{ lookup('pipe', 'echo $PPID') }}", "owes": ["systemd"]}]
    actions = [{"name": "systemd", "command": ["sh", "-c", slow]}]
    for result in [Result(run) for run in [playbook.start(files, "-v", actions=actions) for _ in range(2)]]:
        assert result["actions"] == ["systemd"]
    assert marks.read_text(encoding="utf-8").split() == ["in", "out"] * 2


def test_a_full_disk_leaves_what_was_there(playbook: Playbook) -> None:
    small = playbook.host / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False, capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no small file system to be had: {mount.stderr}")
    try:
        first = {"path": str(small / "a"), "content": "old", "owes": ["a"]}
        assert playbook.run([first])["owed"] == ["a"]
        more = [{**first, "content": "new"}, {"path": str(small / "b"), "content": "x" * 200_000, "owes": ["b"]}]
        message = playbook.run(more).message
        assert f"{small}/b: cannot be read or written: No space left on device" in message
        assert sorted(path.name for path in small.iterdir()) == ["a"]
        assert (small / "a").read_text(encoding="utf-8") == "old"
        assert _manifest.owed(str(playbook.state)) == {"a"}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_examples_of_the_documentation_run(playbook: Playbook) -> None:
    playbook.template("unit.service.j2", "[Service]\nExecStart={{ instance.command }}\n")
    text = managed_files.EXAMPLES.replace("/etc/systemd/system", str(playbook.host))
    text = (
        text.replace("/etc", playbook.path("etc"))
        .replace("systemd-analyze verify", "grep -q ExecStart")
        .replace("systemctl", "/bin/true")
    )
    tasks = yaml.safe_load(text)
    for task in tasks:
        task["steadfast.vllm.managed_files"]["state_directory"] = str(playbook.state)
    for task in tasks[:1]:
        task["steadfast.vllm.managed_files"]["files"].insert(0, {"path": playbook.path("etc"), "state": "directory"})
    variables = {"my_instance": {"command": "/bin/true"}, "my_api_key": SECRET}
    result = Result(playbook.start_tasks(tasks, **variables))
    assert result.code == 0, result.output
    assert "ok=3    changed=3" in result.output
    assert list(playbook.host.iterdir()) == []
