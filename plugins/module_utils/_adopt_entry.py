# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a running server was told to the entry of `vllm_instances` that says the same (private to this collection).

Pure, standard library only. What the server was not told is written out as vLLM 0.32 has it by default, because this
collection's own defaults are others.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_secrets, _fields
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_arguments import Options, human_number
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import DEFAULT_INSTANCE, InputError, normalise
from ansible_collections.steadfast.vllm.plugins.module_utils._values import Wrong

# As of vLLM 0.32 (CacheConfig.gpu_memory_utilization).
GPU_MEMORY_UTILIZATION = 0.92
PORT = 8000
# What says that other hosts belong to this server.
MULTI_NODE = {
    "nnodes": lambda value: value not in (None, 1),
    "node-rank": lambda value: value not in (None, 0),
    "master-addr": lambda value: value is not None,
    "data-parallel-address": lambda value: value is not None,
    "data-parallel-start-rank": lambda value: value is not None,
    "data-parallel-rank": lambda value: value is not None,
    "data-parallel-rpc-port": lambda value: value is not None,
    "data-parallel-external-lb": bool,
    "data-parallel-hybrid-lb": bool,
    "headless": bool,
    "distributed-executor-backend": lambda value: value == "ray",
    "data-parallel-backend": lambda value: value == "ray",
}  # type: dict[str, t.Callable[[t.Any], bool]]
# Where a model or a compilation lies is settled by the collection; these would point into somebody's home.
PLACES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE",
    "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME",
    "CUDA_CACHE_PATH", "TORCH_HOME", "TORCH_EXTENSIONS_DIR", "FLASHINFER_WORKSPACE_BASE", "VLLM_ASSETS_CACHE",
    "VLLM_RPC_BASE_PATH", "TIKTOKEN_CACHE_DIR", "TIKTOKEN_RS_CACHE_DIR", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH",
)  # fmt: skip
# Set by the collection itself, or of no use to a model that is on the host.
SETTLED = (
    "HF_HUB_OFFLINE", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "VLLM_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN", "VLLM_ENGINE_READY_TIMEOUT_S", "DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "CUDA_HOME",
    "CUDA_PATH", "HF_ENDPOINT", "HF_HUB_ENABLE_HF_TRANSFER", "HF_XET_HIGH_PERFORMANCE", "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA", "CUDA_VERSION", "VLLM_USAGE_SOURCE",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Where the model lies. kind: path, snapshot (of a hub cache), missing."""

    kind: str
    path: str = ""
    repository: str = ""
    commit: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen of one server."""

    options: Options
    environ: Mapping[str, str]
    model: Model
    answered: Mapping[str, t.Any] | None = None  # its first model in /v1/models: id, root, max_model_len
    ports: Sequence[int] = ()  # where it listens
    port: int | None = None  # where clients reach it, if that is another one (a container's published port)


@dataclass
class Secret:
    """A secret that the entry asks for: the key that holds it and the variable that the entry names for it."""

    key: str
    variable: str
    source: str
    value: str = field(repr=False)


@dataclass
class Plan:
    """The entry and what stands in its way."""

    entry: dict[str, t.Any] = field(default_factory=dict)
    secrets: list[Secret] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def name_for(model: str, taken: Collection[str]) -> str:
    """A name for the instance, from its model; the guide's own for the guide's model."""
    if model == DEFAULT_INSTANCE["model"] and DEFAULT_INSTANCE["name"] not in taken:
        return str(DEFAULT_INSTANCE["name"])
    last = re.sub(r"[^a-z0-9]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    base = last if re.match(r"[a-z]", last) else f"vllm-{last}".rstrip("-")
    base = base[:38].rstrip("-")
    try:
        _fields.name(base)
    except Wrong:
        base = f"model-{base}"[:38].rstrip("-")
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def build(seen: Seen, name: str = "", taken: Collection[str] = ()) -> Plan:
    """The entry of a server."""
    plan = Plan(problems=list(seen.options.problems), notes=list(seen.options.notes))
    given = dict(seen.options.given)
    _multi_node(plan, given, seen.environ)
    told = str(seen.options.model or (seen.answered or {}).get("root") or "")
    entry = plan.entry
    names = given.pop("served-model-name", None)
    served = _served(plan, names, told)
    # A path says little: what clients ask for names the instance better.
    entry["name"] = name or name_for(served if told.startswith(("/", ".", "~")) and served else told, taken)
    _model(plan, seen.model, told, given.pop("revision", None), served)
    entry["port"] = _port(plan, given.pop("port", None), seen)
    host = given.pop("host", None)
    if host is not None:
        entry["host"] = str(host)
    _gpus(plan, seen.environ)
    entry["tensor_parallel_size"] = given.pop("tensor-parallel-size", 1)
    entry["max_model_len"] = _length(plan, given.pop("max-model-len", None), seen.answered)
    entry["gpu_memory_utilization"] = given.pop("gpu-memory-utilization", GPU_MEMORY_UTILIZATION)
    drain = given.pop("shutdown-timeout", None)
    if isinstance(drain, int) and drain > 0:
        entry["drain_timeout"] = drain
    _api_key(plan, given.pop("api-key", None), seen.environ)
    if given.pop("hf-token", None) is not None:
        plan.notes.append("--hf-token is left out: the model is on the host, and the service starts offline")
    given.pop("download-dir", None)
    for option in sorted(option for option, value in given.items() if _secret_option(option, value)):
        del given[option]
        plan.problems.append(
            f"--{option}: may hold a secret, and options stand in a file that others may read: leave it out, or run "
            "this server without this collection"
        )
    if _pools(given):
        entry["ready_check"] = "health"
    if given:
        entry["extra_args"] = given
    _environment(plan, seen.environ)
    check(plan)
    return plan


def _secret_option(option: str, value: t.Any) -> bool:
    return (_adopt_secrets.secret_name(option) and not isinstance(value, bool)) or _adopt_secrets.holds_secret(value)


def _multi_node(plan: Plan, given: Mapping[str, t.Any], environ: Mapping[str, str]) -> None:
    said = [f"--{option}" for option, many in MULTI_NODE.items() if option in given and many(given[option])]
    said += [variable for variable in ("RAY_ADDRESS", "VLLM_USE_RAY_SPMD_WORKER") if environ.get(variable)]
    if said:
        plan.problems.append(
            f"{', '.join(said)}: this server is part of one that spans processes which this host alone does not start "
            "(several nodes, Ray or an outer balancer of ranks), which one unit cannot run: leave it as it is"
        )
    if environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        plan.problems.append(
            "VLLM_USE_MODELSCOPE: its model lies in ModelScope's cache, which is not read here: start it with the "
            "model's path"
        )


def _served(plan: Plan, names: t.Any, told: str) -> str:
    if isinstance(names, list):
        plan.problems.append(
            f"--served-model-name: it answers to {len(names)} names ({', '.join(map(str, names))}), an instance has "
            "one: have clients ask for the first, and start it with that alone"
        )
        names = names[0] if names else None
    return told if names is None else str(names)


def _model(plan: Plan, model: Model, told: str, revision: t.Any, served: str) -> None:
    """A snapshot of a hub's cache becomes the instance's own without a fetch; a path stays one."""
    entry = plan.entry
    if model.problem:
        plan.problems.append(f"model {told}: {model.problem}")
    if model.kind == "snapshot" and _hub_id(model.repository):
        entry["model"], entry["revision"] = model.repository, model.commit
    elif model.kind in ("path", "snapshot"):
        entry["model"] = model.path
        if revision is not None and model.kind == "path":
            plan.notes.append("--revision is left out: the model is a path, which has none")
    else:
        entry["model"] = told
        if revision is not None:
            entry["revision"] = str(revision)
        plan.notes.append(
            f"model {told}: not found whole in the caches of its user, so it is fetched before the server is stopped"
        )
    if served and served != entry["model"]:
        entry["served_model_name"] = served


def _hub_id(text: str) -> bool:
    try:
        return not text.startswith("/") and bool(_fields.model(text))
    except Wrong:
        return False


def _port(plan: Plan, said: t.Any, seen: Seen) -> t.Any:
    wanted = PORT if said is None else said
    if not seen.ports:
        plan.problems.append(
            f"port {wanted}: it does not listen there (yet): wait until it answers, then run this again"
        )
    elif wanted not in seen.ports:
        plan.problems.append(
            f"port {wanted}: its command line says so, but it listens at {', '.join(map(str, sorted(seen.ports)))}: "
            "it is not understood how it was started"
        )
    return wanted if seen.port is None else seen.port


def _gpus(plan: Plan, environ: Mapping[str, str]) -> None:
    """CUDA_VISIBLE_DEVICES ends at the first entry that is no device."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return
    gpus: list[int | str] = []
    for word in (item.strip() for item in visible.split(",")):
        if re.fullmatch(r"[0-9]{1,3}", word):
            gpus.append(int(word))
        elif re.match(r"(GPU|MIG)-", word):
            gpus.append(word)
        else:
            break
    plan.entry["gpus"] = gpus
    if gpus and isinstance(gpus[0], int) and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        plan.notes.append(
            f"CUDA_VISIBLE_DEVICES={visible} counts by CUDA's own order, gpus as nvidia-smi does: on a host with "
            "different GPUs, see that they are the same"
        )


def _length(plan: Plan, said: t.Any, answered: Mapping[str, t.Any] | None) -> t.Any:
    number = human_number(str(said)) if said is not None else None
    if number is not None and number > 0:
        return number
    if said is not None and str(said).lower() not in ("-1", "auto", "none"):
        return said  # the normaliser says what is wrong with it
    length = (answered or {}).get("max_model_len")
    if isinstance(length, int):
        return length
    plan.problems.append(
        "max_model_len: neither its command line nor its /v1/models says how long a context it has: see that it "
        "answers, or start it with --max-model-len"
    )
    return None


def _api_key(plan: Plan, said: t.Any, environ: Mapping[str, str]) -> None:
    key, source = said, "--api-key"
    if said is None:
        key, source = environ.get("VLLM_API_KEY") or None, "VLLM_API_KEY"
    if key is None:
        return
    if isinstance(key, list):
        plan.problems.append(
            f"--api-key: it takes {len(key)} keys, an instance has one: agree on one key, and start it with that alone"
        )
        key = key[0]
    secret = Secret("api_key", _variable(plan, "api_key"), source, str(key))
    plan.secrets.append(secret)
    plan.entry["api_key"] = placeholder(secret)


def _variable(plan: Plan, what: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", f"vault_{plan.entry['name']}_{what}".lower())


def placeholder(secret: Secret) -> str:
    return "{{ " + secret.variable + " }}"


def _pools(given: Mapping[str, t.Any]) -> bool:
    """Models that answer no completion."""
    return given.get("runner") == "pooling" or given.get("convert") in ("embed", "classify", "reward") or given.get(
        "task"
    ) in ("embed", "embedding", "classify", "score", "reward", "token_embed", "token_classify")  # fmt: skip


def _environment(plan: Plan, environ: Mapping[str, str]) -> None:
    carried: dict[str, str] = {}
    left: list[str] = []
    for variable, value in sorted(environ.items()):
        if variable in SETTLED or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            continue
        if variable in PLACES or variable in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH"):
            left.append(variable)
        elif not _adopt_secrets.carried(variable):
            continue
        elif not _adopt_secrets.secret_name(variable) and not _adopt_secrets.secret_value(value):
            carried[variable] = value
        else:
            secret = Secret(f"env.{variable}", _variable(plan, variable), variable, value)
            plan.secrets.append(secret)
            carried[variable] = placeholder(secret)
    ready = environ.get("VLLM_ENGINE_READY_TIMEOUT_S", "")
    if re.fullmatch(r"[1-9][0-9]{1,4}", ready) and int(ready) > 600:
        plan.entry["start_timeout"] = int(ready)
    if carried:
        plan.entry["env"] = carried
    if left:
        plan.notes.append(
            f"{', '.join(left)}: left out, since the service has its own places and its own libraries; write it into "
            "env if it is needed all the same"
        )


def real(plan: Plan) -> dict[str, t.Any]:
    """The entry with its secrets in place of their variables. Never show it."""
    entry = {**plan.entry, "env": dict(plan.entry.get("env", {}))}
    for secret in plan.secrets:
        if secret.key.startswith("env."):
            entry["env"][secret.key[4:]] = secret.value
        else:
            entry[secret.key] = secret.value
    return entry


def check(plan: Plan) -> None:
    """What the normaliser says of the entry."""
    try:
        normalise([real(plan)])
    except InputError as refused:
        known = [line.replace("vllm_instances[0]", plan.entry["name"] or "entry", 1) for line in refused.problems]
        if "max_model_len" in plan.entry and plan.entry["max_model_len"] is None:
            known = [line for line in known if ".max_model_len" not in line]
        plan.problems.extend(known)


def check_together(plans: Sequence[Plan], others: Sequence[Mapping[str, t.Any]] = ()) -> None:
    """Clashes of the entries of one host with each other."""
    good = [plan for plan in plans if not plan.problems]
    try:
        normalise([*others, *map(real, good)])
    except InputError as refused:
        for line in refused.problems:
            found = re.match(r"vllm_instances\[(\d+)\]", line)
            index = int(found[1]) - len(others) if found else -1
            if 0 <= index < len(good):
                good[index].problems.append(line.replace(found[0] if found else "", good[index].entry["name"], 1))
