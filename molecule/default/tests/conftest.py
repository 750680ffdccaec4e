# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged lab and its hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import testinfra
from testinfra.host import Host

from lab import client
from lab.play import fingerprint

GPU_HOSTS = ["gpu1", "gpu2"]


@pytest.fixture(scope="session")
def lab() -> client.Lab:
    """Addresses of the lab."""
    return client.Lab.read()


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    """testinfra's view of each host."""
    return {name: testinfra.get_host(f"podman://{client.container(name)}") for name in ["lb1", *GPU_HOSTS]}


@pytest.fixture(params=GPU_HOSTS)
def gpu(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Host:
    """Each GPU host in turn."""
    return hosts[request.param]


@pytest.fixture(scope="module")
def untouched() -> Iterator[None]:
    """Fails if anything on the hosts changed during a file of tests."""
    before = fingerprint()
    yield
    assert fingerprint() == before
