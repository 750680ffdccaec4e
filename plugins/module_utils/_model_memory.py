# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model takes of a GPU's memory, from its config.json (private to this collection). Pure.

Weights, the KV cache of one request of the longest length, and the shape from which _vllm_memory.py estimates what
vLLM takes beside them. docs/preflight.md has the formulas.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.steadfast.vllm.plugins.module_utils import _vllm_memory

GIB = 2**30
DTYPES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
# As of 2026-11-22, from the config.json of each on the hub: what can be known before a model is fetched.
# https://huggingface.co/collections/Qwen/qwen3-vl
QWEN3_VL: dict[str, tuple[dict[str, t.Any], dict[str, t.Any], bool]] = {
    # text, vision, whether the embeddings are also the head
    "2B": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048},
        True,
    ),
    "4B": (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560},
        True,
    ),
    "8B": (
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096},
        False,
    ),
    "32B": (
        {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 5120},
        False,
    ),
}
TEXT = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "dtype": "bfloat16",
        "max_position_embeddings": 262144}  # fmt: skip
VISION = {"patch_size": 16, "temporal_patch_size": 2, "in_channels": 3, "spatial_merge_size": 2,
          "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """None: the configuration does not say it in a way that is understood here."""

    heads: int | None
    kv_heads: int | None
    kv_bytes: int | None  # of one token, both keys and values, at two bytes each, over all layers and heads
    parameters: int | None
    dtype_bytes: int
    network: _vllm_memory.Network | None = None  # for what vLLM takes beside weights and cache


def known(model: str) -> dict[str, t.Any] | None:
    """The config.json of a model of the hub, where it stands in the table."""
    family, _dash, rest = model.removeprefix("Qwen/Qwen3-VL-").partition("-")
    if not model.startswith("Qwen/Qwen3-VL-") or rest not in ("Instruct", "Thinking") or family not in QWEN3_VL:
        return None
    text, vision, tied = QWEN3_VL[family]
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {**TEXT, **text},
        "vision_config": {**VISION, **vision},
    }


def shape(config: Mapping[str, t.Any]) -> Shape:
    """From a config.json, whose language model may stand in a part of its own."""
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    heads = _count(text, "num_attention_heads")
    kv_heads = _count(text, "num_key_value_heads") or heads
    hidden, layers = _count(text, "hidden_size"), _count(text, "num_hidden_layers")
    head_dim = _count(text, "head_dim") or (hidden // heads if hidden and heads else None)
    kv_bytes = None
    if layers and kv_heads and head_dim and _plain_attention(text):
        kv_bytes = 2 * 2 * layers * kv_heads * head_dim
    dtype = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    network = _network(config, text, head_dim)
    return Shape(heads, kv_heads, kv_bytes, _parameters(config, text), DTYPES.get(str(dtype), 2), network)


def _count(config: Mapping[str, t.Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _plain_attention(text: Mapping[str, t.Any]) -> bool:
    """Whether each layer keeps each token's keys and values as they are."""
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds):
        return False
    slides = text.get("sliding_window") is not None and text.get("use_sliding_window") is not False
    # Latent attention (DeepSeek), state spaces and other mixtures.
    return not slides and not any(
        key in text for key in ("kv_lora_rank", "ssm_cfg", "mamba_d_state", "attn_layer_period")
    )


# A decoder with experts has tensors of other sizes, and so has attention that is not plain.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "moe_num_experts")
OTHER_INPUTS = ("vision_config", "audio_config", "thinker_config", "encoder_config", "speech_config")


