# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a host and wishes to a plan, or to all that stands in its way."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver import Plan, plan

from tests import nvidia_hosts as hosts
from tests.nvidia_hosts import FIRST, SECURITY, bookworm_offers, gpu, installed, seen, wished


def places(made: Plan) -> list[str]:
    return [problem.place for problem in made.problems]


@pytest.mark.parametrize(
    ("device", "generation"),
    [
        (hosts.K80, "kepler"), (hosts.M60, "maxwell"), (hosts.P100, "pascal"), (hosts.V100, "volta"),
        (hosts.T4, "turing"), ("2182", "turing"), (hosts.A100, "ampere"), ("2237", "ampere"), (hosts.L4, "ada"),
        (hosts.H100, "hopper"), (hosts.H200, "hopper"), (hosts.GH200, "grace-hopper"), (hosts.B200, "blackwell"),
        ("2bb1", "blackwell"), ("3182", "blackwell"), ("1b38", "pascal"),
    ],
)  # fmt: skip
def test_a_device_id_tells_the_generation(device: str, generation: str) -> None:
    assert tables.generation(device) == generation


def test_every_block_s_generation_is_described() -> None:
    assert {name for _first, name in tables._BLOCKS} <= set(tables.GENERATIONS)
    firsts = [first for first, _name in tables._BLOCKS]
    assert firsts == sorted(firsts)


def test_a_bare_host_gets_one_version_of_everything() -> None:
    made = plan(wished(), seen())
    assert made.problems == ()
    assert (made.version, made.modules, made.kernel) == ("535.309.01", "proprietary", "6.1.0-41-amd64")
    assert {made.packages[name] for name in ("nvidia-smi", "libcuda1", "nvidia-kernel-dkms")} == {SECURITY}
    assert made.packages["nvidia-persistenced"] == made.packages["linux-headers-6.1.0-41-amd64"] == ""
    assert set(made.install) == set(made.packages)
    assert "nvidia-smi" in made.hold and "linux-headers-6.1.0-41-amd64" not in made.hold
    assert made.persistence and not made.fabric


def test_what_is_to_be_asked_comes_before_a_plan() -> None:
    made = plan(wished(), seen(available=None))
    assert {"nvidia-kernel-dkms", "nvidia-open-kernel-dkms", "libcuda1", "linux-headers-6.1.0-41-amd64"} <= {*made.asks}
    assert not made.packages


def test_open_modules_bring_the_libraries_of_their_version() -> None:
    made = plan(wished(modules="open"), seen())
    assert made.problems == ()
    assert {made.packages[name] for name in ("libcuda1", "nvidia-open-kernel-dkms")} == {FIRST}


def test_an_installed_driver_stays_although_there_is_a_newer_one() -> None:
    made = plan(wished(), seen(installed=installed(FIRST)))
    assert (made.version, made.install, made.asks) == ("535.261.03", (), ())


def test_an_installed_driver_needs_no_repository() -> None:
    made = plan(wished(branch="535"), seen(installed=installed(), available=None))
    assert (made.problems, made.install, made.asks) == ((), (), ())


def test_an_upgrade_is_asked_for_by_its_version() -> None:
    made = plan(wished(version="535.309.01"), seen(installed=installed(FIRST)))
    assert set(made.install) == set(installed()) - {"nvidia-persistenced", "linux-headers-6.1.0-41-amd64"}
    assert {made.packages[name] for name in made.install} == {SECURITY}


def test_other_kernel_modules_replace_those_that_are_there() -> None:
    made = plan(wished(modules="open"), seen(installed=installed()))
    assert made.remove == ("nvidia-kernel-dkms",)
    assert "nvidia-open-kernel-dkms" in made.install


def test_packages_of_two_versions_are_not_as_wished() -> None:
    mixed = {**installed(), "libcuda1": FIRST}
    assert plan(wished(), seen(installed=mixed, available=None)).asks
    assert plan(wished(), seen(installed=mixed)).install == ("libcuda1",)


