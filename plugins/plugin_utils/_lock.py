# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requirements files locked with hashes: read, judged, named (private to this collection, runs on the controller)."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

# ansible-core needs it too, but a plugin must be importable without, to be listed and documented.
try:
    from packaging.markers import InvalidMarker, Marker
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version
except ImportError as err:
    PACKAGING_ERROR: ImportError | None = err
else:
    PACKAGING_ERROR = None

# "# requires-python: >=3.11,<3.15": what the lock itself says about where it holds.
DIRECTIVE = re.compile(r"^#\s*(requires-python|need-bytes):\s*(.+?)\s*$")
PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<extras>\[[^\]]*\])?\s*==\s*(?P<version>[^\s;*]+)$")
# nvidia-cuda-runtime since CUDA 13, nvidia-cuda-runtime-cu12 before.
CUDA_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?==(?P<version>\d+\.\d+)\S*(?P<rest>[^\n]*)", re.MULTILINE)
# What compiles a kernel, of the wheels that share one folder: each has to be of the CUDA of the runtime's headers.
TOOLKIT = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl")
FLASHINFER = "flashinfer-python"
DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


class LockError(ValueError):
    """A lock file that cannot be used: one problem a line, each with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LibraryMissing(Exception):
    """The controller's Python lacks what locks are read with."""

    def __init__(self) -> None:
        super().__init__(
            f"the Python library packaging cannot be imported by {sys.executable} on the controller"
            f" ({PACKAGING_ERROR}). It belongs to ansible-core: install it beside that, for example with"
            " `python -m pip install packaging`."
        )


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Lock:
    """A lock file that was read and found good."""

    text: str
    pins: tuple[Pin, ...]
    requires_python: str = ""
    need_bytes: int | None = None
    digest: str = field(default="", compare=False)

    def version_of(self, package: str) -> str:
        """The one version that the lock gives a package. Raises LockError."""
        wanted = canonicalize_name(package)
        versions = sorted({pin.version for pin in self.pins if pin.name == wanted})
        if not versions:
            raise LockError([f"{package} is not in it: name the lock of {package}, or the package that it locks"])
        if len(versions) > 1:
            raise LockError([f"{package} has several versions in it ({', '.join(versions)}): a release has one"])
        return versions[0]


def _logical_lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """(line number, joined line without comments, whether the file ended within it)."""
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        joined += line
        if joined.strip():
            yield start, joined.strip(), False
        joined, start = "", 0
    if joined.strip():
        yield start, joined.strip(), True


