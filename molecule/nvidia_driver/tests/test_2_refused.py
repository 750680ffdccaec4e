# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What could not work is refused with its reason, and the host is as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import driver as rig
from lab.play import fingerprint

VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SECURE_BOOT = (
    "mount -t tmpfs none /sys/firmware && mkdir -p /sys/firmware/efi/efivars"
    f" && printf '\\006\\000\\000\\000\\001' > /sys/firmware/efi/efivars/{VARIABLE}"
)
FULL = "mount -t tmpfs -o size=64m none /var/lib/dkms"


@contextmanager
def mounted(command: str, place: str) -> Iterator[None]:
    rig.shell(rig.FIRST, command)
    try:
        yield
    finally:
        rig.shell(rig.FIRST, f"umount {place}")


def refused(**variables: Any) -> str:
    """What the role says to wishes that it refuses on the first host, which stays as it was."""
    before = fingerprint()
    run = rig.driver("--limit", rig.FIRST, **variables)
    assert run.code != 0 and not run.changed
    assert set(run.failed) == {rig.LOOK}
    assert fingerprint() == before
    return run.messages


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"nvidia_driver_version": "535.1.1"},
            "nvidia_driver_version: 535.1.1: the source distribution does not offer",
        ),
        ({"nvidia_driver_kernel": "6.1.0-1-none"}, "nvidia_driver_kernel: 6.1.0-1-none: the host's sources have no"),
        ({"nvidia_driver_without_gpu": "fail"}, "nvidia_driver_without_gpu: fail: no PCI device of this machine"),
        ({"nvidia_driver_source": "nvidia"}, "nvidia_driver_repository_key: '': apt takes packages only from"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wishes_that_cannot_be(variables: dict[str, Any], words: str) -> None:
    assert words in refused(**variables)


def test_secure_boot_that_would_not_load_the_modules() -> None:
    with mounted(SECURE_BOOT, "/sys/firmware"):
        said = refused(nvidia_driver_modules="open")
    assert "Secure Boot: on: the firmware lets only signed kernel modules in" in said and "mokutil --import" in said


def test_a_disk_that_is_too_small() -> None:
    with mounted(FULL, "/var/lib/dkms"):
        said = refused(nvidia_driver_modules="open")
    assert "disk: " in said and "MiB free at /var/lib/dkms" in said


def test_a_host_without_a_gpu_is_left_alone_on_wish() -> None:
    before = fingerprint()
    assert rig.driver(nvidia_driver_without_gpu="skip").clean
    assert fingerprint() == before
