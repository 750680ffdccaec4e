# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `vllm serve` of the locked version would refuse, by the list that the collection brings of it."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.instances import instances
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_options, _derive, _fields, _serve_options
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import InputError, normalise

ROLE = Path(__file__).parents[4] / "roles/vllm"
OPTIONS = json.loads((ROLE / "files/options/vllm-0.32.0.json").read_text())
LEAST = {"name": "a", "model": "/srv/m"}
NONE = "vllm serve 0.32.0 has no such option, and would not start"


def refused(defaults: object = None, **extra_args: object) -> str:
    """What is said of these, "" for nothing."""
    try:
        normalise([{**LEAST, "extra_args": extra_args}], defaults, serve_options=OPTIONS)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "extra_args",
    [
        {"dtype": "float32", "enforce-eager": True, "max_num_seqs": 16, "kv-cache-memory-bytes": "256M"},
        {"enforce_eager": False, "no-enable-prefix-caching": True, "enable-prefix-caching": False},
        {"headless": False, "disable-log-stats": False, "disable-log-stats_": None},
        {"compilation-config.level": 3, "compilation_config": {"level": 3}},
        {"speculative-config": {"method": "ngram"}, "swap-space": None},
        {"max-num-seqs": "16", "cpu-offload-gb": 1.5},
        {"enforce-eag": True},  # as argparse takes an unambiguous beginning
        {"allowed-origins": ["*"], "lora-modules": ["a=/b", "c=/d"]},
        {"max-model-length": None},
    ],
)
def test_what_vllm_takes_is_taken(extra_args: dict[str, t.Any]) -> None:
    assert refused(**extra_args) == ""


@pytest.mark.parametrize(
    ("extra_args", "words"),
    [
        ({"enable-prefix-cachng": True}, f"enable-prefix-cachng: {NONE}: did you mean enable-prefix-caching?"),
        ({"qqqq": 1}, f"qqqq: {NONE}: see `vllm serve --help=all` of that version"),
        ({"enable": True}, f"enable: {NONE}"),  # the beginning of many
        ({"qqqq.level": 1}, f"extra_args.qqqq.level: {NONE}"),
        (
            {"dtype": "fp32"},
            "extra_args.dtype: vllm serve 0.32.0 takes one of auto, bfloat16, float, float16, float32, half",
        ),
        ({"max-num-seqs": "many"}, "extra_args.max-num-seqs: vllm serve 0.32.0 takes a whole number"),
        ({"max-num-seqs": 1.5}, "takes a whole number"),
        ({"cpu-offload-gb": "4G"}, "takes a number"),
        ({"dtype": True}, "extra_args.dtype: true, but vllm serve 0.32.0 takes a value there: write one of auto"),
        ({"max-num-seqs": True}, "write a whole number"),
        ({"speculative-config": True}, "true, but vllm serve 0.32.0 takes a value there: write it"),
        ({"max-num-seqs": False}, "false, but vllm serve 0.32.0 knows no false there"),
        ({"enforce-eager": 1}, "extra_args.enforce-eager: a switch of vllm serve 0.32.0: write true or false"),
        ({"enforce-eager": "yes"}, "write true or false"),
        ({"collect-detailed-traces": ["model", "all of it"]}, "takes one of None, all, model, worker"),
    ],
)
def test_what_vllm_would_refuse_is_refused_by_its_place(extra_args: dict[str, t.Any], words: str) -> None:
    said = refused(**extra_args)
    assert said.startswith("vllm_instances[0].extra_args.")
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_value_is_never_shown() -> None:
    said = refused(**{"dtype": "a-secret-of-mine", "max-num-seqs": "another-secret"})
    assert len(said.splitlines()) == 2
    assert "secret" not in said


def test_a_default_is_told_by_its_own_place_and_once() -> None:
    shared = {"extra_args": {"no-such-thing": 1, "dtype": "fp16"}}
    with pytest.raises(InputError) as caught:
        normalise([LEAST, {**LEAST, "name": "b", "port": 8001, "gpus": []}], shared, serve_options=OPTIONS)
    assert [problem.partition(": ")[0] for problem in caught.value.problems if "extra_args" in problem] == [
        "vllm_instance_defaults.extra_args.no-such-thing",
        "vllm_instance_defaults.extra_args.dtype",
    ]
    assert refused(shared, dtype="half").count("extra_args.dtype") == 0


@pytest.mark.parametrize("nothing", [None, {}])
def test_where_no_list_is_there_vllm_itself_judges(nothing: object) -> None:
    assert normalise([{**LEAST, "extra_args": {"no-such-thing": 1}}], serve_options=nothing)


@pytest.mark.parametrize("garbage", [[1], {"options": {}}, {"version": "1"}, {"version": "1", "options": []}])
def test_what_is_no_list_of_options_is_refused_by_name(garbage: object) -> None:
    with pytest.raises(AnsibleFilterError, match="serve_options: no options of vllm serve"):
        instances([LEAST], serve_options=garbage)


def test_every_lock_has_its_list_and_no_list_is_without_a_lock() -> None:
    locked = {
        found[1]
        for path in (ROLE / "files/locks").glob("*.txt")
        if (found := re.search(r"(?m)^vllm==([0-9.]+)", path.read_text()))
    }
    listed = {json.loads(path.read_text())["version"]: path.name for path in (ROLE / "files/options").glob("*.json")}
    assert listed == {version: f"vllm-{version}.json" for version in locked}


def test_a_list_says_of_each_option_what_can_be_judged() -> None:
    known = _serve_options.read(OPTIONS)
    assert known is not None
    assert len(known.options) > 300
    for name, takes in known.options.items():
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name), name
        good = takes in ("switch", "int", "float", "value", "optional") or (isinstance(takes, list) and takes)
        assert good, name


def test_what_the_collection_writes_itself_is_among_them() -> None:
    (made,) = normalise([LEAST])
    assert set(made["serve"]) <= set(OPTIONS["options"])
    # Positional, or of the parser of every command.
    assert set(_fields.OWNED_ARGS) - {"model", "model-tag", "config"} <= set(OPTIONS["options"])


def test_false_is_left_unsaid_exactly_where_vllm_has_no_word_for_it() -> None:
    options = OPTIONS["options"]
    without = {
        name
        for name, takes in options.items()
        if takes == "switch" and f"no-{name}" not in options and not name.startswith("no-")
    }
    assert set(_derive.FLAGS) == without


def test_adoption_reads_command_lines_by_the_same_options() -> None:
    options = OPTIONS["options"]
    assert {*options, "model-tag"} == _adopt_options.KNOWN, "and the word without dashes"
    switches = {name for name, takes in options.items() if takes == "switch"}
    assert switches == _adopt_options.FLAGS | _adopt_options.NEGATED
    assert set(_derive.FLAGS) == _adopt_options.ONE_WAY
