# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what vLLM compiles at its start can be compiled, and in time: checks of the preflight.

Private to this collection. Pure, standard library only; _start_host.py sees. An image brings all of it along, so that
nothing here is asked of a host whose servers run in containers.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping

from ansible_collections.steadfast.vllm.plugins.module_utils import _model_memory, _start_time
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import (
    Finding,
    Seen,
    Wanted,
    error,
    fine,
    human,
    warning,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._gpu_plan import cards_of, chosen, config_of
from ansible_collections.steadfast.vllm.plugins.module_utils._vllm_memory import COMPILING

# What Triton and torch.compile look for on PATH. The packages that bring it: by a name that matches; and their names
# in Debian's family and in Red Hat's.
PARTS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "c": ("a C compiler (gcc or clang)", r"gcc|clang|g\+\+|gcc-c\+\+|build-essential", ("gcc", "gcc")),
    "cxx": ("a C++ compiler (g++)", r"g\+\+|gcc-c\+\+|build-essential", ("g++", "gcc-c++")),
    "headers": ("the headers of the environment's Python (Python.h)", r"(lib)?python3[\d.]*-dev(el)?",
                ("python3-dev", "python3-devel")),
}  # fmt: skip
DEBIAN = ("debian", "ubuntu")
# For which GPUs vLLM 0.32 takes FlashInfer's sampler: compute capabilities.
FLASHINFER_FROM, FLASHINFER_TO = (8, 0), (12, 1)
# Numbers for start_timeout are rounded up to these seconds.
ROUND = 60