def _hashes(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """(hashes, what is wrong) of the options behind a pin."""
    found: list[str] = []
    wrong: list[str] = []
    for word in words:
        if not word.startswith("--hash="):
            wrong.append(f"{word}: only --hash may stand behind a package")
            continue
        algorithm, _colon, digest = word[len("--hash=") :].partition(":")
        length = DIGEST_LENGTHS.get(algorithm)
        if length is None:
            wrong.append(f"{algorithm}: not a hash to trust, use one of {', '.join(DIGEST_LENGTHS)}")
        elif not re.fullmatch(f"[0-9a-f]{{{length}}}", digest):
            wrong.append(f"{word}: {algorithm} has {length} hexadecimal digits, this has {len(digest)} characters")
        else:
            found.append(f"{algorithm}:{digest}")
    return tuple(found), wrong


def _pin(number: int, line: str) -> tuple[Pin | None, list[str]]:
    """One requirement, and what is wrong with it."""
    if line.startswith("-"):
        option = re.split(r"[=\s]", line, maxsplit=1)[0]
        return None, [f"line {number}: {option}: a lock holds packages only; addresses belong in O(environment)"]
    requirement, *words = re.split(r"\s+(?=--)", line)
    pinned, _semicolon, marker = requirement.partition(";")
    match = PIN.match(pinned.strip())
    if not match:
        return None, [f"line {number}: {pinned.strip()}: not pinned as name==version"]
    problems = []
    try:
        Version(match["version"])
    except InvalidVersion:
        problems.append(f"line {number}: {match['name']}: {match['version']} is not a version")
    try:
        if marker.strip():
            Marker(marker.strip())
    except InvalidMarker:
        problems.append(f"line {number}: {match['name']}: {marker.strip()} is not an environment marker")
    hashes, wrong = _hashes(words)
    problems += [f"line {number}: {match['name']}: {text}" for text in wrong]
    if not hashes and not wrong:
        problems.append(f"line {number}: {match['name']}: no hash; make the lock with --generate-hashes")
    return Pin(canonicalize_name(match["name"]), match["version"], marker.strip(), hashes, number), problems


def _directives(text: str) -> tuple[str, int | None, list[str]]:
    """(requires-python, need-bytes, what is wrong) of the comments that speak to us."""
    requires, need, problems = "", None, []
    for number, line in enumerate(text.splitlines(), 1):
        match = DIRECTIVE.match(line)
        if not match:
            continue
        if match[1] == "requires-python":
            requires = match[2]
            try:
                SpecifierSet(requires)
            except InvalidSpecifier:
                problems.append(f"line {number}: requires-python: {requires} is not a version specifier")
        elif match[2].isdigit():
            need = int(match[2])
        else:
            problems.append(f"line {number}: need-bytes: {match[2]} is not a number of bytes")
    return requires, need, problems


def parse(text: str) -> Lock:
    """Read a lock. Raises LockError with every problem at once, LibraryMissing where it cannot be read at all."""
    if PACKAGING_ERROR:
        raise LibraryMissing from PACKAGING_ERROR
    pins: list[Pin] = []
    requires, need, problems = _directives(text)
    seen: dict[tuple[str, str], int] = {}
    for number, line, cut in _logical_lines(text):
        if cut:
            problems.append(f"line {number}: the file ends in the middle of {line.split()[0]}")
            continue
        pin, wrong = _pin(number, line)
        problems += wrong
        if pin is None:
            continue
        first = seen.setdefault((pin.name, pin.marker), number)
        if first != number:
            problems.append(f"line {number}: {pin.name}: stands in line {first} already")
        pins.append(pin)
    if not pins and not problems:
        problems.append("no package in it")
    if problems:
        raise LockError(problems)
    # Comments do not count: a lock that installs the same is the same release.
    rows = sorted(f"{p.name}=={p.version};{p.marker} {' '.join(sorted(p.hashes))}" for p in pins)
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return Lock(text, tuple(pins), requires, need, digest)


def below_minimum(version: str, minimum: str) -> bool:
    """Whether a version is older than the oldest one allowed. Local versions (1.0+cpu) count as their public one."""
    return Version(Version(version).public) < Version(minimum)


def cuda(text: str, machine: str) -> str:
    """The version (13.0) of the CUDA runtime that a lock brings to a Linux host, "" for none. Raises LockError.

    Reads no other line, so that a lock of thousands need not be parsed for each host.
    """
    if PACKAGING_ERROR:
        raise LibraryMissing from PACKAGING_ERROR
    here = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    for found in CUDA_RUNTIME.finditer(text):
        marker = re.split(r"\\|\s--", found["rest"].partition(";")[2])[0].strip()
        try:
            if not marker or Marker(marker).evaluate(here):
                return found["version"]
        except InvalidMarker:
            raise LockError([f"{found[0]}: {marker} is not an environment marker"]) from None
    return ""


def toolkit_problems(lock: Lock, machine: str = "x86_64", python: str = "3.12") -> list[str]:
    """Why kernels cannot be compiled on a Linux host that has nothing but NVIDIA's driver; [] if they can.

    Only of a lock that brings FlashInfer to such a host, which compiles when a server starts.
    """
    here = {
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine,
        "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    found = {pin.name: pin.version for pin in lock.pins if not pin.marker or Marker(pin.marker).evaluate(here)}
    runtime = found.get("nvidia-cuda-runtime")
    if FLASHINFER not in found or runtime is None:
        return []
    wanted = _minor(runtime)
    return [
        f"{name} is {found[name]}, and nvidia-cuda-runtime {runtime}: nvcc refuses headers of another CUDA than its own"
        if name in found
        else f"{name} is missing: FlashInfer needs it to compile its kernels"
        for name in TOOLKIT
        if name not in found or _minor(found[name]) != wanted
    ]


def _minor(version: str) -> tuple[int, ...]:
    """(13, 0) of 13.0.96."""
    return Version(version).release[:2]
