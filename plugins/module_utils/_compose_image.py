# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine and the image that containers of an instance run (private to this collection, runs on the host).

An image is named by what it is made of, so one that is there is right, and a run that finds it builds nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _toolkit
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done, Runner

REPOSITORY = "localhost/steadfast-vllm"
LABEL = "steadfast.vllm.image"
# Compose before it waits wrongly for health and knows no `driver: cdi`; BuildKit's named contexts want buildx 0.8.
LEAST = {"Docker Engine": (23, 0), "Docker Compose": (2, 17), "Docker Buildx": (0, 8)}
# Behind the text of _toolkit in an image's build, where no module is: makes the toolkit of the release that is named.
# What is wrong with it is said, and fails nothing: a server that compiles nothing runs without.
MAKE_TOOLKIT = """

if __name__ == "__main__":
    import subprocess
    import sys

    def run(command):
        try:
            done = subprocess.run(list(command), capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"no answer within {error.timeout:g} s") from None
        return done.returncode, done.stderr + done.stdout

    made = assemble(Path(sys.argv[1]), run)
    print(f"CUDA toolkit: {made.version or 'none'}{made.problem and f', unusable: {made.problem}'}")
"""
DAEMON_FILE = Path("/etc/docker/daemon.json")


class Problem(Exception):
    """What cannot go on, in words for the user."""


@dataclass(frozen=True)
class Build:
    """What an image of our own is made of, and where its parts lie on the host."""

    base: str
    containerfile: str
    lock_sha256: str
    packages: tuple[str, ...]
    compile: bool = True
    lock: str = ""
    uv: str = "/usr/local/bin/uv"
    uv_config: str = ""
    wheels: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def tag(version: str, build: Build) -> str:
    """The image's name: vLLM's version and a digest of all that decides its content."""
    parts = [build.base, build.containerfile, build.lock_sha256, *build.packages, str(build.compile)]
    parts.append(toolkit_script())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{REPOSITORY}:{version}-{digest[:12]}"


def toolkit_script() -> str:
    """What an image's build runs with its own Python to make the CUDA toolkit of its release."""
    return inspect.getsource(_toolkit) + MAKE_TOOLKIT


