# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `vllm serve` and its configuration file, as far as a stand-in has to know them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

KNOWN = set(
    """
    model served-model-name host port config api-key revision seed dtype quantization tokenizer chat-template
    tensor-parallel-size pipeline-parallel-size data-parallel-size nnodes node-rank master-addr master-port
    distributed-executor-backend max-model-len max-num-seqs max-num-batched-tokens gpu-memory-utilization swap-space
    kv-cache-dtype block-size enforce-eager enable-prefix-caching no-enable-prefix-caching enable-chunked-prefill
    scheduling-policy shutdown-timeout trust-remote-code download-dir load-format runner limit-mm-per-prompt
    mm-processor-kwargs allowed-local-media-path allowed-media-domains hf-overrides generation-config
    uvicorn-log-level disable-uvicorn-access-log disable-access-log-for-endpoints enable-log-requests
    no-enable-log-requests disable-log-stats enable-auto-tool-choice tool-call-parser reasoning-parser enable-lora
    max-loras
    """.split()
)


@dataclass(frozen=True)
class Settings:
    model: str
    name: str  # as users ask for it
    host: str
    port: int
    keys: tuple[str, ...]  # any of which a user may show; none: nobody has to
    longest: int  # tokens of prompt and answer together
    most_running: int
    policy: str
    shutdown_timeout: float
    keep_alive: float
    stays: bool  # after the engine's death


def options(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            found["model"] = word
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        found[name.replace("_", "-")] = value
    return found


def from_file(path: str) -> dict[str, str]:
    """The flat part of its YAML: what is nested is vLLM's business."""
    found: dict[str, str] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "#", "-")):
            found[name.strip().replace("_", "-")] = value.strip().strip("\"'")
    return found


def present(model: str) -> bool:
    """Whether there is such a model: a folder, or what the hub's cache holds."""
    if not model or model.startswith((".", "/")) or Path(model).is_dir():
        return bool(model) and Path(model).exists()
    cache = os.environ.get("HF_HUB_CACHE") or str(Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub"))
    return Path(cache, "models--" + model.replace("/", "--")).expanduser().is_dir()


def read() -> Settings:
    """What it was started with. Ends the process, with vLLM's exit status, where vLLM would."""
    if sys.argv[1:2] != ["serve"]:
        sys.exit("stand-in for vllm: only `serve` is known")
    given = options(sys.argv[2:])
    found = {**(from_file(given["config"]) if "config" in given else {}), **given}
    for name in found:
        if name not in KNOWN:
            print(f"vllm serve: error: unrecognized arguments: --{name}", file=sys.stderr)
            sys.exit(2)
    model = found.get("model", "")
    if not present(model):
        print(f"OSError: {model or 'no model'} is no model", file=sys.stderr)
        sys.exit(1)
    environment = os.environ.get
    key = found.get("api-key") or environment("VLLM_API_KEY")
    return Settings(
        model=model,
        name=found.get("served-model-name") or model,
        host=found.get("host", ""),
        port=int(found.get("port", 8000)),
        keys=(key,) if key else (),
        longest=int(found.get("max-model-len", 2048)),
        most_running=int(environment("STANDIN_MAX_RUNNING") or found.get("max-num-seqs") or 256),
        policy=found.get("scheduling-policy", "fcfs"),
        shutdown_timeout=float(found.get("shutdown-timeout", 0)),
        keep_alive=float(environment("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")),
        stays=environment("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "0") == "1",
    )
