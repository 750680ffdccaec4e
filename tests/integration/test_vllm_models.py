# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm_models against a hub on the loopback, with the huggingface_hub that vLLM's lock pins."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _models
from ansible_collections.steadfast.vllm.plugins.module_utils._models import Models, Problem, Request
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

HERE = Path(__file__).parent
TOP = HERE.parents[1]
USER = "nobody"  # stands in for the service's user: what is fetched must belong to it, not to root
TOKEN = "hf_verysecrettoken"
COMMIT = "a" * 40
MOVED = "b" * 40


class FakeHub:
    """As much of the hub's HTTP interface as a fetch uses."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {
            COMMIT: {
                "config.json": b'{"architectures": ["Tiny"]}',
                "model.safetensors": b"w" * 300_000,
                "notes.md": b"x",
            }
        }
        self.branches = {"main": COMMIT}
        self.token = ""
        self.requests: list[str] = []
        self.break_after: int | None = None
        self.sizes: dict[str, int] = {}  # what the hub claims, where that is not the truth
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(request, 401, b"Unauthorized", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/org/tiny/revision/"):
            self._describe(request, path.rsplit("/", 1)[1])
        elif path.startswith("/api/models/org/tiny/tree/"):
            self._list(request, path.rsplit("/", 1)[1])
        elif path.startswith("/org/tiny/resolve/"):
            self._file(request, *path.removeprefix("/org/tiny/resolve/").split("/", 1))
        else:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def _describe(self, request: BaseHTTPRequestHandler, revision: str) -> None:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [
            {
                "rfilename": name,
                "size": self.sizes.get(name, len(content)),
                "blobId": hashlib.sha256(content).hexdigest(),
            }
            for name, content in self.commits[commit].items()
        ]
        answer = {
            "id": "org/tiny",
            "modelId": "org/tiny",
            "sha": commit,
            "siblings": siblings,
            "private": False,
            "tags": [],
        }
        self._send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _list(self, request: BaseHTTPRequestHandler, commit: str) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha256(content).hexdigest()[:40]}
            for name, content in self.commits.get(commit, {}).items()
        ]
        self._send(request, 200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, request: BaseHTTPRequestHandler, commit: str, name: str) -> None:
        content = self.commits.get(commit, {}).get(name)
        if content is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        status, start = 200, 0
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes=") and request.command == "GET":
            status, start = 206, int(wanted[6:].split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(request, status, content[start:], headers)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        if self.break_after is not None and len(body) > self.break_after:
            request.wfile.write(body[: self.break_after])
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(body)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the service's user can look into; pytest's own are for root only."""
    with tempfile.TemporaryDirectory(prefix="steadfast-models-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def environment(folder: Path) -> Path:
    """An environment with the hub's client, made by our own module as vLLM's is."""
    root = folder / "environment"
    answer = run(
        "locked_environment",
        root=str(root),
        lock_file=str(TOP / "roles" / "vllm" / "files" / "huggingface-hub.txt"),
        package="huggingface_hub",
        uv=shutil.which("uv"),
    )
    assert "msg" not in answer, answer["msg"]
    return root / "current" / "bin" / "python"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub that ends with the test."""
    hub = FakeHub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def models(folder: Path) -> Path:
    """A folder for models, as role vllm makes it."""
    root = Path(tempfile.mkdtemp(prefix="models-", dir=folder))
    root.chmod(0o755)
    os.chown(root, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    return root


def run(name: str, *flags: str, **arguments: Any) -> dict[str, Any]:
    """One module on this machine. Its result, with what was printed under "printed"."""
    done = subprocess.run(
        [
            "ansible",
            "localhost",
            *("--inventory", "localhost,", "--connection", "local"),
            *("--extra-vars", "ansible_python_interpreter=/usr/bin/python3"),
            *("--module-name", f"steadfast.vllm.{name}", "--args", json.dumps(arguments), "--one-line", *flags),
        ],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if " => {" in line]
    assert lines, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(lines[-1].split(" => ", 1)[1])
    result["printed"] = done.stdout + done.stderr
    return result


def have(hub: FakeHub, root: Path, python: Path, check_mode: bool = False, **given: Any) -> dict[str, Any]:
    """Ask for org/tiny as the module does, without Ansible around it."""
    options = request(hub, root, python, **given)
    made = Request(**{"ignore": [], "token": "", "environment": {}, **options})
    return Models(made, real_runner()).ensure(check_mode)


def request(hub: FakeHub, root: Path, python: Path, revision: str | None = None, **given: Any) -> dict[str, Any]:
    """The options that ask for org/tiny."""
    path = root / "org--tiny" / (revision or "main")
    model = {"path": str(path), "source": "hub", "model": "org/tiny", "revision": revision}
    return {"models": [model], "python": str(python), "user": USER, "endpoint": hub.address, **given}


def test_a_model_comes_whole_belongs_to_the_user_and_is_not_asked_for_again(
    hub: FakeHub, models: Path, environment: Path
) -> None:
    expected = have(hub, models, environment, check_mode=True)
    assert expected["changed"] and hub.requests == [] and not (models / "org--tiny").exists()

    first = have(hub, models, environment)
    path = models / "org--tiny" / "main"
    assert first["changed"] and first["commits"] == {str(path): COMMIT}
    assert path.is_symlink() and (path / "model.safetensors").read_bytes() == b"w" * 300_000
    assert not (path / ".cache").exists() and not list(path.parent.glob(".partial-*"))
    assert (path / "config.json").owner() == USER

    hub.requests.clear()
    hub.branches["main"] = MOVED  # a branch that moves is not followed
    again = have(hub, models, environment)
    assert not again["changed"] and again["commits"] == {str(path): COMMIT} and hub.requests == []


def test_a_truncated_file_is_noticed_and_fetched_again(hub: FakeHub, models: Path, environment: Path) -> None:
    have(hub, models, environment)
    path = models / "org--tiny" / "main"
    (path / "model.safetensors").write_bytes(b"short")
    assert have(hub, models, environment, check_mode=True)["changed"]
    assert have(hub, models, environment)["changed"]
    assert (path / "model.safetensors").stat().st_size == 300_000


def test_an_interrupted_fetch_publishes_nothing_and_goes_on(hub: FakeHub, models: Path, environment: Path) -> None:
    hub.break_after = 100_000
    with pytest.raises(Problem, match="org/tiny"):
        have(hub, models, environment, environment={"HF_HUB_DOWNLOAD_TIMEOUT": "2"})
    path = models / "org--tiny" / "main"
    assert not path.exists()
    hub.break_after = None
    assert have(hub, models, environment)["changed"]
    assert (path / "model.safetensors").read_bytes() == b"w" * 300_000


def test_another_revision_lies_beside_the_first(hub: FakeHub, models: Path, environment: Path) -> None:
    hub.commits[MOVED] = {"config.json": b"{}"}
    have(hub, models, environment)
    result = have(hub, models, environment, revision=MOVED)
    assert result["commits"] == {str(models / "org--tiny" / MOVED): MOVED}
    assert (models / "org--tiny" / "main" / "model.safetensors").exists()


def test_files_can_be_left_out(hub: FakeHub, models: Path, environment: Path) -> None:
    have(hub, models, environment, ignore=["*.md"])
    assert sorted(path.name for path in (models / "org--tiny" / "main").iterdir() if path.name[0] != ".") == [
        "config.json",
        "model.safetensors",
    ]


def test_the_token_opens_the_hub_and_is_never_shown(hub: FakeHub, models: Path, environment: Path) -> None:
    hub.token = TOKEN
    refused = run("vllm_models", "-vvv", **request(hub, models, environment, token="hf_wrong_and_long"))
    assert "vllm_hub_token" in refused["msg"] and "hf_wrong_and_long" not in refused["printed"]
    fetched = run("vllm_models", "-vvv", **request(hub, models, environment, token=TOKEN))
    assert fetched["changed"] and TOKEN not in fetched["printed"]


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(
    hub: FakeHub, models: Path, environment: Path
) -> None:
    hub.sizes["model.safetensors"] = 10**16
    with pytest.raises(Problem, match=r"org/tiny .* free .*Nothing was fetched"):
        have(hub, models, environment)
    assert not [request for request in hub.requests if "resolve" in request]


@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [("org/tiny", "nosuch", "no revision nosuch"), ("org/none", None, "no such model on the hub")],
)
def test_what_the_hub_does_not_have_is_named(
    hub: FakeHub, models: Path, environment: Path, model: str, revision: str | None, words: str
) -> None:
    wanted = {"path": str(models / "x" / "main"), "source": "hub", "model": model, "revision": revision}
    with pytest.raises(Problem, match=words):
        have(hub, models, environment, models=[wanted])


def test_a_model_given_by_path_is_only_checked(hub: FakeHub, models: Path, environment: Path) -> None:
    mine: dict[str, Any] = {"models": [{"path": str(models / "mine"), "source": "path"}]}
    with pytest.raises(Problem, match="is not on the host"):
        have(hub, models, environment, **mine)
    (models / "mine").mkdir()
    with pytest.raises(Problem, match=r"config\.json"):
        have(hub, models, environment, **mine)
    (models / "mine" / "config.json").write_text("{}", encoding="utf-8")
    assert have(hub, models, environment, **mine)["changed"] is False
    assert hub.requests == []


def test_the_models_folder_is_made_for_the_user_where_only_root_may(
    hub: FakeHub, folder: Path, environment: Path
) -> None:
    root = Path(tempfile.mkdtemp(prefix="srv-", dir=folder)) / "models"
    root.parent.chmod(0o755)
    assert have(hub, root, environment)["changed"]
    assert root.owner() == USER and (root / "org--tiny" / "main" / "config.json").exists()


def test_a_folder_that_the_user_may_not_write_is_named(hub: FakeHub, folder: Path, environment: Path) -> None:
    root = Path(tempfile.mkdtemp(prefix="closed-", dir=folder))
    root.chmod(0o755)
    with pytest.raises(Problem, match="the service's user may not write there"):
        have(hub, root, environment)


def test_what_fetches_is_the_user_in_all_and_cannot_become_root_again() -> None:
    account = pwd.getpwnam(USER)
    code = """
import json, os
try:
    os.setuid(0)
except PermissionError:
    print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups()]))
"""
    done = real_runner()([*_models.as_user(account), "/usr/bin/python3", "-I", "-c", code])
    groups = sorted(os.getgrouplist(USER, account.pw_gid))
    assert json.loads(done.output) == [[account.pw_uid] * 3, [account.pw_gid] * 3, groups], done.errors


def test_a_python_that_the_user_may_not_run_is_named(hub: FakeHub, models: Path, folder: Path) -> None:
    closed = Path(tempfile.mkdtemp(prefix="rootonly-", dir=folder)) / "python"
    shutil.copy("/bin/true", closed)
    with pytest.raises(Problem, match=rf"status 1 and no answer\. {closed} as user \d+: Permission denied"):
        have(hub, models, closed)
