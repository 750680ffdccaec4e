# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The production lock against the package index: it can still be had, for every Python that it says it is for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

LOCKS = sorted((Path(__file__).parents[2] / "roles" / "vllm" / "files" / "locks").glob("*.txt"))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_can_still_be_had(path: Path, python: str, tmp_path: Path) -> None:
    """Every pin exists with a wheel for the host, and the pins agree with each other. No wheel is downloaded."""
    done = subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"),
            *("--python-version", python, "--python-platform", "x86_64-manylinux_2_31"),
            *("--constraint", str(path), "--output-file", str(tmp_path / "resolved.txt"), "-"),
        ],
        input=f"vllm=={_lock.parse(path.read_text(encoding='utf-8')).version_of('vllm')}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    unreachable = "error sending request" in done.stderr or "dns error" in done.stderr
    assert not unreachable, f"the package index cannot be reached, so nothing can be said about the lock: {done.stderr}"
    assert done.returncode == 0, done.stderr
    resolved = dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", (tmp_path / "resolved.txt").read_text(encoding="utf-8")))
    locked = {(pin.name, pin.version) for pin in _lock.parse(path.read_text(encoding="utf-8")).pins}
    assert set(resolved.items()) <= locked and len(resolved) > 150
