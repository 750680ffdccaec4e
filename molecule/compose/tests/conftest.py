# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged lab host with Docker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab import faults


@pytest.fixture(scope="session")
def subject() -> faults.Subject:
    """The instance in its container."""
    return faults.Subject("docker1", "compose")


@pytest.fixture
def container(subject: faults.Subject) -> dict[str, Any]:
    """What Docker says of the container now."""
    found: list[dict[str, Any]] = json.loads(subject.on(f"docker container inspect {subject.name}"))
    return found[0]
