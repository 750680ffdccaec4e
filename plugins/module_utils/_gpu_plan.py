# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an instance asks of which GPUs: what the checks of GPUs and of their memory share (private to this collection).

Pure, standard library only.
"""

from __future__ import annotations

import json
import math
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_table, _model_memory
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import Seen
from ansible_collections.steadfast.vllm.plugins.module_utils._vllm_memory import COMPILING

GIB = 2**30
# CUDA's own context: 527 MiB on an H100 with driver 580, taken before vLLM looks at what is free.
CONTEXT = 550 * 2**20
# Of the options of vllm serve, those that decide what it takes.
SIZES = (
    "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "data-parallel-size-local", "max-model-len",
    "max-num-batched-tokens", "max-num-seqs", "max-cudagraph-capture-size",
)  # fmt: skip
AMOUNTS = ("gpu-memory-utilization", "cpu-offload-gb", "kv-offloading-size", "kv-cache-memory-bytes")
WORDS = ("dtype", "kv-cache-dtype", "quantization", "mm-encoder-tp-mode", "performance-mode")
SWITCHES = ("enforce-eager", "language-model-only", "skip-mm-profiling", "enable-lora")
# Only whether they are there: what is in them is not looked at.
PRESENT = ("speculative-config", "kv-transfer-config")
# As vLLM reads 1k and 2M.
MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def arguments(served: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Those of the options of vllm serve that are judged here, as numbers and words; odd ones are left out."""
    found: dict[str, t.Any] = {}
    for name, value in served.items():
        if name in WORDS:
            found[name] = str(value)
        elif name in SWITCHES:
            found[name] = str(value).lower() in ("true", "1", "yes")
        elif name in PRESENT:
            found[name] = bool(value)
        elif name.partition(".")[0] in COMPILING:
            found[name.partition(".")[0]] = True
        elif name in SIZES + AMOUNTS and not isinstance(value, bool):
            number = _number(value)
            if number is not None:
                found[name] = int(number) if name in SIZES else number
    limits = _parts(served, "limit-mm-per-prompt")
    items = {kind: _count(limits.get(kind)) for kind in ("image", "video")}
    if any(count is not None for count in items.values()):
        found["limit-mm-per-prompt"] = {kind: count for kind, count in items.items() if count is not None}
    pixels = _pixels(_parts(served, "mm-processor-kwargs"))
    # The second is how the filter preflight_instances hands it on.
    pixels = pixels or _count(served.get("max-pixels"))
    if pixels:
        found["max-pixels"] = pixels
    return found


def _number(value: object) -> float | None:
    """None for what is no number from 0 on, such as max-model-len: auto."""
    text = str(value).strip()
    try:
        number = float(text[:-1]) * MULTIPLES[text[-1]] if text[-1:] in MULTIPLES else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _count(value: object) -> int | None:
    """A number of items, which may stand beside their sizes."""
    value = value.get("count") if isinstance(value, Mapping) else value
    number = None if isinstance(value, bool) else _number(value)
    return None if number is None else int(number)


def _pixels(options: Mapping[str, t.Any]) -> int | None:
    """The largest picture that a preprocessor is told to make."""
    size = options.get("size")
    edge = size.get("longest_edge") if isinstance(size, Mapping) else None
    return _count(options["max_pixels"] if options.get("max_pixels") is not None else edge)


def _parts(served: Mapping[str, t.Any], name: str) -> dict[str, t.Any]:
    """An option whose value is JSON: a dictionary, its text, or a key of it behind a dot."""
    whole = served.get(name)
    if isinstance(whole, str):
        try:
            whole = json.loads(whole)
        except ValueError:
            whole = None
    found = dict(whole) if isinstance(whole, Mapping) else {}
    for key, value in served.items():
        if key.startswith(f"{name}.") and key.count(".") == 1:
            found[key.partition(".")[2]] = value
    return found


def cards_of(seen: Seen) -> list[dict[str, t.Any]]:
    """As nvidia-smi tells them, else as their device ids do. memory, capability: None where it is not known."""
    if seen["smi"] is not None and seen["smi"]["cards"]:
        return list(seen["smi"]["cards"])
    found = []
    for index, device in enumerate(seen["gpus"]):
        card = _gpu_table.CARDS.get(device["device"])
        found.append(
            {
                "index": index,
                "uuid": "",
                "name": card.name if card else f"NVIDIA device 10de:{device['device']}",
                "capability": card.capability if card else None,
                "memory": card.memory if card else None,
                "free": None,
                "mig": False,
            }
        )
    return found


def chosen(instance: Mapping[str, t.Any], cards: Sequence[Mapping[str, t.Any]]) -> list[Mapping[str, t.Any]] | None:
    """The cards that an instance may use; None where that cannot be told (a MIG slice, identifiers and no driver)."""
    gpus = instance["gpus"]
    if gpus is None:
        return list(cards)
    found: list[Mapping[str, t.Any]] = []
    for one in gpus:
        if isinstance(one, int):
            match = [card for card in cards if card["index"] == one]
        elif one.startswith("MIG-") or not any(card["uuid"] for card in cards):
            return None
        else:
            match = [card for card in cards if card["uuid"].lower().startswith(one.lower())]
        found += match[:1]
    return found


def config_of(instance: Mapping[str, t.Any], seen: Seen) -> tuple[Mapping[str, t.Any] | None, int]:
    """(config.json, bytes of the weights): of the model on the host, else of a model that is known."""
    model = seen["models"].get(instance["model_path"]) or {}
    if model.get("content"):
        return model["content"], 0 if model["absent"] else model["bytes"]
    return _model_memory.known(instance["model"] or ""), 0


def share_of(instance: Mapping[str, t.Any]) -> float:
    """Of each GPU's memory; vLLM's own where nothing is said."""
    return float(instance["arguments"].get("gpu-memory-utilization") or 0.9)
