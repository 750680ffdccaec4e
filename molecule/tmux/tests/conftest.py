# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged host and what serves on it."""

from __future__ import annotations

import pytest
import testinfra
from testinfra.host import Host

from lab import client, faults


@pytest.fixture(scope="session")
def gpu() -> Host:
    """testinfra's view of the host."""
    return testinfra.get_host(f"podman://{client.container('gpu1')}")


@pytest.fixture(scope="session")
def subject() -> faults.Subject:
    """The instance, as the conformance suite has it."""
    return faults.Subject("gpu1", "tmux")
