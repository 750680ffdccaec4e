#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit costs a start: systemctl start against a bare `vllm serve`, in turn, both to the first completion.

    python -m bench.start [--rounds 2] [--host gpu1]

Prints the ratio of the medians (goal 1.05). The other host serves meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from lab import client

GOAL = 1.05
# The same user, environment and command line as the unit's, without the unit.
BARE = (
    "set -a; . /etc/vllm/{name}.env; set +a; cd /var/lib/vllm; "
    "exec setpriv --reuid vllm --regid vllm --init-groups env HOME=/var/lib/vllm {environment} "
    "/opt/vllm/current/bin/vllm serve --config /etc/vllm/{name}.yaml >/dev/null 2>&1"
)


def answered(lab: client.Lab, host: str) -> None:
    """Wait for a completion, asked every 0.2 s, as the keeper does."""
    client.wait_until(lambda: client.answers(lab.direct(host), lab.model, 5), 600, f"{host} answers", 0.2)


def by_unit(lab: client.Lab, host: str) -> float:
    """Seconds from `systemctl start` to its return and an answer."""
    began = time.monotonic()
    client.on(host, "systemctl", "start", lab.instance, timeout=700)
    answered(lab, host)
    took = time.monotonic() - began
    client.on(host, "systemctl", "stop", lab.instance)
    return took


def bare(lab: client.Lab, host: str) -> float:
    """Seconds from a bare `vllm serve` to an answer."""
    shown = client.on(host, "systemctl", "show", "-P", "Environment", lab.instance).strip()
    command = BARE.format(name=lab.instance, environment=shown)
    began = time.monotonic()
    process = subprocess.Popen(["podman", "exec", client.container(host), "sh", "-c", command])
    try:
        answered(lab, host)
        return time.monotonic() - began
    finally:
        client.on(host, "pkill", "-KILL", "-u", "vllm", check=False)
        process.wait(30)
        client.wait_until(lambda: not client.processes(host), 30, "the bare server's end")


def main() -> int:
    """Measure and print; the unit runs again afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--host", default="gpu1")
    options = parser.parse_args()
    lab = client.Lab.read()
    client.on(options.host, "systemctl", "stop", lab.instance)
    unit, without = [], []
    try:
        for round_ in range(options.rounds):
            without.append(bare(lab, options.host))
            unit.append(by_unit(lab, options.host))
            print(f"  round {round_ + 1}: bare {without[-1]:.1f} s, unit {unit[-1]:.1f} s", flush=True)
    finally:
        client.on(options.host, "systemctl", "start", lab.instance, timeout=700)
    ratio = statistics.median(unit) / statistics.median(without)
    medians = f"{statistics.median(unit):.1f} s, bare {statistics.median(without):.1f} s"
    print(f"start through the unit on {options.host}: {medians}, ratio {ratio:.2f} (goal {GOAL})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
