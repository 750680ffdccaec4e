# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The production lock: sound, no address in it, and not below the minimum."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _releases
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

ROLE = Path(__file__).parents[4] / "roles" / "vllm"
LOCKS = sorted((ROLE / "files" / "locks").glob("*.txt"))
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))


def test_the_role_uses_one_of_the_locks() -> None:
    assert DEFAULTS["vllm_lock_file"].rsplit("/", 1)[1] in [path.name for path in LOCKS]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_is_sound(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lock = _lock.parse(text)
    version = lock.version_of("vllm")
    assert not _lock.below_minimum(version, DEFAULTS["vllm_minimum_version"])
    assert path.name.startswith(f"vllm-{version}-")
    assert not re.search(r"://|--index|--find-links|/simple", text), "no address belongs in a lock"
    assert lock.requires_python and (lock.need_bytes or 0) > 10_000_000_000
    assert _releases.python_allowed(lock.requires_python, [3, 12, 0])
