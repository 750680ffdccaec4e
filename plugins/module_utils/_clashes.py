# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What single values cannot show: keys of one instance, and instances of one host, that do not go together.

Private to this collection. Pure, standard library only. A value that could not be read is None here (gpus: []), so
that one mistake is told once.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

Placed = tuple[str, Mapping[str, t.Any]]


def within(place: str, instance: Mapping[str, t.Any]) -> Iterator[str]:
    """Problems between the keys of one instance."""
    if instance["revision"] is not None and str(instance["model"]).startswith("/"):
        yield (
            f"{place}.revision: {instance['revision']!r} with a model that is a path, which has no revisions: "
            "leave revision out, or write a hub id as the model"
        )
    gpus = instance["gpus"]
    wanted = gpus_wanted({**instance["extra_args"], "tensor-parallel-size": instance["tensor_parallel_size"]})
    if gpus and wanted > len(gpus):
        yield (
            f"{place}.tensor_parallel_size: {instance['tensor_parallel_size']} takes {wanted} GPUs with what "
            f"extra_args say, but gpus names {len(gpus)}: name {wanted} GPUs, or split the model less"
        )
    ready = instance["env"].get("VLLM_ENGINE_READY_TIMEOUT_S")
    if ready is not None and instance["start_timeout"] is not None and int(ready) > instance["start_timeout"]:
        yield (
            f"{place}.env.VLLM_ENGINE_READY_TIMEOUT_S: (not shown) is longer than start_timeout "
            f"({instance['start_timeout']} s), so the start is ended while vLLM still waits: raise start_timeout, or "
            "leave the variable out (it follows start_timeout)"
        )


def gpus_wanted(arguments: Mapping[str, t.Any]) -> int:
    """How many GPUs of this host a server takes, by the options of vllm serve; what makes no sense counts as 1."""
    wanted = 1
    # Pipeline and data parallelism take more GPUs than tensor_parallel_size says.
    counts = [arguments.get("tensor-parallel-size"), arguments.get("pipeline-parallel-size")]
    counts.append(arguments.get("data-parallel-size-local", arguments.get("data-parallel-size")))
    for count in map(str, counts):
        if count.isdecimal() and 0 < int(count) < 10**6:
            wanted *= int(count)
    return wanted


def between(instances: Sequence[Placed]) -> Iterator[str]:
    """Problems between the instances of one host."""
    yield from _doubles(instances, "name", "choose another: it is also the name of the unit")
    yield from _doubles(instances, "port", "give each instance its own port")
    yield from _shared_gpus(instances)


def _doubles(instances: Sequence[Placed], key: str, fix: str) -> Iterator[str]:
    first: dict[object, str] = {}
    for place, instance in instances:
        value = instance[key]
        if value is None:
            continue
        if value in first:
            yield f"{place}.{key}: {value!r} is taken by {first[value]}: {fix}"
        first.setdefault(value, place)


def _shared_gpus(instances: Sequence[Placed]) -> Iterator[str]:
    """A GPU may hold several instances as long as their shares of its memory fit: more cannot start."""
    users: dict[object, list[Placed]] = defaultdict(list)
    everywhere = [placed for placed in instances if placed[1]["gpus"] is None]
    for place, instance in instances:
        for gpu in instance["gpus"] or ():
            users[gpu].append((place, instance))
    # An instance that names no GPUs takes all of them, whatever they are.
    groups = {f"GPU {gpu}": [*everywhere, *named] for gpu, named in users.items()} or {"all GPUs": everywhere}
    told: set[tuple[str, ...]] = set()
    for what, group in groups.items():
        places = tuple(place for place, _instance in group)
        share = sum(instance["gpu_memory_utilization"] for _place, instance in group)
        if len(group) < 2 or share <= 1.0 + 1e-9 or places in told:
            continue
        told.add(places)
        last, others = places[-1], ", ".join(places[:-1])
        yield (
            f"{last}.gpus: {_shown(group[-1][1]['gpus'])} meets {others} on {what}, and together they want "
            f"{share:.2f} of its memory: give each its own gpus (null means all, [] none), or lower "
            "gpu_memory_utilization until the sum is at most 1"
        )


def _shown(gpus: object) -> str:
    return "null (all GPUs)" if gpus is None else str(gpus)
