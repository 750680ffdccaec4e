# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU, driver and memory against the plan, on tables of what could be seen."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_plan, _gpu_table, _preflight
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import Finding

MIB, GIB = 2**20, 2**30
QWEN = "Qwen/Qwen3-VL-8B-Instruct"


def instance(**keys: object) -> dict[str, t.Any]:
    arguments = {"tensor-parallel-size": 1, "max-model-len": 1024, "gpu-memory-utilization": 0.95}
    arguments.update(t.cast("dict[str, t.Any]", keys.pop("arguments", {})))
    plain = {"name": "a", "model": QWEN, "model_path": "/m", "gpus": None}
    return {**plain, "arguments": arguments, **keys}


def wanted(*instances: dict[str, t.Any], **keys: object) -> dict[str, t.Any]:
    return {"instances": list(instances) or [instance()], "cuda": "13.0", "driver_version": "", **keys}


def card(index: int = 0, **keys: object) -> dict[str, t.Any]:
    """An H100 as nvidia-smi told it (tests of _gpu_host have the whole answer)."""
    plain = {"index": index, "uuid": f"GPU-{index}f", "name": "NVIDIA H100 80GB HBM3", "slot": "0000:3b:00.0",
             "capability": (9, 0), "memory": 81079 * MIB, "free": 81079 * MIB, "mig": False}  # fmt: skip
    return {**plain, **keys}


def pci(device: str = "2330", count: int = 1, driver: str = "nvidia") -> list[dict[str, str]]:
    return [{"slot": f"0000:0{number}:00.0", "device": device, "driver": driver} for number in range(count)]


def smi(*cards: dict[str, t.Any], **keys: object) -> dict[str, t.Any]:
    return {"problem": "", "driver": "580.95.05", "cards": list(cards) or [card()], "processes": [], **keys}


def seen(**keys: object) -> dict[str, t.Any]:
    """A host of one H100 with which all is well."""
    plain = {"gpus": pci(), "driver": {"version": "580.95.05", "open": True}, "smi": smi(), "secure_boot": False,
             "instance_type": "", "iommu": False, "start": None, "memory_total": 64 * GIB, "models": {}}  # fmt: skip
    return {**plain, **keys}


def bare(**keys: object) -> dict[str, t.Any]:
    """The same before it has a driver."""
    return seen(**{"driver": None, "smi": None, "gpus": pci(driver=""), **keys})


def judged(want: dict[str, t.Any], saw: dict[str, t.Any]) -> list[Finding]:
    return _preflight.judge("gpu", want, saw)


def wrong(want: dict[str, t.Any], saw: dict[str, t.Any]) -> list[Finding]:
    return [finding for finding in judged(want, saw) if not finding["ok"]]


def test_a_good_host() -> None:
    findings = judged(wanted(), seen())
    assert {finding["check"] for finding in findings} == {
        "gpu", "driver", "gpus[a]", "memory[a]", "held[a, GPU 0]", "host_memory",
    }  # fmt: skip
    assert all(finding["ok"] and finding["evidence"] for finding in findings)


def test_a_vllm_without_cuda_asks_for_no_gpu() -> None:
    assert wrong(wanted(cuda=""), seen(gpus=[], driver=None, smi=None, memory_total=GIB)) == []


def test_before_the_driver_the_one_that_will_come_is_judged() -> None:
    assert wrong(wanted(driver_version="580.95.05"), bare()) == []
    # Debian 12's own.
    (finding,) = wrong(wanted(driver_version="535.309.01"), bare())
    assert (finding["check"], finding["severity"]) == ("driver", "error")
    assert finding["cause"].startswith("the driver 535.309.01 that will be installed is too old")
    assert finding["evidence"] == "CUDA 13 takes driver 580 or newer"
    assert "NVIDIA's own repository" in finding["fix"] and finding["fix"].endswith("built for CUDA 12")
    # For an image that is made on a machine without one.
    found = wrong(wanted(driver_version="535.309.01"), seen(gpus=[], driver=None, smi=None))
    assert [finding["check"] for finding in found] == ["gpu", "driver"]
    # It is the new one that counts, not the one that it takes the place of.
    assert wrong(wanted(driver_version="580.95.05"), seen(driver={"version": "535.309.01", "open": False})) == []