@pytest.mark.parametrize(
    ("devices", "modules", "expected"),
    [
        ([hosts.T4], "auto", "proprietary"),
        ([hosts.V100], "auto", "proprietary"),
        ([hosts.H100, hosts.A100], "auto", "proprietary"),
        ([hosts.V100, hosts.A100], "auto", "proprietary"),
        ([hosts.H100], "open", "open"),
        ([hosts.GH200], "auto", "open"),
    ],
)
def test_the_modules_suit_the_gpus(devices: list[str], modules: str, expected: str) -> None:
    made = plan(wished(modules=modules), seen(gpus=[gpu(device) for device in devices]))
    assert (made.modules, made.problems) == (expected, ())


@pytest.mark.parametrize(
    ("device", "modules", "needed"), [(hosts.V100, "open", "proprietary"), (hosts.GH200, "proprietary", "open")]
)
def test_modules_that_do_not_drive_the_gpu_are_refused(device: str, modules: str, needed: str) -> None:
    made = plan(wished(modules=modules), seen(gpus=[gpu(device)]))
    (problem,) = (problem for problem in made.problems if problem.place == "nvidia_driver_modules")
    assert problem.value == modules and f"needs the {needed} kernel modules" in problem.why


def test_gpus_that_no_driver_serves_together_are_told() -> None:
    assert "gpus" in places(plan(wished(), seen(gpus=[gpu(hosts.V100), gpu(hosts.B200)])))


def test_a_branch_that_is_too_old_for_the_gpu_is_refused() -> None:
    made = plan(wished(), seen(gpus=[gpu(hosts.B200)]))
    (problem,) = made.problems
    assert (problem.place, problem.value) == ("nvidia_driver_branch", "535")
    assert "blackwell" in problem.why and "from 570 on" in problem.why


def test_a_branch_that_has_dropped_the_gpu_is_refused() -> None:
    ubuntu = seen(
        os_release={"ID": "ubuntu", "VERSION_ID": "24.04"},
        gpus=[gpu(hosts.V100)],
        available=vendor_ubuntu_offers("590.44.01-1ubuntu1", ""),
    )
    made = plan(wished(source="nvidia", branch="590"), ubuntu)
    assert any("up to 580" in problem.why for problem in made.problems)


def vendor_ubuntu_offers(version: str, suffix: str) -> dict[str, list[str]]:
    names = ("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils", "nvidia-dkms", "nvidia-fabricmanager")
    offers = {f"{name}{suffix}": [version] for name in names}
    return {**offers, f"nvidia-dkms{suffix}-open": [version], "linux-headers-6.1.0-41-amd64": ["6.8"]}


@pytest.mark.parametrize(
    ("changes", "wishes", "place", "words"),
    [
        ({"gpus": []}, {}, "nvidia_driver_without_gpu", "no PCI device"),
        ({"gpus": [gpu(hosts.H100, "nouveau")]}, {}, "nouveau", "0000:3b:00.0"),
        ({"secure_boot": True}, {}, "Secure Boot", "mokutil --import"),
        ({"euid": 1000, "user": "mia"}, {}, "become", "mia"),
        ({"users": [{"pid": 7, "command": "VLLM::Worker"}]}, {}, "GPU", "VLLM::Worker (pid 7)"),
        ({"library": "570.86.15"}, {}, "driver", "libcuda.so.570.86.15"),
        ({"switches": [gpu("22a3")]}, {}, "NVSwitch", "nvidia_driver_source: nvidia"),
        ({"archive": False}, {}, "apt", "contrib, non-free, non-free-firmware"),
        ({}, {"version": "535.1.1"}, "nvidia_driver_version", "it offers 535.309.01, 535.261.03"),
        ({}, {"branch": "580"}, "nvidia_driver_branch", "it offers 535.309.01"),
        ({}, {"version": "latest"}, "nvidia_driver_version", "is no version"),
        ({}, {"branch": "R580"}, "nvidia_driver_branch", "is no branch"),
        ({}, {"branch": "580", "version": "535.309.01"}, "nvidia_driver_branch", "leave one out"),
        ({}, {"kernel": "6.9.9-none"}, "nvidia_driver_kernel", "linux-headers-6.9.9-none"),
        ({}, {"source": "nvidia", "branch": "580", "repository_key": " "}, "nvidia_driver_repository_key", "key"),
        ({"machine": "riscv64"}, {"source": "nvidia", "branch": "580"}, "nvidia_driver_source", "riscv64"),
        ({}, {"source": "nvidia"}, "nvidia_driver_branch", "several branches"),
        ({"os_release": {"ID": "arch", "VERSION_ID": ""}}, {}, "distribution", "use one of"),
        ({"os_release": {"ID": "rocky", "VERSION_ID": "9.4"}}, {}, "nvidia_driver_source", "use nvidia or"),
        ({"available": {}}, {}, "nvidia_driver_source", "apt finds no package nvidia-smi"),
    ],
)  # fmt: skip
def test_each_problem_names_place_value_and_fix(
    changes: dict[str, Any], wishes: dict[str, Any], place: str, words: str
) -> None:
    made = plan(wished(**wishes), seen(**changes))
    told = [str(problem) for problem in made.problems if problem.place == place]
    assert len(told) == 1, made.problems
    assert words in told[0]
    assert all(problem.value and problem.fix for problem in made.problems)