def version_of(text: str) -> tuple[int, ...]:
    """The first version number in a text; () where there is none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


def split_pin(image: str) -> tuple[str, str]:
    """`name:tag@sha256:...` as (name:tag, sha256:...)."""
    name, _at, digest = image.partition("@")
    return name, digest


def superseded(images: Sequence[Mapping[str, Any]], current: str, keep: int) -> list[str]:
    """Names of our images to remove: all but the current one and the newest others, KEEP in all."""
    others = [image for image in images if image["name"] != current]
    newest_first = sorted(others, key=lambda image: str(image["created"]), reverse=True)
    return [str(image["name"]) for image in newest_first[max(0, keep - 1) :]]


def with_cdi(text: str) -> str:
    """daemon.json with the Container Device Interface switched on, everything else as it was. Raises ValueError."""
    settings = json.loads(text) if text.strip() else {}
    if not isinstance(settings, dict) or not isinstance(settings.get("features", {}), dict):
        raise ValueError("is not a dictionary of settings")
    settings["features"] = {**settings.get("features", {}), "cdi": True}
    return json.dumps(settings, indent=2) + "\n"


class Engine:
    """Docker on this host."""

    def __init__(self, run: Runner, docker: str = "docker") -> None:
        self.run, self.docker = run, docker

    def _ask(self, *words: str, timeout: float = 60) -> Done:
        try:
            return self.run([self.docker, *words], timeout=timeout)
        except (OSError, TimeoutError) as error:
            return Done(127, "", str(error))

    def missing(self, build: bool) -> list[str]:
        """What of the engine is not there or does not answer."""
        asked = {
            "Docker Engine": ("version", "--format", "{{.Server.Version}}"),
            "Docker Compose": ("compose", "version", "--short"),
            **({"Docker Buildx": ("buildx", "version")} if build else {}),
        }
        return [name for name, words in asked.items() if not self._answers(name, *words)]

    def _answers(self, name: str, *words: str) -> bool:
        done = self._ask(*words)
        version = version_of(done.output)
        if done.status or not version:
            return False
        if version < LEAST[name]:
            least = ".".join(map(str, LEAST[name]))
            raise Problem(f"{name} {'.'.join(map(str, version))} is too old: {least} or later is needed")
        return True

    def has(self, image: str) -> str:
        """The image's identifier; "" where it is not on this host."""
        done = self._ask("image", "inspect", "--format", "{{.Id}}", image)
        return done.output.strip() if done.status == 0 else ""

    def load(self, archive: str, image: str) -> None:
        """From an archive, unless it is there."""
        if self.has(image) or (split_pin(image)[1] and self.has(split_pin(image)[0]) == split_pin(image)[1]):
            return
        done = self._ask("load", "--quiet", "--input", archive, timeout=1800)
        if done.status:
            raise Problem(f"service_compose_archive: {archive} cannot be loaded: {_tail(done)}")

    def pull(self, image: str) -> None:
        """From a registry."""
        done = self._ask("pull", "--quiet", image, timeout=7200)
        if done.status:
            raise Problem(f"service_compose_image: {image} cannot be fetched: {_tail(done)}")

    def pinned(self, image: str) -> str:
        """What BuildKit finds a pinned base by: its digest in a registry, or the name of a local image."""
        name, digest = split_pin(image)
        if self.has(name) == digest:
            return name
        if not self.has(image):
            done = self._ask("pull", "--quiet", image, timeout=7200)
            if done.status:
                raise Problem(
                    f"service_compose_base: {image} is neither an image on this host with that identifier nor to be "
                    f"fetched: {_tail(done)}"
                )
        return image

    def build(self, name: str, build: Build) -> None:
        """Raises Problem with the last lines of the build."""
        if not os.path.exists(build.uv):
            raise Problem(f"{build.uv} is not on this host, and the image's environment is made by it: run the role uv")
        base = self.pinned(build.base)
        with tempfile.TemporaryDirectory(prefix="steadfast-image-") as folder:
            context, tools = Path(folder, "context"), Path(folder, "tools")
            context.mkdir()
            tools.mkdir()
            Path(folder, "Containerfile").write_text(build.containerfile, encoding="utf-8")
            (context / "vllm.txt").write_text(build.lock, encoding="utf-8")
            (context / "toolkit.py").write_text(toolkit_script(), encoding="utf-8")
            shutil.copy2(os.path.realpath(build.uv), tools / "uv")
            command = build_command(self.docker, folder, name, base, build)
            done = self._run_build(command, build)
        if done.status:
            raise Problem(f"the image {name} could not be built, and nothing else was changed:\n{_tail(done, 40)}")

    def _run_build(self, command: Sequence[str], build: Build) -> Done:
        variables = {**os.environ, **build.environment, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        try:
            return self.run(command, environment=variables, timeout=7200)
        except (OSError, TimeoutError) as error:
            raise Problem(f"{' '.join(command[:3])}: {error}") from None

    def ours(self) -> list[dict[str, Any]]:
        """The images that were built by us, with their age."""
        done = self._ask("image", "ls", "--filter", f"label={LABEL}", "--format", "{{json .}}")
        rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
        return [
            {"name": f"{row['Repository']}:{row['Tag']}", "created": row.get("CreatedAt", "")}
            for row in rows
            if row.get("Tag") not in (None, "<none>")
        ]

    def remove(self, images: Sequence[str]) -> list[str]:
        """Those that no container uses any more; Docker refuses the others."""
        return [image for image in images if self._ask("image", "rm", image).status == 0]

    def offers_cdi(self) -> bool:
        return "/" in self._ask("info", "--format", "{{json .CDISpecDirs}}").output

    def nvidia_specs(self) -> bool:
        """Whether some CDI file describes NVIDIA's GPUs."""
        found = [path for folder in ("/etc/cdi", "/var/run/cdi") for path in Path(folder).glob("*")]
        return any("nvidia.com/gpu" in path.read_text(encoding="utf-8", errors="replace") for path in found)

    def switch_cdi_on(self) -> None:
        """Merged into daemon.json; Docker is restarted, which stops containers, so only where none runs."""
        if self._ask("ps", "--quiet").output.strip():
            raise Problem(
                f'service_compose_gpus: cdi needs {{"features": {{"cdi": true}}}} in {DAEMON_FILE} and a restart of '
                "Docker, and containers run here: restart it when they may stop, or choose reservation or devices"
            )
        before = DAEMON_FILE.read_text(encoding="utf-8") if DAEMON_FILE.exists() else ""
        try:
            after = with_cdi(before)
        except ValueError as error:
            raise Problem(f"{DAEMON_FILE}: {error}: mend it, then run again") from None
        DAEMON_FILE.parent.mkdir(exist_ok=True)
        staged = DAEMON_FILE.with_suffix(".json.new")
        staged.write_text(after, encoding="utf-8")
        os.replace(staged, DAEMON_FILE)
        done = self.run(["systemctl", "restart", "docker.service"], timeout=120)
        if done.status:
            raise Problem(f"Docker does not start with {DAEMON_FILE}: {_tail(done)}")


def build_command(docker: str, folder: str, name: str, base: str, build: Build) -> list[str]:
    """What docker is told. Pure."""
    arguments = {
        "BASE": base,
        "PACKAGES": " ".join(build.packages),
        "COMPILE": "true" if build.compile else "false",
    }
    command = [docker, "buildx", "build", "--load", "--progress", "plain", "--tag", name]
    command += ["--file", f"{folder}/Containerfile", "--label", f"{LABEL}=1"]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    # Proxies are Docker's own build arguments: they reach the build and leave nothing in the image.
    for key in sorted(build.environment):
        if key.lower() in ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy"):
            command += ["--build-arg", key]
    command += ["--build-context", f"tools={folder}/tools"]
    if build.wheels:
        command += ["--build-context", f"packages={build.wheels}"]
    if build.uv_config:
        command += ["--secret", f"id=uv.toml,src={build.uv_config}"]
    return [*command, f"{folder}/context"]


def _tail(done: Done, lines: int = 5) -> str:
    said = (done.errors.strip() or done.output.strip()).splitlines()
    return "\n".join(said[-lines:]) or f"exit status {done.status}"