T4 = card(name="Tesla T4", capability=(7, 5), memory=15360 * MIB, free=15360 * MIB)
L4 = card(name="NVIDIA L4", capability=(8, 9), memory=22565 * MIB, free=22565 * MIB)
BIG = instance(arguments={"tensor-parallel-size": 2})
BUSY = [{"uuid": "GPU-0f", "pid": 7, "used": 9 * GIB, "ours": False, "command": "python"}]
PROBLEMS: list[tuple[dict[str, t.Any], dict[str, t.Any], str, str, str, str]] = [
    # wanted, seen: check, severity, evidence, fix
    (wanted(), seen(gpus=[], driver=None, smi=None), "gpu", "error", "no GPU of vendor 10de", "built for CPU"),
    (wanted(), bare(), "driver", "error", "held by no module", "install one"),
    (wanted(), bare(gpus=pci(driver="nouveau")), "driver", "error", "held by nouveau", "install one"),
    (wanted(), bare(secure_boot=True), "driver", "error", "version is not there", "must be signed"),
    (wanted(), seen(driver={"version": "535.309.01", "open": False}), "driver", "error", "580 or newer", "CUDA 12"),
    (wanted(cuda="12.8"), seen(driver={"version": "470.1", "open": False}), "driver", "error", "525", "CUDA 11"),
    (wanted(cuda="12.8"), seen(driver={"version": "390.1", "open": False}), "driver", "error", "525", "11 or older"),
    (wanted(), seen(smi=smi(problem="Failed to initialize NVML: Driver/library version mismatch", cards=[])), "driver",
     "error", "mismatch", "reboot: the driver was upgraded"),
    (wanted(), seen(smi=smi(problem="no answer within 20 s", cards=[])), "driver", "error", "no answer", "reboot"),
    (wanted(driver_version="580.1"), bare(gpus=pci("1db6")), "gpu[0]", "error", "7.0", "newer GPU"),
    (wanted(instance(gpus=[1])), seen(), "gpus[a]", "error", "gpus: [1]; the host has 0", "correct gpus"),
    (wanted(instance(gpus=["GPU-9"])), seen(), "gpus[a]", "error", "gpus: ['GPU-9']", "correct gpus"),
    (wanted(BIG), seen(), "gpus[a]", "error", "1 of this host's 1", "lower tensor_parallel_size"),
    (wanted(instance(arguments={"data-parallel-size": 2})), seen(), "gpus[a]", "error", "1 of this", "more GPUs"),
    (wanted(instance(arguments={"tensor-parallel-size": 3})), seen(smi=smi(*map(card, range(3)))), "heads[a]", "error",
     "32 heads", "1, 2, 4, 8, 16"),
    (wanted(instance(arguments={"dtype": "bfloat16"}, model="x/y")), seen(smi=smi(T4)), "dtype[a]", "error", "7.5",
     "float16"),
    (wanted(), seen(smi=smi(T4)), "memory[a]", "error", "16.3 GiB of weights, 144.0 MiB of KV cache",
     "raise tensor_parallel_size to 2"),
    # The source guide's model on the card that it is meant for: only just.
    (wanted(), seen(smi=smi(L4)), "memory[a]", "warning", "2048 batched tokens and 16384 tokens of pictures",
     "enforce-eager: true (slower) (19.3 GiB in all); limit-mm-per-prompt"),
    (wanted(instance(arguments={"max-model-len": 262144})), seen(smi=smi(L4)), "memory[a]", "error", "36.0 GiB of KV",
     "lower max_model_len"),
    (wanted(instance(arguments={"gpu-memory-utilization": 0.37})), seen(smi=smi(card(memory=57344 * MIB))), "memory[a]",
     "warning", "0.37 of 56.0 GiB", "raise gpu_memory_utilization"),
    (wanted(*(instance(name=name, arguments={"gpu-memory-utilization": 0.5}) for name in "ab")), seen(),
     "shares[GPU 0]", "warning", "a 0.5, b 0.5; together 1 of 79.2 GiB", "to 0.98 together, such as 0.49"),
    (wanted(), seen(smi=smi(card(free=70000 * MIB), processes=BUSY)), "held[a, GPU 0]", "error",
     "python (pid 7): 9.0 GiB", "stop those processes"),
    (wanted(), seen(smi=smi(card(free=70000 * MIB))), "held[a, GPU 0]", "error", "no process that can", "reboot"),
    (wanted(instance(arguments={"gpu-memory-utilization": 0.995})), seen(), "held[a, GPU 0]", "warning",
     "0.995 of 79.2", "gpu_memory_utilization to 0.99 or less"),
    (wanted(BIG), seen(smi=smi(card(0), card(1, name="NVIDIA A100"))), "gpus[a]", "warning", "A100", "equal ones"),
    (wanted(BIG), seen(smi=smi(card(0), card(1)), iommu=True), "iommu", "warning", "iommu=pt", "bare metal"),
    (wanted(), seen(memory_total=4 * GIB), "host_memory", "warning", "4.0 GiB in all", "more memory"),
    (wanted(instance(arguments={"cpu-offload-gb": 100.0})), seen(), "host_memory", "error", "64.0 GiB", "cpu-offload"),
    (wanted(), seen(instance_type="g6.12xlarge", smi=smi(card(), card(1))), "gpu", "warning", "H100", "hardware"),
]  # fmt: skip