def _network(
    config: Mapping[str, t.Any], text: Mapping[str, t.Any], head_dim: int | None
) -> _vllm_memory.Network | None:
    """The decoder's shape, None where its numbers are not there."""
    hidden, layers, vocabulary = (_count(text, key) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads = _count(text, "num_attention_heads")
    inner = _count(text, "intermediate_size")
    if not (hidden and layers and vocabulary and heads and inner and head_dim):
        return None
    tower = _tower(config)
    plain = _plain_attention(text) and not any(text.get(key) for key in EXPERTS)
    others = [key for key in OTHER_INPUTS if config.get(key) is not None]
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    by_place = tower is None and isinstance(rope, Mapping) and "mrope_section" in rope
    positions = (_count(text, "max_position_embeddings") or 0) * (_vllm_memory.MROPE_ROWS if by_place else 1)
    keys = (_count(text, "num_key_value_heads") or heads) * head_dim
    whole = plain and (others == ["vision_config"] if tower else not others)
    return _vllm_memory.Network(
        hidden, inner, layers, vocabulary, heads * head_dim, keys, positions, head_dim, tower, whole
    )


def _tower(config: Mapping[str, t.Any]) -> _vllm_memory.Tower | None:
    """The vision tower of Qwen3-VL; None for any other."""
    vision = config.get("vision_config")
    if config.get("model_type") not in ("qwen3_vl", "qwen3_vl_moe") or not isinstance(vision, Mapping):
        return None
    try:
        patch = int(vision["patch_size"])
        return _vllm_memory.Tower(
            hidden=int(vision["hidden_size"]),
            inner=int(vision["intermediate_size"]),
            out=int(vision["out_hidden_size"]),
            levels=len(vision["deepstack_visual_indexes"]),
            merge=int(vision["spatial_merge_size"]),
            patch=patch,
            pixels=int(vision["in_channels"]) * int(vision["temporal_patch_size"]) * patch**2,
            parameters=_vision_parameters(vision),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _parameters(config: Mapping[str, t.Any], text: Mapping[str, t.Any]) -> int | None:
    """Of Qwen3-VL without experts, its vision tower included: the count of its published weights, to the last one."""
    vision = config.get("vision_config")
    if config.get("model_type") != "qwen3_vl" or not isinstance(vision, Mapping):
        return None
    try:
        return _text_parameters(text, bool(config.get("tie_word_embeddings"))) + _vision_parameters(vision)
    except (KeyError, TypeError):
        return None


def _text_parameters(text: Mapping[str, t.Any], tied: bool) -> int:
    hidden, head = int(text["hidden_size"]), int(text["head_dim"])
    queries, keys = int(text["num_attention_heads"]) * head, int(text["num_key_value_heads"]) * head
    attention = 2 * hidden * queries + 2 * hidden * keys + 2 * head
    layer = attention + 3 * hidden * int(text["intermediate_size"]) + 2 * hidden
    embeddings = int(text["vocab_size"]) * hidden
    return embeddings * (1 if tied else 2) + int(text["num_hidden_layers"]) * layer + hidden


def _vision_parameters(vision: Mapping[str, t.Any]) -> int:
    hidden, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
    patch = int(vision["in_channels"]) * int(vision["temporal_patch_size"]) * int(vision["patch_size"]) ** 2
    block = (3 * hidden * hidden + 3 * hidden) + (hidden * hidden + hidden) + (2 * hidden * inner + inner + hidden)
    block += 4 * hidden  # two norms
    merged = hidden * int(vision["spatial_merge_size"]) ** 2
    merger = merged * merged + merged + merged * int(vision["out_hidden_size"]) + int(vision["out_hidden_size"])
    deep = len(vision["deepstack_visual_indexes"]) * (merger + 2 * merged)
    positions = int(vision["num_position_embeddings"]) * hidden
    return patch * hidden + hidden + positions + int(vision["depth"]) * block + merger + 2 * hidden + deep


@dataclass(frozen=True)
class Need:
    """Bytes on each GPU. None: it is not known."""

    weights: int | None
    kv: int | None


def need(of: Shape, file_bytes: int, arguments: Mapping[str, t.Any], tokens: int) -> Need:
    """What one GPU holds. FILE_BYTES: of the weights as they lie on the disk, 0 where they are not there yet."""
    tensor, pipeline = (
        int(arguments.get("tensor-parallel-size") or 1),
        int(arguments.get("pipeline-parallel-size") or 1),
    )
    weights: int | None = file_bytes or (of.parameters * width(arguments, of) if of.parameters else None)
    tower = of.network.tower if of.network else None
    if weights and tower and not _vllm_memory.largest(tower, arguments, {}):
        weights = max(
            0, weights - tower.parameters * (of.dtype_bytes if file_bytes else width(arguments, of))
        )  # it is not loaded
    if arguments.get("quantization"):
        weights = None  # what is loaded may be smaller than what is on the disk
    if weights is not None:
        weights = max(0, weights // (tensor * pipeline) - int(float(arguments.get("cpu-offload-gb") or 0) * GIB))
    kv = None
    if of.kv_bytes is not None and of.kv_heads:
        # With more GPUs than heads, each GPU keeps one head, some the same.
        heads = max(1, of.kv_heads // tensor)
        of_one = _kv_width(arguments, of)
        kv = None if of_one is None else of.kv_bytes * heads // of.kv_heads // pipeline * tokens * of_one // 2
    return Need(weights, kv)


def width(arguments: Mapping[str, t.Any], of: Shape) -> int:
    """Bytes of one number of the model as it is loaded."""
    return DTYPES.get(str(arguments.get("dtype") or "auto"), of.dtype_bytes)


def _kv_width(arguments: Mapping[str, t.Any], of: Shape) -> int | None:
    """Bytes of one number in the cache."""
    asked = str(arguments.get("kv-cache-dtype") or "auto")
    if asked != "auto":
        return 1 if asked.startswith(("fp8", "int8")) else DTYPES.get(asked)
    return width(arguments, of)
