# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a command line to the entry of vllm_instances that starts the same."""

from __future__ import annotations

import shlex
import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_entry
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_arguments import Command, options
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_entry import Model, Plan, Seen, build
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import normalise
from hypothesis import given
from hypothesis import strategies as st

HERE = Model("path", "/srv/models/mine")
COMMIT = "a" * 40
CACHED = Model(
    "snapshot", "/c/models--Qwen--Qwen3-VL-8B-Instruct/snapshots/" + COMMIT, "Qwen/Qwen3-VL-8B-Instruct", COMMIT
)
GUIDE = "Qwen/Qwen3-VL-8B-Instruct"
BASE = {
    "name": "mine",
    "model": "/srv/models/mine",
    "port": 8000,
    "tensor_parallel_size": 1,
    "max_model_len": 4096,
    "gpu_memory_utilization": 0.92,
}


def planned(line: str, environ: dict[str, str] | None = None, model: Model = HERE, **more: t.Any) -> Plan:
    answered = {"id": "x", "root": "/srv/models/mine", "max_model_len": 4096}
    seen = {"answered": answered, "ports": (8000,), **more}
    return build(Seen(options(Command(True, tuple(shlex.split(line)))), environ or {}, model, **seen))


@pytest.mark.parametrize(
    ("line", "environ", "changed"),
    [
        ("/srv/models/mine", {}, {}),
        ("/srv/models/mine --max-model-len 32k", {}, {"max_model_len": 32000}),
        ("/srv/models/mine --max-model-len 32K", {}, {"max_model_len": 32768}),
        ("/srv/models/mine --max-model-len auto", {}, {"max_model_len": 4096}),
        ("/srv/models/mine --max-model-len -1", {}, {"max_model_len": 4096}),
        ("/srv/models/mine -tp 2 --gpu-memory-utilization 0.5", {},
         {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}),
        ("/srv/models/mine --host 127.0.0.1", {}, {"host": "127.0.0.1"}),
        ("/srv/models/mine --shutdown-timeout 20", {}, {"drain_timeout": 20}),
        ("/srv/models/mine --shutdown-timeout 0", {}, {}),
        ("/srv/models/mine --served-model-name Mine-7B", {}, {"name": "mine-7b", "served_model_name": "Mine-7B"}),
        ("/srv/models/mine --dtype float32 --enforce-eager --no-enable-prefix-caching", {},
         {"extra_args": {"dtype": "float32", "enforce-eager": True, "enable-prefix-caching": False}}),
        ("/srv/models/mine --never-heard-of 3", {}, {"extra_args": {"never-heard-of": 3}}),
        ("/srv/models/mine --runner pooling", {}, {"ready_check": "health", "extra_args": {"runner": "pooling"}}),
        ("/srv/models/mine", {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, {"gpus": [0, 1]}),
        ("/srv/models/mine", {"CUDA_VISIBLE_DEVICES": "GPU-12ab"}, {"gpus": ["GPU-12ab"]}),
        ("/srv/models/mine", {"CUDA_VISIBLE_DEVICES": "-1"}, {"gpus": []}),
        ("/srv/models/mine", {"CUDA_VISIBLE_DEVICES": ""}, {"gpus": []}),
        ("/srv/models/mine", {"VLLM_LOGGING_LEVEL": "DEBUG", "HOME": "/home/a", "HF_HOME": "/x", "HF_HUB_OFFLINE": "1"},
         {"env": {"VLLM_LOGGING_LEVEL": "DEBUG"}}),
        ("/srv/models/mine", {"VLLM_ENGINE_READY_TIMEOUT_S": "1800"}, {"start_timeout": 1800}),
        ("/srv/models/mine --hf-token S", {"HF_TOKEN": "S", "LANG": "C"}, {}),
        ("/srv/models/mine --download-dir /x", {}, {}),
    ],
)  # fmt: skip
def test_entries(line: str, environ: dict[str, str], changed: dict[str, t.Any]) -> None:
    plan = planned(line, environ)
    assert plan.problems == []
    assert plan.entry == {**BASE, **changed}
    assert plan.secrets == []


def test_a_snapshot_of_the_hub_becomes_the_instance_s_own_model() -> None:
    plan = planned(GUIDE, model=CACHED)
    assert plan.entry["name"] == "qwen3vl"
    assert (plan.entry["model"], plan.entry["revision"]) == (GUIDE, COMMIT)
    assert "served_model_name" not in plan.entry
    assert planned("/c" + CACHED.path, model=CACHED).entry["served_model_name"] == "/c" + CACHED.path
    assert (
        planned("gpt2", model=Model("snapshot", "/c/models--gpt2/snapshots/" + COMMIT, "gpt2", COMMIT))
        .entry["model"]
        .startswith("/c/models--gpt2")
    )


def test_a_secret_leaves_a_variable_in_its_place() -> None:
    for line, environ, source in (
        ("/srv/models/mine --api-key S3CRET", {}, "--api-key"),
        ("/srv/models/mine", {"VLLM_API_KEY": "S3CRET"}, "VLLM_API_KEY"),
    ):
        plan = planned(line, environ)
        assert plan.problems == []
        assert plan.entry["api_key"] == "{{ vault_mine_api_key }}"
        assert [(secret.key, secret.variable, secret.source) for secret in plan.secrets] == [
            ("api_key", "vault_mine_api_key", source)
        ]
        assert "S3CRET" not in repr(plan)
        assert _adopt_entry.real(plan)["api_key"] == "S3CRET"
    plan = planned("/srv/models/mine", {"S3_SECRET_ACCESS_KEY": "S3CRET"})
    assert plan.entry["env"] == {"S3_SECRET_ACCESS_KEY": "{{ vault_mine_s3_secret_access_key }}"}
    assert _adopt_entry.real(plan)["env"] == {"S3_SECRET_ACCESS_KEY": "S3CRET"}
    assert "S3CRET" not in repr(plan)


@pytest.mark.parametrize(
    ("line", "environ", "why"),
    [
        ("/srv/models/mine --nnodes 2", {}, "--nnodes: this server is part of one that spans"),
        ("/srv/models/mine --data-parallel-address 10.0.0.1", {}, "--data-parallel-address: "),
        ("/srv/models/mine --headless", {}, "--headless: "),
        ("/srv/models/mine --distributed-executor-backend ray", {}, "--distributed-executor-backend: "),
        ("/srv/models/mine", {"RAY_ADDRESS": "h:1"}, "RAY_ADDRESS: "),
        ("/srv/models/mine", {"VLLM_USE_MODELSCOPE": "True"}, "VLLM_USE_MODELSCOPE: "),
        ("/srv/models/mine --served-model-name a b", {}, "--served-model-name: it answers to 2 names (a, b)"),
        ("/srv/models/mine --api-key a b", {}, "--api-key: it takes 2 keys"),
        ("/srv/models/mine --uds /run/x", {}, "mine.extra_args.uds: the collection sets --uds"),
        ("/srv/models/mine --ssl-keyfile k --ssl-certfile c", {}, "mine.extra_args.ssl-keyfile: the collection sets"),
        ("/srv/models/mine --port 80", {}, "mine.port: 80 is a port that only root may bind"),
        ("/srv/models/mine --port 8001", {}, "port 8001: its command line says so, but it listens at 8000"),
        ("/srv/models/mine --x-secret S3CRET", {}, "--x-secret: may hold a secret"),
        ('/srv/models/mine --kv-transfer-config \'{"password": "S3CRET"}\'', {}, "--kv-transfer-config: may hold"),
        ("/srv/models/mine stray", {}, "argument 'stray': not an option"),
        ("s3://bucket/model", {}, "model.model: 's3://bucket/model' is an address"),
    ],
)
def test_what_is_refused(line: str, environ: dict[str, str], why: str) -> None:
    model = Model("missing") if line.startswith("s3") else HERE
    problems = planned(line, environ, model=model).problems
    assert any(problem.startswith(why) for problem in problems), problems
    assert "S3CRET" not in "".join(problems)


def test_what_is_not_known_is_refused() -> None:
    assert "port 8000: it does not listen there (yet)" in planned("/srv/models/mine", ports=()).problems[0]
    (problem,) = planned("/srv/models/mine", answered=None).problems
    assert problem.startswith("max_model_len: neither its command line nor its /v1/models says")
    assert planned("/srv/models/mine --max-model-len 4096", answered=None).problems == []


def test_a_published_port_is_the_instance_s() -> None:
    assert planned("/srv/models/mine", port=9000).entry["port"] == 9000


@pytest.mark.parametrize(
    ("model", "taken", "name"),
    [
        (GUIDE, (), "qwen3vl"),
        (GUIDE, ("qwen3vl",), "qwen3-vl-8b-instruct"),
        ("/srv/models/My Model_7B/", (), "my-model-7b"),
        ("org/7b", (), "vllm-7b"),
        ("org/nginx", (), "model-nginx"),
        ("org/a", ("a", "a-2"), "a-3"),
        ("", (), "vllm"),
        ("org/" + "x" * 60, (), "x" * 38),
    ],
)
def test_names(model: str, taken: tuple[str, ...], name: str) -> None:
    assert _adopt_entry.name_for(model, taken) == name


@given(st.text(max_size=60), st.lists(st.sampled_from(["a", "b", "qwen3vl"])))
def test_every_name_is_a_good_one(model: str, taken: list[str]) -> None:
    name = _adopt_entry.name_for(model, taken)
    assert name not in taken
    normalise([{"name": name, "model": "/m"}])


def test_clashes_between_servers_are_told() -> None:
    plans = [planned("/srv/models/mine"), planned("/srv/models/mine --served-model-name b")]
    _adopt_entry.check_together(plans)
    assert plans[0].problems == []
    assert any("b.port" in problem for problem in plans[1].problems)


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), st.text(max_size=20), max_size=5),
    st.lists(st.text(max_size=15), max_size=6),
)
def test_whatever_runs_there_is_an_answer(environ: dict[str, str], words: list[str]) -> None:
    seen = Seen(options(Command(True, ("/srv/models/mine", *words))), environ, HERE, None, (8000,))
    plan = build(seen)
    if not plan.problems:
        normalise([_adopt_entry.real(plan)])
