# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module itself, run as Ansible runs it, against real sockets and a real small disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.modules import vllm_preflight_info as module

# A program that listens, then tells its port; the argument stands for a secret in its command line.
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
SECRET = "S3CR3T-on-the-command-line"


def run(**options: object) -> dict[str, t.Any]:
    """The module in a process of its own: exit status, standard output and all."""
    arguments = {"_ansible_check_mode": True, "_ansible_remote_tmp": "/tmp", **options}
    done = subprocess.run(
        [sys.executable, "-m", module.__name__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "_ANSIBLE_MODULE_PROFILE": "legacy"},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def findings(result: dict[str, t.Any], check: str) -> list[dict[str, t.Any]]:
    return [finding for finding in result["findings"] if finding["check"] == check]


@pytest.fixture
def listener() -> Iterator[tuple[int, int]]:
    """(port, pid) of another program that listens."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, SECRET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline()), child.pid
        child.kill()


def test_the_program_at_the_port_is_named_without_its_arguments(listener: tuple[int, int]) -> None:
    port, pid = listener
    result = run(instances=[{"name": "a", "port": port}])
    (finding,) = findings(result, "port[a]")
    assert finding["cause"] == f"port {port} is taken by another program"
    assert f"(pid {pid}, user " in finding["evidence"]
    assert "python" in finding["evidence"]
    assert finding["fix"] == "stop that program, or give instance a another port"
    assert SECRET not in json.dumps(result)
    assert result["ok"] is False
    assert result["changed"] is False


def test_fail_tells_all_problems_in_one_message(listener: tuple[int, int], tmp_path: Path) -> None:
    result = run(
        instances=[{"name": "a", "port": listener[0], "model_source": "path", "model_path": f"{tmp_path}/none"}],
        disk=[{"path": str(tmp_path / "new"), "need_bytes": 2**60, "for": "the model"}],
        supported={"templeos": [5.03]},
        fail=True,
    )
    assert result["failed"] is True
    lines = result["msg"].splitlines()
    assert lines[0] == "this host cannot be used as planned; nothing was changed:"
    told = [line.split(": ")[0] for line in lines[1:]]
    assert [check for check in told if check in ("distribution", "port[a]", "model[a]", f"disk[{tmp_path}/new]")] == [
        "distribution", "port[a]", "model[a]", f"disk[{tmp_path}/new]",
    ]  # fmt: skip
    assert "templeos 5.03" in result["msg"]


def test_a_port_that_was_given_back_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert findings(run(instances=[{"name": "a", "port": port}]), "port[a]")[0]["ok"] is True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_small_for_the_sum(small_disk: Path) -> None:
    disk = [{"path": f"{small_disk}/{name}", "need_bytes": 3 * 2**20, "for": name} for name in ("one", "two")]
    (finding,) = findings(run(disk=disk), f"disk[{small_disk}/one, {small_disk}/two]")
    assert finding["cause"] == "6.0 MiB wanted (3.0 MiB for one, 3.0 MiB for two), 2.0 MiB more than is free"
    assert finding["evidence"] == f"4.0 MiB of 4.0 MiB free on {small_disk}"
    assert findings(run(disk=disk[:1]), f"disk[{small_disk}/one]")[0]["ok"] is True
    (small_disk / "two").mkdir()
    disk[1]["unless"] = f"{small_disk}/two"
    assert findings(run(disk=disk), f"disk[{small_disk}/one]")[0]["ok"] is True


def test_bad_options_are_told_without_a_traceback() -> None:
    result = run(instances=[{"name": "a", "port": 1, "model_source": "path"}])
    assert "model_path" in result["msg"]
    assert run(stage="moon")["msg"].startswith("value of stage must be one of: host")


def test_an_interpreter_is_asked_for_its_version(tmp_path: Path) -> None:
    (finding,) = findings(run(python=str(tmp_path / "python")), "python")
    assert finding["evidence"] == f"{tmp_path}/python: not there"
    (finding,) = findings(run(python=sys.executable), "python")
    assert ".".join(map(str, sys.version_info[:3])) in finding["evidence"]
