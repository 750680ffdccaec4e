# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The normaliser: tables for what each key takes and refuses, properties for what holds of any input."""

from __future__ import annotations

import copy
import typing as t

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _fields
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import InputError, Undefined, normalise
from hypothesis import given, settings
from hypothesis import strategies as st

LEAST = {"name": "a", "model": "/srv/m"}


def one(**keys: object) -> dict[str, t.Any]:
    return normalise([{**LEAST, **keys}])[0]


def problems(instances: object, defaults: object = None, **more: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        normalise(instances, defaults, **more)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def refusal(**keys: object) -> str:
    """The one problem of an otherwise good instance."""
    found = problems([{**LEAST, **keys}])
    assert len(found) == 1, found
    return found[0]


# What it makes


def test_no_instances_given_is_the_guides_one() -> None:
    (instance,) = normalise()
    assert instance["name"] == "qwen3vl"
    assert instance["unit"] == "qwen3vl.service"
    assert instance["config_file"] == "/etc/vllm/qwen3vl.yaml"
    assert instance["env_file"] == "/etc/vllm/qwen3vl.env"
    assert instance["model_source"] == "hub"
    assert instance["serve"] == {
        "model": "/var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/main",
        "served-model-name": "Qwen/Qwen3-VL-8B-Instruct",
        "host": "0.0.0.0",
        "port": 8000,
        "tensor-parallel-size": 1,
        "max-model-len": 1024,
        "gpu-memory-utilization": 0.95,
        "shutdown-timeout": 60,
        "disable-access-log-for-endpoints": "/health,/metrics,/metrics/",
    }
    assert instance["environment"] == {
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": "600",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert instance["secrets"] == {}
    assert instance["timeouts"] == {
        "gate": 300, "start": 600, "unit_start": 930, "drain": 60, "unit_stop": 90, "keep_alive": 75,
    }  # fmt: skip


def test_what_vllms_cache_key_forgets_has_a_cache_of_its_own() -> None:
    """vLLM 0.32 on an H100 took the graph that was compiled with pictures for a start without them, and died."""

    def cache(**extra: object) -> str | None:
        (instance,) = normalise([{"name": "a", "model": "/srv/m", "extra_args": extra}])
        return instance["environment"].get("VLLM_CACHE_ROOT")

    without = cache(**{"limit-mm-per-prompt": {"image": 0, "video": 0}})
    assert cache() is None and cache(dtype="half") is None
    assert without is not None and without.startswith("~/.cache/vllm-")
    # The same whatever the order and whatever else changes, so that a restart finds what was compiled.
    assert cache(**{"limit-mm-per-prompt": {"video": 0, "image": 0}, "dtype": "half"}) == without
    others = [
        cache(**{"limit-mm-per-prompt": {"image": 1}}),
        cache(**{"limit-mm-per-prompt.image": 0}),
        cache(**{"limit-mm-per-prompt.image": 1}),
        cache(**{"language-model-only": True}),
    ]
    assert None not in others and len({without, *others}) == 5
    own_folder = {"env": {"VLLM_CACHE_ROOT": "/c"}, "extra_args": {"language-model-only": True}}
    (own,) = normalise([{"name": "a", "model": "/srv/m", **own_folder}])
    assert "VLLM_CACHE_ROOT" not in own["environment"]


def test_an_empty_list_is_no_instance() -> None:
    assert normalise([]) == []


def test_defaults_serve_all_and_an_instance_comes_first() -> None:
    shared = {"port": 9000, "env": {"A": "1", "B": "2"}, "extra_args": {"dtype": "half", "seed": 1}, "model": "/srv/n"}
    (instance,) = normalise([{"name": "a", "env": {"B": "3", "A": None}, "extra_args": {"seed": 2}}], shared)
    assert instance["port"] == 9000
    assert instance["env"] == instance["secrets"] == {"B": "3"}
    assert instance["extra_args"] == {"dtype": "half", "seed": 2}
    assert instance["model_path"] == "/srv/n"


def test_null_is_as_if_not_given_and_takes_a_default_back() -> None:
    (instance,) = normalise([{**LEAST, "port": None, "api_key": None}], {"port": 9000, "api_key": "secret"})
    assert instance["port"] == 8000
    assert instance["api_key"] is None
    assert "VLLM_API_KEY" not in instance["secrets"]


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"model": "/srv//models/mine/"}, "/srv/models/mine"),
        ({"model": "org/name"}, "/data/org--name/main"),
        ({"model": "org/name", "revision": "v1.2"}, "/data/org--name/v1.2"),
        ({"model": "org/name", "revision": "refs/pr/1"}, "/data/org--name/refs/pr/1"),
    ],
)
def test_model_path(keys: dict[str, str], path: str) -> None:
    (instance,) = normalise([{**LEAST, **keys}], None, "/data/")
    assert instance["model_path"] == instance["serve"]["model"] == path


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("[::]", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
        ("FE80::1", "http://[fe80::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_base_url(host: str, url: str) -> None:
    assert one(host=host)["base_url"] == url


@pytest.mark.parametrize(
    ("gpus", "visible"), [([], ""), ([1, "0"], "1,0"), (["GPU-1f", "MIG-2a"], "GPU-1f,MIG-2a"), (None, None)]
)
def test_visible_gpus(gpus: object, visible: str | None) -> None:
    assert one(gpus=gpus)["environment"].get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("port", "8001", 8001),
        ("port", " 8001 ", 8001),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("gpu_memory_utilization", 1, 1.0),
        ("max_model_len", "32768", 32768),
        ("drain_timeout", 0, 0),
        ("standby", True, True),
    ],
)
def test_text_that_templates_give_is_read(key: str, given: object, read: object) -> None:
    value = one(**{key: given})[key]
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("memory", "16g", "16G"), ("memory", 2**30, "1073741824"), ("memory", "infinity", "infinity"),
        ("cpu", 4, "400%"), ("cpu", "1.5", "150%"), ("cpu", "400%", "400%"), ("tasks", "infinity", "infinity"),
        ("tasks", "4096", 4096), ("memlock", "infinity", "infinity"), ("oom_score_adjust", "-500", -500),
    ],
)  # fmt: skip
def test_limits(key: str, given: object, read: object) -> None:
    assert one(limits={key: given})["limits"][key] == read


