# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of the containers: named by what it is made of, pinned, and ours alone to remove."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _compose_image as images
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done

BASE = "debian:trixie-slim@sha256:" + "a" * 64
BUILD = images.Build(base=BASE, containerfile="FROM x\n", lock_sha256="0" * 64, packages=("python3",), lock="vllm==1\n")


class Docker:
    """Answers by the words after `docker`; the first that fits counts."""

    def __init__(self, answers: Mapping[tuple[str, ...], Done]) -> None:
        self.answers, self.commands = answers, list[list[str]]()

    def __call__(self, command: Sequence[str], **_options: Any) -> Done:
        self.commands.append(list(command))
        for words, done in self.answers.items():
            if tuple(command[1 : 1 + len(words)]) == words:
                return done
        return Done(1, "", "Error: No such image")

    def did(self, *words: str) -> bool:
        return any(tuple(command[1 : 1 + len(words)]) == words for command in self.commands)


@pytest.mark.parametrize(
    "change",
    [
        {"base": BASE.replace("a", "b")},
        {"containerfile": "FROM y\n"},
        {"lock_sha256": "1" * 64},
        {"packages": ("python3", "gcc")},
        {"compile": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_content_decides_the_name(change: dict[str, Any]) -> None:
    assert images.tag("0.32.0", BUILD) == images.tag("0.32.0", BUILD)
    assert images.tag("0.32.0", replace(BUILD, **change)) != images.tag("0.32.0", BUILD)
    assert images.tag("0.32.0", BUILD).startswith("localhost/steadfast-vllm:0.32.0-")


def test_a_compiler_that_hangs_fails_no_build(tmp_path: Path) -> None:
    wheels = tmp_path / "lib/python3.12/site-packages/nvidia/cu13"
    (wheels / "bin").mkdir(parents=True)
    (wheels / "bin/nvcc").write_text("#!/bin/sh\nexec sleep 60\n")
    (wheels / "bin/nvcc").chmod(0o755)
    script = images.toolkit_script()
    assert "timeout=300" in script
    script = script.replace("timeout=300", "timeout=0.2")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "unusable: its nvcc does not run here" in done.stdout


def test_where_parts_come_from_does_not() -> None:
    elsewhere = replace(BUILD, uv_config="/etc/uv/uv.toml", wheels="/srv/wheels", environment={"http_proxy": "x"})
    assert images.tag("0.32.0", elsewhere) == images.tag("0.32.0", BUILD)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("26.1.5+dfsg1", (26, 1, 5)),
        ("2.26.1-4\n", (2, 26, 1)),
        ("github.com/docker/buildx 0.13.1+ds1", (0, 13, 1)),
        ("v2.17", (2, 17)),
        ("nothing", ()),
    ],
)
def test_versions(text: str, expected: tuple[int, ...]) -> None:
    assert images.version_of(text) == expected


GOOD = {
    ("version",): Done(0, "26.1.5+dfsg1"),
    ("compose", "version"): Done(0, "2.26.1-4"),
    ("buildx", "version"): Done(0, "github.com/docker/buildx 0.13.1+ds1"),
}


@pytest.mark.parametrize(
    ("answers", "build", "missing"),
    [
        (GOOD, True, []),
        ({}, True, ["Docker Engine", "Docker Compose", "Docker Buildx"]),
        ({}, False, ["Docker Engine", "Docker Compose"]),
        ({**GOOD, ("buildx", "version"): Done(1, "", "unknown command")}, True, ["Docker Buildx"]),
        ({**GOOD, ("buildx", "version"): Done(1, "", "unknown command")}, False, []),
        ({**GOOD, ("version",): Done(1, "", "Cannot connect to the Docker daemon")}, False, ["Docker Engine"]),
    ],
)
def test_what_of_docker_is_missing(answers: dict[tuple[str, ...], Done], build: bool, missing: list[str]) -> None:
    assert images.Engine(Docker(answers)).missing(build) == missing


def test_a_docker_that_is_too_old_is_refused() -> None:
    with pytest.raises(images.Problem, match=r"Docker Engine 20\.10\.24 is too old: 23\.0 or later"):
        images.Engine(Docker({**GOOD, ("version",): Done(0, "20.10.24+dfsg1")})).missing(True)


def test_a_base_that_was_loaded_is_known_by_its_identifier() -> None:
    docker = Docker({("image", "inspect", "--format", "{{.Id}}", "debian:trixie-slim"): Done(0, "sha256:" + "a" * 64)})
    assert images.Engine(docker).pinned(BASE) == "debian:trixie-slim"
    assert not docker.did("pull")


def test_a_tag_that_moved_on_is_not_taken_for_the_pinned_base() -> None:
    docker = Docker({("image", "inspect", "--format", "{{.Id}}", "debian:trixie-slim"): Done(0, "sha256:" + "b" * 64)})
    with pytest.raises(images.Problem, match="service_compose_base"):
        images.Engine(docker).pinned(BASE)
    assert docker.did("pull", "--quiet", BASE)


def test_the_build_is_told_where_its_parts_are() -> None:
    build = replace(
        BUILD, wheels="/srv/wheels", uv_config="/etc/uv.toml", environment={"https_proxy": "http://p", "TOKEN": "t"}
    )
    command = images.build_command("docker", "/tmp/x", "our:1", BASE, build)
    assert command[:4] == ["docker", "buildx", "build", "--load"]
    pairs = list(zip(command, command[1:]))
    for pair in (
        ("--tag", "our:1"),
        ("--build-arg", f"BASE={BASE}"),
        ("--build-arg", "PACKAGES=python3"),
        ("--build-arg", "https_proxy"),
        ("--build-context", "tools=/tmp/x/tools"),
        ("--build-context", "packages=/srv/wheels"),
        ("--secret", "id=uv.toml,src=/etc/uv.toml"),
    ):
        assert pair in pairs, pair
    assert not [word for word in command if "http://p" in word or "TOKEN" in word], (
        "values stay out of the process list"
    )
    plain = images.build_command("docker", "/tmp/x", "our:1", BASE, BUILD)
    assert not [word for word in plain if "packages=" in word or word == "--secret"]


def test_a_build_that_fails_is_told_with_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "uv").touch()
    docker = Docker(
        {("image", "inspect"): Done(0, "sha256:" + "a" * 64), ("buildx", "build"): Done(1, "", "no space\n")}
    )
    with pytest.raises(images.Problem, match=r"could not be built, and nothing else was changed:\nno space"):
        images.Engine(docker).build("our:1", replace(BUILD, uv=str(tmp_path / "uv")))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(1, ["c", "b", "a"]), (2, ["b", "a"]), (3, ["a"]), (4, []), (9, [])],
)
def test_the_oldest_images_go(keep: int, expected: list[str]) -> None:
    found = [{"name": name, "created": f"2026-11-2{number}"} for number, name in enumerate("abcd")]
    assert images.superseded(found, "d", keep) == expected


