# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether locks can be installed and can serve on a host that has nothing but NVIDIA's driver.

    .venv/bin/python scripts/check_lock.py roles/vllm/files/locks/*.txt

Reads the files alone. Prints what is wrong, a line each, and ends with 1 if anything is.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13")


def problems(path: Path) -> list[str]:
    """What is wrong with one lock."""
    sys.path.insert(0, str(ROOT / ".collections"))
    from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

    try:
        lock = _lock.parse(path.read_text(encoding="utf-8"))
    except _lock.LockError as error:
        return error.problems
    found = [
        text for machine in MACHINES for python in PYTHONS for text in _lock.toolkit_problems(lock, machine, python)
    ]
    return list(dict.fromkeys(found))


def main(words: list[str]) -> int:
    """Check each file that is named."""
    told = [f"{name}: {text}" for name in words for text in problems(Path(name))]
    print("\n".join(told) or f"{len(words)} locks: what compiles kernels fits the CUDA runtime")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