def test_extra_arguments_go_through_with_dashes() -> None:
    given = {
        "enable_prefix_caching": False, "disable_log_stats": False, "no_mm_processor": False, "max-num_seqs": 4,
        "limit_mm_per_prompt": {"image": 2}, "compilation_config.pass_config": "x", "middleware": ["a", "b"],
        "seed": None, "rope-theta": -1,
    }  # fmt: skip
    serve = one(extra_args=given)["serve"]
    assert serve["no-enable-prefix-caching"] is True, "vLLM drops `enable-prefix-caching: false`"
    assert serve["mm-processor"] is True
    assert not {"enable-prefix-caching", "disable-log-stats", "no-disable-log-stats"} & set(serve)
    assert serve["max-num-seqs"] == 4
    assert serve["limit-mm-per-prompt"] == {"image": 2}
    assert serve["compilation-config.pass_config"] == "x"
    assert serve["middleware"] == ["a", "b"]
    assert serve["rope-theta"] == -1
    assert "seed" not in serve
    assert yaml.safe_load(yaml.safe_dump(serve)) == serve


def test_a_variable_stands_in_one_place_only() -> None:
    instance = one(env={"HF_HUB_OFFLINE": "0", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": 400})
    assert "HF_HUB_OFFLINE" not in instance["environment"]
    assert instance["secrets"]["HF_HUB_OFFLINE"] == "0"
    assert instance["timeouts"]["keep_alive"] == 400


# What it refuses: the whole line, so that place, value, reason and fix are seen


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"prot": 1}, "vllm_instances[0].prot: unknown key, did you mean port?"),
        ({"max-model-len": 1}, "vllm_instances[0].max-model-len: unknown key, did you mean max_model_len?"),
        ({"limits": {"mem": 1}}, "vllm_instances[0].limits.mem: unknown key, did you mean memory?"),
        ({"logs": {"zzz": 1}}, "vllm_instances[0].logs.zzz: unknown key: there are size, count"),
        (
            {"port": 70000},
            "vllm_instances[0].port: 70000 is out of range for a port: write a whole number from 1024 to "
            "65535, such as 8000",
        ),
        (
            {"port": 80},
            "vllm_instances[0].port: 80 is a port that only root may bind: write one from 1024 up, such as 8000",
        ),
        (
            {"gpu_memory_utilization": 1.5},
            "vllm_instances[0].gpu_memory_utilization: 1.5 is out of range for a share of "
            "the GPU's memory: write a number above 0 and up to 1, such as 0.95",
        ),
        (
            {"standby": "no"},
            "vllm_instances[0].standby: 'no' is a string, not a boolean: write true or false without quotes",
        ),
        (
            {"name": "ssh"},
            "vllm_instances[0].name: 'ssh' is the name of a system service: choose another, such as model-ssh",
        ),
        (
            {"extra_args": {"port": 1}},
            "vllm_instances[0].extra_args.port: the collection sets --port: write it as the instance's port",
        ),
        (
            {"extra_args": {"a_b": 1, "a-b": 2}},
            "vllm_instances[0].extra_args.a-b: says the same as a_b: keep one of them",
        ),
        (
            {"env": {"VLLM_API_KEY": "x"}},
            "vllm_instances[0].env.VLLM_API_KEY: the collection sets it: write it as the instance's api_key",
        ),
        (
            {"env": {"A": True}},
            "vllm_instances[0].env.A: (not shown) is a boolean, which programs read differently: "
            "write '1', '0' or the word, in quotes",
        ),
        (
            {"revision": "v1"},
            "vllm_instances[0].revision: 'v1' with a model that is a path, which has no revisions: "
            "leave revision out, or write a hub id as the model",
        ),
        (
            {"ready_check": "ping"},
            "vllm_instances[0].ready_check: 'ping' is not one of the choices: write completion or health",
        ),
        (
            {"port": Undefined("'p' is undefined")},
            "vllm_instances[0].port: cannot be resolved ('p' is undefined): define "
            "it, open its vault, or leave the key out",
        ),
    ],
)
def test_refusals_word_for_word(keys: dict[str, object], line: str) -> None:
    assert refusal(**keys) == line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Chat"), ("name", "1a"), ("name", "a_b"), ("name", "a" * 42), ("name", ""), ("name", "a\n"),
        ("name", 7),
        ("name", "systemd-x"), ("name", "vllm-keeper"), ("name", "haproxy"), ("name", "cron"), ("name", "nvidia-x"),
        ("model", "./x"), ("model", "x"), ("model", "a/b/c"), ("model", "~/m"), ("model", "/"), ("model", "/a/../b"),
        ("model", "s3://b/k"), ("model", "a--b/c"), ("model", 3), ("model", "/a\nb"), ("model", ""),
        ("revision", 1234567), ("revision", "../x"), ("revision", ""),
        ("served_model_name", ""), ("served_model_name", "-x"), ("served_model_name", "a\nb"),
        ("served_model_name", []),
        ("port", True), ("port", 8000.0), ("port", "8e3"), ("port", 0), ("port", -1), ("port", "9" * 5000),
        ("port", []), pytest.param("port", 10**5000, id="port-endless"),
        ("host", "1.2.3"), ("host", "a b"), ("host", ""), ("host", "[x]"), ("host", 1), ("host", "-a"),
        ("gpus", 0), ("gpus", [-1]), ("gpus", [True]), ("gpus", [0, "0"]), ("gpus", [0, "GPU-a"]), ("gpus", "0,1"),
        ("gpus", ["all"]), ("gpus", [None]),
        ("tensor_parallel_size", 0), ("max_model_len", 0), ("max_model_len", 1.5),
        ("gpu_memory_utilization", 0), ("gpu_memory_utilization", "nan"), ("gpu_memory_utilization", float("nan")),
        ("gpu_memory_utilization", True), ("gpu_memory_utilization", 10**400), ("gpu_memory_utilization", -0.5),
        ("standby", 1), ("standby", "true"), ("ready_check", True),
        ("start_timeout", 5), ("drain_timeout", -1), ("api_key", ""), ("api_key", 5), ("api_key", "a\nb"),
        ("api_key", " a"), ("api_key", "ü"),
        ("extra_args", []), ("extra_args", {"--dtype": 1}), ("extra_args", {1: 1}), ("extra_args", {"x": "true"}),
        ("extra_args", {"x": -1.5}), ("extra_args", {"x": [[1]]}), ("extra_args", {"x": [None]}),
        ("extra_args", {"x": 10**400}), ("extra_args", {"x": ["-y"]}), ("extra_args", {"x": "-1e-7"}),
        ("extra_args", {"x": "--y"}), ("extra_args", {"x": float("inf")}), ("extra_args", {"api-key": "k"}),
        ("extra_args", {"gpu_memory_util": 0.5}), ("extra_args", {"shutdown_timeout": 5}),
        ("extra_args", {"x": {1: 2}}),
        ("extra_args", {"uds": "/x"}), ("extra_args", {"served-model-name": "x"}), ("extra_args", {"config": "/x"}),
        ("env", ["A=1"]), ("env", {"A B": "1"}), ("env", {"1A": "1"}), ("env", {"A": "x\ny"}), ("env", {"A": "x\0"}),
        ("env", {"A": []}), ("env", {"CUDA_VISIBLE_DEVICES": "0"}), ("env", {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "soon"}),
        ("env", {"VLLM_ENGINE_READY_TIMEOUT_S": 601}),
        ("limits", {"memory": "16GB"}), ("limits", {"memory": "80%"}), ("limits", {"memory": 1}),
        ("limits", {"cpu": 0}),
        ("limits", {"cpu": "many"}), ("limits", {"cpu": float("nan")}), ("limits", {"tasks": 1}),
        ("limits", {"io_weight": 0}), ("limits", {"oom_score_adjust": 2000}), ("limits", {"files": "x"}),
        ("logs", {"size": "0"}), ("logs", {"count": 0}), ("logs", "50M"),
    ],
)  # fmt: skip
def test_each_wrong_value_is_one_problem_at_its_place(key: str, value: object) -> None:
    line = refusal(**{key: value})
    assert line.startswith(f"vllm_instances[0].{key}")
    assert ": write " in line or "leave " in line or "choose " in line or "(it follows" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("x", "vllm_instances: a string, not a list: write a list of dictionaries, each with name and model"),
        ({"name": "a"}, "vllm_instances: a dictionary, not a list: write a list of dictionaries, each with name and "
                        "model"),
        (["api_key=hush"], "vllm_instances[0]: a string, not a dictionary: write keys and values, such as port: 8000"),
        ([{"name": "a"}], "vllm_instances[0].model: missing: write a hub id, such as Qwen/Qwen3-VL-8B-Instruct, or an "
                          "absolute path on the host"),
    ],
)  # fmt: skip
def test_wrong_shapes(given: object, line: str) -> None:
    assert problems(given) == [line]


