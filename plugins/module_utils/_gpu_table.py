# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs, drivers and EC2 instances there are (private to this collection). Data only, as of 2026-11-22.

Sources: device ids, https://pci-ids.ucw.cz/read/PC/10de; compute capabilities, https://developer.nvidia.com/cuda-gpus;
drivers, https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html; EC2,
https://docs.aws.amazon.com/batch/latest/userguide/gpu-jobs.html and the pages of the instance families. Memory is what
nvidia-smi tells as memory.total, with ECC as the cards come.
"""

from __future__ import annotations

import typing as t

MIB = 2**20


class Card(t.NamedTuple):
    """memory: bytes. capability: CUDA's compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


# By PCI device id: what can be known before there is a driver to ask.
CARDS: dict[str, Card] = {
    "1db1": Card("Tesla V100-SXM2-16GB", 16384 * MIB, (7, 0)),
    "1db5": Card("Tesla V100-SXM2-32GB", 32768 * MIB, (7, 0)),
    "1db4": Card("Tesla V100-PCIE-16GB", 16384 * MIB, (7, 0)),
    "1db6": Card("Tesla V100-PCIE-32GB", 32768 * MIB, (7, 0)),
    "1eb8": Card("Tesla T4", 15360 * MIB, (7, 5)),
    "20b0": Card("A100-SXM4-40GB", 40960 * MIB, (8, 0)),
    "20b2": Card("A100-SXM4-80GB", 81920 * MIB, (8, 0)),
    "20f1": Card("A100-PCIE-40GB", 40960 * MIB, (8, 0)),
    "20b5": Card("A100 80GB PCIe", 81920 * MIB, (8, 0)),
    "20b7": Card("A30", 24576 * MIB, (8, 0)),
    "2235": Card("A40", 46068 * MIB, (8, 6)),
    "2236": Card("A10", 23028 * MIB, (8, 6)),
    "2237": Card("A10G", 23028 * MIB, (8, 6)),
    "2230": Card("RTX A6000", 49140 * MIB, (8, 6)),
    "2204": Card("GeForce RTX 3090", 24576 * MIB, (8, 6)),
    "2684": Card("GeForce RTX 4090", 24564 * MIB, (8, 9)),
    "26b1": Card("RTX 6000 Ada Generation", 49140 * MIB, (8, 9)),
    "26b5": Card("L40", 46068 * MIB, (8, 9)),
    "26b9": Card("L40S", 46068 * MIB, (8, 9)),
    "27b8": Card("L4", 23034 * MIB, (8, 9)),
    "2330": Card("H100 80GB HBM3", 81559 * MIB, (9, 0)),
    "2331": Card("H100 PCIe", 81559 * MIB, (9, 0)),
    "2321": Card("H100 NVL", 95830 * MIB, (9, 0)),
    "2335": Card("H200", 143771 * MIB, (9, 0)),
    "233b": Card("H200 NVL", 143771 * MIB, (9, 0)),
    "2901": Card("B200", 183359 * MIB, (10, 0)),
    "2b85": Card("GeForce RTX 5090", 32607 * MIB, (12, 0)),
    "2bb1": Card("RTX PRO 6000 Blackwell Workstation Edition", 97887 * MIB, (12, 0)),
    "2bb5": Card("RTX PRO 6000 Blackwell Server Edition", 97887 * MIB, (12, 0)),
}

# CUDA's major version: the oldest driver that runs what was built with any of its minor versions (Linux).
DRIVERS: dict[int, str] = {13: "580", 12: "525", 11: "450"}
# CUDA 13 compiles for nothing older than Turing; vLLM itself wants 7.0.
# https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/index.html
CAPABILITIES: dict[int, tuple[int, int]] = {13: (7, 5), 12: (7, 0), 11: (7, 0)}
# vLLM 0.32 refuses a dtype of bfloat16 that is asked for by name below this.
BFLOAT16 = (8, 0)

# EC2: type -> (device id, number of GPUs). Types with a share of a GPU (g6f, gr6f) are not among them.
EC2: dict[str, tuple[str, int]] = {
    **{f"g4dn.{size}": ("1eb8", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
    "g4dn.12xlarge": ("1eb8", 4),
    "g4dn.metal": ("1eb8", 8),
    **{f"g5.{size}": ("2237", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
    **{f"g5.{size}": ("2237", 4) for size in ("12xlarge", "24xlarge")},
    "g5.48xlarge": ("2237", 8),
    **{f"g6.{size}": ("27b8", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
    **{f"g6.{size}": ("27b8", 4) for size in ("12xlarge", "24xlarge")},
    "g6.48xlarge": ("27b8", 8),
    **{f"gr6.{size}": ("27b8", 1) for size in ("4xlarge", "8xlarge")},
    **{f"g6e.{size}": ("26b9", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
    **{f"g6e.{size}": ("26b9", 4) for size in ("12xlarge", "24xlarge")},
    "g6e.48xlarge": ("26b9", 8),
    "p3.2xlarge": ("1db1", 1),
    "p3.8xlarge": ("1db1", 4),
    "p3.16xlarge": ("1db1", 8),
    "p3dn.24xlarge": ("1db5", 8),
    "p4d.24xlarge": ("20b0", 8),
    "p4de.24xlarge": ("20b2", 8),
    "p5.4xlarge": ("2330", 1),
    "p5.48xlarge": ("2330", 8),
    "p5e.48xlarge": ("2335", 8),
    "p5en.48xlarge": ("2335", 8),
    "p6-b200.48xlarge": ("2901", 8),
}


def ec2_with(memory: float, cards: int) -> str:
    """The smallest EC2 type whose GPUs have so much memory each, with so many of them; "" for none."""
    fitting = [
        (CARDS[device].memory * count, number, name)
        for number, (name, (device, count)) in enumerate(EC2.items())
        if count >= cards and CARDS[device].memory >= memory and CARDS[device].capability >= CAPABILITIES[13]
    ]
    return min(fitting)[2] if fitting else ""
