# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM takes beside weights and cache: against real runs, and laws of the sum."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_plan, _memory_checks, _model_memory
from ansible_collections.steadfast.vllm.plugins.module_utils import _vllm_memory as m
from hypothesis import given
from hypothesis import strategies as st

GIB, MIB = 2**30, 2**20
RECORDED = Path(__file__).parent / "recorded" / "gpu" / "vllm_memory.json"
RUNS = json.loads(RECORDED.read_text(encoding="utf-8"))["runs"]


def named(run: dict[str, t.Any]) -> str:
    return f"{run['model']} {run['options']}"


# Runs that say how much all but the cache took; among them one that vLLM refused, which says so of its own.
WHOLE = [run for run in RUNS if "available_kv_cache" in run["vllm_said"]]
SERVED = [run for run in WHOLE if "refused" not in run]
H100 = m.Card(81079 * MIB, "NVIDIA H100 80GB HBM3", (9, 0))
L4 = m.Card(22565 * MIB, "NVIDIA L4", (8, 9))
BOTH_OFF = {"limit-mm-per-prompt": {"image": 0, "video": 0}}


def network(model: str = "Qwen/Qwen3-VL-8B-Instruct") -> m.Network:
    found = _model_memory.shape(_model_memory.known(model) or {}).network
    assert found is not None
    return found


def beside(arguments: dict[str, t.Any], card: m.Card = H100) -> m.Beside:
    return m.beside(network(), 2, {"max-model-len": 1024, **arguments}, card, {})


def estimated(run: dict[str, t.Any]) -> tuple[float, float]:
    """(weights, beside) in GiB, as the preflight has them for a run."""
    card = m.Card(run["card"]["memory_mib"] * MIB, run["card"]["name"], tuple(run["card"]["capability"]))
    shape = _model_memory.shape(_model_memory.known(run["model"]) or {})
    arguments = _gpu_plan.arguments(run["options"])
    weights = _model_memory.need(shape, 0, arguments, int(arguments["max-model-len"])).weights
    assert weights is not None
    taken = m.beside(shape.network, _model_memory.width(arguments, shape), arguments, card, run.get("pictures") or {})
    assert taken.whole
    return weights / GIB, taken.total / GIB


@pytest.mark.parametrize("run", WHOLE, ids=named)
def test_the_estimate_is_within_5_percent_of_a_real_run_or_says_why_not(run: dict[str, t.Any]) -> None:
    """Of all that vLLM holds without a cache: that, and no part of it, decides whether it starts."""
    real = run["vllm_said"]["requested"] - run["vllm_said"]["available_kv_cache"]
    off = abs(sum(estimated(run)) / real - 1)
    assert off <= _memory_checks.MARGIN or run["reason"], f"off by {100 * off:.1f} %"
    assert not (off <= _memory_checks.MARGIN and run["reason"]), "the reason is not needed any more"


@pytest.mark.parametrize("run", SERVED, ids=named)
def test_a_recorded_run_adds_up(run: dict[str, t.Any]) -> None:
    said = run["vllm_said"]
    total = said["consumed"] + said["peak_activation"]
    assert said["requested"] - said["available_kv_cache"] == pytest.approx(total, abs=0.02)


@pytest.mark.parametrize("run", RUNS, ids=named)
def test_a_recorded_run_has_the_estimate_of_today_and_weights_that_are_right(run: dict[str, t.Any]) -> None:
    weights, taken = estimated(run)
    told = {"weights": round(weights, 2), "beside": round(taken, 2), "total": round(weights + taken, 2)}
    assert run["estimate"] == told
    # vLLM counts what a layer allocates beside its weights when it is made: a model with pictures has inputs for them.
    assert weights <= run["vllm_said"]["model_loading"] <= 1.02 * weights


@pytest.mark.parametrize("run", WHOLE, ids=named)
def test_what_vllm_refused_is_refused_and_what_it_served_is_not(run: dict[str, t.Any]) -> None:
    card = {"index": 0, "uuid": "GPU-0f", "name": run["card"]["name"], "capability": tuple(run["card"]["capability"]),
            "memory": run["card"]["memory_mib"] * MIB, "free": None, "mig": False}  # fmt: skip
    instance = {"name": "a", "model": run["model"], "model_path": "/m", "gpus": None,
                "arguments": _gpu_plan.arguments(run["options"])}  # fmt: skip
    seen = {"smi": {"problem": "", "driver": "", "cards": [card], "processes": []}, "gpus": [], "models": {},
            "instance_type": ""}  # fmt: skip
    (finding,) = _memory_checks.memory({"instances": [instance]}, seen)
    assert finding["severity"] == ("error" if "refused" in run else "none"), finding["cause"]


