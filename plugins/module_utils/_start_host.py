# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has for the compiling of vLLM's first start: the eyes of _start_checks.py (private to this collection).

Reads files and asks the release's own Python, and changes nothing. Below the service user's home no link is followed:
that user could point one anywhere, and this runs as root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_host, _preflight

USUAL_TOOLKIT = "/usr/local/cuda"
# A version that stands in a file stands at its beginning; nobody's file is read whole.
READ = 200_000


def look(wanted: Mapping[str, t.Any], python: Sequence[int] | None, run: _gpu_host.Runner) -> dict[str, t.Any] | None:
    """PYTHON: the version of `environment_python`.

    None where nothing is compiled on the host: without CUDA, or in containers, whose image has it all."""
    if not wanted["cuda"] or wanted["service_manager"] == "compose" or not wanted["release"]:
        return None
    packages = next(iter(Path(wanted["release"]).glob("lib/python3*/site-packages")), None)
    return {
        "cores": cores(),
        "compilers": {
            "c": bool(shutil.which("gcc") or shutil.which("clang")),
            "cxx": bool(shutil.which("g++")),
            "headers": headers(wanted, python, run),
        },
        # None: there is no release yet.
        "flashinfer": None if packages is None else compiles(packages),
        "toolkits": {
            one["name"]: toolkit(one["compiling"]["cuda_home"], wanted["release"]) for one in wanted["instances"]
        },
        "tried": tried(Path(wanted["release"])),
        "caches": {one["name"]: caches(one["compiling"], wanted["home"]) for one in wanted["instances"]},
    }


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Of this process, or of the container that it is in."""
    here = len(os.sched_getaffinity(0))
    quota, _blank, period = _read(limit).strip().partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        here = min(here, max(1, int(quota) // int(period)))
    return here


def compiles(packages: Path) -> bool:
    """Whether an environment has FlashInfer, and no kernels of it that were compiled elsewhere."""
    return (packages / "flashinfer").is_dir() and not (packages / "flashinfer_jit_cache").is_dir()


def headers(wanted: Mapping[str, t.Any], python: Sequence[int] | None, run: _gpu_host.Runner) -> bool | None:
    """Whether Python.h of the environment's Python is there; None where that cannot be told. PYTHON: as in `look`.

    A Python that uv fetches brings its headers along.
    """
    interpreter = str(Path(wanted["release"], "bin", "python"))
    if not Path(interpreter).exists():
        low, high = _preflight.PYTHONS
        if python is None or not low <= tuple(python[:2]) <= high:
            return None
        interpreter = wanted["environment_python"]
    try:
        status, output, _errors = run(
            [interpreter, "-I", "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
        )
    except OSError:
        return None
    folder = output.strip()
    return Path(folder, "Python.h").is_file() if status == 0 and folder.startswith("/") else None


def tried(release: Path) -> str | None:
    """Why the release's own toolkit cannot compile here, as it was tried when the release was made, "" if it can; None
    for a release that was made before such was tried, or is not there yet.
    """
    try:
        marker = json.loads(_read(release / ".complete.json") or "{}")
    except ValueError:
        return None
    told = marker.get("toolkit") if isinstance(marker, dict) else None
    return str(told.get("problem", "")) if isinstance(told, dict) else None


def toolkit(cuda_home: str, release: str = "") -> dict[str, str | None]:
    """Where FlashInfer looks for a CUDA compiler: the folder, nvcc's version and that of the headers.

    The service's PATH has the release's own before the host's. nvcc: None where there is none, "" where its version is
    not known. Never run: the folder may be anybody's.
    """
    own = Path(release, "cuda", "bin", "nvcc") if release else None
    found = str(own) if own is not None and own.is_file() else shutil.which("nvcc")
    home = Path(cuda_home or (Path(found).parent.parent if found else USUAL_TOOLKIT))
    nvcc = home / "bin" / "nvcc"
    return {
        "home": str(home) if cuda_home or found or home.is_dir() else "",
        "nvcc": nvcc_version(nvcc) if nvcc.is_file() else None,
        "headers": _headers_version(home / "include" / "cuda_runtime_api.h"),
    }


def nvcc_version(nvcc: Path) -> str:
    """Of a wheel: its name. Of a toolkit: version.json. Major and minor, "" where neither is there."""
    real = Path(os.path.realpath(nvcc))
    for folder in (nvcc, real):
        for wheel in _site_packages(folder).glob("nvidia_cuda_nvcc*.dist-info"):
            version = re.search(r"-(\d+\.\d+)[\d.]*\.dist-info$", wheel.name)
            if version:
                return version[1]
        told = re.search(
            r'"cuda_nvcc"\s*:\s*\{[^}]*"version"\s*:\s*"(\d+\.\d+)', _read(folder.parents[1] / "version.json")
        )
        if told:
            return told[1]
    return ""


def _site_packages(nvcc: Path) -> Path:
    """Of site-packages/nvidia/cu13/bin/nvcc."""
    return nvcc.parents[3] if len(nvcc.parents) > 3 else Path("/nonexistent")


def _headers_version(header: Path) -> str:
    number = re.search(r"^#define\s+CUDART_VERSION\s+(\d+)", _read(header), re.MULTILINE)
    return f"{int(number[1]) // 1000}.{int(number[1]) % 1000 // 10}" if number else ""


def _read(path: Path) -> str:
    """The beginning of a plain file; nothing of what is none, such as a pipe that nobody writes to."""
    try:
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(READ)
    except OSError:
        return ""


def caches(compiling: Mapping[str, t.Any], home: str) -> dict[str, bool | None]:
    """Whether kernels are there that an earlier start compiled, of any model; None where that cannot be seen."""
    compiled = _below(compiling["cache_root"] or "~/.cache/vllm", home, ["torch_compile_cache"])
    return {
        "compiled": None if compiled is None else bool(compiled),
        # FlashInfer takes its variable as it stands: a tilde is no home to it.
        "sampler": sampler(*_place(compiling["flashinfer_base"] or home, home)),
    }


def _below(folder: str, home: str, parts: list[str]) -> list[str] | None:
    """As `entries`, of a folder that vLLM was told: it puts the home of its user in place of a leading tilde."""
    if folder == "~" or folder.startswith("~/"):
        folder = home + folder[1:]
    root, way = _place(folder, home)
    # What depends on who runs and where is not known.
    return entries(root, [*way, *parts]) if root.startswith("/") else None


def _place(folder: str, home: str) -> tuple[str, list[str]]:
    """(root, parts) for `entries`: what lies below the home is reached from there, so that no link is followed."""
    home, folder = home.rstrip("/"), os.path.normpath(folder)
    if folder == home or folder.startswith(f"{home}/"):
        return home, [part for part in folder[len(home) :].split("/") if part]
    return folder, []


def sampler(base: str, top: Sequence[str] = ()) -> bool | None:
    """FlashInfer keeps it below its version and the GPU's architecture. TOP: folders below BASE."""
    top = [*top, ".cache", "flashinfer"]
    versions = entries(base, top) if base.startswith("/") else None
    if versions is None:
        return None
    return any("sampling.so" in (entries(base, [*top, *place]) or []) for place in _sampling(base, top, versions))


def _sampling(base: str, top: Sequence[str], versions: Sequence[str]) -> Iterator[list[str]]:
    for version in versions:
        for architecture in entries(base, [*top, version]) or []:
            yield [version, architecture, "cached_ops", "sampling"]


def entries(root: str, parts: list[str]) -> list[str] | None:
    """Names in a folder below ROOT, reached without following a link; [] where it is not there, None where it cannot be
    looked at.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        here = os.open(root, flags & ~os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        return None
    try:
        for part in parts:
            if stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode):
                return None
            below = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = below
        return sorted(os.listdir(here))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        return None  # not ours to see
    finally:
        os.close(here)
