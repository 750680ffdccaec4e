# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged lab host with Docker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from lab import faults

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


@pytest.fixture(scope="session")
def subject() -> faults.Subject:
    """The instance in its container."""
    return faults.Subject("docker1", "compose")


@pytest.fixture
def container(subject: faults.Subject) -> dict[str, Any]:
    """What Docker says of the container now."""
    found: list[dict[str, Any]] = json.loads(subject.on(f"docker container inspect {subject.name}"))
    return found[0]