def test_all_problems_at_once_and_each_once() -> None:
    found = problems(
        [{**LEAST, "prot": 8001}, {"name": "b", "model": "./m", "port": 70000, "gpus": []}, "c", {**LEAST, "gpus": []}],
        {"limits": {"mem": "1G"}, "name": "x"},
    )
    assert [line.split(": ")[0] for line in found] == [
        "vllm_instance_defaults.limits.mem",
        "vllm_instance_defaults.name",
        "vllm_instances[0].prot",
        "vllm_instances[1].model",
        "vllm_instances[1].port",
        "vllm_instances[2]",
        "vllm_instances[3].name",
    ]


def test_model_root_must_be_absolute() -> None:
    assert problems(None, None, model_root="models")[0].startswith("vllm_model_root: 'models'")


# Instances together


def pair(first: dict[str, object], second: dict[str, object]) -> list[dict[str, object]]:
    return [{"name": "a", "model": "/m", "port": 8000, **first}, {"name": "b", "model": "/m", "port": 8001, **second}]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"gpus": [0]}, {"gpus": [1]}),
        ({"gpus": []}, {"gpus": []}),
        ({"gpus": []}, {}),
        ({"gpu_memory_utilization": 0.6}, {"gpu_memory_utilization": 0.4}),
        ({"gpus": [0, 1], "gpu_memory_utilization": 0.5}, {"gpus": [1], "gpu_memory_utilization": 0.5}),
    ],
)
def test_instances_that_go_together(first: dict[str, object], second: dict[str, object]) -> None:
    assert len(normalise(pair(first, second))) == 2


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ({}, {}, "vllm_instances[1].gpus: null (all GPUs) meets vllm_instances[0] on all GPUs, and together they want "
                 "1.90 of its memory: "),
        ({"gpus": [0, 1]}, {"gpus": ["1"]}, "vllm_instances[1].gpus: [1] meets vllm_instances[0] on GPU 1, and "),
        ({}, {"gpus": [3]}, "vllm_instances[1].gpus: [3] meets vllm_instances[0] on GPU 3, and together "),
        ({"gpus": []}, {"gpus": [], "port": "8000"}, "vllm_instances[1].port: 8000 is taken by vllm_instances[0]: "),
        ({"gpus": []}, {"gpus": [], "name": "a"}, "vllm_instances[1].name: 'a' is taken by vllm_instances[0]: "),
    ],
)  # fmt: skip
def test_clashes(first: dict[str, object], second: dict[str, object], line: str) -> None:
    (found,) = problems(pair(first, second))
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("size", "gpus", "extra", "good"),
    [
        (2, [0, 1], {}, True),
        (1, [0, 1], {}, True),
        (2, [0], {}, False),
        (2, [], {}, True),
        (2, None, {}, True),
        (1, [0], {"pipeline_parallel_size": 2}, False),
        (2, [0, 1, 2, 3], {"data_parallel_size": 2}, True),
        (2, [0, 1], {"data_parallel_size": 8, "data_parallel_size_local": 1}, True),
    ],
)
def test_gpus_suffice(size: int, gpus: list[int] | None, extra: dict[str, int], good: bool) -> None:
    keys = {"tensor_parallel_size": size, "gpus": gpus, "extra_args": extra}
    if good:
        one(**keys)
    else:
        assert refusal(**keys).startswith("vllm_instances[0].tensor_parallel_size: ")


