# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of its GPUs: on trees of files like the kernel's, and on what nvidia-smi said on a real H100."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_host

# Recorded by scripts/gpu_preflight.py, without serial numbers; the file says on what.
RECORDED = json.loads((Path(__file__).parent / "recorded/gpu/h100-580.159.04.json").read_text())
MIB = 2**20


def device(bus: Path, slot: str, vendor: str, kind: str, number: str, driver: str = "") -> None:
    folder = bus / slot
    folder.mkdir()
    for name, text in (("vendor", vendor), ("class", kind), ("device", number)):
        (folder / name).write_text(f"0x{text}\n")
    if driver:
        (bus.parent / driver).mkdir(exist_ok=True)
        (folder / "driver").symlink_to(bus.parent / driver)


def test_devices(tmp_path: Path) -> None:
    bus = tmp_path / "devices"
    bus.mkdir()
    assert _gpu_host.gpus(bus) == _gpu_host.switches(bus) == []
    device(bus, "0000:3b:00.0", "10de", "030200", "2330", "nvidia")
    device(bus, "0000:01:00.0", "10de", "030000", "1eb8", "nouveau")
    device(bus, "0000:01:00.1", "10de", "040300", "10f8")  # its sound
    device(bus, "0000:05:00.0", "10de", "068000", "22a3")
    device(bus, "0000:06:00.0", "1002", "030000", "73bf")
    device(bus, "0000:07:00.0", "10de", "030200", "20b0")
    assert _gpu_host.gpus(bus) == [
        {"slot": "0000:01:00.0", "device": "1eb8", "driver": "nouveau"},
        {"slot": "0000:07:00.0", "device": "20b0", "driver": ""},
        {"slot": "0000:3b:00.0", "device": "2330", "driver": "nvidia"},
    ]
    assert [one["device"] for one in _gpu_host.switches(bus)] == ["22a3"]


@pytest.mark.parametrize(
    ("text", "loaded"),
    [
        (RECORDED["version"], {"version": "580.159.04", "open": True}),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Mon May  4 20:33:21 UTC 2026\n",
            {"version": "535.309.01", "open": False},
        ),
        ("", None),
        ("garbage\n", None),
    ],
)
def test_the_loaded_module(tmp_path: Path, text: str, loaded: object) -> None:
    file = tmp_path / "version"
    assert _gpu_host.loaded(file) is None
    file.write_text(text)
    assert _gpu_host.loaded(file) == loaded


def test_secure_boot(tmp_path: Path) -> None:
    assert _gpu_host.secure_boot(tmp_path / "none") is None
    (tmp_path / "efivars").mkdir()
    assert _gpu_host.secure_boot(tmp_path) is False, "booted by UEFI, which does not say"
    variable = tmp_path / "efivars" / _gpu_host.SECURE_BOOT
    for content, on in ((b"\x06\0\0\0\1", True), (b"\x06\0\0\0\0", False), (b"\x06\0\0", False)):
        variable.write_bytes(content)
        assert _gpu_host.secure_boot(tmp_path) is on


def test_the_kind_of_machine(tmp_path: Path) -> None:
    assert _gpu_host.instance_type(tmp_path) == ""
    (tmp_path / "product_name").write_text("g6e.xlarge\n")
    (tmp_path / "sys_vendor").write_text("QEMU\n")
    assert _gpu_host.instance_type(tmp_path) == ""
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")
    assert _gpu_host.instance_type(tmp_path) == "g6e.xlarge"


def test_iommu(tmp_path: Path) -> None:
    classes, cmdline = tmp_path / "iommu", tmp_path / "cmdline"
    assert _gpu_host.iommu(classes, cmdline) is False
    classes.mkdir()
    assert _gpu_host.iommu(classes, cmdline) is False
    (classes / "dmar0").touch()
    assert _gpu_host.iommu(classes, cmdline) is True
    cmdline.write_text("quiet iommu=pt console=ttyS0\n")
    assert _gpu_host.iommu(classes, cmdline) is False


def test_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    assert _gpu_host.memory_total(file) is None
    file.write_text("MemTotal:       24672432 kB\nMemFree:         20 kB\n")
    assert _gpu_host.memory_total(file) == 24672432 * 1024


class Smi:
    """Answers with what is given, by the first word of the question."""

    def __init__(self, gpus: tuple[int, str, str], apps: tuple[int, str, str] = (0, "", "")) -> None:
        self.gpus, self.apps, self.asked = gpus, apps, list[list[str]]()

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.asked.append(argv)
        return self.gpus if argv[len(_gpu_host.SMI)].startswith("--query-gpu=") else self.apps


def test_a_real_h100() -> None:
    run = Smi((0, RECORDED["gpus"], ""), (0, RECORDED["apps"], ""))
    told = _gpu_host.smi(run)
    assert told is not None and (told["problem"], told["driver"]) == ("", "580.159.04")
    (card,) = told["cards"]
    assert (card["index"], card["name"], card["capability"]) == (0, "NVIDIA H100 80GB HBM3", (9, 0))
    # What CUDA gave as the whole of it on that card.
    assert card["memory"] == RECORDED["cuda_total"]
    assert card["slot"] == "0000:00:06.0" and card["mig"] is False
    (process,) = told["processes"]
    assert process["uuid"] == card["uuid"] and process["pid"] > 0
    assert process["used"] > RECORDED["held"]
    assert all(argv[: len(_gpu_host.SMI)] == _gpu_host.SMI for argv in run.asked)


@pytest.mark.parametrize(
    ("status", "words", "problem"),
    [
        (124, "", "no answer within 20 s"),
        (137, "", "no answer within 20 s"),
        (18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n",
         "Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95"),
        (9, "", "exit status 9"),
    ],
)  # fmt: skip
def test_one_that_does_not_work(status: int, words: str, problem: str) -> None:
    told = _gpu_host.smi(Smi((status, words, "")))
    assert told is not None and dict(told) == {"problem": problem, "driver": "", "cards": [], "processes": []}


def test_none_at_all() -> None:
    assert _gpu_host.smi(Smi((127, "", "timeout: failed to run command 'nvidia-smi'"))) is None

    def no_timeout(_argv: list[str]) -> tuple[int, str, str]:
        raise FileNotFoundError

    assert _gpu_host.smi(no_timeout) is None


def test_what_a_card_does_not_tell_is_none() -> None:
    row = "0, GPU-1, NVIDIA GB10, [N/A], [N/A], [N/A], [N/A], [N/A], 0000000F:01:00.0, 580.95.05\nhalf a, line\n"
    told = _gpu_host.smi(Smi((0, row, ""), (0, "GPU-1, 7, [N/A]\n[N/A], [N/A], 1\n", "")))
    assert told is not None
    (card,) = told["cards"]
    assert [card[key] for key in ("capability", "memory", "free", "mig")] == [None, None, None, False]
    assert told["processes"] == [{"uuid": "GPU-1", "pid": 7, "used": None}]