def test_the_graphs_are_those_of_vllms_estimate_and_not_what_they_become() -> None:
    told = [run for run in SERVED if "graphs_estimated" in run]
    assert len(told) == 3
    for run in told:
        graphs = beside(_gpu_plan.arguments(run["options"])).graphs / GIB
        assert graphs == pytest.approx(run["graphs_estimated"], abs=0.005)
        assert graphs > 2 * run["vllm_said"]["cuda_graphs"]
    freed = beside({}).total - beside({"enforce-eager": True}).total
    assert freed / GIB == pytest.approx(1.15, abs=0.005)


def test_no_recorded_server_holds_more_over_its_share_than_the_shares_are_warned_of() -> None:
    over = [
        run["nvml_used_mib"]["after_loads"] - 1024 * run["vllm_said"]["requested"]
        for run in SERVED
        if "nvml_used_mib" in run
    ]
    assert 0 < max(over) <= _memory_checks.OVER / MIB < 1.1 * max(over)


@pytest.mark.parametrize(
    ("card", "arguments", "expected"),
    [
        (H100, {}, (8192, 1024)),
        (L4, {}, (2048, 256)),
        (m.Card(81920 * MIB, "NVIDIA A100-SXM4-80GB"), {}, (2048, 256)),
        (m.Card(183359 * MIB, "NVIDIA B200", (10, 0)), {}, (16384, 1024)),
        (H100, {"max-num-batched-tokens": 2048}, (2048, 1024)),
        (L4, {"max-num-seqs": 8, "max-model-len": 128}, (1024, 8)),
        (L4, {"max-num-batched-tokens": 64}, (64, 64)),
        (L4, {"performance-mode": "throughput"}, (4096, 512)),
        # What the other options ask for by name is not changed.
        (L4, {"performance-mode": "throughput", "max-num-batched-tokens": 100, "max-num-seqs": 200}, (100, 200)),
    ],
)
def test_how_much_is_batched(card: m.Card, arguments: dict[str, t.Any], expected: tuple[int, int]) -> None:
    assert m.batch(card, arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ({}, 16384),
        ({"limit-mm-per-prompt": {"image": 0}}, 12288),  # a video is left: two frames of 6 million pixels
        ({"limit-mm-per-prompt": {"video": 0}}, 16384),
        (BOTH_OFF, 0),
        ({"language-model-only": True}, 0),
        ({"skip-mm-profiling": True}, 0),
        ({"max-pixels": 4194304}, 8192),  # two pictures of 4096: the budget is that of the batched tokens
        ({"max-pixels": 4194304, "max-num-batched-tokens": 2048}, 4096),
        ({"max-pixels": 4194304, "max-num-seqs": 1}, 4096),
    ],
)
def test_the_pictures_that_are_encoded_at_once(arguments: dict[str, t.Any], tokens: int) -> None:
    assert beside(arguments).pictures == tokens


def test_the_preprocessors_on_the_host_count() -> None:
    arguments = {"max-model-len": 1024, "max-num-batched-tokens": 2048}
    small = m.beside(network(), 2, arguments, H100, {"image": 4194304, "video": 1048576})
    assert small.pictures == 4096


@pytest.mark.parametrize(
    ("card", "arguments", "sizes"),
    [
        (H100, {}, 51),
        (H100, {"enforce-eager": True}, 0),
        (H100, {"max-num-seqs": 4}, 4),  # 1, 2, 4 and 8
        (H100, {"max-cudagraph-capture-size": 256}, 35),
        (m.Card(183359 * MIB, "NVIDIA B200", (10, 0)), {}, 83),
    ],
)
def test_the_sizes_that_get_a_graph(card: m.Card, arguments: dict[str, t.Any], sizes: int) -> None:
    assert m.captured(card, arguments, *m.batch(card, arguments)) == sizes


def test_without_pictures_the_tower_is_not_loaded() -> None:
    shape = _model_memory.shape(_model_memory.known("Qwen/Qwen3-VL-8B-Instruct") or {})
    with_tower, without = (_model_memory.need(shape, 0, arguments, 1024).weights for arguments in ({}, BOTH_OFF))
    assert with_tower is not None
    assert without is not None
    assert with_tower - without == 2 * 576_388_336


LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 32,
         "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip


