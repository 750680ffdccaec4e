# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plugin of vLLM for `python3 -m bench.gpu hangs`, and for nothing else: a kernel that does not end, on demand.

Where the file named by STEADFAST_GPU_HANG appears, the next step launches a kernel that runs for as many seconds as the
file says. Bounded, so that the card is free again in any case.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

SECONDS_AT_MOST = 120.0
CLOCK = 1_755_000  # kHz, an H100's, where PyTorch does not tell


def register() -> None:
    trigger = os.environ.get("STEADFAST_GPU_HANG", "")
    if not trigger or multiprocessing.parent_process() is None:
        return  # the API has no GPU
    from vllm.v1.worker import gpu_worker

    before = gpu_worker.Worker.execute_model
    if getattr(before, "steadfast", False):
        return

    def execute_model(self: Any, *words: Any, **more: Any) -> Any:
        if os.path.exists(trigger):
            _hang(trigger)
        return before(self, *words, **more)

    execute_model.__dict__["steadfast"] = True
    gpu_worker.Worker.execute_model = execute_model


def _hang(trigger: str) -> None:
    import torch

    with open(trigger, encoding="utf-8") as file:
        seconds = min(float(file.read() or 9), SECONDS_AT_MOST)
    os.unlink(trigger)
    clock = getattr(torch.cuda.get_device_properties(0), "clock_rate", CLOCK) or CLOCK
    torch.cuda._sleep(int(seconds * clock * 1000))
