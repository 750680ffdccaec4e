# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left on a host, and NVIDIA's repositories in the form that NVIDIA documents."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_files as files

from tests.nvidia_hosts import KEY, gpu, installed, seen, wished

VENDOR = "https://developer.download.nvidia.com/compute/cuda/repos"
# As of 2026-11-22, from the files that NVIDIA ships: cuda-rhel9.repo, cuda-amzn2023.repo.
RPM_REPO = """[cuda-{distro}-{arch}]
name=cuda-{distro}-{arch}
baseurl=https://developer.download.nvidia.com/compute/cuda/repos/{distro}/{arch}
enabled=1
gpgcheck=1
gpgkey=https://developer.download.nvidia.com/compute/cuda/repos/{distro}/{arch}/D42D0685.pub
"""
# The one line of its package cuda-keyring 1.1.
APT_LINE = "deb [signed-by={key}] https://developer.download.nvidia.com/compute/cuda/repos/{distro}/{arch}/ /"


def rendered(host: dict[str, Any], wishes: dict[str, Any]) -> dict[str, str]:
    plan = _nvidia_driver.plan(wishes, host)
    return {entry["path"]: entry.get("content", "") for entry in files.entries(wishes, host, plan)}


@pytest.mark.parametrize(
    ("identity", "version", "machine", "distro", "arch"),
    [
        ("rhel", "9.4", "x86_64", "rhel9", "x86_64"),
        ("almalinux", "9.6", "aarch64", "rhel9", "sbsa"),
        ("amzn", "2023", "x86_64", "amzn2023", "x86_64"),
    ],
)
def test_dnf_gets_the_repository_as_nvidia_ships_it(
    identity: str, version: str, machine: str, distro: str, arch: str
) -> None:
    host = seen(os_release={"ID": identity, "VERSION_ID": version}, machine=machine)
    made = rendered(host, wished(source="nvidia", branch="580", repository=VENDOR))
    head, _newline, body = made[files.YUM].partition("\n")
    body, _begin, held = body.partition("excludepkgs=")
    assert head.startswith("#")
    assert body == RPM_REPO.format(distro=distro, arch=arch)
    # What dnf upgrade leaves alone there; the container toolkit is not of the driver.
    assert any(fnmatchcase("nvidia-driver-cuda-libs", like) for like in held.split())
    assert any(fnmatchcase("kmod-nvidia-open-dkms", like) for like in held.split())
    assert not any(fnmatchcase("libnvidia-container1", like) for like in held.split())
    assert "excludepkgs" not in rendered(host, wished(source="nvidia", branch="580", hold=[]))[files.YUM]


@pytest.mark.parametrize(
    ("identity", "version", "distro"),
    [
        ("debian", "12", "debian12"),
        ("debian", "13", "debian13"),
        ("ubuntu", "22.04", "ubuntu2204"),
        ("ubuntu", "24.04", "ubuntu2404"),
    ],
)
def test_apt_gets_the_address_and_the_key_that_nvidia_documents(identity: str, version: str, distro: str) -> None:
    host = seen(os_release={"ID": identity, "VERSION_ID": version})
    made = rendered(host, wished(source="nvidia", branch="580", repository=VENDOR))
    fields = dict(line.split(": ", 1) for line in made[files.SOURCES].splitlines() if ": " in line)
    line = f"deb [signed-by={fields['Signed-By']}] {fields['URIs']}/ {fields['Suites']}"
    assert line == APT_LINE.format(key=files.KEY, distro=distro, arch="x86_64")
    assert fields["Types"] == "deb" and "Components" not in fields
    assert made[files.KEY].strip() == KEY.strip()


