# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role uv's requirements file against the package index, by the module's own way."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils._uv import Problem, Request, Tool
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

ROLE = Path(__file__).parents[2] / "roles" / "uv"
REQUIREMENTS = (ROLE / "files" / "requirements.txt").read_text(encoding="utf-8")
VERSION = str(yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))["uv_version"])


def tool(root: Path, **options: Any) -> Tool:
    """uv under a root of the test's own."""
    given = {
        "version": VERSION,
        "requirements": REQUIREMENTS,
        "archive": None,
        "checksum": None,
        "root": str(root / "opt"),
        "links": str(root / "bin"),
        "python": "/usr/bin/python3",
        "environment": {},
        **options,
    }
    return Tool(Request(**given), real_runner())


def test_the_role_s_version_is_the_locked_one_and_not_too_old() -> None:
    lock = _lock.parse(REQUIREMENTS)
    assert lock.version_of("uv") == VERSION and not _lock.below_minimum(VERSION, "0.12.11")
    assert "://" not in REQUIREMENTS


def test_the_locked_uv_comes_from_the_index(tmp_path: Path) -> None:
    assert tool(tmp_path).ensure(check_mode=False)["changed"]
    said = subprocess.run([str(tmp_path / "bin" / "uv"), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.split()[1] == VERSION
    assert not tool(tmp_path).ensure(check_mode=False)["changed"]


def test_another_uv_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    wrong = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, REQUIREMENTS)
    with pytest.raises(Problem, match=r"(?s)another uv than the one that was locked.*Expected sha256 0000"):
        tool(tmp_path, requirements=wrong).ensure(check_mode=False)
    assert not (tmp_path / "bin").exists() and not (tmp_path / "opt" / VERSION).exists()
