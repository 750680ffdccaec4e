# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages are missing, by the answers of dpkg and rpm."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _packages

ANSWER = """install ok installed\tgcc
hold ok installed\tlibnuma1
deinstall ok config-files\tcron
install ok half-configured\tg++
"""


def only(tool: str) -> object:
    """A machine that has this tool and no other."""

    def which(name: str) -> str | None:
        return f"/usr/bin/{name}" if name == tool else None

    return which


def test_dpkg_tells_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages.shutil, "which", only("dpkg-query"))
    wanted = ["gcc", "cron", "g++", "libnuma1", "not-known"]
    assert _packages.missing(wanted, lambda argv: (1, ANSWER, "no packages found")) == ["cron", "g++", "not-known"]


def test_rpm_is_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages.shutil, "which", only("rpm"))
    assert _packages.missing(["gcc", "cronie"], lambda argv: (int("cronie" in argv), "", "")) == ["cronie"]


def test_where_nobody_knows_all_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages.shutil, "which", only("none"))
    assert _packages.missing(["gcc"], lambda argv: (0, "", "")) == ["gcc"]


def test_nothing_wanted_asks_nobody() -> None:
    assert _packages.missing([], lambda argv: pytest.fail("asked")) == []


def test_on_this_machine() -> None:
    def run(argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert _packages.missing(["dpkg", "steadfast-no-such-package"], run) == ["steadfast-no-such-package"]