def test_a_plain_decoder_has_an_estimate() -> None:
    of = _model_memory.shape(LLAMA).network
    taken = m.beside(of, 2, {"max-model-len": 8192}, L4, {})
    assert taken.whole
    # 2048 tokens of two hidden states, gate, up and their product; rope's table; 256 sequences' counts of each token.
    assert taken.peak == 2048 * 2 * (2 * 4096 + 3 * 14336)
    assert taken.buffers == 131072 * 128 * 2 + 256 * 4 * (128256 + 4008)
    assert taken.graphs == 51 * 32 * m.GRAPH


@pytest.mark.parametrize(
    ("config", "unknown"),
    [
        ({}, "its shape is not understood"),
        ({**LLAMA, "vocab_size": None}, "its shape is not understood"),
        ({**LLAMA, "num_local_experts": 8}, "parts of its shape are not understood"),
        ({**LLAMA, "sliding_window": 4096}, "parts of its shape are not understood"),
        ({**LLAMA, "audio_config": {}}, "parts of its shape are not understood"),
        ({"text_config": LLAMA, "vision_config": {"hidden_size": 1}, "model_type": "llava"}, "parts of its shape"),
        ({"text_config": LLAMA, "vision_config": {}, "model_type": "qwen3_vl"}, "parts of its shape"),
    ],
)
def test_what_is_not_understood_has_a_lower_bound_that_says_so(config: dict[str, t.Any], unknown: str) -> None:
    taken = m.beside(_model_memory.shape(config).network, 2, {}, L4, {})
    assert not taken.whole
    assert taken.unknown.startswith(unknown)
    plain = m.beside(_model_memory.shape(LLAMA).network, 2, {}, L4, {})
    assert m.RUNTIME <= taken.total < plain.total
    assert taken.graphs in (0, 51 * m.LEAST_GRAPH)


def test_an_option_that_takes_more_makes_it_a_lower_bound() -> None:
    assert beside({"speculative-config": True}).unknown == "speculative-config may take more"
    assert beside({"enable-lora": False}).whole


@pytest.mark.parametrize("name", ["compilation-config", "optimization-level", "cudagraph-capture-sizes"])
def test_graphs_that_an_option_may_switch_off_are_not_held_against_a_host(name: str) -> None:
    taken = beside(_gpu_plan.arguments({name: 0}))
    assert (taken.graphs, taken.whole) == (0, False) and name in taken.unknown
    assert taken == beside(_gpu_plan.arguments({f"{name}.mode": "NONE"}))


@given(
    tokens=st.integers(1, 32768), more=st.integers(0, 32768), sequences=st.integers(1, 1024), extra=st.integers(0, 1024)
)
def test_more_in_a_batch_never_takes_less(tokens: int, more: int, sequences: int, extra: int) -> None:
    small = beside({"max-num-batched-tokens": tokens, "max-num-seqs": sequences})
    large = beside({"max-num-batched-tokens": tokens + more, "max-num-seqs": sequences + extra})
    # A budget of tokens may fit fewer whole pictures into itself than the larger one, never more.
    assert small.total <= large.total


@given(pixels=st.integers(1024, 16_777_216), fewer=st.integers(0, 16_777_216))
def test_smaller_pictures_never_take_more_than_the_largest(pixels: int, fewer: int) -> None:
    arguments = {"max-num-batched-tokens": 2048}
    whole = beside(arguments).total
    assert beside({**arguments, "max-pixels": pixels}).total <= whole
    assert beside({**arguments, **BOTH_OFF}).total <= beside({**arguments, "max-pixels": pixels}).total


@given(tensor=st.sampled_from([1, 2, 4, 8, 16]))
def test_more_gpus_never_take_more_each(tensor: int) -> None:
    assert beside({"tensor-parallel-size": 2 * tensor}).total <= beside({"tensor-parallel-size": tensor}).total
    assert beside({"tensor-parallel-size": tensor, "mm-encoder-tp-mode": "data"}).total >= (
        beside({"tensor-parallel-size": tensor}).total
    )


@given(layers=st.integers(1, 128), stages=st.sampled_from([1, 2, 4]))
def test_a_stage_has_graphs_of_its_own_layers(layers: int, stages: int) -> None:
    of = replace(network(), layers=layers)
    alone, staged = (m.beside(of, 2, {"pipeline-parallel-size": size}, H100, {}).graphs for size in (1, stages))
    assert staged <= alone < staged * stages + 51 * m.GRAPH * stages
