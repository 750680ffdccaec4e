# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one version to a newer one: a swap whose build fails gives the old driver back, built; then one that works."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import driver as rig
from lab.play import fingerprint

KEEP_VERSION = "/etc/apt/preferences.d/steadfast-nvidia-driver"


def built(host: str) -> str:
    return rig.shell(host, "dkms status").strip()


@pytest.mark.parametrize("host", rig.with_two_versions())
def test_an_upgrade_whose_build_fails_gives_the_old_driver_back(host: str) -> None:
    older, newer = rig.UPGRADES[host]
    # dkms(8): a file of this name overrides what the package says of its build.
    broken = f"/etc/dkms/nvidia-current-{newer}.conf"
    rig.shell(host, f"printf 'MAKE[0]=\"echo broken on purpose; exit 1\"\\n' > {broken}")
    try:
        before, modules, held = rig.state(host), built(host), rig.shell(host, "apt-mark showhold")
        run = rig.driver("--limit", host, nvidia_driver_version=newer)
        assert run.code != 0
        assert set(run.failed) == {rig.INSTALL}
        assert "broken on purpose" in run.messages and "the host is as it was" in run.messages
        assert built(host) == modules and f"/{older}" in modules
        assert rig.shell(host, "apt-mark showhold") == held
        assert rig.state(host) == before
    finally:
        rig.shell(host, f"rm {broken}")


@pytest.mark.parametrize("host", rig.with_two_versions())
def test_an_upgrade_swaps_modules_libraries_pin_and_holds(host: str, measured: Callable[[str], None]) -> None:
    older, newer = rig.UPGRADES[host]
    before, held = fingerprint(), rig.shell(host, "apt-mark showhold")
    told = rig.driver("--limit", host, "--check", "--diff", nvidia_driver_version=newer)
    assert (told.code, set(told.changed)) == (0, {rig.INSTALL, rig.KEEP}), told.messages
    assert f"libcuda1 {newer}" in told.diff and fingerprint() == before
    run = rig.driver("--limit", host, nvidia_driver_version=newer)
    assert (run.code, set(run.changed)) == (0, set(told.changed)), run.messages
    status = built(host)
    assert f"/{newer}" in status and f"/{older}" not in status
    module = rig.shell(host, f"modinfo -F version $(find /lib/modules/{rig.release(host)} -name 'nvidia-current.ko*')")
    library = rig.shell(host, "readlink -f $(ldconfig -p | awk '/libcuda.so.1 / {print $NF; exit}')").strip()
    assert module.strip() == newer and library.endswith(f".so.{newer}")
    assert rig.shell(host, "apt-mark showhold") == held
    assert f"Pin: version {newer}-*" in rig.shell(host, f"cat {KEEP_VERSION}")
    assert rig.driver("--limit", host, nvidia_driver_version=newer).clean
    measured(f"{host}: {older} gave way to {newer}, after an attempt that failed")


@pytest.mark.parametrize("host", rig.with_two_versions())
def test_a_driver_that_fits_no_version_stays_when_none_is_asked_for(host: str) -> None:
    assert rig.driver("--limit", host, nvidia_driver_version="").clean
