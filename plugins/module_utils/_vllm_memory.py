# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM takes of a GPU beside weights and KV cache (private to this collection). Pure, standard library only.

vLLM finds it out by trying: it runs the model once with as many tokens as it may batch, and the vision tower once with
the largest picture, and takes the highest use that it saw for granted. This file adds up the tensors that are alive at
that moment, from their shapes, as vLLM 0.32 (model runner V2) creates them. Two constants are measured: GRAPH and
RUNTIME. tests/unit/plugins/module_utils/recorded/gpu/vllm_memory.json compares the sum with real runs.

All sizes are bytes on one GPU. docs/preflight.md explains the formula.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
MIB = 2**20
# As of 2026-11-28: get_batch_defaults() of vLLM 0.32 for `vllm serve`. (least memory of the card, batched tokens,
# sequences); an A100 counts as a small card, whatever its memory.
BATCHES = ((160 * GIB, 16384, 1024), (70 * GIB, 8192, 1024), (0, 2048, 256))
SMALL = "a100"
# Requests in one batch for which CUDA graphs are captured at most: 1024 on compute capability 10, 512 elsewhere.
GRAPH_SIZES, GRAPH_SIZES_10 = 512, 1024
# Of one layer and one captured size, as vLLM estimates it before it makes the cache: what counts in the share is that
# estimate, not what the graphs take in the end. profile_cudagraph_memory() of vLLM 0.32 captures all piecewise graphs
# and the two largest full ones, and takes the second for the size of each of the other full ones. From four starts of
# Qwen3-VL-8B (36 layers, 51 sizes) on an H100 on 2026-11-28: 0.62 GiB captured, 1.15 GiB estimated (11 MiB for each of
# the 49 others), 0.45 GiB in the end. All starts had 51 sizes
# and 36 layers: how much of it grows with either was not measured, only that the part of the 49 does with the sizes.
GRAPH = 672_500
# vLLM's own least for one full graph (_MIN_PER_GRAPH_BYTES).
LEAST_GRAPH = MIB
# What the shapes do not explain: CUDA's modules, workspaces of cuBLAS, blocks that PyTorch's allocator keeps. What is
# left of the same four starts: 0.495 to 0.500 GiB.
RUNTIME = GIB // 2
# Rows of rope's table per position of the model, where positions have a height and a width too; Qwen3-VL has one.
MROPE_ROWS = 4
# As of 2026-11-28, from the preprocessors of Qwen3-VL: pixels of the largest picture; of a video, both frames that make
# one step in time together.
LONGEST_EDGE = {"image": 16_777_216, "video": 25_165_824}
FRAMES = {"image": 1, "video": 2}
# vLLM's own limit where an instance sets none.
ITEMS = 999
# They decide what is compiled and captured as CUDA graphs, so that neither is known: whether they are there, whatever
# they say, or a key of theirs behind a dot.
COMPILING = ("compilation-config", "optimization-level", "cudagraph-capture-sizes")
# Options whose effect is not known here: what they add comes on top.
UNKNOWN = ("speculative-config", "enable-lora", "kv-transfer-config", *COMPILING)


@dataclass(frozen=True)
class Tower:
    """A vision tower like that of Qwen3-VL. `levels`: layers whose output goes to the language model by itself."""

    hidden: int
    inner: int
    out: int
    levels: int
    merge: int
    patch: int
    pixels: int  # numbers of one patch: channels x frames x height x width
    parameters: int


@dataclass(frozen=True)
class Network:
    """The shape of a decoder. `whole`: nothing in its configuration is left out here."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int
    queries: int  # numbers of all heads of one token
    keys: int
    positions: int  # rows of rope's table
    rotary: int  # numbers of one row
    tower: Tower | None
    whole: bool


@dataclass(frozen=True)
class Beside:
    """Bytes beside weights and cache. `whole`: an estimate; otherwise a lower bound, because of `unknown`."""

    peak: int
    buffers: int
    graphs: int
    runtime: int
    tokens: int
    sequences: int
    pictures: int  # tokens of vision that are encoded at once; 0: none
    whole: bool
    unknown: str = ""

    @property
    def total(self) -> int:
        return self.peak + self.buffers + self.graphs + self.runtime


@dataclass(frozen=True)
class Card:
    """memory: bytes. capability: CUDA's, None where it is not known."""

    memory: int
    name: str = ""
    capability: tuple[int, ...] | None = None


def batch(card: Card, arguments: Mapping[str, t.Any]) -> tuple[int, int]:
    """(tokens, sequences) that vLLM batches at most: as asked for, or its own default for the card."""
    memory = 0 if SMALL in card.name.lower() and card.memory < BATCHES[0][0] else card.memory
    tokens, sequences = next((tokens, sequences) for least, tokens, sequences in BATCHES if memory >= least)
    if arguments.get("performance-mode") == "throughput":
        tokens, sequences = 2 * tokens, 2 * sequences
    sequences = int(arguments.get("max-num-seqs") or sequences)
    length = int(arguments.get("max-model-len") or 0)
    if arguments.get("max-num-batched-tokens"):
        tokens = int(arguments["max-num-batched-tokens"])
    elif length:
        tokens = min(tokens, sequences * length)
    return tokens, sequences if arguments.get("max-num-seqs") else min(sequences, tokens)


