# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uv from an archive: a stand-in program in a wheel or a tarball, by file and by loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._uv import Problem, Request, Tool
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

VERSION = "0.12.11"
PROGRAM = f"#!/bin/sh\necho uv {VERSION}\n".encode()


def wheel(path: Path, names: tuple[str, ...] = ("uv", "uvx")) -> Path:
    """A wheel as the index has it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"uv-{VERSION}.data/scripts/{name}", PROGRAM)
        archive.writestr(f"uv-{VERSION}.dist-info/METADATA", "Name: uv\n")
    return path


def tarball(path: Path) -> Path:
    """A tarball as a release has it, with a member that would like to lie elsewhere."""
    with tarfile.open(path, "w:gz") as archive:
        for name in ("uv-x86_64/uv", "uv-x86_64/uvx", "../../evil"):
            member = tarfile.TarInfo(name)
            member.size = len(PROGRAM)
            archive.addfile(member, io.BytesIO(PROGRAM))
    return path


def checksum(path: Path) -> str:
    """As the option takes it."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def tool(root: Path, **options: Any) -> Tool:
    """uv under a root of the test's own."""
    given = {
        "version": VERSION,
        "requirements": None,
        "archive": None,
        "checksum": None,
        "root": str(root / "opt"),
        "links": str(root / "bin"),
        "python": "/usr/bin/python3",
        "environment": {},
        **options,
    }
    return Tool(Request(**given), real_runner())


@pytest.mark.parametrize("make", [wheel, tarball])
def test_an_archive_is_installed_linked_and_then_left_alone(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "archive")
    options = {"archive": str(path), "checksum": checksum(path)}
    expected = tool(tmp_path, **options).ensure(check_mode=True)
    assert expected["changed"] and not (tmp_path / "opt").exists()
    first = tool(tmp_path, **options).ensure(check_mode=False)
    assert first["changed"] and first["diff"] == expected["diff"]
    assert os.readlink(tmp_path / "bin" / "uv") == first["program"]
    path.unlink()  # not needed any more
    assert not tool(tmp_path, **options).ensure(check_mode=False)["changed"]
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("drift", ["bin/uv", "bin/uvx", f"opt/{VERSION}/bin/uv", f"opt/{VERSION}/.complete.json"])
def test_drift_is_mended(tmp_path: Path, drift: str) -> None:
    path = wheel(tmp_path / "uv.whl")
    options = {"archive": str(path), "checksum": checksum(path)}
    tool(tmp_path, **options).ensure(check_mode=False)
    (tmp_path / drift).unlink()
    assert tool(tmp_path, **options).ensure(check_mode=False)["changed"]
    assert not tool(tmp_path, **options).ensure(check_mode=False)["changed"]


def test_another_checksum_names_both_and_installs_nothing(tmp_path: Path) -> None:
    path = wheel(tmp_path / "uv.whl")
    wrong = "sha256:" + "0" * 64
    with pytest.raises(Problem) as caught:
        tool(tmp_path, archive=str(path), checksum=wrong).ensure(check_mode=False)
    assert checksum(path) in str(caught.value) and wrong in str(caught.value)
    assert not (tmp_path / "bin").exists() and not (tmp_path / "opt" / VERSION).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checksum": "md5:123"}, "expected sha256: and 64"),
        ({"version": "latest"}, "version: latest: expected numbers"),
        ({"version": "0.12.12"}, "0.12.12 was asked for, but what came says uv 0.12.11"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, options: dict[str, str], words: str) -> None:
    path = wheel(tmp_path / "uv.whl")
    with pytest.raises(Problem, match=words):
        tool(tmp_path, **{"archive": str(path), "checksum": checksum(path), **options}).ensure(check_mode=False)
    assert not (tmp_path / "bin").exists()


def test_an_archive_without_the_programs_is_named(tmp_path: Path) -> None:
    for path, words in ((wheel(tmp_path / "a.whl", ("uv",)), "no uvx in it"), (tmp_path / "b", "neither a wheel nor")):
        if not path.exists():
            path.write_bytes(b"not an archive")
        with pytest.raises(Problem, match=words):
            tool(tmp_path, archive=str(path), checksum=checksum(path)).ensure(check_mode=False)


def test_a_program_that_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    path = wheel(tmp_path / "uv.whl")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text("mine", encoding="utf-8")
    with pytest.raises(Problem, match="move it away"):
        tool(tmp_path, archive=str(path), checksum=checksum(path)).ensure(check_mode=False)
    assert (tmp_path / "bin" / "uv").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The folder over HTTP on the loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_archive_comes_by_url_and_its_password_is_not_told(tmp_path: Path, server: str) -> None:
    path = wheel(tmp_path / "uv.whl")
    assert tool(tmp_path, archive=f"http://{server}/uv.whl", checksum=checksum(path)).ensure(check_mode=False)[
        "changed"
    ]
    assert not list((tmp_path / "opt").glob(".download-*"))
    with pytest.raises(Problem) as caught:
        tool(tmp_path / "2", archive=f"http://me:s3cret@{server}/none", checksum=checksum(path)).ensure(
            check_mode=False
        )
    assert "404" in str(caught.value) and "s3cret" not in str(caught.value)
