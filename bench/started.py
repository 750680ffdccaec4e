# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU seconds, user and system, of one run of a command. By itself it is all that a host needs to be asked for them:

python3 started.py RUNS COMMAND...
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

# Before each run of a command and each look that it is measured against: so that a server has made progress since the
# last one, as it has in the second between two of a watcher (one that makes none is looked at more closely), and so
# that no cache is warmer than there.
PAUSE = 0.1


def children() -> float:
    """CPU seconds of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def started(command: list[str], runs: int) -> float:
    """CPU seconds of one run of a command, which has to succeed."""
    subprocess.run(command, check=True)
    begun = children()
    for _run in range(runs):
        time.sleep(PAUSE)
        subprocess.run(command, check=True)
    return (children() - begun) / runs


if __name__ == "__main__":
    print(started(sys.argv[2:], int(sys.argv[1])))
