# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm_found_info and vllm_takeover against real processes of this machine. The server is a stand-in (tests/standin).

tmux, screen and units take a host of the lab: tests/lab/test_adopt_in_lab.py.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_look

STANDIN = Path(__file__).parents[1] / "standin"
KEY = "S3CRET-of-the-server"
USER = "nobody"
MODULES = "ansible_collections.steadfast.vllm.plugins.modules."

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees and ends other users' processes")


def module(name: str, *, check: bool = False, **options: object) -> dict[str, t.Any]:
    """A module in a process of its own, as Ansible runs it."""
    arguments = {"_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp", **options}
    done = subprocess.run(
        [sys.executable, "-m", MODULES + name],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "_ANSIBLE_MODULE_PROFILE": "legacy"},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(true: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


def processes(marker: str) -> list[int]:
    """Those that have a folder of this test in their command line or as their working directory."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            folder = Path("/proc", name)
            if name.isdecimal() and int(name) != os.getpid():
                text = (folder / "cmdline").read_bytes().decode(errors="replace") + os.readlink(folder / "cwd")
                if marker in text and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(name))
    return found


class Place:
    """A folder with a stand-in and a model; ends everything that runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        # Named as nothing else on this machine, whose other servers are found too.
        self.model = folder / f"m{self.port}"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.model / "model.safetensors").write_text("x")
        shutil.copytree(STANDIN, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        folder.chmod(0o755)

    @property
    def variable(self) -> str:
        """Where the inventory is to keep the server's key."""
        return f"vault_{self.model.name}_api_key"

    def command(self, *options: str) -> list[str]:
        return [str(self.folder / "vllm"), "serve", str(self.model), "--port", str(self.port), *options]

    def start(self, command: list[str], **more: t.Any) -> None:
        """As nohup starts it: nobody's child, without a terminal."""
        subprocess.Popen(
            ["setsid", "-f", "nohup", *command], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, **more,
        ).wait()  # fmt: skip
        assert until(lambda: answers(self.port)), "the stand-in did not start"

    def find(self, **options: object) -> dict[str, t.Any]:
        told = module("vllm_found_info", service_user=USER, manifest_directory=str(self.folder / "no"), **options)
        assert KEY not in json.dumps(told)
        (server,) = [server for server in told["servers"] if server["directory"] == str(self.folder)]
        return t.cast("dict[str, t.Any]", server)

    def take(self, stage: str, *, check: bool = False, **options: object) -> dict[str, t.Any]:
        told = module(
            "vllm_takeover", check=check, identity=self.find()["identity"], stage=stage, service_user=USER,
            manifest_directory=str(self.folder / "no"), **{"drain_timeout": 10, **options},
        )  # fmt: skip
        assert KEY not in json.dumps({**told, "invocation": None})
        return told


@pytest.fixture
def place() -> Iterator[Place]:
    # Not one of pytest's: those are private, and whenever another pytest starts, it makes them so again.
    shown = Path(tempfile.mkdtemp(prefix="steadfast-adopt-"))
    yield Place(shown)
    for pid in processes(str(shown)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(shown, ignore_errors=True)


def test_a_server_under_nohup(place: Place) -> None:
    place.start(
        place.command("--api-key", KEY, "--enforce-eager"),
        env={"PATH": os.environ["PATH"], "VLLM_LOGGING_LEVEL": "DEBUG"},
    )
    found = place.find()
    assert found["problems"] == []
    assert found["started"] == "in the background with nohup"
    assert found["entry"] == {
        "name": place.model.name,
        "model": str(place.model),
        "port": place.port,
        "tensor_parallel_size": 1,
        "max_model_len": 2048,  # told by the server itself, which wants its key
        "gpu_memory_utilization": 0.92,
        "api_key": f"{{{{ {place.variable} }}}}",
        "extra_args": {"enforce-eager": True},
        "env": {"VLLM_LOGGING_LEVEL": "DEBUG"},
    }
    assert found["command"][-3:] == ["--api-key", "****", "--enforce-eager"]


def test_secrets_are_compared_before_anything_else(place: Place, tmp_path: Path) -> None:
    place.start(place.command("--api-key", KEY))
    assert f"{place.variable}: not in the inventory" in place.take("secrets")["msg"]
    wrong = place.take("secrets", secrets={place.variable: "another"})
    assert "is not what the running server has" in wrong["msg"]
    assert place.take("secrets", secrets={place.variable: KEY})["changed"] is False
    kept = tmp_path / "secrets.yml"
    assert place.take("secrets", check=True, secrets_file=str(kept))["changed"] is True
    assert not kept.exists()
    assert place.take("secrets", secrets_file=str(kept))["changed"] is True
    assert place.take("secrets", secrets_file=str(kept))["changed"] is False
    assert kept.stat().st_mode & 0o777 == 0o600
    assert f'{place.variable}: !unsafe "{KEY}"' in kept.read_text()
    assert answers(place.port)


def ask(place: Place, tokens: int, answers_: list[str]) -> threading.Thread:
    """Asks for a completion in a thread and keeps its finish_reason. Returns when the server has it."""

    def request() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": tokens}))
        answers_.append(json.loads(connection.getresponse().read())["choices"][0]["finish_reason"])

    asking = threading.Thread(target=request)
    asking.start()
    assert until(lambda: _adopt_look.requests("127.0.0.1", place.port)), "the request did not come to the server"
    return asking


@pytest.mark.parametrize("options", [["--shutdown-timeout", "20"], []], ids=["told-to-finish", "aborts-at-sigterm"])
def test_it_finishes_its_answer_and_leaves_nothing(place: Place, options: list[str]) -> None:
    place.start(place.command(*options), env={**os.environ, "STANDIN_LEAVE_ENGINE": "1", "STANDIN_STEP_SECONDS": "0.2"})
    assert place.take("stop", check=True)["changed"] is True
    assert answers(place.port)
    reasons: list[str] = []
    asking = ask(place, 40, reasons)  # eight seconds
    told = place.take("stop")
    asking.join()
    assert told.get("msg") is None, told
    assert reasons == ["length"]
    assert "drained and ended in" in told["did"][0]
    assert "killed what was left of it" in told["did"][1]  # the engine
    assert not answers(place.port)
    assert processes(str(place.folder)) == []


def test_a_server_that_is_never_without_requests_is_ended_in_bounded_time(place: Place) -> None:
    place.start(place.command(), env={**os.environ, "STANDIN_STEP_SECONDS": "0.2"})
    reasons: list[str] = []
    asking = ask(place, 200, reasons)
    told = place.take("stop", drain_timeout=1)
    asking.join()
    assert told.get("msg") is None, told
    assert reasons == ["abort"]
    assert "was never without requests for 1 s: 1 cut off" in told["did"][0]
    assert processes(str(place.folder)) == []


def test_a_script_that_starts_it_again_is_ended_too(place: Place) -> None:
    line = " ".join(place.command())
    script = place.folder / "forever.sh"
    script.write_text(f"while :; do {line}; sleep 0.2; done\n")
    place.start(["bash", str(script)])
    told = place.take("stop")
    assert any("ended bash" in line for line in told["did"]), told
    assert not answers(place.port)
    assert processes(str(place.folder)) == []


def test_another_process_of_that_number_is_left_alone(place: Place) -> None:
    place.start(place.command())
    pid = place.find()["pid"]
    told = module("vllm_takeover", identity=f"{pid}:1", stage="stop", service_user=USER)
    assert told["changed"] is False
    assert answers(place.port)
    assert "has gone since" in module("vllm_takeover", identity=f"{pid}:1", stage="prepare", service_user=USER)["msg"]


def test_what_cannot_be_taken_over_is_not_stopped(place: Place) -> None:
    place.model.chmod(0o700)
    place.start(place.command())
    (problem,) = place.find()["problems"]
    assert problem.startswith(f"model {place.model}: user {USER} cannot read {place.model}: chmod -R o+rX")
    assert problem.split(": ", 1)[1] in place.take("stop")["msg"]
    assert answers(place.port)


def test_a_configuration_file_is_merged(place: Place) -> None:
    (place.folder / "c.yaml").write_text("dtype: float32\nmax-num-seqs: 4\n")
    place.start(place.command("--config", "c.yaml", "--max-num-seqs", "8"))
    assert place.find()["entry"]["extra_args"] == {"dtype": "float32", "max-num-seqs": 8}
    (place.folder / "c.yaml").unlink()
    assert "--config c.yaml: cannot be read" in place.find()["problems"][0]


def test_a_model_in_a_hub_s_cache_is_linked_and_not_fetched(place: Place) -> None:
    commit = "c" * 40
    cache = place.folder / "hub" / "models--org--tiny"
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    (cache / "blobs").mkdir()
    for name, private in (("config.json", False), ("model.safetensors", False), ("tokenizer.json", True)):
        blob = cache / "blobs" / f"blob-{name}"
        blob.write_text("{}")
        blob.chmod(0o600 if private else 0o644)
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    place.folder.joinpath("hub").chmod(0o700)  # its user's alone
    command = [str(place.folder / "vllm"), "serve", "org/tiny", "--port", str(place.port)]
    place.start(command, env={**os.environ, "HF_HUB_CACHE": str(place.folder / "hub")})
    found = place.find()
    assert found["problems"] == []
    assert (found["entry"]["model"], found["entry"]["revision"]) == ("org/tiny", commit)
    root = place.folder / "models"
    assert place.take("prepare", check=True, model_root=str(root))["changed"] is True
    assert not root.exists()
    told = place.take("prepare", model_root=str(root))
    assert "nothing fetched" in told["did"][0]
    model = root / "org--tiny" / commit
    assert (model / "model.safetensors").stat().st_ino == (cache / "blobs" / "blob-model.safetensors").stat().st_ino
    # What its user alone may read had to be copied.
    assert (model / "tokenizer.json").stat().st_ino != (cache / "blobs" / "blob-tokenizer.json").stat().st_ino
    readable = subprocess.run(["setpriv", f"--reuid={USER}", "--clear-groups", "cat", str(model / "tokenizer.json")],
                              check=False, capture_output=True)  # fmt: skip
    assert readable.stdout == b"{}"
    assert place.take("prepare", model_root=str(root))["changed"] is False
    # As role vllm asks whether it has to fetch.
    from ansible_collections.steadfast.vllm.plugins.module_utils import _hub_fetch

    assert _hub_fetch.state(model, "org/tiny") == commit
