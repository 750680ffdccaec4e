#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of site.yml that changes nothing costs, and where its time goes.

    python -m bench.converge [--rounds 5] [--host gpu1]

On a converged lab: site.yml on one host, in turn with a playbook that gathers facts and pings it; prints the ratio
of the medians (goal 4 now, 2.2 in the end), then one whole no-op of site.yml on all hosts by role.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOAL_NOW, GOAL_END = 4.0, 2.2


def run(playbook: str, host: str = "", callback: str = "ansible.posix.json") -> tuple[float, str]:
    """Seconds and output of one playbook run on the lab; RuntimeError if it failed."""
    command = ["ansible-playbook", "-i", "inventories/lab", playbook, *(["--limit", host] if host else [])]
    env = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_STDOUT_CALLBACK=callback)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return took, done.stdout


def parse(out: str) -> Any:
    """The JSON report in the output of a run."""
    return json.JSONDecoder().raw_decode(out[out.index("{\n") :])[0]


def by_role(report: Any) -> dict[str, float]:
    """Seconds of tasks by role (or by play where there is none), from the report's durations."""
    seconds: dict[str, float] = defaultdict(float)
    for play in report["plays"]:
        for task in play["tasks"]:
            name = task["task"]["name"]
            span = task["task"]["duration"]
            if not span.get("end"):
                continue
            role = name.split(" : ")[0] if " : " in name else f"play: {play['play']['name']}"
            seconds[role] += _seconds(span["end"]) - _seconds(span["start"])
    return dict(seconds)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--host", default="gpu1")
    options = parser.parse_args()

    _took, out = run("site.yml", options.host)
    stats = parse(out)["stats"][options.host]
    if stats["changed"]:
        print(
            f"{options.host} was not converged: {stats['changed']} tasks changed; run ansible-playbook site.yml first"
        )
        return 1
    least, ours = [], []
    for round_ in range(options.rounds):
        least.append(run("bench/noop.yml", options.host)[0])
        ours.append(run("site.yml", options.host)[0])
        print(f"  round {round_ + 1}: facts and ping {least[-1]:.2f} s, site.yml {ours[-1]:.2f} s", flush=True)
    ratio = statistics.median(ours) / statistics.median(least)
    medians = f"{statistics.median(ours):.2f} s, facts and ping {statistics.median(least):.2f} s"
    print(
        f"no-op site.yml on {options.host}: {medians}, ratio {ratio:.2f} (goal {GOAL_NOW} now, {GOAL_END} in the end)"
    )

    took, out = run("site.yml")
    print(f"no-op site.yml on all hosts: {took:.2f} s, of which")
    for role, seconds in sorted(by_role(parse(out)).items(), key=lambda item: -item[1]):
        print(f"  {seconds:6.2f} s  {role}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
