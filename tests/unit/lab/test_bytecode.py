# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytecode in the cache of wheels: of the right files, good wherever copied to, and made again for another lock."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from labkit import bytecode, wheels
from labkit.work import Workshop


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_used", bytecode.PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_only_the_files_that_were_installed_are_found(program: ModuleType, tmp_path: Path) -> None:
    site, cache = tmp_path / "site", tmp_path / "cache"
    write(site / "pack/one.py", "ONE = 1\n")
    write(site / "lone.py", "LONE = 1\n")
    write(site / "gone/other.py", "OTHER = 1\n")
    same = write(cache / "archive-v0/aa/pack/one.py", "ONE = 1\n")
    write(cache / "archive-v0/bb/pack/one.py", "ONE = 'of another version'\n")
    write(cache / "archive-v0/aa/pack/two.py", "TWO = 2\n")
    lone = write(cache / "archive-v0/cc/lone.py", "LONE = 1\n")
    found = program.in_cache(cache, site, [Path("lone.py"), Path("pack/one.py"), Path("gone/other.py")])
    assert found == [lone, same]


def test_a_copy_is_loaded_from_its_bytecode_whatever_its_time(program: ModuleType, tmp_path: Path) -> None:
    source = write(tmp_path / "cache/thing.py", "VALUE = 'as compiled'\n")
    assert program.compile_one(source)
    copied = tmp_path / "host"
    shutil.copytree(source.parent, copied)
    os.utime(copied / "thing.py", (1, 1))

    def said() -> str:
        command = [sys.executable, "-B", "-v", "-c", "import thing; print(thing.VALUE)"]
        done = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    first = said()
    assert "as compiled" in first
    assert f"code object from '{copied}/__pycache__" in first.replace(f'"{copied}', f"'{copied}")
    # and another content is never taken for it
    (copied / "thing.py").write_text("VALUE = 'as changed'\n")
    assert "as changed" in said()


def test_a_file_that_is_no_python_here_is_left(program: ModuleType, tmp_path: Path) -> None:
    assert not program.compile_one(write(tmp_path / "newer.py", "match = = 1\n"))


def test_it_is_made_again_for_another_lock_or_an_emptied_cache(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    assert not bytecode.there(shop)
    write(wheels.lock_file(shop), "vllm==1\n")
    assert not bytecode.there(shop)
    bytecode.marker(shop).write_text(bytecode.made_of(shop))
    assert bytecode.there(shop)
    wheels.lock_file(shop).write_text("vllm==2\n")
    assert not bytecode.there(shop)
    wheels.lock_file(shop).write_text("vllm==1\n")
    assert bytecode.there(shop)
    shutil.rmtree(wheels.uv_cache(shop))
    assert not bytecode.there(shop)
