# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance as a Compose project."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _compose, _instances

OPTIONS: dict[str, Any] = {
    "image": "localhost/steadfast-vllm:1",
    "user": "995:995",
    "gpus": "cdi",
    "health": {},
    "shm_size": "8g",
    "restart": "unless-stopped",
    "log_driver": "json-file",
    "volumes": [],
    "extra": {},
}


def instance(**changes: Any) -> dict[str, Any]:
    """The guide's instance with some keys changed."""
    given = {"name": "qwen3vl", "model": "/srv/model", **changes}
    (found,) = _instances.normalise([given])
    return found


def service(options: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    found = _compose.project(instance(**changes), {**OPTIONS, **(options or {})})
    made: dict[str, Any] = found["services"]["qwen3vl"]
    return made


def test_the_guides_file() -> None:
    made = service()
    assert made["container_name"] == "qwen3vl"
    assert made["restart"] == "unless-stopped"
    assert made["pull_policy"] == "never"
    assert made["init"] is True
    assert made["ports"] == [{"target": 8000, "published": "8000", "host_ip": "0.0.0.0", "protocol": "tcp"}]
    check = made["healthcheck"]
    assert {key: check[key] for key in ("interval", "timeout", "retries", "start_period")} == {
        "interval": "30s",
        "timeout": "10s",
        "retries": 3,
        "start_period": "180s",
    }
    assert "/health" in check["test"][-1]
    assert made["logging"]["options"] == {"max-size": str(50 << 20), "max-file": "10"}


def test_it_is_kept_in_narrow_bounds() -> None:
    made = service()
    assert made["user"] == "995:995"
    assert made["read_only"] is True
    assert made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges:true"]
    binds = [one for one in made["volumes"] if one["type"] == "bind"]
    assert {one["source"] for one in binds} == {"/srv/model", "/etc/vllm/qwen3vl.yaml"}
    assert all(one["read_only"] and one["bind"] == {"create_host_path": False} for one in binds)


def test_a_stop_leaves_time_to_drain() -> None:
    assert service(drain_timeout=120)["stop_grace_period"] == "150s"


@pytest.mark.parametrize(
    ("host", "inside", "asked"),
    [("0.0.0.0", "0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0", "127.0.0.1"), ("::", "::", "::1")],
)
def test_where_it_is_reached_from_is_said_by_the_port_alone(host: str, inside: str, asked: str) -> None:
    made = service(host=host)
    assert made["ports"][0]["host_ip"] == host
    assert made["command"][-2:] == ["--host", inside]
    assert f"HTTPConnection('{asked}', 8000" in made["healthcheck"]["test"][-1]


@pytest.mark.parametrize(
    ("gpus", "how", "expected"),
    [
        (None, "cdi", {"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"], "capabilities": ["gpu"]}),
        (
            [2, 3],
            "cdi",
            {"driver": "cdi", "device_ids": ["nvidia.com/gpu=2", "nvidia.com/gpu=3"], "capabilities": ["gpu"]},
        ),
        (["GPU-1a"], "cdi", {"driver": "cdi", "device_ids": ["nvidia.com/gpu=GPU-1a"], "capabilities": ["gpu"]}),
        (None, "reservation", {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}),
        ([2, 3], "reservation", {"driver": "nvidia", "device_ids": ["2", "3"], "capabilities": ["gpu"]}),
        ([0], "devices", {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}),
    ],
)
def test_gpus(gpus: list[Any] | None, how: str, expected: dict[str, Any]) -> None:
    changes: dict[str, Any] = {} if gpus is None else {"gpus": gpus, "tensor_parallel_size": len(gpus)}
    made = service({"gpus": how}, **changes)
    assert made["deploy"]["resources"]["reservations"]["devices"] == [expected]
    # In the container they are counted from 0, so an index of the host would name another or none.
    assert "CUDA_VISIBLE_DEVICES" not in made["environment"]


def test_explicit_device_nodes() -> None:
    made = service({"gpus": "devices"}, gpus=[1])
    assert made["devices"] == [
        f"/dev/{node}:/dev/{node}" for node in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia1")
    ]


@pytest.mark.parametrize(("gpus", "how"), [([], "cdi"), ([], "reservation"), ([0], "none")])
def test_without_gpus(gpus: list[int], how: str) -> None:
    made = service({"gpus": how}, gpus=gpus)
    assert "deploy" not in made
    assert "devices" not in made


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, {}),
        ({"memory": "64G"}, {"mem_limit": str(64 << 30), "memswap_limit": str(64 << 30)}),
        ({"memory": "infinity"}, {}),
        ({"cpu": 1.5}, {"cpus": 1.5}),
        ({"tasks": 4096}, {"pids_limit": 4096}),
        ({"tasks": "infinity"}, {"pids_limit": -1}),
        ({"oom_score_adjust": -500}, {"oom_score_adj": -500}),
        ({"io_weight": 5000}, {"blkio_config": {"weight": 1000}}),
        ({"io_weight": 1}, {"blkio_config": {"weight": 10}}),
        ({"files": 65536, "memlock": "infinity"}, {"ulimits": {"nofile": 65536, "memlock": -1}}),
        ({"memlock": "1G"}, {"ulimits": {"memlock": 1 << 30}}),
    ],
)
def test_limits(limits: dict[str, Any], expected: dict[str, Any]) -> None:
    made = service(limits=limits)
    keys = ("mem_limit", "memswap_limit", "cpus", "pids_limit", "oom_score_adj", "blkio_config", "ulimits")
    assert {key: made[key] for key in keys if key in made} == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("50M", 50 << 20), ("1G", 1 << 30), ("7", 7), ("2T", 2 << 40), ("3K", 3072)]
)
def test_sizes_in_bytes(text: str, expected: int) -> None:
    assert _compose.bytes_of(text, "x") == str(expected)


