# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a start of vLLM takes: two bounds, from one measured machine (private to this collection). Pure.

An estimate. Measured on 2026-11-28 with vLLM 0.32 and Qwen3-VL-8B (36 layers) on H100s with 16 fast cores, weights not
read from a disk: 81 to 99 s with all compiled kernels there, 113 to 127 s where only those of other options were, 180
and 209 s without any, 299 s where FlashInfer's sampler was compiled too. `least` is for a faster machine and a smaller
model, `most` for a slow processor and a slow disk. tests/unit/plugins/module_utils/recorded/gpu/start_times.json has
the runs.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

# Seconds of the parts, as measured.
IMPORTS = 45  # in two processes, one after the other: 39 to 54 s, and 80 s in the first start of a machine
GRAPHS = 22
OTHER = 13  # the processor of pictures, the tokenizer, the first requests
CACHED = 12  # what torch.compile takes with its cache: 8 to 12 s
OTHERS = 27  # what it takes more where the cache is of other options of the same model: 34 to 39 s in all
COMPILE = 88  # what it and Triton take more without: 180 s less a warm start
MEASURED = 17.5e9  # bytes of that model's weights
SAMPLER = 120  # nvcc, for FlashInfer's sampler, three files: 106 and 120 s; 209 s on two busy cores
# How many cores each part has use for.
IMPORT_CORES, COMPILE_CORES, SAMPLER_CORES = 2, 8, 3
# A machine that is half as fast again, and one of slower cores.
FAST, SLOW = 0.67, 1.5
# Bytes per second: a good NVMe disk, or the page cache; a volume of EBS (gp3) as it comes.
DISK_FAST, DISK_SLOW = 5e9, 125e6


@dataclass(frozen=True)
class Start:
    """compiled, sampler: whether kernels of torch.compile and of FlashInfer's sampler are there already, or not wanted;
    None where that is not known. eager: neither compiling nor CUDA graphs. weights: bytes.
    """

    cores: int
    compiled: bool | None
    sampler: bool | None
    weights: int
    eager: bool = False


class Bounds(t.NamedTuple):
    """Seconds."""

    least: int
    most: int


def bounds(start: Start) -> Bounds:
    """What is not known counts as there for `least` and as not there for `most`."""
    least = FAST * _work(start, True, IMPORT_CORES + COMPILE_CORES + SAMPLER_CORES) + start.weights / DISK_FAST
    most = SLOW * _work(start, False, max(1, start.cores)) + start.weights / DISK_SLOW
    return Bounds(round(least), round(most))


def _work(start: Start, unknown: bool, cores: int) -> float:
    """Seconds of the measured processor."""
    seconds = IMPORTS * max(1.0, IMPORT_CORES / cores) + OTHER
    if not start.eager:
        seconds += GRAPHS + CACHED
    if not (unknown if start.compiled is None else start.compiled):
        # Triton's own kernels are compiled without torch.compile too; for the lower bound they are few. So may be
        # all that a small model compiles, or one whose size is not known.
        part = (0.0 if start.eager else min(1.0, start.weights / MEASURED)) if unknown else 1.0
        seconds += part * COMPILE * max(1.0, COMPILE_CORES / cores)
    elif not (start.eager or unknown):
        # What lies there may be of other options, or of another model: that is not looked into.
        seconds += OTHERS * max(1.0, COMPILE_CORES / cores)
    if not (unknown if start.sampler is None else start.sampler):
        seconds += SAMPLER * max(1.0, SAMPLER_CORES / cores)
    return seconds
