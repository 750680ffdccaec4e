# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A toolkit out of wheels: what is refused. Real ones compile in tests/integration/test_cuda_toolkit.py."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _toolkit

SAYS = "Cuda compilation tools, release 13.0, V13.0.88"


def release(folder: Path, header: str = "#define CUDART_VERSION  13000") -> Path:
    """A release with NVIDIA's wheels in it, as far as names go."""
    wheels = folder / "lib/python3.12/site-packages/nvidia/cu13"
    for name in ("bin/nvcc", "include/cuda_runtime_api.h", "nvvm/bin/cicc", "lib/libcudart.so.13"):
        (wheels / name).parent.mkdir(parents=True, exist_ok=True)
        (wheels / name).write_text(header + "\n")
    return folder


class Compilers:
    """Stands for nvcc and cc: what they say, and what they were asked."""

    def __init__(self, version: tuple[int, str] = (0, SAYS), compiles: tuple[int, str] = (0, "")) -> None:
        self.version, self.compiles, self.asked = version, compiles, list[list[str]]()

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.asked.append(list(command))
        if "--version" in command:
            return self.version
        return self.compiles if command[0].endswith("nvcc") else (0, "")


def test_a_release_without_nvcc_has_none(tmp_path: Path) -> None:
    compilers = Compilers()
    assert _toolkit.assemble(tmp_path, compilers) == _toolkit.Toolkit()
    assert compilers.asked == [] and list(tmp_path.iterdir()) == []


def test_it_has_the_form_that_a_linker_takes(tmp_path: Path) -> None:
    made = _toolkit.assemble(release(tmp_path), Compilers())
    assert made == _toolkit.Toolkit("13.0")
    folder = tmp_path / "cuda"
    assert (folder / "bin/nvcc").exists() and (folder / "nvvm/bin/cicc").exists()
    assert (folder / "include/cuda_runtime_api.h").exists()
    assert sorted(path.name for path in (folder / "lib64").iterdir()) == ["libcudart.so", "libcudart.so.13", "stubs"]
    assert not list(folder.glob("probe*")), "what it was tried with is left"
    # A release may be moved as a whole, and is seen by another path through `current`.
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    assert links and not any(path.readlink().is_absolute() for path in links)
    moved = tmp_path.parent / "moved"
    shutil.move(tmp_path, moved)
    assert (moved / "cuda/lib64/libcudart.so").exists()


@pytest.mark.parametrize(
    ("header", "compilers", "words"),
    [
        ("#define CUDART_VERSION  13000", Compilers((0, "release 13.5, V13.5.37")), "is of CUDA 13.5 .* are of 13.0"),
        ("#define CUDART_VERSION  13050", Compilers(), "is of CUDA 13.0 .* are of 13.5.*scripts/lock-vllm"),
        ("", Compilers(), "headers of the CUDA runtime are missing"),
        ("#define CUDART_VERSION  13000", Compilers((1, "")), "does not run here"),
        ("#define CUDART_VERSION  13000", Compilers((0, "no version")), "does not run here"),
        (
            "#define CUDART_VERSION  13000",
            Compilers(compiles=(1, "unsupported GNU version!")),
            "unsupported GNU version",
        ),
    ],
)
def test_one_that_cannot_compile_is_left_out_and_said(
    tmp_path: Path, header: str, compilers: Compilers, words: str
) -> None:
    made = _toolkit.assemble(release(tmp_path, header), compilers)
    assert made.problem and re.search(words, made.problem), made
    assert not (tmp_path / "cuda").exists()


def test_a_host_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_toolkit.shutil, "which", lambda _name: None)
    assert "vllm_packages" in _toolkit.assemble(release(tmp_path), Compilers()).problem


def test_what_an_interrupted_build_left_is_replaced(tmp_path: Path) -> None:
    (release(tmp_path) / "cuda/lib64/stubs").mkdir(parents=True)
    (tmp_path / "cuda/old").touch()
    assert _toolkit.assemble(tmp_path, Compilers()).problem == ""
    assert not (tmp_path / "cuda/old").exists()


def test_one_that_hangs_or_a_full_disk_fails_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(_command: Sequence[str]) -> tuple[int, str]:
        raise TimeoutError("no answer within 300 s")

    def full(_link: Path, _target: str) -> None:
        raise OSError("No space left on device")

    assert "does not run here" in _toolkit.assemble(release(tmp_path), hangs).problem
    monkeypatch.setattr(Path, "symlink_to", full)
    assert "No space left" in _toolkit.assemble(tmp_path, Compilers()).problem
    assert not (tmp_path / "cuda").exists()


def test_a_wheel_may_bring_the_name_that_a_linker_looks_for(tmp_path: Path) -> None:
    (release(tmp_path) / "lib/python3.12/site-packages/nvidia/cu13/lib/libcudart.so").touch()
    assert _toolkit.assemble(tmp_path, Compilers()).problem == ""
