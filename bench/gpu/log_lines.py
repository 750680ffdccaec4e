# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM 0.32 says in its log about a start: when each part of it ended, and its own figures of memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GIB = 2**30
# (what ends with this line, the line), in the order of a start.
MARKS = (
    ("imports of the API", r"vLLM API server|\bversion 0\.|non-default args"),
    ("imports of the engine", r"Initializing a V1 LLM engine"),
    ("device and distributed environment", r"Starting to load model"),
    ("weights", r"Model loading took"),
    ("encoder begins", r"Encoder cache will be initialized"),
    ("torch.compile", r"torch\.compile took|torch\.compile and initial profiling"),
    ("profiling", r"Available KV cache memory"),
    ("cache", r"GPU KV cache size"),
    ("CUDA graphs", r"Graph capturing finished"),
    ("engine", r"init engine \("),
    ("server listens", r"Starting vLLM server|serving at port"),
)
FLOAT = r"([0-9]+(?:\.[0-9]+)?)"
# name: (pattern, what one unit of it is in bytes or in itself)
FIGURES: dict[str, tuple[str, float]] = {
    "weights": (rf"Model loading took {FLOAT} GiB", GIB),
    "weights_seconds": (rf"Model loading took {FLOAT} GiB memory and ([0-9.]+) seconds", 1),
    "cache": (rf"Available KV cache memory: {FLOAT} GiB", GIB),
    "cache_tokens": (r"GPU KV cache size: ([0-9,]+) tokens", 1),
    "graphs": (rf"Graph capturing finished in [0-9.]+ secs, took {FLOAT} GiB", GIB),
    "graphs_seconds": (r"Graph capturing finished in ([0-9.]+) secs", 1),
    "encoder_budget": (r"Encoder cache will be initialized with a budget of ([0-9]+) tokens", 1),
    "free_at_start": (rf"Free memory on device \({FLOAT}/", GIB),
    "total": (rf"Free memory on device \({FLOAT}/([0-9.]+) GiB\)", GIB),
    "share": (rf"Desired GPU memory utilization is \({FLOAT}, ([0-9.]+) GiB\)", GIB),
    "consumed": (rf"Actual usage is {FLOAT} GiB for consumed", GIB),
    "peak_activation": (rf"consumed memory \(weights \+ non-torch\), {FLOAT} GiB for peak", GIB),
    "graphs_actual": (rf"for peak activation, and {FLOAT} GiB for CUDAGraph", GIB),
    "graphs_estimated": (rf"CUDA graph pool memory: [0-9.]+ GiB \(actual\), {FLOAT} GiB \(estimated\)", GIB),
    "engine_seconds": (rf"init engine \([^)]*\) took {FLOAT} s", 1),
    "compile_seconds": (rf"torch\.compile took {FLOAT} s in total", 1),
    "first_run_seconds": (rf"Initial profiling/warmup run took {FLOAT} s", 1),
}
COMPILED = re.compile(r"Building JIT module (\S+?);")
LATE = re.compile(r"JIT compilation during")
WARNED = re.compile(r"\b(?:WARNING|ERROR|CRITICAL)\b|Traceback|Error:")
# An exception as the engine logs it, and as anybody's traceback ends.
EXCEPTION = r"([\w.]*(?:Error|Exception|Exit|Timeout|Interrupt)(?::.*|$))"
OF_ENGINE = re.compile(rf"^\(EngineCore[^)]*\) ERROR .*?\.py:\d+\] {EXCEPTION}")
OF_ANYBODY = re.compile(rf"^(?:\([^)]*\) )?{EXCEPTION}")
REFUSED = re.compile(r"(error: .*)")  # options that it does not know
WRAPPER = "Engine core initialization failed"  # the API's word for whatever the engine died of
Line = tuple[float, str]  # seconds since the start began, and the line


def phases(lines: Sequence[Line], served: float | None = None) -> list[dict[str, Any]]:
    """Each part of a start: when it ended, and how long after the one before. SERVED: when /health said 200."""
    ends = []
    for name, pattern in MARKS:
        at = next((at for at, text in lines if re.search(pattern, text)), None)
        if at is not None:
            ends.append((at, name))
    if served is not None:
        ends.append((served, "/health 200"))
    ends.sort()
    before, found = 0.0, []
    for at, name in ends:
        found.append({"phase": name, "end": round(at, 2), "seconds": round(at - before, 2)})
        before = at
    return found


def compiled(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Kernels that FlashInfer compiled: seconds until the next line that anybody wrote."""
    found = []
    for number, (at, text) in enumerate(lines):
        match = COMPILED.search(text)
        if match:
            after = next((later for later, _text in lines[number + 1 :] if later > at + 0.5), None)
            seconds = None if after is None else round(after - at, 1)
            found.append({"module": match[1], "at": round(at, 1), "seconds": seconds})
    return found


def figures(lines: Iterable[str]) -> dict[str, float]:
    """Bytes, seconds, tokens; the last one said of each. Absent: it was not said."""
    text = "\n".join(lines)
    found: dict[str, float] = {}
    for name, (pattern, unit) in FIGURES.items():
        matches = list(re.finditer(pattern, text))
        if matches:
            groups = matches[-1].groups()
            found[name] = float(str(groups[-1]).replace(",", "")) * unit
    return found


def real(said: Mapping[str, float], weights: float | None) -> dict[str, float]:
    """Bytes, by the names of the preflight's estimate. WEIGHTS: what the preflight takes them for.

    total: all that vLLM holds without a cache, which decides whether it starts. What vLLM calls peak activation has its
    estimate for the CUDA graphs in it.
    """
    found = {name: said[name] for name in ("weights", "cache", "share") if name in said}
    if {"consumed", "peak_activation"} <= set(said):
        found["total"] = said["consumed"] + said["peak_activation"]
        if weights is not None:
            found["beside"] = found["total"] - weights
    if said.get("cache_tokens") and "cache" in said:
        found["cache_of_a_token"] = said["cache"] / said["cache_tokens"]
    return found


def cause(lines: Sequence[str]) -> str:
    """Why a start failed, "" where nothing tells: the engine's first exception, which all later ones are due to."""
    for pattern in (OF_ENGINE, OF_ANYBODY, REFUSED):
        for line in lines:
            match = pattern.search(line)
            if match and WRAPPER not in line:
                return match[1]
    return next((line for line in lines if WRAPPER in line), "")


def warnings(lines: Iterable[str]) -> list[str]:
    return [line[-240:] for line in lines if WARNED.search(line) or LATE.search(line)]