@pytest.mark.parametrize(("want", "saw", "check", "severity", "evidence", "fix"), PROBLEMS)
def test_each_problem_has_evidence_and_a_fix(
    want: dict[str, t.Any], saw: dict[str, t.Any], check: str, severity: str, evidence: str, fix: str
) -> None:
    (finding,) = wrong(want, saw)
    assert (finding["check"], finding["severity"]) == (check, severity)
    assert finding["cause"]
    assert evidence in finding["evidence"]
    assert fix in finding["fix"]


NO_PROBLEMS = [
    (wanted(instance(gpus=[])), seen(gpus=[], driver=None, smi=None)),
    # The source guide's model on the card that it is meant for, with pictures of 2000 x 2000 at most.
    (wanted(instance(arguments={"max-pixels": 4194304})), seen(smi=smi(L4), gpus=pci("27b8"))),
    (wanted(*(instance(name=name, arguments={"gpu-memory-utilization": 0.49}) for name in "ab")), seen()),
    (
        wanted(*(instance(name=name, gpus=[number]) for number, name in enumerate("ab"))),
        seen(smi=smi(card(0), card(1))),
    ),
    # What is set aside by hand is not measured against the share.
    (wanted(instance(arguments={"kv-cache-memory-bytes": 1.0})), seen(smi=smi(T4))),
    # A server of ours holds what it is to have.
    (wanted(), seen(smi=smi(card(free=MIB), processes=[{**BUSY[0], "used": 80000 * MIB, "ours": True}]))),
    # One whose memory is not told, of a card in no table, a slice: not known is not wrong.
    (wanted(), seen(smi=smi(card(memory=None, free=None)))),
    (wanted(driver_version="580.1"), bare(gpus=pci("ffff"))),
    (wanted(instance(gpus=["MIG-1"])), seen(smi=smi(card(mig=True)))),
    (wanted(instance(gpus=["GPU-0f"]), driver_version="580.1"), bare()),
    (wanted(instance(model="x/y", arguments={"tensor-parallel-size": 2})), seen(smi=smi(card(0), card(1)))),
    (wanted(instance(arguments={"quantization": "fp8"})), seen(smi=smi(T4))),
    (wanted(instance(arguments={"dtype": "float16"}, model="x/y")), seen(smi=smi(T4))),
    (wanted(cuda="12.8"), seen(driver={"version": "525.60.13", "open": False})),
    # Of a server that is spread over hosts, what this one has of it.
    (wanted(instance(arguments={"data-parallel-size": 8, "data-parallel-size-local": 1})), seen()),
    (wanted(instance(gpus=[1, 0], arguments={"tensor-parallel-size": 2})), seen(smi=smi(card(0), card(1)))),
]


@pytest.mark.parametrize(("want", "saw"), NO_PROBLEMS)
def test_what_is_no_problem(want: dict[str, t.Any], saw: dict[str, t.Any]) -> None:
    assert wrong(want, saw) == []


def model(**keys: object) -> dict[str, t.Any]:
    config = {"num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": 1024, "num_hidden_layers": 4}
    return {"/m": {"content": config, "bytes": 90 * GIB, "absent": [], **keys}}


def test_the_model_on_the_host_counts_rather_than_its_name() -> None:
    (finding,) = wrong(wanted(), seen(models=model()))
    assert (finding["check"], finding["severity"]) == ("memory[a]", "error")
    assert "90.0 GiB of weights" in finding["evidence"]
    # A copy that is not finished says nothing of the size.
    assert wrong(wanted(), seen(models=model(absent=["x.safetensors"]))) == []


