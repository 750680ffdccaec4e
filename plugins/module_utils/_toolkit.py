# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CUDA toolkit in a release, out of NVIDIA's wheels (private to this collection, runs on the host and in images).

FlashInfer and others compile kernels when a server starts. They look for nvcc in CUDA_HOME, on PATH and in
/usr/local/cuda, and a host with nothing but NVIDIA's driver has none of these. The wheels of the lock bring nvcc and
its headers, but not in the form that a linker takes: libcudart.so and libcuda.so are missing, and lib64.
`<release>/cuda` has that form. The service has `<release>/cuda/bin` on its PATH.

Standard library only, and nothing of this collection: an image's build runs this text as it is.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

FOLDER = "cuda"
CUDART_VERSION = re.compile(r"^#define\s+CUDART_VERSION\s+(\d+)", re.MULTILINE)
NVCC_VERSION = re.compile(r"\brelease (\d+)\.(\d+)")
DRIVER_NAME = re.compile(r"\bcu[A-Z][A-Za-z0-9_]*\b")
# What has to work: the host's compiler behind nvcc, the headers of the runtime, a linker that finds both libraries.
PROBE = """\
#include <cuda_runtime.h>
#include <cuda.h>
__global__ void twice(float *value) { *value *= 2; }
extern "C" int probe(float *value) { twice<<<1, 1>>>(value); return cuInit(0) + cudaDeviceSynchronize(); }
"""

# command -> (exit status, what it said); raises OSError where there is no such program.
Run = Callable[[Sequence[str]], "tuple[int, str]"]


@dataclass(frozen=True)
class Toolkit:
    """version: 13.0, "" where the release brings no nvcc. problem: why it cannot compile here, "" if it can."""

    version: str = ""
    problem: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)


def wheels(release: Path) -> Path | None:
    """The folder that NVIDIA's wheels share, if nvcc is in it."""
    found = sorted(release.glob("lib/python3*/site-packages/nvidia/cu*/bin/nvcc"))
    return found[0].parents[1] if found else None


def headers_version(folder: Path) -> str:
    """13.0, by the headers of the CUDA runtime; "" where they are not there."""
    try:
        text = (folder / "include" / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = CUDART_VERSION.search(text)
    return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""


def nvcc_version(folder: Path, run: Run) -> str:
    """13.0, as nvcc itself says; "" where it does not run."""
    try:
        status, said = run([str(folder / "bin" / "nvcc"), "--version"])
    except OSError:
        return ""
    found = NVCC_VERSION.search(said)
    return f"{found[1]}.{found[2]}" if found and status == 0 else ""


def driver_names(folder: Path) -> str:
    """A C file that defines every function that the driver's header names, for a linker that wants to see them."""
    try:
        text = (folder / "include" / "cuda.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return "".join(f"void {name}(void) {{}}\n" for name in sorted(set(DRIVER_NAME.findall(text))))


def assemble(release: Path, run: Run) -> Toolkit:
    """Makes `<release>/cuda` and compiles a kernel with it; leaves no folder where that does not work."""
    folder = release / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    source = wheels(release)
    if source is None:
        return Toolkit()
    version = nvcc_version(source, run)
    try:
        problem = _misfit(version, headers_version(source)) or _built(folder, source, run)
    except OSError as error:  # a command that took too long, a full disk
        problem = f"it cannot be tried: {error}"
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
    return Toolkit(version, problem)


def _misfit(version: str, headers: str) -> str:
    if not version:
        return "its nvcc does not run here"
    if not headers:
        return "the headers of the CUDA runtime are missing (nvidia-cuda-runtime)"
    if version == headers:
        return ""
    return (
        f"its nvcc is of CUDA {version} and the headers of its CUDA runtime are of {headers}, which nvcc refuses: "
        "make the lock again with scripts/lock-vllm, which takes the parts that fit"
    )


def _built(folder: Path, source: Path, run: Run) -> str:
    """Why the toolkit does not compile here, "" if it does."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler: install gcc and g++, as vllm_packages does by default"
    libraries = folder / "lib64"
    stubs = libraries / "stubs"
    stubs.mkdir(parents=True)
    for name in ("bin", "include", "nvvm"):
        (folder / name).symlink_to(os.path.relpath(source / name, folder))
    names_of: dict[str, Path] = {}
    for library in sorted((source / "lib").glob("lib*")):
        # libcudart.so.13 is what runs, libcudart.so what a linker looks for.
        for name in (library.name, re.sub(r"\.so\.[\d.]+$", ".so", library.name)):
            names_of.setdefault(name, library)
    for name, library in names_of.items():
        (libraries / name).symlink_to(os.path.relpath(library, libraries))
    # The driver brings libcuda.so.1, of which a linker needs the names alone.
    names = stubs / "libcuda.c"
    names.write_text(driver_names(source), encoding="utf-8")
    stub = ["-shared", "-nostdlib", "-Wl,-soname,libcuda.so.1", str(names), "-o", str(stubs / "libcuda.so")]
    probe, made = folder / "probe.cu", folder / "probe.so"
    probe.write_text(PROBE, encoding="utf-8")
    nvcc = [str(folder / "bin" / "nvcc"), "-shared", "-Xcompiler", "-fPIC", "-cudart", "shared"]
    nvcc += [str(probe), "-o", str(made), f"-L{libraries}", f"-L{stubs}", "-lcudart", "-lcuda"]
    try:
        for command in ([compiler, *stub], nvcc):
            status, said = run(command)
            if status:
                return f"{Path(command[0]).name} cannot compile with it: {' '.join(said.split())[-500:]}"
    finally:
        for left in (names, probe, made):
            left.unlink(missing_ok=True)
    return ""
