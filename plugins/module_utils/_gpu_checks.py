# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU and driver against the plan: checks of the preflight (private to this collection). Pure.

What is not known is not held against a host: before there is a driver, a card is known by its PCI device id or not at
all.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_table, _model_memory
from ansible_collections.steadfast.vllm.plugins.module_utils._clashes import gpus_wanted
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import (
    Check,
    Finding,
    Seen,
    Wanted,
    error,
    fine,
    human,
    warning,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._gpu_plan import (
    CONTEXT,
    GIB,
    cards_of,
    chosen,
    config_of,
    share_of,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._memory_checks import memory, shares
from ansible_collections.steadfast.vllm.plugins.module_utils._start_checks import compilers, start_time, toolkit

# A server of vLLM has some 3 GiB of the host's memory to itself (measured on CPU with a tiny model), and the host some.
HOST_MEMORY = 6 * GIB
OTHER_LOCK = "set vllm_lock_file to a lock of a vLLM that is built for"


def _major(wanted: Wanted) -> int:
    return int(str(wanted["cuda"]).split(".", maxsplit=1)[0])


def gpu(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    cards = cards_of(seen)
    place = f", an EC2 {seen['instance_type']}" if seen["instance_type"] else ""
    if not cards:
        if any(instance["gpus"] != [] for instance in wanted["instances"]):
            yield error(
                "gpu",
                f"this vLLM is built for CUDA {wanted['cuda']}, and there is no NVIDIA GPU in this machine",
                f"no GPU of vendor 10de on the PCI bus{place}",
                f"use a host with a GPU, or {OTHER_LOCK} CPU",
            )
        return
    expected = _gpu_table.EC2.get(seen["instance_type"])
    names = ", ".join(dict.fromkeys(card["name"] for card in cards))
    if expected and expected[1] > len(cards):
        yield warning(
            "gpu",
            f"an EC2 {seen['instance_type']} has {expected[1]} GPUs, and {len(cards)} are seen: one may be broken",
            names,
            "stop and start the instance, which moves it to other hardware; dmesg and gpu_check.yml may say more",
        )
    else:
        yield fine("gpu", f"{len(cards)} x {names}{place}")
    oldest = _gpu_table.CAPABILITIES.get(_major(wanted))
    for card in cards:
        capability = card["capability"]
        if oldest and capability and tuple(capability) < oldest:
            yield error(
                f"gpu[{card['index']}]",
                f"this GPU is too old for a vLLM that is built for CUDA {wanted['cuda']}",
                f"{card['name']} has compute capability {_dotted(capability)}, {_dotted(oldest)} is the least",
                f"use a newer GPU{', such as that of an EC2 g6.xlarge' if seen['instance_type'] else ''}",
            )


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def driver(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """The driver that will be there: the one that this run installs, else the one that runs."""
    # One that is asked for is judged without a GPU too: an image may be made on another machine.
    if not (cards_of(seen) or wanted["driver_version"]):
        return
    planned, loaded, told = wanted["driver_version"], seen["driver"], seen["smi"]
    version = planned or (loaded["version"] if loaded else "")
    what = f"driver {version} that will be installed" if planned else f"driver {version} that runs"
    if not version:
        yield _no_driver(seen)
        return
    least = _gpu_table.DRIVERS.get(_major(wanted))
    if least and _numbers(version) < _numbers(least):
        yield error(
            "driver",
            f"the {what} is too old for a vLLM that is built for CUDA {wanted['cuda']}",
            f"CUDA {_major(wanted)} takes driver {least} or newer",
            f"have one of branch {least} or newer from NVIDIA's own repository (nvidia_driver_source: nvidia and "
            f'nvidia_driver_branch: "{least}"; Debian 12 itself has 535, Debian 13 has 550); '
            f"or {OTHER_LOCK} CUDA {_fitting(version)}",
        )
    elif not planned and told is not None and told["problem"]:
        mismatch = "version mismatch" in told["problem"].lower()
        yield error(
            "driver",
            "the driver's programs and its kernel module do not fit together"
            if mismatch
            else "the driver is loaded, but nvidia-smi does not work",
            f"module {version}; nvidia-smi: {told['problem']}",
            "reboot: the driver was upgraded under the loaded module; then hold its packages"
            if mismatch
            else "reboot; if that does not help, install the driver anew; dmesg may say more",
        )
    else:
        yield fine("driver", f"{what}, CUDA {wanted['cuda']} takes {least or 'any'}")


def _no_driver(seen: Seen) -> Finding:
    holders = sorted({device["driver"] for device in seen["gpus"]} - {""})
    fix = "install one (role nvidia_driver, or the distribution's or NVIDIA's packages), and reboot if it asks for it"
    if seen["secure_boot"]:
        fix += "; Secure Boot is on, so its modules must be signed by a key that the firmware knows"
    held = f"the GPU is held by {', '.join(holders)}" if holders else "the GPU is held by no module"
    return error("driver", "no NVIDIA driver is loaded", f"/proc/driver/nvidia/version is not there; {held}", fix)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _fitting(version: str) -> str:
    """The newest CUDA that a driver runs, by its major version."""
    runs = [major for major, least in _gpu_table.DRIVERS.items() if _numbers(version) >= _numbers(least)]
    return str(max(runs)) if runs else f"{min(_gpu_table.DRIVERS)} or older"


def devices(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """The GPUs that an instance names are there, and enough of them."""
    cards = cards_of(seen)
    if not cards:
        return
    for instance in wanted["instances"]:
        found = chosen(instance, cards)
        if found is None or instance["gpus"] == []:
            continue
        check, asked = f"gpus[{instance['name']}]", instance["gpus"]
        takes = gpus_wanted(instance["arguments"])
        if asked is not None and len(found) < len(asked):
            yield error(
                check,
                f"gpus of instance {instance['name']} names GPUs that this host has not",
                f"gpus: {asked}; the host has {', '.join(str(card['index']) for card in cards)}",
                "correct gpus, or use another host",
            )
        elif takes > len(found):
            yield error(
                check,
                f"instance {instance['name']} takes {takes} GPUs (tensor_parallel_size and what extra_args say)",
                f"{len(found)} of this host's {len(cards)} are for it",
                "lower tensor_parallel_size, or use a host with more GPUs",
            )
        else:
            yield fine(check, f"{takes} of {len(found)}")


def heads(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """vLLM splits a model by its attention heads."""
    for instance in wanted["instances"]:
        config, _bytes = config_of(instance, seen)
        tensor = int(instance["arguments"].get("tensor-parallel-size") or 1)
        count = _model_memory.shape(config).heads if config else None
        if count is None or tensor == 1:
            continue
        check = f"heads[{instance['name']}]"
        if count % tensor:
            fitting = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0 and size <= 16)
            yield error(
                check,
                f"tensor_parallel_size {tensor} does not divide the model's attention heads",
                f"{count} heads",
                f"set tensor_parallel_size to one of: {fitting}",
            )
        else:
            yield fine(check, f"{count} heads by {tensor} GPUs")


def precision(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """bfloat16 by name on a card that has none; vLLM takes float16 by itself where no dtype is asked for."""
    for instance in wanted["instances"]:
        for card in chosen(instance, cards_of(seen)) or ():
            capability = card["capability"]
            asked = str(instance["arguments"].get("dtype") or "auto")
            if asked == "bfloat16" and capability and tuple(capability) < _gpu_table.BFLOAT16:
                yield error(
                    f"dtype[{instance['name']}]",
                    f"extra_args of instance {instance['name']} asks for bfloat16, which this GPU has not",
                    f"{card['name']} has compute capability {_dotted(capability)}",
                    "set dtype to float16, or leave it out",
                )
                break


def held(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """vLLM refuses to start where others hold what it is to have."""
    if seen["smi"] is None:
        return
    for instance in wanted["instances"]:
        share = share_of(instance)
        for card in chosen(instance, seen["smi"]["cards"]) or ():
            if card["mig"] or card["memory"] is None or card["free"] is None:
                continue
            here = [one for one in seen["smi"]["processes"] if one["uuid"] == card["uuid"]]
            yield _held(instance["name"], share, card, here)


def _held(name: str, share: float, card: Mapping[str, t.Any], here: Sequence[Mapping[str, t.Any]]) -> Finding:
    check, memory_ = f"held[{name}, GPU {card['index']}]", card["memory"]
    if memory_ * (1 - share) < CONTEXT:
        return warning(
            check,
            f"CUDA itself takes some {human(CONTEXT)}, and gpu_memory_utilization leaves less: vLLM is likely to "
            "refuse to start",
            f"{share:g} of {human(memory_)}",
            f"set gpu_memory_utilization to {int(100 * (1 - CONTEXT / memory_)) / 100:g} or less",
        )
    free = card["free"] + sum(one["used"] or 0 for one in here if one["ours"])
    if free >= memory_ * share:
        return fine(check, f"{human(free)} of {human(memory_)} free or ours")
    others = [f"{one['command']} (pid {one['pid']}): {human(one['used'] or 0)}" for one in here if not one["ours"]]
    return error(
        check,
        f"instance {name} needs {share:g} of this GPU's memory, and others hold it",
        f"{human(free)} of {human(memory_)} free; {', '.join(others) or 'no process that can be seen holds the rest'}",
        "stop those processes; or lower gpu_memory_utilization; or give the instance other gpus; what nobody holds "
        "goes with a reset of the GPU or a reboot",
    )


def together(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Several GPUs for one instance: what makes NCCL slow, or hang."""
    cards = cards_of(seen)
    for instance in wanted["instances"]:
        found = chosen(instance, cards) or []
        if gpus_wanted(instance["arguments"]) < 2 or len(found) < 2:
            continue
        kinds = sorted({card["name"] for card in found})
        if len(kinds) > 1:
            yield warning(
                f"gpus[{instance['name']}]",
                "the GPUs of one instance differ: the smallest and slowest sets the pace of all",
                ", ".join(kinds),
                "name equal ones in gpus",
            )
        if seen["iommu"]:
            yield warning(
                "iommu",
                "the IOMMU translates between GPUs: NCCL is slow with it, or hangs",
                "/sys/class/iommu has entries, and the kernel was not started with iommu=pt",
                "on bare metal start the kernel with iommu=pt; see NVIDIA's NCCL troubleshooting, PCI Access Control",
            )
            return


def host_memory(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    total = seen["memory_total"]
    if not wanted["instances"] or total is None:
        return
    offloaded = sum(
        float(instance["arguments"].get(name) or 0) * GIB
        for instance in wanted["instances"]
        for name in ("cpu-offload-gb", "kv-offloading-size")
    )
    if offloaded > total:
        yield error(
            "host_memory",
            f"extra_args put {human(offloaded)} into the host's memory, which has less",
            f"{human(total)} in all",
            "lower cpu-offload-gb and kv-offloading-size",
        )
    elif total < HOST_MEMORY:
        yield warning(
            "host_memory",
            f"a server takes some 3 GiB of the host's memory beside the host's own: {human(HOST_MEMORY)} is the least",
            f"{human(total)} in all",
            "use a host with more memory",
        )
    else:
        yield fine("host_memory", f"{human(total)} in all")


ON_GPUS: tuple[Check, ...] = (
    gpu, driver, devices, precision, memory, shares, held, together, host_memory,
    compilers, toolkit, start_time,
)  # fmt: skip


def on_gpus(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Nothing where vLLM is built without CUDA."""
    for check in ON_GPUS if wanted["cuda"] else ():
        yield from check(wanted, seen)


CHECKS: tuple[Check, ...] = (heads, on_gpus)
