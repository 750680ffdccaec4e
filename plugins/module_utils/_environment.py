# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, switches and prunes the releases of a locked environment (private to this collection, runs on the host)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _releases, _toolkit
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner

# Written last: a release without it is half a release.
MARKER = ".complete.json"
LOCK_WAIT = 1800.0
TOOL_SECONDS = 300.0


class Problem(Exception):
    """What went wrong, for the reader; `facts` go into the result beside the message."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass(frozen=True)
class Request:
    """What the action plugin asks for."""

    root: str
    lock_file: str
    package: str
    python: str
    python_fallback: str
    keep: int
    uv: str
    need_bytes: int | None
    allow_builds: bool
    compile_bytecode: bool
    # from the lock, read on the controller
    version: str
    digest: str
    pins: int
    requires_python: str
    environment: dict[str, str]
    lock: str | None


@dataclass(frozen=True)
class Python:
    """The Python that a release gets."""

    wanted: str  # path or version, as uv takes it
    tag: str  # cpython-3.11
    managed: bool


class Environment:
    """The releases under one root."""

    def __init__(self, request: Request, run: Runner) -> None:
        self.request = request
        self.run = run
        self.root = Path(request.root)
        self.releases = self.root / "releases"
        self.current = self.root / "current"

    # what is there

    def python(self) -> Python:
        """The Python for this host, or a Problem that says which one would do."""
        request = self.request
        if not request.python.startswith("/"):
            return self._managed(request.python)
        try:
            done = self.run(
                [request.python, "-I", "-c", "import sys; print(sys.implementation.name, *sys.version_info[:3])"],
                timeout=60,
            )
            if done.status:
                raise ValueError(f"exit {done.status}: {done.errors.strip()[-300:]}")
            name, *numbers = done.output.split()
            version = [int(number) for number in numbers]
        except (OSError, ValueError) as err:
            raise Problem(f"python: {request.python} does not run on this host ({err})") from err
        if _releases.python_allowed(request.requires_python, version):
            return Python(request.python, f"{name}-{version[0]}.{version[1]}", managed=False)
        if not request.python_fallback:
            raise Problem(
                f"python: {request.python} is {'.'.join(map(str, version))}, but {request.lock_file} wants"
                f" {request.requires_python}. Name another one, or a version for uv to fetch as python_fallback."
            )
        return self._managed(request.python_fallback)

    def _managed(self, version: str) -> Python:
        match = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
        if not match:
            raise Problem(f"python: {version} is neither an interpreter's path nor a version such as 3.12")
        numbers = [int(number) for number in match.groups("0")]
        if not _releases.python_allowed(self.request.requires_python, numbers):
            raise Problem(f"python: {version}, but {self.request.lock_file} wants {self.request.requires_python}")
        return Python(version, f"cpython-{numbers[0]}.{numbers[1]}", managed=True)

    def current_id(self) -> str:
        """Id of the release that `current` points at, or ""."""
        try:
            target = os.readlink(self.current)
        except OSError:
            return ""
        return Path(target).name

    def marker(self, name: str) -> dict[str, Any] | None:
        """What a whole release says of itself; None if it is not whole."""
        try:
            content: dict[str, Any] = json.loads((self.releases / name / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        # The interpreter is a link: an upgraded distribution may have taken away what it points at.
        return content if os.access(self.releases / name / "bin" / "python", os.X_OK) else None

    def known(self) -> list[_releases.Release]:
        """All releases on the host."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.releases):
                if entry.is_dir(follow_symlinks=False):
                    whole = self.marker(entry.name) is not None
                    used = os.stat(self.releases / entry.name / MARKER).st_mtime if whole else 0.0
                    found.append(_releases.Release(entry.name, whole, used))
        return found

    def busy(self) -> set[str]:
        """Releases that a running process has open as program, working directory or library."""
        prefix = os.path.realpath(self.releases) + "/"
        through_current = (os.path.realpath(self.root) + "/current/", f"{self.root}/current/")
        found: set[str] = set()
        for process in (entry for entry in os.listdir("/proc") if entry.isdigit()):
            paths = []
            for link in ("exe", "cwd"):
                with contextlib.suppress(OSError):
                    paths.append(os.readlink(f"/proc/{process}/{link}"))
            with contextlib.suppress(OSError):
                maps = os.fsdecode(Path(f"/proc/{process}/maps").read_bytes())
                paths += [line.split(None, 5)[-1] for line in maps.splitlines() if prefix in line]
                # a release's python is a link to the system's, so exe does not tell
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                paths += [os.fsdecode(word) for word in words[:2]]
            mine = {path[len(prefix) :].split("/")[0] for path in paths if path.startswith(prefix)}
            if not mine and any(path.startswith(through_current) for path in paths):
                # Started through `current`, from whichever release that was then: none may go.
                mine = {release.name for release in self.known()}
            found |= mine
        return found

    # the whole of it

    def ensure(self, check_mode: bool) -> dict[str, Any]:
        """Make the release the current one. Returns the module's result."""
        request = self.request
        python = self.python()
        name = _releases.release_id(request.version, request.digest, python.tag)
        before_current, before = self.current_id(), self.known()
        install = self.marker(name) is None
        switch = before_current != name
        prune = self._to_prune(name, before)
        result: dict[str, Any] = {
            "release": name,
            "path": str(self.releases / name),
            "version": request.version,
            "python": python.tag,
            "installed": install,
            "switched": switch,
            "pruned": prune,
            "changed": bool(install or switch or prune),
        }
        if not result["changed"]:
            return result
        if not check_mode:
            if install and request.lock is None:
                return {"lock_needed": True}
            with self._exclusive():
                # Another run may have been at it while this one waited.
                if self.marker(name) is None:
                    self._build(name, python)
                if self.current_id() != name:
                    self._switch(name)
                result["pruned"] = self._prune(self._to_prune(name, self.known()))
            result["toolkit"] = (self.marker(name) or {}).get("toolkit")
        gone = set(result["pruned"])
        names = sorted({r.name for r in before} | {name})
        result["diff"] = {
            "before_header": str(self.root),
            "after_header": str(self.root),
            "before": _listing(before_current, sorted(r.name for r in before)),
            "after": _listing(name, [entry for entry in names if entry not in gone]),
        }
        return result

    def _to_prune(self, current: str, known: list[_releases.Release]) -> list[str]:
        candidates = _releases.to_prune(known, current, self.request.keep, ())
        if not candidates:
            return []  # /proc is read only when there is something to ask it
        return _releases.to_prune(known, current, self.request.keep, self.busy())

    # the steps

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the root against another run."""
        os.umask(0o022)
        self.releases.mkdir(parents=True, exist_ok=True)
        path = self.root / ".lock"
        self.lock_descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        # uv inherits it (held): while a uv whose Ansible was killed still writes, the root stays held.
        try:
            deadline = time.monotonic() + LOCK_WAIT
            while True:
                try:
                    fcntl.flock(self.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as err:
                    if time.monotonic() > deadline:
                        raise Problem(
                            f"{path}: held by another run for {LOCK_WAIT:.0f} s; `fuser {path}` names it"
                        ) from err
                    time.sleep(0.2)
            yield
        finally:
            os.close(self.lock_descriptor)

    def _build(self, name: str, python: Python) -> None:
        """Make a whole release, or leave none."""
        path = self.releases / name
        if path.exists():
            _remove(path)  # what an interrupted build left
        self._check_disk()
        if not os.access(self.request.uv, os.X_OK):
            raise Problem(f"uv: {self.request.uv} is no program on this host; role uv installs it")
        try:
            if python.managed:
                self._uv(["python", "install", "--no-bin", python.wanted], f"Python {python.wanted}")
            source = ["--managed-python"] if python.managed else ["--no-python-downloads"]
            self._uv(["venv", *source, "--python", python.wanted, str(path)], "the environment")
            lock = path / "lock.txt"
            lock.write_text(self.request.lock or "", encoding="utf-8")
            command = ["pip", "sync", "--require-hashes", "--python", str(path / "bin" / "python"), str(lock)]
            if not self.request.allow_builds:
                command.insert(2, "--no-build")
            if self.request.compile_bytecode:
                command.insert(2, "--compile-bytecode")
            self._uv(command, f"{self.request.package} {self.request.version}")
            self._verify(path)
            self._finish(path, python, _toolkit.assemble(path, self._tool))
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(path)
            raise

    def _tool(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a compiler of the release, as its service would: with the compilers of the host."""
        done = self.run(command, folder="/", held=(self.lock_descriptor,), timeout=TOOL_SECONDS)
        return done.status, done.errors + done.output

    def _finish(self, path: Path, python: Python, toolkit: _toolkit.Toolkit) -> None:
        marker = {
            "package": self.request.package,
            "version": self.request.version,
            "python": python.tag,
            "lock_digest": self.request.digest,
            "bytes": _size(path),
            "toolkit": toolkit.facts,
        }
        staged = path / (MARKER + ".new")
        with open(staged, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(marker, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.sync()  # the marker must not outlive, over a power cut, the files that it speaks for
        os.replace(staged, path / MARKER)

    def _check_disk(self) -> None:
        need = self.request.need_bytes
        if need is None:
            current = self.marker(self.current_id()) if self.current_id() else None
            need = int(current["bytes"]) if current and "bytes" in current else self.request.pins * 10 * 1000 * 1000
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise Problem(
                f"{self.root}: {_releases.human(free)} free on its file system, {_releases.human(need)} needed for"
                f" {self.request.package} {self.request.version}. Free some, or mount a larger disk there."
            )

    def _variables(self) -> dict[str, str]:
        """The environment that uv runs in."""
        variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
        variables.update({"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_INSTALL_DIR": str(self.root / "python")})
        variables.update(self.request.environment)
        # The cache lies beside the releases, where files are shared by hard links, unless this host has a place for it.
        usual = Path(variables.get("XDG_CACHE_HOME") or Path(variables.get("HOME", "/root"), ".cache"), "uv")
        said = self.run([self.request.uv, "cache", "dir"], environment=variables, folder="/")
        if said.output.strip() in ("", str(usual)):
            variables["UV_CACHE_DIR"] = str(self.root / "cache")
        return variables

    def _uv(self, arguments: list[str], what: str) -> None:
        """Run uv, or fail with what it said."""
        done = self.run(
            [self.request.uv, *arguments],
            environment=self._variables(),
            folder=str(self.root),
            held=(self.lock_descriptor,),
        )
        if done.status == 0:
            return
        said = _releases.redact(done.errors.strip(), self.request.environment)
        package = _releases.hash_failure(said)
        nothing = "Nothing was switched and the half-built release was removed."
        if package:
            line = _releases.line_of(package, self.request.lock or "")
            raise Problem(
                f"{self.request.lock_file}: line {line}: {package}: what the index served has another hash"
                f" than the lock allows, so it is not what was locked. Make the lock again, or find out who changed"
                f" the package. {nothing}\n{said}",
                package=package,
            )
        if "os error 28" in said or "No space left" in said:
            raise Problem(f"{self.root}: the disk became full while {what} was installed. {nothing}\n{said}")
        raise Problem(f"uv could not install {what} (exit {done.status}). {nothing}\n{said}")

    def _verify(self, path: Path) -> None:
        """Ask the new release itself what is in it."""
        code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
        done = self.run([str(path / "bin" / "python"), "-I", "-c", code, self.request.package])
        if done.status or done.output.strip() != self.request.version:
            said = done.output.strip() or done.errors.strip().splitlines()[-1:]
            raise Problem(
                f"{path}: {self.request.package} {self.request.version} was installed, but the environment"
                f" answers {said}. Nothing was switched and the release was removed."
            )

    def _switch(self, name: str) -> None:
        staged = self.root / ".current.new"
        with contextlib.suppress(FileNotFoundError):
            staged.unlink()
        staged.symlink_to(f"releases/{name}")
        os.replace(staged, self.current)
        os.utime(self.releases / name / MARKER)  # pruning goes by when a release was last current

    def _prune(self, names: list[str]) -> list[str]:
        for name in names:
            _remove(self.releases / name)
        if names:
            self._prune_cache()
        return names

    def _prune_cache(self) -> None:
        """Drop what no release shares any more; uv fetches again what it misses."""
        with contextlib.suppress(FileNotFoundError):
            for archive in os.scandir(self.root / "cache" / "archive-v0"):
                if not any(info.st_nlink > 1 for info in _files(Path(archive.path))):
                    shutil.rmtree(archive.path, ignore_errors=True)


def _listing(current: str, names: list[str]) -> str:
    return "".join([f"current: {current or 'none'}\n", *(f"release: {name}\n" for name in names)])


def _files(path: Path) -> Iterator[os.stat_result]:
    for folder, _folders, names in os.walk(path):
        for name in names:
            info = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(info.st_mode):
                yield info


def _size(path: Path) -> int:
    return sum(info.st_blocks * 512 for info in _files(path))


def _remove(path: Path) -> None:
    """Remove a release, its marker first so that a removal cut short leaves none that looks whole."""
    with contextlib.suppress(FileNotFoundError):
        (path / MARKER).unlink()
    shutil.rmtree(path)
