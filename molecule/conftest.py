# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of every scenario share: the way to the lab's code, and lines for the end of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

# What tests measured, told once at the end.
MEASURED: list[str] = []


@pytest.fixture
def measured() -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return MEASURED.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Pytest's hook: the measured lines."""
    if MEASURED:
        terminalreporter.section("measured")
    for line in MEASURED:
        terminalreporter.write_line(line)
