# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd unit files want said their way (private to this collection).

Source: systemd.syntax(7), systemd.exec(5), systemd.resource-control(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# limit of an instance -> directive of the unit
DIRECTIVES = {
    "memory": "MemoryMax",
    "cpu": "CPUQuota",
    "tasks": "TasksMax",
    "files": "LimitNOFILE",
    "memlock": "LimitMEMLOCK",
    "io_weight": "IOWeight",
    "oom_score_adjust": "OOMScoreAdjust",
}


def quote(text: str) -> str:
    """One word of a unit file: quoted, with specifiers (%) and escapes kept literal.

    Raises ValueError for a line break or NUL, which a unit file cannot hold in a word.
    """
    if any(char in text for char in "\n\r\0"):
        raise ValueError("a unit file's value cannot hold a line break or NUL")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def limit_directives(limits: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(directive, value)] for an instance's limits, in the order of DIRECTIVES."""
    return [(directive, str(limits[name])) for name, directive in DIRECTIVES.items() if limits.get(name) is not None]