def test_all_problems_come_at_once() -> None:
    made = plan(wished(version="535.1.1", kernel="6.9.9-none"), seen(gpus=[], secure_boot=True))
    assert places(made) == [
        "nvidia_driver_without_gpu", "nvidia_driver_kernel", "nvidia_driver_version", "Secure Boot",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "wishes"),
    [
        ({"secure_boot": True, "key_enrolled": True}, {}),
        ({"gpus": [gpu(hosts.H100, "nouveau")]}, {"reboot": True}),
        ({"gpus": []}, {"without_gpu": "install"}),
        ({"users": [{"pid": 7, "command": "nvidia-persiste"}]}, {}),
        ({"build_folder": True}, {"kernel": "6.9.9-own"}),
        ({"library": "535.261.03", "installed": installed(FIRST)}, {"version": "535.309.01"}),
    ],
)
def test_what_looks_alike_is_no_problem(changes: dict[str, Any], wishes: dict[str, Any]) -> None:
    assert plan(wished(**wishes), seen(**changes)).problems == ()


def test_who_uses_the_gpu_matters_only_where_its_driver_changes() -> None:
    busy = [{"pid": 7, "command": "VLLM::Worker"}]
    assert plan(wished(), seen(users=busy, installed=installed())).problems == ()


def test_a_machine_without_a_gpu_is_skipped_on_wish() -> None:
    made = plan(wished(without_gpu="skip"), seen(gpus=[], available=None))
    assert made.skipped and not made.asks and made.problems == ()


def test_a_flavour_of_kernel_is_told_by_its_headers() -> None:
    offers = {**bookworm_offers(), "linux-headers-cloud-amd64": ["6.1.158-1"]}
    host = seen(available=offers, releases={"linux-headers-cloud-amd64": "6.1.0-41-cloud-amd64"})
    made = plan(wished(kernel="cloud-amd64"), host)
    assert (made.kernel, made.problems) == ("6.1.0-41-cloud-amd64", ())
    assert "linux-headers-cloud-amd64" in made.packages


def test_the_headers_follow_the_image_that_follows_upgrades() -> None:
    offers = {**bookworm_offers(), "linux-headers-amd64": ["6.1.158-1"]}
    made = plan(wished(), seen(images=["linux-image-amd64", "linux-image-none"], available=offers))
    assert "linux-headers-amd64" in made.packages
    assert "linux-headers-none" not in made.packages


def test_the_kernel_is_held_on_wish_and_let_go_of() -> None:
    kernel = {"linux-image-6.1.0-41-amd64": "6.1.158-1", "linux-image-amd64": "6.1.158-1"}
    host = seen(installed={**installed(), **kernel}, held=["nvidia-smi", "nvidia-container-toolkit", "vim"])
    made = plan(wished(hold=["kernel"]), host)
    assert set(made.hold) == {*kernel, "linux-headers-6.1.0-41-amd64"}
    assert made.unhold == ("nvidia-smi",)


def test_a_switch_takes_a_fabric_manager_of_the_same_version() -> None:
    version = "580.95.05-0ubuntu1"
    ubuntu = seen(
        os_release={"ID": "ubuntu", "VERSION_ID": "24.04"},
        switches=[gpu("22a3")],
        available=vendor_ubuntu_offers(version, "-580"),
    )
    made = plan(wished(source="nvidia", branch="580"), ubuntu)
    assert made.problems == ()
    assert made.packages["nvidia-fabricmanager-580"] == version
    assert made.fabric and made.modules == "open"


