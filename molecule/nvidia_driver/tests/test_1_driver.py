# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The converged hosts: modules built for the kernel, of the libraries' version, and nothing that moves them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lab import driver as rig

HELD = ("nvidia-smi", "libcuda1", "nvidia-kernel-dkms", "nvidia-persistenced")


@pytest.mark.parametrize("host", rig.NAMES)
def test_the_modules_are_built_and_of_the_libraries_version(host: str, measured: Callable[[str], None]) -> None:
    kernel = rig.release(host)
    status = rig.shell(host, "dkms status")
    found = re.search(rf"^nvidia-current/([\d.]+), {re.escape(kernel)}, \S+: installed", status, re.MULTILINE)
    assert found, status
    module = rig.shell(host, f"modinfo -F version $(find /lib/modules/{kernel} -name 'nvidia-current.ko*')").strip()
    library = rig.shell(host, "readlink -f $(ldconfig -p | awk '/libcuda.so.1 / {print $NF; exit}')").strip()
    assert library.endswith(f".so.{module}") and module == found[1]
    assert rig.shell(host, "command -v nvidia-smi").strip()
    measured(f"{host}: driver {module} built for {kernel}")


@pytest.mark.parametrize("host", rig.NAMES)
def test_an_upgrade_leaves_the_driver_alone(host: str) -> None:
    held = rig.shell(host, "apt-mark showhold").split()
    assert set(HELD) <= set(held)
    refused = rig.shell(host, "apt-get -y -o APT::Get::Show-User-Simulation-Note=0 purge nvidia-smi 2>&1", check=False)
    assert "Held packages were changed" in refused
    policy = rig.shell(host, "apt-cache policy libcuda1")
    installed = re.search(r"Installed: (\S+)", policy)
    candidate = re.search(r"Candidate: (\S+)", policy)
    assert installed and candidate and installed[1] == candidate[1]
    assert re.search(rf"^ \*\*\* {re.escape(installed[1])} 1001$", policy, re.MULTILINE), policy
    assert 'Unattended-Upgrade::Package-Blacklist:: "nvidia-";' in rig.shell(host, "apt-config dump")
    assert "nvidia" not in rig.shell(host, "apt-get -s dist-upgrade | grep ^Inst", check=False)


@pytest.mark.parametrize("host", rig.with_two_versions())
def test_another_version_is_refused_by_apt(host: str) -> None:
    older, newer = rig.UPGRADES[host]
    for command in (f"install libcuda1={newer}*", "upgrade", "dist-upgrade"):
        rig.shell(host, f"apt-get -y {command} 2>&1", check=False)
        assert rig.shell(host, "dpkg-query -W -f '${Version}' libcuda1").startswith(older), command


def test_drift_is_told_by_check_mode_and_mended() -> None:
    host = rig.NAMES[-1]
    rig.shell(host, "echo 'nvidia-smi install' | dpkg --set-selections; rm /etc/apt/preferences.d/steadfast-*")
    told = rig.driver("--check", "--diff")
    changed = {rig.INSTALL, rig.KEEP}
    assert (told.code, set(told.changed)) == (0, changed), told.messages
    assert {name for names in told.changed.values() for name in names} == {host}
    assert "nvidia-smi" not in rig.shell(host, "apt-mark showhold").split()
    assert set(rig.driver().changed) == changed
    assert "nvidia-smi" in rig.shell(host, "apt-mark showhold").split()
    assert rig.shell(host, "cat /etc/apt/preferences.d/steadfast-nvidia-driver")


def test_nothing_failed_on_the_hosts() -> None:
    for host in rig.NAMES:
        assert not rig.shell(host, "dpkg --audit").strip()
        assert not [line for line in rig.shell(host, "ls /var/tmp").split() if line.startswith("steadfast")]
