# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver goes, with all that came with it; then a build that fails, which leaves nothing either."""

from __future__ import annotations

import pytest

from lab import driver as rig
from lab.play import fingerprint

BROKEN = "9.9.9-broken"


@pytest.fixture(scope="module")
def removed() -> None:
    """The hosts without the driver."""
    before = fingerprint()
    told = rig.driver("--check", nvidia_driver_state="absent")
    assert {host for hosts in told.changed.values() for host in hosts} == set(rig.NAMES)
    assert fingerprint() == before, "check mode changed something"
    run = rig.driver(nvidia_driver_state="absent")
    assert (run.code, set(run.changed)) == (0, set(told.changed)), run.messages


@pytest.mark.usefixtures("removed")
@pytest.mark.parametrize("host", rig.NAMES)
def test_nothing_of_it_is_left(host: str) -> None:
    assert rig.packages(host) == rig.image_packages(host)
    assert not rig.shell(host, f"ls {' '.join(rig.FILES)} /var/lib/steadfast/nvidia_driver 2>/dev/null", check=False)
    assert not rig.shell(host, "apt-mark showhold").strip()
    assert not rig.shell(host, "find /lib/modules -name '*nvidia*' 2>/dev/null", check=False).strip()
    assert not rig.shell(host, "dpkg --audit").strip()


@pytest.mark.usefixtures("removed")
def test_removing_again_changes_nothing() -> None:
    assert rig.driver(nvidia_driver_state="absent").clean


@pytest.mark.usefixtures("removed")
def test_a_build_that_fails_is_taken_back() -> None:
    """Headers that are there and no kernel can be built with: the build fails within a second."""
    build = f"/lib/modules/{BROKEN}/build"
    makefile = "all modules clean:\\n\\t@echo broken on purpose\\n\\t@exit 1\\n"
    rig.shell(rig.FIRST, f"mkdir -p {build}/include && printf '{makefile}' > {build}/Makefile && touch {build}/.config")
    try:
        before, packages = rig.state(rig.FIRST), rig.packages(rig.FIRST)
        run = rig.driver("--limit", rig.FIRST, nvidia_driver_kernel=BROKEN)
        assert run.code != 0
        assert set(run.failed) == {rig.INSTALL}
        assert "make.log ends with:" in run.messages and "broken on purpose" in run.messages
        assert "the host is as it was" in run.messages
        assert rig.packages(rig.FIRST) == packages
        assert rig.state(rig.FIRST) == before
        assert not rig.shell(rig.FIRST, "ls -d /usr/src/nvidia* /var/lib/dkms/nvidia* 2>/dev/null", check=False)
    finally:
        rig.shell(rig.FIRST, f"rm -r /lib/modules/{BROKEN}")