def test_no_size_is_said() -> None:
    with pytest.raises(ValueError, match="memory: 'much' is not a size"):
        _compose.bytes_of("much", "memory")


NASTY = {
    "DOLLARS": "$HOME ${HOME} $$ ${X:-y}",
    "QUOTES": "a'b\"c`d",
    "ENDS_IN_A_BACKSLASH": "x\\",
    "HASH": "a # b",
    "SPACES": "  two  ",
    "NOTHING": "",
    "YAML": "- {a: [b]}: &c *d !e |",
}


def test_secrets_are_in_a_file_of_their_own_and_byte_for_byte() -> None:
    one = instance(env=NASTY, api_key="sk-$1'2\"3")
    everything = {**NASTY, "VLLM_API_KEY": "sk-$1'2\"3"}
    assert one["secrets"] == everything
    shown = yaml.safe_dump(_compose.project(one, OPTIONS))
    assert not [value for value in everything.values() if value.strip() and value in shown]
    written = _compose.secrets(one)["services"]["qwen3vl"]["environment"]
    # What Compose does when it reads them: two dollars are one, and one alone would be a variable.
    assert {name: value.replace("$$", "$") for name, value in written.items()} == everything
    assert all(value.count("$") % 2 == 0 for value in written.values())


def test_what_the_instance_sets_is_left_to_it() -> None:
    made = service(env={"HOME": "/somewhere"})
    assert "HOME" not in made["environment"]
    assert made["environment"]["USER"] == "vllm"


def test_own_keys_lie_over_ours() -> None:
    made = service({"extra": {"ipc": "host", "environment": {"A": "1"}, "tmpfs": []}})
    assert made["ipc"] == "host"
    assert made["tmpfs"] == []
    assert made["environment"]["A"] == "1"
    assert made["environment"]["HF_HUB_OFFLINE"] == "1"


def test_dollars_of_the_file_are_doubled_everywhere() -> None:
    assert _compose.literal({"a": ["$x", {"b": "$$"}], "c": 1}) == {"a": ["$$x", {"b": "$$$$"}], "c": 1}


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"name": "q"}, {}, "vllm_instances[0].name: 'q' is too short for a container"),
        ({"host": "gpu7.example.org"}, {}, "vllm_instances[0].host: 'gpu7.example.org' is a name"),
        ({}, {"gpus": "devices"}, "vllm_instances[0].gpus: None does not say which device nodes"),
        ({"gpus": ["GPU-1a"]}, {"gpus": "devices"}, "vllm_instances[0].gpus: ['GPU-1a'] does not say"),
        ({}, {"gpus": "all"}, "service_compose_gpus: 'all' is none of cdi, reservation, devices, none"),
        ({}, {"health": {"intervall": 1}}, "service_compose_health.intervall: unknown key"),
        ({}, {"imgae": "x"}, "imgae: unknown option"),
    ],
)
def test_what_compose_cannot_carry_is_refused(changes: dict[str, Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:
        _compose.files([instance(**changes)], {**OPTIONS, **options}, lambda name: [])
    assert told in str(refused.value)


def test_files_and_how_they_end() -> None:
    found = {item["path"]: item for item in _compose.files([instance()], OPTIONS, lambda name: ["retire", name])}
    assert list(found) == [
        "/etc/vllm/compose",
        "/etc/vllm/compose/qwen3vl",
        "/etc/vllm/compose/qwen3vl/compose.yaml",
        "/etc/vllm/compose/qwen3vl/compose.override.yaml",
    ]
    assert found["/etc/vllm/compose/qwen3vl/compose.yaml"]["before_remove"] == ["retire", "qwen3vl"]
    secret = found["/etc/vllm/compose/qwen3vl/compose.override.yaml"]
    assert (secret["mode"], secret["secret"]) == ("0600", True)


@pytest.mark.parametrize(
    ("image", "taken"),
    [
        (f"vllm/vllm-openai:v0.32.0@sha256:{'a' * 64}", True),
        (f"vllm/vllm-openai@sha256:{'0' * 64}", True),
        ("vllm/vllm-openai:v0.32.0", False),
        ("vllm/vllm-openai:latest", False),
        (f"vllm/vllm-openai@sha256:{'a' * 63}", False),
        ("", False),
    ],
)
def test_only_a_pinned_image_is_taken(image: str, taken: bool) -> None:
    problem = _compose.image_problem(image, "service_compose_image")
    assert (problem == "") == taken
    if not taken:
        assert problem.startswith(f"service_compose_image: {image!r} is not pinned")
