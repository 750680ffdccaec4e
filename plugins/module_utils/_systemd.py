# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd unit files want said their way (private to this collection).

Source: systemd.syntax(7), systemd.exec(5), systemd.resource-control(5).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
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
SECTIONS = ("Unit", "Service", "Install")
_DIRECTIVE = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")


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


def directives(given: object) -> dict[str, list[tuple[str, str]]]:
    """{section: [(directive, value)]} of a map of sections, in the order given; every section is there.

    Values are not quoted. Raises ValueError with a line for each one that would not be one directive of its section.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not a map of the sections {', '.join(SECTIONS)}")
    found: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
    problems = []
    for section, lines in given.items():
        if section not in found:
            close = difflib.get_close_matches(str(section).capitalize(), SECTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(SECTIONS)}"
            problems.append(f"{section}: unknown section, {hint}")
        elif not isinstance(lines, Mapping):
            problems.append(f"{section}: {lines!r} is not a map of directives")
        else:
            for directive, value in lines.items():
                wrong = list(_directive_problems(directive, value))
                problems += [f"{section}.{directive}{problem}" for problem in wrong]
                if not wrong:
                    found[section] += [(str(directive), _scalar(one)) for one in _each(value)]
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _each(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _directive_problems(directive: object, value: object) -> Iterator[str]:
    """What is wrong with one directive. Values are not repeated: one can hold a secret."""
    if not isinstance(directive, str) or not _DIRECTIVE.match(directive):
        yield ": is not the name of a directive: letters, digits and -, as in MemoryHigh"
    if isinstance(value, (list, tuple)) and not value:
        yield ': an empty list says nothing: leave it out, or give "" to take back what stood before'
    for number, one in enumerate(_each(value)):
        place = f"[{number}]" if isinstance(value, (list, tuple)) else ""
        if isinstance(one, (Mapping, list, tuple)) or one is None:
            kind = "nothing" if one is None else "a map" if isinstance(one, Mapping) else "a list"
            yield f'{place}: {kind} is not a value; "" takes back what stood before'
        elif any(char in str(one) for char in "\n\r\0"):
            yield f"{place}: a line break or NUL would end the directive: give a list for several lines"
        elif str(one).endswith("\\"):
            yield f"{place}: a backslash at the end would join the next line to it"
