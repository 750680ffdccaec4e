# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model takes, against figures that its publisher and vLLM give."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _model_memory as m

GIB = 2**30


# Half of `total_size` in the index of each model's files, which are bfloat16 throughout; of the 2B, which has no index,
# half of the one file less its header.
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032),
        ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("Qwen/Qwen3-VL-32B-Thinking", 33_357_390_064),
    ],
)
def test_qwen3_vl_is_counted_to_the_last_weight(model: str, parameters: int) -> None:
    config = m.known(model)
    assert config is not None
    assert m.shape(config).parameters == parameters


@pytest.mark.parametrize(
    "model", ["Qwen/Qwen3-VL-8B-Instruct-FP8", "Qwen/Qwen3-VL-235B-A22B-Instruct", "a/b", "", "/m"]
)
def test_what_is_not_in_the_table_is_not_guessed(model: str) -> None:
    assert m.known(model) is None


def eight() -> m.Shape:
    return m.shape(m.known("Qwen/Qwen3-VL-8B-Instruct") or {})


def test_the_source_guides_model() -> None:
    # 36 layers, 8 heads of 128 numbers, keys and values: 144 KiB a token.
    need = m.need(eight(), 0, {"max-model-len": 1024}, 1024)
    assert need == m.Need(weights=2 * 8_767_123_696, kv=1024 * 144 * 1024)


@pytest.mark.parametrize(
    ("arguments", "weights", "kv"),
    [
        ({}, 16 * GIB, 144 * 1024),
        ({"tensor-parallel-size": 2}, 8 * GIB, 72 * 1024),
        ({"tensor-parallel-size": 16}, 1 * GIB, 18 * 1024),  # a head each, at least
        ({"pipeline-parallel-size": 2}, 8 * GIB, 72 * 1024),
        ({"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, 4 * GIB, 36 * 1024),
        ({"kv-cache-dtype": "fp8"}, 16 * GIB, 72 * 1024),
        ({"kv-cache-dtype": "fp8_e5m2"}, 16 * GIB, 72 * 1024),
        ({"kv-cache-dtype": "auto", "dtype": "float32"}, 16 * GIB, 288 * 1024),
        ({"kv-cache-dtype": "nvfp4"}, 16 * GIB, None),
        ({"cpu-offload-gb": 10.0}, 6 * GIB, 144 * 1024),
        ({"cpu-offload-gb": 100.0}, 0, 144 * 1024),
        ({"quantization": "fp8"}, None, 144 * 1024),
    ],
)
def test_options_that_change_it(arguments: dict[str, t.Any], weights: int | None, kv: int | None) -> None:
    assert m.need(eight(), 16 * GIB, arguments, 1) == m.Need(weights, kv)


LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 32,
         "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kv_bytes"),
    [
        (LLAMA, 128 * 1024),
        ({"text_config": LLAMA, "num_hidden_layers": 7}, 128 * 1024),
        ({**LLAMA, "num_key_value_heads": None}, 512 * 1024),
        ({**LLAMA, "head_dim": 256}, 256 * 1024),
        ({**LLAMA, "layer_types": ["full_attention", "full_attention"]}, 128 * 1024),
        ({**LLAMA, "sliding_window": 4096, "use_sliding_window": False}, 128 * 1024),
        # What keeps less than each token of each layer is not judged.
        ({**LLAMA, "sliding_window": 4096}, None),
        ({**LLAMA, "layer_types": ["linear_attention", "full_attention"]}, None),
        ({**LLAMA, "kv_lora_rank": 512}, None),
        # Nor what says nothing, or nonsense.
        ({}, None),
        ({**LLAMA, "num_hidden_layers": "32"}, None),
        ({**LLAMA, "num_hidden_layers": True}, None),
        ({"text_config": "gone"}, None),
    ],
)
def test_shapes(config: dict[str, t.Any], kv_bytes: int | None) -> None:
    assert m.shape(config).kv_bytes == kv_bytes
    assert m.need(m.shape(config), 0, {}, 10).weights is None


def test_a_damaged_config_has_no_parameters() -> None:
    config = m.known("Qwen/Qwen3-VL-8B-Instruct") or {}
    assert m.shape({**config, "vision_config": {}}).parameters is None
    assert m.shape({**config, "text_config": {**config["text_config"], "hidden_size": None}}).parameters is None
