# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped lock's own nvcc, as it comes from the package index: it compiles on a host that has no CUDA toolkit.

Real wheels, the real compiler of this machine, no GPU: nvcc needs none. nvcc is called by its path in the release, and
its headers and libraries are the release's, so a toolkit of this machine plays no part.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _toolkit
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

(LOCK,) = sorted((Path(__file__).parents[2] / "roles/vllm/files/locks").glob("vllm-*-cu13*.txt"))
WHEELS = (*_lock.TOOLKIT, "nvidia-cuda-runtime")


def run(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    return done.returncode, done.stderr + done.stdout


def install(release: Path, wheels: Sequence[str], lock: Path | None = None) -> None:
    """Into a new environment; by the hashes of LOCK where one is given."""
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", "/usr/bin/python3", str(release)], check=True)
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", str(release / "bin/python")]
    subprocess.run([*command, *(["--require-hashes", "-r", str(lock)] if lock else []), *wheels], check=True)


def lines_of(names: Sequence[str]) -> str:
    """What the lock says of these packages, as it stands there."""
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", LOCK.read_text(encoding="utf-8"))
    return "\n".join(block for block in blocks if re.split("[= ]", block)[0] in names) + "\n"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with the part of the lock that compiles."""
    folder = tmp_path_factory.mktemp("toolkit")
    (folder / "some.txt").write_text(lines_of(WHEELS), encoding="utf-8")
    install(folder / "release", [], folder / "some.txt")
    return folder / "release"


def test_the_locks_own_nvcc_compiles_a_kernel_on_a_host_that_has_no_toolkit(release: Path, tmp_path: Path) -> None:
    assert _toolkit.assemble(release, run) == _toolkit.Toolkit(_lock.cuda(LOCK.read_text(encoding="utf-8"), "x86_64"))
    # As FlashInfer does it: nvcc found on PATH, and everything else from where it was found.
    source, made = tmp_path / "kernel.cu", tmp_path / "kernel.so"
    source.write_text("#include <cub/cub.cuh>\n#include <cuda_fp16.h>\n" + _toolkit.PROBE)
    path = f"{release}/bin:{release}/cuda/bin:/usr/bin:/bin"
    home = Path(str(shutil.which("nvcc", path=path))).parents[1]
    assert home == release / "cuda"
    command = ["nvcc", "-gencode=arch=compute_90a,code=sm_90a", "--compiler-options=-fPIC", "-c", str(source), "-o"]
    compiled = subprocess.run(
        [*command, str(made.with_suffix(".o"))], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr
    link = [
        "c++",
        str(made.with_suffix(".o")),
        "-shared",
        f"-L{home}/lib64",
        f"-L{home}/lib64/stubs",
        "-lcudart",
        "-lcuda",
    ]
    linked = subprocess.run([*link, "-o", str(made)], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert linked.returncode == 0, linked.stderr
    needed = subprocess.run(["readelf", "--dynamic", str(made)], capture_output=True, text=True, check=True).stdout
    assert re.search(r"NEEDED.*libcudart\.so\.13", needed) and re.search(r"NEEDED.*libcuda\.so\.1\b", needed)


def test_an_nvcc_of_another_cuda_is_said_and_not_offered(release: Path, tmp_path: Path) -> None:
    """What the shipped lock had until a real GPU refused it."""
    shutil.copytree(release, tmp_path / "release", symlinks=True, copy_function=os.link)
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--link-mode", "copy"]
    command += ["--python", str(tmp_path / "release/bin/python"), "nvidia-cuda-nvcc==13.5.37"]
    subprocess.run(command, check=True)
    made = _toolkit.assemble(tmp_path / "release", run)
    assert made.version == "13.5" and "nvcc is of CUDA 13.5 and the headers" in made.problem
    assert not (tmp_path / "release/cuda").exists()