def test_on_ec2_a_type_that_fits_is_named() -> None:
    (finding,) = wrong(wanted(), seen(smi=smi(T4), instance_type="g4dn.xlarge"))
    assert finding["fix"].endswith("such as that of an EC2 g5.xlarge")
    (finding,) = wrong(wanted(), seen(smi=smi(T4)))
    assert finding["fix"].endswith("use a larger GPU")


def test_the_memory_of_a_card_without_driver_is_that_of_the_table() -> None:
    (finding,) = wrong(wanted(driver_version="580.1"), bare(gpus=pci("1eb8")))
    assert (finding["check"], finding["severity"]) == ("memory[a]", "error")
    assert "0.95 of 15.0 GiB" in finding["evidence"]


def test_arguments_that_are_odd_are_left_out() -> None:
    served = {"max-model-len": "auto", "tensor-parallel-size": "2", "gpu-memory-utilization": True, "dtype": "half",
              "cpu-offload-gb": "nan", "kv-cache-dtype": "fp8", "api-key": "S3CR3T", "port": 8000}  # fmt: skip
    assert _gpu_plan.arguments(served) == {"tensor-parallel-size": 2, "dtype": "half", "kv-cache-dtype": "fp8"}


@pytest.mark.parametrize(
    ("served", "judged_as"),
    [
        ({"limit-mm-per-prompt": {"image": 0}}, {"limit-mm-per-prompt": {"image": 0}}),
        (
            {"limit-mm-per-prompt": '{"image": 2, "video": {"count": 0}}'},
            {"limit-mm-per-prompt": {"image": 2, "video": 0}},
        ),
        ({"limit-mm-per-prompt.video": 0}, {"limit-mm-per-prompt": {"video": 0}}),
        ({"limit-mm-per-prompt": "{", "mm-processor-kwargs": "[]"}, {}),
        ({"mm-processor-kwargs": {"max_pixels": 4194304, "x": "S3CR3T"}}, {"max-pixels": 4194304}),
        ({"mm-processor-kwargs": '{"size": {"longest_edge": 1048576}}'}, {"max-pixels": 1048576}),
        ({"mm-processor-kwargs.max_pixels": "1M"}, {"max-pixels": 1048576}),
        ({"max-num-batched-tokens": "8k", "max-num-seqs": "64"}, {"max-num-batched-tokens": 8000, "max-num-seqs": 64}),
        ({"enforce-eager": True, "enable-lora": "false"}, {"enforce-eager": True, "enable-lora": False}),
        ({"speculative-config": {"model": "S3CR3T"}}, {"speculative-config": True}),
        (
            {"optimization-level": 0, "compilation-config.mode": 0},
            {"optimization-level": True, "compilation-config": True},
        ),
    ],
)
def test_options_that_decide_the_memory(served: dict[str, t.Any], judged_as: dict[str, t.Any]) -> None:
    assert _gpu_plan.arguments(served) == judged_as
    assert _gpu_plan.arguments(judged_as) == judged_as  # the filter makes them, the module reads them once more


@pytest.mark.parametrize("smi_card", [T4, L4, card(name="NVIDIA L40S", memory=46068 * MIB)])
@pytest.mark.parametrize("model_name", ["Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_options_that_a_fix_names_are_enough(smi_card: dict[str, t.Any], model_name: str, share: float) -> None:
    """Law: what is said to be enough is found to be enough when it is set."""
    plain = {"gpu-memory-utilization": share, "max-model-len": 32768}
    saw = seen(smi=smi(smi_card))
    for finding in wrong(wanted(instance(model=model_name, arguments=plain)), saw):
        _before, found, named = finding["fix"].partition("set in extra_args one of: ")
        for option in named.partition("; or ")[0].split("; ") if found else []:
            name, value = option.partition(" (")[0].split(": ", 1)
            then = instance(model=model_name, arguments=_gpu_plan.arguments({**plain, name: value}))
            (now,) = [one["severity"] for one in judged(wanted(then), saw) if one["check"] == "memory[a]"]
            assert now == "none" or (now, finding["severity"]) == ("warning", "error"), option


def test_the_tables_fit_together() -> None:
    assert {device for device, _count in _gpu_table.EC2.values()} <= set(_gpu_table.CARDS)
    assert set(_gpu_table.DRIVERS) == set(_gpu_table.CAPABILITIES)
    assert _gpu_table.ec2_with(40 * GIB, 1) == "g6e.xlarge"
    assert _gpu_table.ec2_with(40 * GIB, 4) == "g6e.12xlarge"
    assert _gpu_table.ec2_with(1000 * GIB, 1) == ""
