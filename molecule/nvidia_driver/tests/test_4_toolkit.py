# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container toolkit beside the driver. The package is a fake, since the lab does not reach NVIDIA's repository; its
nvidia-ctk describes GPUs, of which there are none. apt, systemd and the order in which Docker starts are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab import driver as rig
from lab.play import Run

FAKE = "/opt/fake-nvidia"
SOURCE = "/etc/apt/sources.list.d/fake-nvidia.list"
SPEC = "/run/cdi/nvidia.yaml"
DOCKER = "/etc/systemd/system/docker.service"
MAKE = f"""set -e
mkdir -p {FAKE}/build/DEBIAN {FAKE}/build/usr/bin
cat > {FAKE}/build/usr/bin/nvidia-ctk <<'EOF'
#!/bin/sh
# A fake: says what a host without GPUs would never have it say.
test "$1 $2" = "cdi generate" && mkdir -p /run/cdi && echo "kind: nvidia.com/gpu" > "${{3#--output=}}"
EOF
chmod 755 {FAKE}/build/usr/bin/nvidia-ctk
printf '%s\\n' 'Package: {rig.TOOLKIT}' 'Version: 0.0~fake' 'Architecture: all' 'Maintainer: nobody <nobody@invalid>' \
  'Description: a fake for tests' > {FAKE}/build/DEBIAN/control
dpkg-deb --build --root-owner-group {FAKE}/build {FAKE}/toolkit.deb
cd {FAKE}
{{ cat build/DEBIAN/control; echo "Filename: ./toolkit.deb"; echo "Size: $(stat -c %s toolkit.deb)"
  echo "SHA256: $(sha256sum toolkit.deb | cut -d' ' -f1)"; }} > Packages
echo 'deb [trusted=yes] file:{FAKE} ./' > {SOURCE}
"""


def toolkit(*arguments: str, **variables: Any) -> Run:
    return rig.driver("--limit", rig.FIRST, *arguments, nvidia_driver_version="", **variables)


@pytest.fixture(scope="module")
def repository() -> Iterator[None]:
    rig.shell(rig.FIRST, MAKE)
    yield
    rig.shell(rig.FIRST, f"rm -r {FAKE} {SOURCE}")


def test_a_toolkit_that_no_source_has_is_refused() -> None:
    before = rig.state(rig.FIRST)
    run = toolkit(nvidia_driver_container_toolkit=True)
    assert run.code != 0 and set(run.failed) == {rig.LOOK}
    assert "nvidia_driver_container_toolkit: true: neither the source distribution nor" in run.messages
    assert rig.state(rig.FIRST) == before


@pytest.mark.usefixtures("repository")
def test_docker_finds_the_gpus_described_when_it_starts() -> None:
    before, state = rig.shell(rig.FIRST, "dkms status"), rig.state(rig.FIRST)
    # One package that needs no other: nothing that apt would ask about.
    told = toolkit("--check", nvidia_driver_container_toolkit=True)
    assert (told.code, set(told.changed)) == (0, {rig.INSTALL, rig.KEEP}), told.messages
    assert rig.state(rig.FIRST) == state and rig.TOOLKIT not in rig.packages(rig.FIRST)
    run = toolkit(nvidia_driver_container_toolkit=True)
    assert (run.code, set(run.changed)) == (0, {rig.INSTALL, rig.KEEP}), run.messages
    assert rig.shell(rig.FIRST, "dkms status") == before, "the driver was touched"
    assert rig.TOOLKIT in rig.shell(rig.FIRST, "apt-mark showhold").split()
    assert toolkit(nvidia_driver_container_toolkit=True).clean
    # Stands for Docker: it starts only if the description is there.
    rig.shell(rig.FIRST, f"printf '[Service]\\nType=oneshot\\nExecStart=/bin/grep nvidia.com/gpu {SPEC}\\n' > {DOCKER}")
    try:
        rig.shell(rig.FIRST, "systemctl daemon-reload && systemctl start docker")
    finally:
        rig.shell(
            rig.FIRST, f"rm {DOCKER}; systemctl stop steadfast-nvidia-cdi; systemctl daemon-reload; rm -rf /run/cdi"
        )


@pytest.mark.usefixtures("repository")
def test_what_describes_them_goes_when_it_is_not_wanted() -> None:
    run = toolkit(nvidia_driver_container_toolkit=False)
    assert (run.code, set(run.changed)) == (0, {rig.KEEP}), run.messages
    assert "not-found" in rig.shell(rig.FIRST, "systemctl show --property=LoadState steadfast-nvidia-cdi")
    assert toolkit(nvidia_driver_container_toolkit=False).clean