def largest(tower: Tower, arguments: Mapping[str, t.Any], pixels: Mapping[str, int]) -> dict[str, int]:
    """Tokens of the largest item of each kind that an instance takes. PIXELS: as the model's preprocessors say."""
    limits: Mapping[str, int] = arguments.get("limit-mm-per-prompt") or {}
    if arguments.get("language-model-only"):
        return {}
    found = {}
    for kind, edge in LONGEST_EDGE.items():
        if limits.get(kind, ITEMS) > 0:
            most = int(arguments.get("max-pixels") or pixels.get(kind) or edge)
            found[kind] = most // FRAMES[kind] // (tower.patch * tower.merge) ** 2
    return found


def encoded(items: Mapping[str, int], arguments: Mapping[str, t.Any], tokens: int, sequences: int) -> int:
    """Tokens of vision that vLLM encodes at once when it measures itself: as many largest items as its budget takes."""
    if not items or arguments.get("skip-mm-profiling"):
        return 0
    size, kind = max((size, kind) for kind, size in items.items())
    limit = int((arguments.get("limit-mm-per-prompt") or {}).get(kind, ITEMS))
    length = int(arguments.get("max-model-len") or 0)
    of_one_prompt = max(1, min(limit, length // size)) if length else limit
    return size * max(1, min(max(tokens, size) // size, sequences * of_one_prompt))


def captured(card: Card, arguments: Mapping[str, t.Any], tokens: int, sequences: int) -> int:
    """How many sizes of a batch get a CUDA graph; 0 where that is not known."""
    if arguments.get("enforce-eager") or any(arguments.get(name) for name in COMPILING):
        return 0
    ten = card.capability is not None and tuple(card.capability)[:1] == (10,)
    most = int(
        arguments.get("max-cudagraph-capture-size") or min(2 * sequences, GRAPH_SIZES_10 if ten else GRAPH_SIZES)
    )
    most = min(most, tokens)
    small = sum(1 for size in (1, 2, 4) if size <= most)
    return small + len(range(8, min(most + 1, 256), 8)) + len(range(256, most + 1, 16))


def beside(
    of: Network | None,
    width: int,
    arguments: Mapping[str, t.Any],
    card: Card,
    pixels: Mapping[str, int],
) -> Beside:
    """What one GPU holds beside weights and cache. WIDTH: bytes of one number of the model."""
    tokens, sequences = batch(card, arguments)
    if of is None:
        return Beside(0, 0, 0, RUNTIME, tokens, sequences, 0, False, "its shape is not understood")
    tensor = max(1, int(arguments.get("tensor-parallel-size") or 1))
    stages = max(1, int(arguments.get("pipeline-parallel-size") or 1))
    items = largest(of.tower, arguments, pixels) if of.tower else {}
    tower = of.tower if items else None
    seen = encoded(items, arguments, tokens, sequences)
    kept = seen * tower.out * (1 + tower.levels) * width if tower else 0
    split = 1 if arguments.get("mm-encoder-tp-mode") == "data" else tensor
    peaks = [
        kept + _decoder_peak(of, tokens, width, tensor),
        kept + width * (tokens * of.hidden + sequences * of.vocabulary),
        _tower_peak(tower, seen, width, split) if tower else 0,
    ]
    of_one = -(-of.layers // stages) * GRAPH if of.whole else 0
    graphs = captured(card, arguments, tokens, sequences) * max(LEAST_GRAPH, of_one)
    strange = [name for name in UNKNOWN if arguments.get(name)]
    why = "" if of.whole else "parts of its shape are not understood"
    if strange:
        why = f"{', '.join(strange)} may take more"
    return Beside(
        max(peaks), _buffers(of, tower, width, tokens, sequences), graphs, RUNTIME,
        tokens, sequences, seen, not why, why,
    )  # fmt: skip


def _decoder_peak(of: Network, tokens: int, width: int, tensor: int) -> int:
    """In one layer: what goes by it and into it, and the widest of what it makes of that."""
    inner = 3 * of.inner // tensor  # gate and up, and their product
    attention = (2 * (of.queries + 2 * of.keys) + of.queries) // tensor  # with and without rope; the answer
    return tokens * width * (2 * of.hidden + max(inner, attention))


def _tower_peak(tower: Tower, seen: int, width: int, tensor: int) -> int:
    """In the last of the layers that give a level: all levels but their end, and the widest of its own tensors."""
    patches = seen * tower.merge**2
    base = patches * (2 * tower.hidden * width + tower.pixels) + seen * tower.levels * tower.out * width
    inner = 2 * tower.hidden + 2 * tower.inner // tensor  # the sum, its norm; before and behind the activation
    attention = tower.hidden + 8 * tower.hidden // tensor  # the norm; q, k, v, twice q and k for rope, the answer
    return max(base + patches * width * max(inner, attention), 2 * seen * tower.out * (1 + tower.levels) * width)


def _buffers(of: Network, tower: Tower | None, width: int, tokens: int, sequences: int) -> int:
    """Kept from the start on: rope's table, inputs of a batch, and which tokens each sequence had so far."""
    rope = of.positions * of.rotary * width
    inputs = tokens * of.hidden * width * (1 + tower.levels) if tower else 0
    counts = sequences * 4 * (of.vocabulary + -(-of.vocabulary // 32))
    return rope + inputs + counts