def test_removal_takes_what_came_and_nothing_else() -> None:
    there = {**installed(), "nvidia-container-toolkit": "1.17.8-1", "dkms": "3.0.10", "gcc": "4:12.2.0"}
    host = seen(installed=there, added=["nvidia-smi", "dkms"], pinned="535.309.01", held=["nvidia-smi", "vim"])
    made = plan(wished(state="absent"), host)
    assert set(made.remove) == set(installed()) - {"nvidia-persistenced", "linux-headers-6.1.0-41-amd64"}
    assert made.unhold == ("nvidia-smi",)


def test_a_driver_in_use_is_not_removed() -> None:
    host = seen(installed=installed(), pinned="535.309.01", users=[{"pid": 7, "command": "python3"}])
    assert places(plan(wished(state="absent"), host)) == ["GPU"]


def test_dnf_s_branch_is_pinned_by_its_stream() -> None:
    rocky = seen(os_release={"ID": "rocky", "VERSION_ID": "9.4"}, running_kernel="5.14.0-503.el9.x86_64")
    made = plan(wished(source="nvidia", branch="580"), rocky)
    assert made.problems == ()
    assert made.stream == "nvidia-driver:580-open"
    assert list(made.packages) == [
        "nvidia-driver-cuda", "kmod-nvidia-open-dkms", "nvidia-persistenced", "kernel-devel-5.14.0-503.el9.x86_64",
    ]  # fmt: skip
    busy = {**rocky, "users": [{"pid": 7, "command": "vllm"}]}
    assert places(plan(wished(source="nvidia", branch="580"), busy)) == ["GPU"]
    assert plan(wished(source="nvidia", branch="580"), {**busy, "stream": made.stream}).problems == ()
    volta = plan(wished(source="nvidia", branch="580"), {**rocky, "gpus": [gpu(hosts.V100)]})
    assert (volta.stream, "kmod-nvidia-latest-dkms" in volta.packages) == ("nvidia-driver:580-dkms", True)


def test_dnf_forgets_its_stream() -> None:
    rocky = seen(os_release={"ID": "rocky", "VERSION_ID": "9.4"}, stream="nvidia-driver:580-open")
    made = plan(wished(state="absent"), rocky)
    assert (made.problems, made.drops, made.swap) == ((), "nvidia-driver:580-open", True)
    assert not plan(wished(state="absent"), {**rocky, "stream": ""}).drops
    assert places(plan(wished(state="absent"), {**rocky, "users": [{"pid": 7, "command": "vllm"}]})) == ["GPU"]


def test_dnf_holds_no_kernel() -> None:
    rocky = seen(os_release={"ID": "rocky", "VERSION_ID": "9.4"})
    assert places(plan(wished(source="nvidia", branch="580", hold=["driver", "kernel"]), rocky)) == [
        "nvidia_driver_hold"
    ]


TRIAL = {"error": "", "download": 100 * 2**20, "disk": 300 * 2**20, "removes": []}


def disks(free: int, device: int = 1) -> list[dict[str, Any]]:
    names = (("usr", "/usr"), ("archives", "/var/cache"), ("build", "/var/lib/dkms"))
    return [{"for": use, "path": path, "device": device, "free": free * 2**20} for use, path in names]


def test_room_is_added_up_on_one_file_system() -> None:
    made = plan(wished(), seen())
    need = (TRIAL["download"] + TRIAL["disk"] + _nvidia_driver.BUILD_BYTES) // 2**20
    assert _nvidia_driver.simulated(made, {"trial": TRIAL, "disks": disks(need)}) == []
    (problem,) = _nvidia_driver.simulated(made, {"trial": TRIAL, "disks": disks(need - 5)})
    assert problem.place == "disk" and problem.fix.startswith("free 6 MiB")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"error": "E: held broken packages"}, "held broken packages"), ({"removes": ["xserver-xorg"]}, "xserver-xorg")],
)
def test_what_apt_says_of_the_plan_is_a_problem(changes: dict[str, Any], words: str) -> None:
    (problem,) = _nvidia_driver.simulated(plan(wished(), seen()), {"trial": {**TRIAL, **changes}, "disks": disks(9999)})
    assert words in str(problem)


LOADED = {"version": "535.309.01", "open": False}