def test_the_current_image_stays_however_old() -> None:
    found = [{"name": name, "created": f"2026-11-2{number}"} for number, name in enumerate("abcd")]
    assert images.superseded(found, "a", 2) == ["c", "b"]


@pytest.mark.parametrize("text", ["", "{}", '{"features": {"x": true}, "live-restore": true}'])
def test_daemon_json_is_merged(text: str) -> None:
    before = json.loads(text or "{}")
    after = json.loads(images.with_cdi(text))
    assert after == {**before, "features": {**before.get("features", {}), "cdi": True}}


@pytest.mark.parametrize("text", ["[]", '{"features": []}', "{"])
def test_a_daemon_json_that_is_none_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        images.with_cdi(text)


def test_docker_is_not_restarted_under_containers() -> None:
    docker = Docker({("ps",): Done(0, "9e2993bc55f1\n")})
    with pytest.raises(images.Problem, match="containers run here"):
        images.Engine(docker).switch_cdi_on()
    assert len(docker.commands) == 1


def test_an_image_s_own_python_can_make_its_toolkit(tmp_path: Path) -> None:
    """The text is run as it is, without this collection: it must not need it."""
    script = tmp_path / "toolkit.py"
    script.write_text(images.toolkit_script(), encoding="utf-8")
    done = subprocess.run(
        ["/usr/bin/python3", "-I", str(script), str(tmp_path)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "CUDA toolkit: none\n", "")
    wheels = tmp_path / "lib/python3.12/site-packages/nvidia/cu13/bin"
    wheels.mkdir(parents=True)
    (wheels / "nvcc").write_text("#!/bin/sh\necho release 13.5, V13.5.37\n")
    (wheels / "nvcc").chmod(0o755)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("CUDA toolkit: 13.5, unusable: the headers of the CUDA runtime are missing")