# Of any input

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*_fields.FIELDS, "prot", "GPUs"])
entries = st.dictionaries(keys, anything, max_size=6) | anything


@given(st.none() | st.lists(entries, max_size=3) | anything, entries, anything)
@settings(deadline=None, max_examples=100)
def test_any_input_is_read_or_refused_with_places(instances: object, defaults: object, model_root: object) -> None:
    before = copy.deepcopy((instances, defaults))
    try:
        made = normalise(instances, defaults, model_root)
    except InputError as error:
        assert error.problems
        for line in error.problems:
            assert line.startswith(("vllm_instances", "vllm_instance_defaults", "vllm_model_root")), line
            assert ": " in line
            assert len(line.splitlines()) == 1, line
    else:
        assert isinstance(made, list)
    assert repr((instances, defaults)) == repr(before), "the input is left as it was"


def choose(*values: object) -> st.SearchStrategy[object]:
    return st.sampled_from(values)


good = st.fixed_dictionaries(
    {"model": choose("/srv/m", "org/name"), "gpus": choose([], ())},
    optional={
        "host": choose("0.0.0.0", "::1", "box"),
        "served_model_name": st.text("abc /ü", min_size=1, max_size=5).filter(str.strip),
        "max_model_len": st.integers(1, 10**6) | st.integers(1, 10**6).map(str),
        "gpu_memory_utilization": st.floats(0.01, 1.0),
        "extra_args": st.dictionaries(choose("dtype", "max_num-seqs"), st.none() | st.booleans() | st.integers(0, 9)),
        "env": st.dictionaries(choose("A", "B_2", "HF_TOKEN"), st.none() | st.text("xyz=#' ", max_size=9)),
        "limits": st.dictionaries(
            choose("memory", "cpu"), st.none() | st.integers(2**27, 2**40).map(str).map("{}".format)
        ),
        "start_timeout": st.integers(10, 86400),
        "drain_timeout": st.integers(0, 3600),
        "standby": st.booleans(),
    },
)