@pytest.mark.parametrize(
    ("changes", "place", "reboot"),
    [
        ({}, "driver", ""),
        ({"library": "535.309.01", "module": "535.261.03"}, "driver", ""),
        ({"library": "535.309.01", "module": "535.309.01"}, "", "no module is loaded"),
        ({"library": "535.309.01", "loaded": {**LOADED, "version": "535.261.03"}}, "", "version 535.261.03 is loaded"),
        ({"library": "535.309.01", "loaded": LOADED}, "", ""),
        ({"library": "535.309.01", "loaded": LOADED, "smi": "no answer within 30 s"}, "nvidia-smi", ""),
        ({"library": "535.309.01", "module": "535.309.01", "gpus": []}, "", ""),
    ],
)
def test_what_an_installed_driver_is_worth(changes: dict[str, Any], place: str, reboot: str) -> None:
    problems, owed = _nvidia_driver.verdict(seen(**changes), 30)
    assert [problem.place for problem in problems] == ([place] if place else [])
    assert reboot in owed and bool(reboot) == bool(owed)


# What stands beside the driver


TOOLKIT = "nvidia-container-toolkit"


@pytest.mark.parametrize("missing", ["nvidia-persistenced", "linux-headers-6.1.0-41-amd64", TOOLKIT])
def test_what_is_missing_beside_a_driver_comes_without_another_driver(missing: str) -> None:
    """There is a newer one, and programs use the one that is there."""
    have = {name: version for name, version in installed(FIRST).items() if name != missing}
    offers = {**bookworm_offers(), TOOLKIT: ["1.18.0-1"]}
    host = seen(installed=have, available=offers, users=[{"pid": 7, "command": "vllm"}])
    made = plan(wished(container_toolkit=missing == TOOLKIT), host)
    assert (made.problems, made.version, made.install) == ((), "535.261.03", (missing,))
    asked = plan(wished(container_toolkit=missing == TOOLKIT), {**host, "available": None})
    assert missing in asked.asks


def test_what_is_missing_beside_a_driver_and_cannot_be_had_is_told() -> None:
    have = {name: version for name, version in installed(FIRST).items() if name != "nvidia-persistenced"}
    offers = {name: versions for name, versions in bookworm_offers().items() if name != "nvidia-persistenced"}
    made = plan(wished(), seen(installed=have, available=offers))
    assert "apt finds no package nvidia-persistenced" in str(made.problems[0])


def test_the_toolkit_is_held_and_not_pinned() -> None:
    made = plan(wished(container_toolkit=True), seen(available={**bookworm_offers(), TOOLKIT: ["1.18.0-1"]}))
    assert (made.problems, made.packages[TOOLKIT]) == ((), "")
    assert TOOLKIT in made.hold


def test_a_toolkit_that_no_source_has_is_told_with_the_ways_out() -> None:
    (problem,) = plan(wished(container_toolkit=True), seen()).problems
    assert str(problem).startswith("nvidia_driver_container_toolkit: true: neither the source distribution nor")
    assert "nvidia_driver_source: nvidia" in str(problem) and "service_compose_gpus: devices" in str(problem)


@pytest.mark.parametrize(("branch", "cuda"), [("570", 12), ("580", 13), ("610", 13)])
def test_dcgm_comes_for_the_cuda_of_the_branch(branch: str, cuda: int) -> None:
    asked = plan(wished(source="nvidia", branch=branch, dcgm=True), seen(available=None)).asks
    assert [name for name in asked if "datacenter" in name] == [f"datacenter-gpu-manager-4-cuda{cuda}"]


def test_an_image_has_to_bring_its_toolkit() -> None:
    wishes = wished(source="preinstalled", container_toolkit=True)
    (problem,) = plan(wishes, seen()).problems
    assert "the image has no nvidia-ctk" in str(problem)
    assert plan(wishes, seen(programs=["nvidia-ctk"])).problems == ()


def test_it_is_told_whether_the_driver_itself_changes() -> None:
    """Servers are stopped for that, and for nothing else."""
    assert plan(wished(), seen()).swap
    assert plan(wished(version="535.309.01"), seen(installed=installed(FIRST))).swap
    assert plan(wished(modules="open", version="535.261.03"), seen(installed=installed(FIRST))).swap
    have = {name: version for name, version in installed().items() if name != "nvidia-persistenced"}
    assert not plan(wished(), seen(installed=have)).swap
    assert not plan(wished(hold=[]), seen(installed=installed())).swap
