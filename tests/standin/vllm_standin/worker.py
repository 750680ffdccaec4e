# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker: computes one step at a time, which takes as long as it is told to."""

from __future__ import annotations

import os
import sys
import time

from .processes import Link, hold_on


def main() -> None:
    hold_on()
    serve(Link.inherited(int(sys.argv[3])))


def serve(link: Link) -> None:
    seconds = float(os.environ.get("STANDIN_STEP_SECONDS", "0.02"))
    burn = os.environ.get("STANDIN_BURN", "0") == "1"
    link.send("ready")
    # A worker ends with its engine, as vLLM's does by its "death pipe".
    while (number := link.receive()) is not None:
        if burn:
            # CPU time, not the clock's: beside a busy neighbour a step takes longer, as a real one does.
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
        else:
            time.sleep(seconds)
        link.send(number)