def environment(variables: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What an instance's environment says of compiling: nothing of it is secret.

    cache_root, flashinfer_base, cuda_home: "" for the usual places. own_compilers: it names compilers of its own.
    """

    def text(name: str) -> str:
        return "" if variables.get(name) is None else str(variables[name])

    return {
        "flashinfer_sampler": text("VLLM_USE_FLASHINFER_SAMPLER").strip() != "0",
        "cuda_home": text("CUDA_HOME") or text("CUDA_PATH"),
        "cache_root": text("VLLM_CACHE_ROOT"),
        "flashinfer_base": text("FLASHINFER_WORKSPACE_BASE"),
        "own_compilers": bool(text("CC") or text("CXX") or text("PATH") or text("C_INCLUDE_PATH") or text("CPATH")),
    }


USUAL = environment({})


def _compiling(instance: Mapping[str, t.Any]) -> Mapping[str, t.Any]:
    return instance.get("compiling") or USUAL


def compilers(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Triton compiles a small C program for each kernel, torch.compile C++ too, against the headers of Python."""
    look = seen["start"]
    if look is None or all(_compiling(one)["own_compilers"] for one in wanted["instances"]):
        return
    eager = all(one["arguments"].get("enforce-eager") for one in wanted["instances"])
    needed = [name for name in PARTS if not (eager and name == "cxx")]
    # Without what apt takes behind a name: a version and an architecture.
    packages = [re.split("[=:/]", package)[0] for package in wanted["packages"]]
    brought = [name for name in needed if any(re.fullmatch(PARTS[name][1], package) for package in packages)]
    missing = [name for name in needed if look["compilers"][name] is False and name not in brought]
    if not missing:
        yield fine("compilers", "a compiler and what it needs are there, or come with vllm_packages")
        return
    family = 0 if seen["os_release"].get("ID", "") in DEBIAN else 1
    yield error(
        "compilers",
        "vLLM compiles small programs when it starts (Triton, torch.compile), and what that takes is missing",
        f"missing: {', '.join(PARTS[name][0] for name in missing)}; vllm_packages does not bring it",
        f"add to vllm_packages: {', '.join(PARTS[name][2][family] for name in missing)}; or leave it at its default",
    )


def _samples(instance: Mapping[str, t.Any], seen: Seen) -> bool:
    """Whether vLLM will sample with FlashInfer, which compiles its sampler on the host at the first start."""
    capable = [card["capability"] for card in chosen(instance, cards_of(seen)) or ()]
    return _compiling(instance)["flashinfer_sampler"] and any(
        one is not None and FLASHINFER_FROM <= tuple(one) <= FLASHINFER_TO for one in capable
    )


def toolkit(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """FlashInfer compiles its sampler with nvcc, and nvcc refuses headers of another version of CUDA."""
    look = seen["start"]
    if look is None or not look["flashinfer"]:
        return
    for instance in wanted["instances"]:
        if not _samples(instance, seen) or look["caches"][instance["name"]]["sampler"]:
            continue
        check, found = f"toolkit[{instance['name']}]", look["toolkits"][instance["name"]]
        off = f'set VLLM_USE_FLASHINFER_SAMPLER: "0" in env of instance {instance["name"]}: Triton samples then'
        if found["nvcc"] is None:
            # This run may replace the release by one whose toolkit can be used: judged when that is here (install.yml).
            may_come = look["tried"] is None or wanted.get("stage") == "host"
            replaced = may_come and not _compiling(instance)["cuda_home"]
            # Where the cache cannot be seen, the sampler may be in it.
            say = warning if replaced or look["caches"][instance["name"]]["sampler"] is None else error
            why = f"; that of the release cannot be used: {look['tried']}" if look["tried"] else ""
            yield say(
                check,
                "FlashInfer compiles its sampler when vLLM starts, and finds no CUDA compiler",
                f"no nvcc in {found['home'] or 'the release, CUDA_HOME, on PATH or in /usr/local/cuda'}{why}",
                f"{off}; or install a CUDA toolkit {wanted['cuda']} and name its folder in CUDA_HOME",
            )
        elif found["nvcc"] and found["headers"] and found["nvcc"] != found["headers"]:
            yield error(
                check,
                "FlashInfer compiles its sampler when vLLM starts, and the CUDA compiler refuses these headers",
                f"nvcc {found['nvcc']} and headers {found['headers']} in {found['home']}",
                f"{off}; or have both of one version, such as nvidia-cuda-nvcc and nvidia-cuda-runtime "
                f"{found['headers']} in the lock",
            )
        else:
            yield fine(check, f"nvcc {found['nvcc'] or 'of some version'} in {found['home']}")


def start_time(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """A start that is not done in start_timeout is ended, and the next one begins from where it was, if that."""
    look = seen["start"]
    for instance in wanted["instances"] if look is not None else ():
        allowed = instance.get("start_timeout")
        if not allowed:
            continue
        check, there = f"start[{instance['name']}]", look["caches"][instance["name"]]
        sampler = there["sampler"] if _samples(instance, seen) and look["flashinfer"] is not False else True
        if sampler is False and look["flashinfer"] is None:
            sampler = None  # the release that will come may not need it
        # Options may switch off what would be compiled.
        compiled = there["compiled"] or (None if any(map(instance["arguments"].get, COMPILING)) else there["compiled"])
        start = _start_time.Start(
            look["cores"], compiled, sampler, _weights(instance, seen),
            bool(instance["arguments"].get("enforce-eager")),
        )  # fmt: skip
        bounds = _start_time.bounds(start)
        number = -(-bounds.most // ROUND) * ROUND
        evidence = (
            f"start_timeout {allowed} s; an estimate of {bounds.least} to {bounds.most} s for {look['cores']} cores, "
            f"{human(start.weights)} of weights, {_cached(start)}"
        )
        fix = f"set start_timeout of instance {instance['name']} to {number} or more; later starts take less"
        if allowed < bounds.least:
            yield error(check, "vLLM cannot be ready within start_timeout: each start would be ended", evidence, fix)
        elif allowed < bounds.most:
            yield warning(check, "vLLM may not be ready within start_timeout on a slow host", evidence, fix)
        else:
            yield fine(check, evidence)


def _weights(instance: Mapping[str, t.Any], seen: Seen) -> int:
    """Bytes that a start reads; 0 where that is not known."""
    config, file_bytes = config_of(instance, seen)
    shape = _model_memory.shape(config) if config else None
    return file_bytes or (shape.parameters * shape.dtype_bytes if shape and shape.parameters else 0)


def _cached(start: _start_time.Start) -> str:
    kernels = {True: "compiled kernels there", False: "no compiled kernels yet", None: "compiled kernels not known"}
    return kernels[start.compiled] + (", FlashInfer's sampler to be compiled" if start.sampler is False else "")
