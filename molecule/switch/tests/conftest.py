# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that goes from manager to manager. Files run in the order of their names, each under the manager it names.

The linked ones are the tests of the scenarios `supervisor` and `tmux`: a start of vLLM is what costs here, and what
they leave running is what the next one takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from lab import client, faults
from lab.play import Run, play

HOST = "gpu1"
INVENTORY = ("-i", "molecule/switch/inventory", "--limit", f"{HOST},localhost")


@pytest.fixture(scope="session")
def gpu() -> Host:
    """testinfra's view of the host."""
    return testinfra.get_host(f"podman://{client.container(HOST)}")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> faults.Subject:
    """The instance under the manager that the file of tests is about."""
    return faults.Subject(HOST, request.module.MANAGER)


@pytest.fixture(scope="session")
def site() -> Callable[..., Run]:
    """Runs site.yml for a manager on this host: site("tmux", "--check", vllm_instances=[...])."""

    def run(manager: str, *words: str, playbook: str = "site.yml", **variables: Any) -> Run:
        done = play(*INVENTORY, *words, variables={"service_manager": manager, **variables}, playbook=playbook)
        assert done.code == 0, done.messages
        return done

    return run


@pytest.fixture(scope="session")
def exists(gpu: Host) -> Callable[[str], bool]:
    """Whether there is such a file or folder on the host."""

    def look(path: str) -> bool:
        return bool(gpu.file(path).exists)

    return look
