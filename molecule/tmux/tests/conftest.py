# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged host and what serves on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from lab import client, faults

MEASURED: list[str] = []


@pytest.fixture(scope="session")
def gpu() -> Host:
    """testinfra's view of the host."""
    return testinfra.get_host(f"podman://{client.container('gpu1')}")


@pytest.fixture(scope="session")
def subject() -> faults.Subject:
    """The instance, as the conformance suite has it."""
    return faults.Subject("gpu1", "tmux")


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