# As of 2026-11-22, the compute-only systems of NVIDIA's Driver Installation Guide and of Ubuntu Server's documentation.
@pytest.mark.parametrize(
    ("identity", "version", "source", "branch", "modules", "documented"),
    [
        ("debian", "13", "nvidia", "580", "open", "nvidia-driver-cuda nvidia-kernel-open-dkms"),
        ("debian", "12", "nvidia", "580", "proprietary", "nvidia-driver-cuda nvidia-kernel-dkms"),
        ("ubuntu", "24.04", "nvidia", "580", "open", "libnvidia-compute-580 nvidia-dkms-580-open"),
        ("ubuntu", "24.04", "nvidia", "610", "open", "libnvidia-compute nvidia-dkms-open"),
        ("ubuntu", "22.04", "nvidia", "610", "proprietary", "libnvidia-compute nvidia-dkms"),
        ("rocky", "9.4", "nvidia", "580", "open", "nvidia-driver-cuda kmod-nvidia-open-dkms"),
        ("amzn", "2023", "nvidia", "580", "proprietary", "nvidia-driver-cuda kmod-nvidia-latest-dkms"),
        (
            "ubuntu", "24.04", "distribution", "580", "open",
            "nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server linux-modules-nvidia-580-server-open-aws",
        ),
    ],
)  # fmt: skip
def test_the_packages_are_the_documented_ones(
    identity: str, version: str, source: str, branch: str, modules: str, documented: str
) -> None:
    host = seen(os_release={"ID": identity, "VERSION_ID": version}, available=None)
    wishes = wished(source=source, branch=branch, modules=modules, kernel="aws")
    made = _nvidia_driver.plan(wishes, host)
    assert set(documented.split()) <= {*made.asks, *made.packages}


def test_a_debian_host_gets_all_that_keeps_its_driver() -> None:
    made = rendered(seen(), wished())
    assert sorted(made) == sorted([files.MODPROBE, files.SOURCES, files.PIN, files.UNATTENDED])
    assert "Pin: version 535.309.01-*\nPin-Priority: 1001\n" in made[files.PIN]
    assert "\nblacklist nouveau\n" in made[files.MODPROBE]
    assert "URIs: http://a.example/debian\n" in made[files.SOURCES]
    assert all(text.startswith(("# ", "// ")) for text in made.values())


def test_the_pin_is_that_of_the_installed_version() -> None:
    made = rendered(seen(installed=installed("535.261.03-1"), available=None), wished())
    assert files.pinned(made[files.PIN]) == "535.261.03"
    assert files.pinned("") == ""


def test_a_source_that_the_host_has_is_not_written_again() -> None:
    assert files.SOURCES not in rendered(seen(lacking=[]), wished())


def test_only_what_is_held_is_kept_from_unattended_upgrades() -> None:
    assert files.UNATTENDED not in rendered(seen(), wished(hold=[]))
    both = rendered(seen(), wished(hold=["driver", "kernel"]))[files.UNATTENDED]
    assert '    "linux-image-";\n' in both and '    "nvidia-";\n' in both
    assert '"linux-image-"' not in rendered(seen(), wished())[files.UNATTENDED]


def test_an_initramfs_is_made_anew_only_where_there_is_one() -> None:
    def owed(host: dict[str, Any]) -> list[str]:
        entries = files.entries(wished(), host, _nvidia_driver.plan(wished(), host))
        return next(entry["owes"] for entry in entries if entry["path"] == files.MODPROBE)

    assert owed(seen()) == ["initramfs"]
    assert owed(seen(initramfs=[])) == []


@pytest.mark.parametrize("changes", [{"state": "absent"}, {"source": "preinstalled"}, {"without_gpu": "skip"}])
def test_nothing_is_left_where_the_driver_is_not_ours(changes: dict[str, Any]) -> None:
    assert rendered(seen(gpus=[], without_gpu="skip"), wished(**changes)) == {}


def test_a_gpu_makes_no_difference_to_the_files() -> None:
    assert rendered(seen(gpus=[]), wished(without_gpu="install")) == rendered(seen(gpus=[gpu("2330")]), wished())


@pytest.mark.parametrize("source", ["distribution", "preinstalled"])
def test_the_gpus_are_described_before_docker_starts(source: str) -> None:
    made = rendered(seen(programs=["nvidia-ctk"]), wished(source=source, container_toolkit=True))
    assert "ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/run/cdi/nvidia.yaml\n" in made[files.CDI]
    unit = files.CDI.rpartition("/")[2]
    assert f"Wants={unit}\nAfter={unit}\n" in made[files.CDI_WANTED]
    assert files.CDI not in rendered(seen(), wished(source=source))
