# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines of running servers: which are ones, and what they say, as vLLM 0.32's own parser reads them."""

from __future__ import annotations

import shlex
import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_arguments, _adopt_options
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_arguments import Command, command_of, options, typed
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("line", "serve", "rest"),
    [
        ("vllm serve m", True, ["m"]),
        ("/opt/venv/bin/vllm serve m --port 1", True, ["m", "--port", "1"]),
        ("/usr/bin/python3 /opt/venv/bin/vllm serve m", True, ["m"]),
        ("python3.12 -u -X dev /opt/venv/bin/vllm serve m", True, ["m"]),
        ("python -Xdev -m vllm.entrypoints.openai.api_server --model m", False, ["--model", "m"]),
        ("python -um vllm.entrypoints.openai.api_server --model m", False, ["--model", "m"]),
        ("python3 -mvllm.entrypoints.openai.api_server --model m", False, ["--model", "m"]),
        ("python -m vllm.entrypoints.cli.main serve m", True, ["m"]),
        ("python /x/site-packages/vllm/entrypoints/openai/api_server.py --model m", False, ["--model", "m"]),
    ],
)
def test_servers(line: str, serve: bool, rest: list[str]) -> None:
    assert command_of(shlex.split(line)) == Command(serve, tuple(rest))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "vllm",
        "vllm bench serve",
        "vllm chat",
        "uv run vllm serve m",
        "bash -c 'vllm serve m'",
        "sudo vllm serve m",
        "python -c 'import vllm' serve",
        "python",
        "python -m",
        "python -m http.server",
        "python train.py serve vllm",
        "VLLM::EngineCore",
        "grep vllm serve",
        "python -m vllm.entrypoints.openai.run_batch",
    ],
)
def test_what_is_no_server(line: str) -> None:
    assert command_of(shlex.split(line)) is None


def said(line: str, config: dict[str, t.Any] | None = None, *, serve: bool = True) -> _adopt_arguments.Options:
    return options(Command(serve, tuple(shlex.split(line))), config)


@pytest.mark.parametrize(
    ("line", "model", "given_options"),
    [
        ("m", "m", {}),
        ("m --port 8001", "m", {"port": 8001}),
        ("m --port=8001", "m", {"port": 8001}),
        ("m --max_model_len 4k", "m", {"max-model-len": "4k"}),
        ("m --max-model 4096", "m", {"max-model-len": 4096}),
        ("m --max-num 4", "m", {"max-num": 4}),  # several names start so
        ("m --gpu-memory-util 0.5", "m", {"gpu-memory-utilization": 0.5}),
        ("m --device-memory-utilization 0.5", "m", {"gpu-memory-utilization": 0.5}),
        ("--enforce-eager m", "m", {"enforce-eager": True}),
        ("--port 1 m", "m", {"port": 1}),
        ("--model m", "m", {}),
        ("--model=m --no-enable-prefix-caching", "m", {"enable-prefix-caching": False}),
        ("m --no-enforce-eager --enforce-eager", "m", {"enforce-eager": True}),
        ("m -tp 2 -pp=2 -q fp8 -n1", "m",
         {"tensor-parallel-size": 2, "pipeline-parallel-size": 2, "quantization": "fp8", "nnodes": 1}),
        ("m -O3", "m", {"optimization-level": 3}),
        ("m -O 2", "m", {"optimization-level": 2}),
        ("m --served-model-name a b --port 1", "m", {"served-model-name": ["a", "b"], "port": 1}),
        ("m --served-model-name a", "m", {"served-model-name": "a"}),
        ("m --port 1 --port 2", "m", {"port": 2}),
        ("m --middleware a --middleware b", "m", {"middleware": ["a", "b"]}),
        ("m --seed -1", "m", {"seed": -1}),
        ("m --revision 007", "m", {"revision": "007"}),
        ("m --dtype 1e5", "m", {"dtype": "1e5"}),
        ("m --limit-mm-per-prompt '{\"image\": 4}'", "m", {"limit-mm-per-prompt": {"image": 4}}),
        ("m --limit-mm-per-prompt.image 4", "m", {"limit-mm-per-prompt": {"image": 4}}),
        ("m --hf-overrides.a.b 1k --hf-overrides.a.c=x", "m", {"hf-overrides": {"a": {"b": 1000, "c": "x"}}}),
        ("m --hf-overrides.l+ a,b --hf-overrides.l+ c", "m", {"hf-overrides": {"l": ["a", "b", "c"]}}),
        ("m -cc.mode 3", "m", {"compilation-config": {"mode": 3}}),
        ("m --brand-new-flag", "m", {"brand-new-flag": True}),
        ("m --brand-new 1", "m", {"brand-new": 1}),
        ("m --brand_new a b", "m", {"brand-new": ["a", "b"]}),
        ("m --no-brand-new", "m", {"brand-new": False}),
        ("", None, {}),
    ],
)  # fmt: skip
def test_options(line: str, model: str | None, given_options: dict[str, t.Any]) -> None:
    found = said(line)
    assert (found.model, found.given, found.problems) == (model, given_options, [])


def test_the_module_takes_no_loose_model() -> None:
    found = said("m --model n", serve=False)
    assert found.model == "n"
    assert found.problems == ["argument 'm': not an option and not the model, so it is not understood"]


def test_an_option_without_its_value_is_told() -> None:
    assert said("m --port --seed 1").problems == ["--port: has no value"]


def test_the_command_line_wins_over_the_file() -> None:
    config = {
        "port": 9000,
        "tensor_parallel_size": 2,
        "enforce-eager": True,
        "enable-prefix-caching": False,
        "headless": False,
        "served-model-name": ["a"],
        "compilation-config": {"mode": 3},
        "model": "file",
    }
    found = said("--config c.yaml --port 1", config)
    assert found.model == "file"
    assert found.given == {
        "port": 1,
        "tensor-parallel-size": 2,
        "enforce-eager": True,
        "enable-prefix-caching": False,
        "headless": False,
        "served-model-name": ["a"],
        "compilation-config": {"mode": 3},
    }
    assert said("mine --config c.yaml", config).model == "mine"


def test_the_file_is_read_only_where_vllm_reads_it() -> None:
    assert _adopt_arguments.config_file(Command(True, ("m", "--config", "c.yaml"))) == "c.yaml"
    assert _adopt_arguments.config_file(Command(True, ("m", "--config=c.yaml"))) is None
    assert "passed over" in said("m --config=c.yaml").notes[0]


WORDS = st.lists(
    st.one_of(
        st.sampled_from([f"--{name}" for name in sorted(_adopt_options.KNOWN)[::7]]),
        st.text(max_size=12),
        st.sampled_from(["--", "-", "-tp", "-1", "--x.y", "--x.y+", "--x.", "=", "--=", "-O", "{", '{"a": 1}']),
    ),
    max_size=8,
)


@given(WORDS)
def test_no_command_line_breaks_it(words: list[str]) -> None:
    found = options(Command(True, tuple(words)))
    assert all(isinstance(name, str) for name in found.given)
    command_of(words)


@given(st.text(max_size=20))
def test_a_typed_word_says_the_same_again(text: str) -> None:
    value = typed(text)
    assert isinstance(value, dict) or str(value) == text


@given(
    st.dictionaries(
        st.sampled_from(sorted(_adopt_options.VALUES - {"model", "model-tag", "config"})), st.integers(0, 9)
    )
)
def test_values_come_back(values: dict[str, int]) -> None:
    line = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    assert options(Command(True, ("m", *line))).given == {
        _adopt_options.ALIASES.get(name, name): value for name, value in values.items()
    }
