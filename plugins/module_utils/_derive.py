# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from a complete, valid instance (private to this collection). Pure, standard library only."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import json
import typing as t
from collections.abc import Mapping

# The longest wait that the gate may make a start wait for: the last step of the keeper's back-off.
GATE_SECONDS = 300
# Python's imports and the ready check take this much beside what start_timeout allows the model.
START_SLACK = 30
STOP_SLACK = 30
# Seconds that requests may wait for a cache that comes from another host.
KV_TRANSFER_STALL = 60
# Options of a server on several hosts: its start rightly stands still until the others have come.
SEVERAL_HOSTS = ("nnodes", "node-rank", "headless", "data-parallel-address", "data-parallel-external-lb")
# vLLM's smaller numbers go first: the keeper's canary is not to wait behind a queue.
BEFORE_USERS = -1000000
# An ALB keeps idle connections 60 s and answers 502 when the server closed one first.
KEEP_ALIVE_SECONDS = 75
# As of 2026-11-22, vLLM 0.32: options that have no other form (--no-...), and are false unless given.
FLAGS = ("aggregate-engine-logging", "data-parallel-multi-port-external-lb", "disable-log-stats", "grpc", "headless")
# As of 2026-11-28, vLLM 0.32: they change the model that is compiled, and the key of vLLM's compile cache leaves them
# out (MultiModalConfig.compute_hash). A start that finds what others compiled dies, and so do all after it.
NOT_IN_CACHE_KEY = ("language-model-only", "limit-mm-per-prompt")


def derive(instance: Mapping[str, t.Any], model_root: str) -> dict[str, t.Any]:
    """The instance with everything that renderers need."""
    full: dict[str, t.Any] = copy.deepcopy(dict(instance))
    name = full["name"]
    is_path = full["model"].startswith("/")
    if full["served_model_name"] is None:
        full["served_model_name"] = full["model"]
    full["model_source"] = "path" if is_path else "hub"
    full["model_path"] = full["model"] if is_path else hub_folder(model_root, full["model"], full["revision"])
    full["config_file"] = f"/etc/vllm/{name}.yaml"
    full["env_file"] = f"/etc/vllm/{name}.env"
    full["unit"] = f"{name}.service"
    full["base_url"] = base_url(full["host"], full["port"])
    full["timeouts"] = timeouts(full)
    full["serve"] = serve(full)
    full["keeper"] = keeper(full["serve"])
    full["environment"] = environment(full)
    full["secrets"] = dict(full["env"])
    if full["api_key"] is not None:
        full["secrets"]["VLLM_API_KEY"] = full["api_key"]
    return full


def keeper(served: Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """What the keeper's settings owe to how the instance is served; role health's own come over these."""
    waits_for_others = "kv-transfer-config" in served
    by_priority = served.get("scheduling-policy") == "priority"
    starts_with_others = any(option in served for option in SEVERAL_HOSTS)
    return {
        "watch": {
            **({"stall_after": KV_TRANSFER_STALL} if waits_for_others else {}),
            **({"start_stall_after": 0} if starts_with_others else {}),
        },
        "canary": {"priority": BEFORE_USERS} if by_priority else {},
    }


def hub_folder(model_root: str, model: str, revision: str | None) -> str:
    """Where a model of the hub lies on the host."""
    return f"{model_root.rstrip('/')}/{model.replace('/', '--')}/{revision or 'main'}"


def base_url(host: str, port: int) -> str:
    """Where the host itself reaches the instance."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        # "::" also takes IPv4, but a host may have it switched off; its own family is always right.
        return f"http://{'127.0.0.1' if address.version == 4 else '[::1]'}:{port}"
    return f"http://{address}:{port}" if address.version == 4 else f"http://[{address}]:{port}"


def timeouts(instance: Mapping[str, t.Any]) -> dict[str, int]:
    """Seconds; each outer one is longer than what runs inside it."""
    start, drain = instance["start_timeout"], instance["drain_timeout"]
    return {
        "gate": GATE_SECONDS,
        "start": start,
        "unit_start": GATE_SECONDS + start + START_SLACK,
        "drain": drain,
        "unit_stop": drain + STOP_SLACK,
        "keep_alive": int(instance["env"].get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", KEEP_ALIVE_SECONDS)),
    }


def serve(instance: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The content of the file that `vllm serve --config` reads (names as in vLLM 0.32)."""
    return {
        "model": instance["model_path"],
        "served-model-name": instance["served_model_name"],
        "host": instance["host"],
        "port": instance["port"],
        "tensor-parallel-size": instance["tensor_parallel_size"],
        "max-model-len": instance["max_model_len"],
        "gpu-memory-utilization": instance["gpu_memory_utilization"],
        "shutdown-timeout": instance["drain_timeout"],
        # What the keeper, balancers and Prometheus ask each second would bury what users ask.
        "disable-access-log-for-endpoints": "/health,/metrics,/metrics/",
        **dict(said(name, value) for name, value in instance["extra_args"].items() if not unsaid(name, value)),
    }


def said(name: str, value: t.Any) -> tuple[str, t.Any]:
    """An option as the file must have it: vLLM 0.32 drops `x: false` without a word, but takes `no-x: true`."""
    if value is False:
        return (name[len("no-") :], True) if name.startswith("no-") else (f"no-{name}", True)
    return name, copy.deepcopy(value)


def unsaid(name: str, value: t.Any) -> bool:
    """Whether saying nothing is the only way to say false."""
    return value is False and name in FLAGS


def environment(instance: Mapping[str, t.Any]) -> dict[str, str]:
    """Variables without secrets. Those that the instance's env sets are left to it: managers differ in who wins."""
    variables = {
        # Models are fetched before the service is touched: a start never waits for the network.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        # vLLM's own limit is 600 s, and would end a longer start_timeout early.
        "VLLM_ENGINE_READY_TIMEOUT_S": str(instance["start_timeout"]),
        # FlashInfer compiles its sampler at the first start, for minutes; vLLM's own is ready (docs/cuda-toolkit.md).
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # Indices as nvidia-smi counts them; CUDA's own order is by speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    variables.update(compile_cache(serve(instance)))
    if instance["gpus"] is not None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in instance["gpus"])
    return {name: value for name, value in variables.items() if name not in instance["env"]}


def compile_cache(served: Mapping[str, t.Any]) -> dict[str, str]:
    """A folder for each value of the options that vLLM's own key of its compile cache forgets; {} where none is set."""
    # A key of a JSON option may stand behind a dot: limit-mm-per-prompt.image.
    forgotten = {name: value for name, value in served.items() if name.partition(".")[0] in NOT_IN_CACHE_KEY}
    if not forgotten:
        return {}
    digest = hashlib.sha256(json.dumps(forgotten, sort_keys=True).encode()).hexdigest()[:12]
    # vLLM itself puts the home of its user in place of the tilde.
    return {"VLLM_CACHE_ROOT": f"~/.cache/vllm-{digest}"}
