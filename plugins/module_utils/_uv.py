# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs uv, from the package index or from an archive (private to this collection, runs on the host)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.urls import open_url
from ansible_collections.steadfast.vllm.plugins.module_utils import _releases
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner

PROGRAMS = ("uv", "uvx")
MARKER = ".complete.json"


class Problem(Exception):
    """What went wrong, for the reader."""


@dataclass(frozen=True)
class Request:
    """The module's options."""

    version: str
    requirements: str | None
    archive: str | None
    checksum: str | None
    root: str
    links: str
    python: str
    environment: dict[str, str]

    @property
    def digest(self) -> str:
        """Changes with what may be installed, so that an edited hash is not overlooked."""
        return hashlib.sha256((self.checksum or self.requirements or "").encode()).hexdigest()


def expected_checksum(checksum: str) -> str:
    """The digits of "sha256:<digits>". Raises Problem."""
    match = re.fullmatch(r"sha256:([0-9a-fA-F]{64})", checksum.strip())
    if not match:
        raise Problem(f"checksum: {checksum}: expected sha256: and 64 hexadecimal digits")
    return match[1].lower()


class Tool:
    """uv on this host."""

    def __init__(self, request: Request, run: Runner) -> None:
        self.request = request
        self.run = run
        self.root = Path(request.root)
        self.home = self.root / request.version
        self.program = self.home / "bin" / "uv"

    def ensure(self, check_mode: bool) -> dict[str, Any]:
        """Install and link. Returns the module's result."""
        if not re.fullmatch(r"\d+(\.\d+)+", self.request.version):
            raise Problem(f"version: {self.request.version}: expected numbers such as 0.12.11")
        before = self._state()
        after = {"installed": True, **{str(link): str(target) for link, target in self._links()}}
        result: dict[str, Any] = {
            "changed": before != after,
            "program": str(self.program),
            "version": self.request.version,
        }
        if not result["changed"]:
            return result
        result["diff"] = {
            "before_header": str(self.home),
            "after_header": str(self.home),
            "before": json.dumps(before, indent=2) + "\n",
            "after": json.dumps(after, indent=2) + "\n",
        }
        if not check_mode:
            with self._exclusive():
                if not self._installed():
                    self._install()
                for link, target in self._links():
                    _point(link, target)
        return result

    def _links(self) -> list[tuple[Path, Path]]:
        return [(Path(self.request.links) / name, self.home / "bin" / name) for name in PROGRAMS]

    def _state(self) -> dict[str, Any]:
        return {
            "installed": self._installed(),
            **{str(link): os.readlink(link) if link.is_symlink() else "" for link, _target in self._links()},
        }

    def _installed(self) -> bool:
        try:
            marker = json.loads((self.home / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(marker.get("digest") == self.request.digest) and os.access(self.program, os.X_OK)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        os.umask(0o022)
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.lock_descriptor = lock.fileno()
            yield

    def _install(self) -> None:
        if self.home.exists():
            shutil.rmtree(self.home)
        try:
            if self.request.archive:
                self._from_archive(self.request.archive, expected_checksum(self.request.checksum or ""))
            else:
                self._from_index()
            said = self._run([str(self.program), "--version"], "uv --version").split()
            if said[1:2] != [self.request.version]:
                raise Problem(f"version: {self.request.version} was asked for, but what came says {' '.join(said)}")
            marker = {"version": self.request.version, "digest": self.request.digest}
            (self.home / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise

    def _from_index(self) -> None:
        try:
            self._run([self.request.python, "-m", "venv", str(self.home)], "python3 -m venv")
        except Problem as err:
            if "ensurepip" in str(err):
                raise Problem(f"{self.request.python} cannot make virtual environments: install python3-venv") from err
            raise
        lock = self.home / "requirements.txt"
        lock.write_text(self.request.requirements or "", encoding="utf-8")
        pip = [str(self.home / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        self._run(
            [*pip, "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(lock)],
            "pip install",
        )

    def _from_archive(self, archive: str, expected: str) -> None:
        local = archive
        if "://" in archive:
            local = str(self.root / f".download-{expected[:12]}")
            try:
                with open_url(archive, timeout=120) as source, open(local, "wb") as target:
                    shutil.copyfileobj(source, target)
            except OSError as err:
                shown = _releases.redact(archive, {})
                raise Problem(f"archive: {shown}: {_releases.redact(str(err), {'u': archive})}") from err
        try:
            with open(local, "rb") as stream:
                found = _sha256(stream)
            if found != expected:
                raise Problem(
                    f"archive: {_releases.redact(archive, {})}: its checksum is sha256:{found},"
                    f" expected sha256:{expected}. Nothing was installed."
                )
            (self.home / "bin").mkdir(parents=True)
            if zipfile.is_zipfile(local):
                with zipfile.ZipFile(local) as wheel:
                    names = [name for name in wheel.namelist() if "/scripts/uv" in name]
                    self._extract({Path(name).name: wheel.open(name) for name in names})
            elif tarfile.is_tarfile(local):
                with tarfile.open(local) as tarball:
                    files = ((member.name, tarball.extractfile(member)) for member in tarball if member.isfile())
                    self._extract({Path(name).name: stream for name, stream in files if stream})
            else:
                raise Problem(f"archive: {_releases.redact(archive, {})}: neither a wheel nor a tarball")
        finally:
            if local != archive:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(local)

    def _extract(self, streams: dict[str, IO[bytes]]) -> None:
        """Only the programs are taken, by their names, so that no path in an archive leads outside."""
        for name in PROGRAMS:
            if name not in streams:
                raise Problem(f"archive: {_releases.redact(self.request.archive or '', {})}: no {name} in it")
            path = self.home / "bin" / name
            with open(path, "wb") as target:
                shutil.copyfileobj(streams[name], target)
            path.chmod(0o755)

    def _run(self, command: list[str], what: str) -> str:
        variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
        variables.update(self.request.environment)
        try:
            # the lock is held as long as a child of a killed run still writes
            done = self.run(command, environment=variables, held=(self.lock_descriptor,))
        except OSError as err:
            raise Problem(f"{command[0]}: {err.strerror}") from err
        if done.status == 0:
            return done.output
        said = _releases.redact((done.output + done.errors).strip(), self.request.environment)
        if "DO NOT MATCH THE HASHES" in said:
            raise Problem(f"the index served another uv than the one that was locked. Nothing was installed.\n{said}")
        raise Problem(f"{what} failed (exit {done.status}). Nothing was installed.\n{said}")


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _point(link: Path, target: Path) -> None:
    """Point a link at its target in one step. A program that is not ours is left, and said."""
    if link.exists() and not link.is_symlink():
        raise Problem(f"{link}: there is a program of that name that this role did not put there; move it away")
    staged = link.with_name(f".{link.name}.new")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()
    link.parent.mkdir(parents=True, exist_ok=True)
    staged.symlink_to(target)
    os.replace(staged, link)