@given(st.lists(good, max_size=3))
@settings(deadline=None, max_examples=40)
def test_what_came_out_goes_in_again_unchanged(given_instances: list[dict[str, t.Any]]) -> None:
    for number, instance in enumerate(given_instances):
        instance.update(name=f"i{number}", port=8000 + number)
        instance.get("limits", {}).pop("cpu", None)
    made = normalise(given_instances)
    assert normalise([{key: instance[key] for key in _fields.FIELDS} for instance in made]) == made
    for instance in made:
        assert yaml.safe_load(yaml.safe_dump(instance)) == instance, "plain data"
        assert instance["timeouts"]["unit_start"] > instance["timeouts"]["start"] + instance["timeouts"]["gate"]
        assert instance["timeouts"]["unit_stop"] > instance["timeouts"]["drain"]


secret = st.text("0123456789ABCDEFXYZ", min_size=12, max_size=20).map("S3CR3T{}".format)


@given(secret, secret, st.dictionaries(keys.filter(lambda key: key not in ("api_key", "env")), anything, max_size=4))
@settings(deadline=None)
def test_secrets_stand_where_they_belong_and_nowhere_else(key: str, token: str, more: dict[str, object]) -> None:
    instance = {**LEAST, "api_key": key, "env": {"HF_TOKEN": token}}
    (made,) = normalise([instance])
    assert made["secrets"] == {"HF_TOKEN": token, "VLLM_API_KEY": key}
    public = repr({name: value for name, value in made.items() if name not in ("secrets", "env", "api_key")})
    assert key not in public
    assert token not in public
    try:
        normalise([{**instance, **more, "prot": 1}])
    except InputError as error:
        assert key not in str(error)
        assert token not in str(error)


