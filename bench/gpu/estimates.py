# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection's preflight says of a run: the only place that knows its functions."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
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


def estimate(model: str, served: str, words: Mapping[str, Any], total: int | None) -> dict[str, Any]:
    """Bytes. TOTAL: of the card. The findings of the preflight about memory, in its own words, come along."""
    with tempfile.TemporaryDirectory() as folder:
        memory, checks = modules(Path(folder), "_model_memory", "_gpu_checks")
        config = _config(model) or memory.known(served)
        if config is None:
            return {"problem": "no config.json in a folder, and no model that the preflight knows"}
        given = checks.arguments(words)
        shape = memory.shape(config)
        tokens = int(given.get("max-model-len") or 0)
        need = memory.need(shape, 0, given, tokens)
        found: dict[str, Any] = {"weights": need.weights, "cache_of_a_request": need.kv}
        if need.kv and tokens:
            found["cache_of_a_token"] = need.kv // tokens
        beside = getattr(memory, "beside", None)  # the model of what vLLM takes beside weights and cache
        found["beside"] = beside(config, given) if callable(beside) else int(checks.ROOM)
        if total and need.weights is not None:
            share = int(total * float(given.get("gpu-memory-utilization") or 0.9))
            found |= {"share": share, "cache": share - need.weights - int(found["beside"])}
        return found


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
            "model": served, "model_path": model, "arguments": machine.checks.arguments(words)
        }  # fmt: skip
        return [[one["check"], one["severity"], one["cause"], one["evidence"]] for one in machine.findings().values()]


def _config(model: str) -> dict[str, Any] | None:
    try:
        data = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
