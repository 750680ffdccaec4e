# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection's preflight says of a run: the only place that knows its functions."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
GIB = 2**30
WHERE = "ansible_collections.steadfast.vllm.plugins.module_utils"


def modules(folder: Path, *names: str) -> list[Any]:
    """Of the collection, by its own name wherever this checkout lies; FOLDER: an empty one."""
    (folder / "ansible_collections/steadfast").mkdir(parents=True)
    (folder / "ansible_collections/steadfast/vllm").symlink_to(ROOT)
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(f"{WHERE}.{name}") for name in names]
    finally:
        sys.path.remove(str(folder))


def _command(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def card() -> dict[str, Any] | None:
    """The first GPU, as the preflight sees it: name, memory (bytes), capability."""
    with tempfile.TemporaryDirectory() as folder:
        (host,) = modules(Path(folder), "_gpu_host")
        told = host.smi(_command)
    return dict(told["cards"][0]) if told and told["cards"] else None


def estimate(model: str, served: str, words: Mapping[str, Any], of: Mapping[str, Any] | None) -> dict[str, Any]:
    """Bytes. OF: the card; without one there is nothing to say of what is beside the weights."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("_model_memory", "_vllm_memory", "_gpu_plan", "_host")
        memory, beside, plan, host = modules(Path(folder), *names)
        config = _config(model) or memory.known(served)
        if config is None:
            return {"problem": "no config.json in a folder, and no model that the preflight knows"}
        given, shape = plan.arguments(words), memory.shape(config)
        tokens = int(given.get("max-model-len") or 0)
        need = memory.need(shape, 0, given, tokens)
        found: dict[str, Any] = {"weights": need.weights, "cache_of_a_request": need.kv}
        if need.kv and tokens:
            found["cache_of_a_token"] = need.kv // tokens
        if of is not None and of["memory"] and need.weights is not None:
            of_vllm = beside.Card(of["memory"], of["name"], of["capability"])
            pictures = (host.model(model, "root").get("pictures") or {}) if model.startswith("/") else {}
            taken = beside.beside(shape.network, memory.width(given, shape), given, of_vllm, pictures)
            share = int(of["memory"] * plan.share_of({"arguments": given}))
            total = need.weights + taken.total
            found |= {
                "beside": taken.total,
                "parts": vars(taken),
                "total": total,
                "share": share,
                "cache": share - total,
            }
        return found


def entry(
    said: Mapping[str, float], told: Mapping[str, Any], of: Mapping[str, Any], words: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """A run as tests/unit/plugins/module_utils/recorded/gpu/vllm_memory.json has it; GiB. SAID: by vLLM, bytes."""
    names = {
        "requested": "share", "model_loading": "weights", "consumed": "consumed", "peak_activation": "peak_activation",
        "available_kv_cache": "cache", "cuda_graphs": "graphs_actual",
    }  # fmt: skip
    weights, beside = round(told["weights"] / GIB, 2), round(told["beside"] / GIB, 2)
    return {
        **more,
        "card": {"name": of["name"], "memory_mib": of["memory"] >> 20, "capability": of["capability"]},
        "options": {name: value for name, value in words.items() if name != "load-format"},
        "vllm_said": {name: round(said[key] / GIB, 2) for name, key in names.items() if key in said},
        "estimate": {"weights": weights, "beside": beside, "total": round(told["total"] / GIB, 2)},
        "reason": "",
    }


def findings(model: str, served: str, words: Mapping[str, Any], cuda: str) -> list[list[str]]:
    """[check, severity, cause, evidence] of what the preflight sees on this machine now, with that run wanted."""
    spec = importlib.util.spec_from_file_location("gpu_preflight", ROOT / "scripts/gpu_preflight.py")
    if spec is None or spec.loader is None:
        return []
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look themselves up there
    spec.loader.exec_module(script)
    with tempfile.TemporaryDirectory() as folder:
        machine = script.Machine(Path(folder))
        machine.wanted["cuda"] = cuda
        machine.wanted["instances"][0] |= {
            "model": served, "model_path": model, "arguments": machine.plans.arguments(words)
        }  # fmt: skip
        return [[one["check"], one["severity"], one["cause"], one["evidence"]] for one in machine.findings().values()]


def _config(model: str) -> dict[str, Any] | None:
    try:
        data = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