@pytest.mark.parametrize(
    "instance",
    [
        {"api_key": "S3CR3T\n"}, {"api_key": ["S3CR3T"]}, {"api_key": {"k": "S3CR3T"}}, {"env": "A=S3CR3T"},
        {"env": ["A=S3CR3T"]}, {"env": {"A": "S3CR3T\n"}}, {"env": {"A": ["S3CR3T"]}},
        {"env": {"CUDA_DEVICE_ORDER": "S3CR3T"}}, {"extra_args": {"api_key": "S3CR3T"}},
        {"extra_args": {"x": "-S3CR3T"}}, {"env": {"VLLM_ENGINE_READY_TIMEOUT_S": "S3CR3T"}},
    ],
)  # fmt: skip
def test_a_wrong_secret_is_not_shown(instance: dict[str, object]) -> None:
    assert "S3CR3T" not in refusal(**instance)


@pytest.mark.parametrize(
    ("extra", "keeper"),
    [
        ({}, {"watch": {}, "canary": {}}),
        ({"kv_transfer_config": {"kv_role": "kv_both"}}, {"watch": {"stall_after": 60}, "canary": {}}),
        ({"nnodes": 2, "node-rank": 1}, {"watch": {"start_stall_after": 0}, "canary": {}}),
        ({"scheduling-policy": "priority"}, {"watch": {}, "canary": {"priority": -1000000}}),
        ({"scheduling-policy": "fcfs"}, {"watch": {}, "canary": {}}),
    ],
)
def test_what_the_keeper_must_know_of_how_it_is_served(extra: dict[str, object], keeper: dict[str, object]) -> None:
    (instance,) = normalise([{"name": "q", "model": "/srv/m", "extra_args": extra}])
    assert instance["keeper"] == keeper
