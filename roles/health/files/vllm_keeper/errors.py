# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of a log that say what went wrong, whichever manager keeps it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What Python, vLLM's own logging, argparse, CUDA, the kernel and shells say.
_WRONG = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|\b[A-Z]\w*(?:Error|Exception|Interrupt)\b(?::|$)|\b(?:error|fatal|panic):"
    r"|out of memory|No space left on device|Segmentation fault|core dumped|exit code 127",
)
# A line of a lower level may well quote an error; the keeper's own lines repeat it.
_NOT = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b(?= \d|:)|\bvllm-keeper\b")
# The way to an error, of which its last line says the most: frames, code, marks below it.
_FRAME = re.compile(
    r'(?:^|\]:? )(?:Traceback \(most recent call last\):|\s*File ".*", line \d+|\s{2,}.*|\s*[\^~]+)\s*$',
)
# Time, host and process, which differ between two tellings of one error.
_WHEN = re.compile(
    r"^\S+ \S+ \S+\[\d+\]: |\bpid=\d+|\b\d{2}-\d{2} \d{2}:\d{2}:\d{2}\b|\d{4}-\d{2}-\d{2}[T ][\d:.,+Z-]+",
)


def pick(lines: Sequence[str], most: int) -> list[str]:
    """The last error lines, in their order, each once."""
    found: dict[str, str] = {}
    for line in reversed(lines):
        if _WRONG.search(line) and not _NOT.search(line) and not _FRAME.search(line):
            found.setdefault(_WHEN.sub("", line).strip(), line)
        if len(found) >= most:
            break
    return list(found.values())[::-1]
