# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of environment variables as systemd's EnvironmentFile= reads them (private to this collection).

Source: systemd.exec(5), EnvironmentFile=. Inside double quotes a backslash escapes ", \\, ` and $, nothing is
expanded, and % and # are themselves; a POSIX shell and Compose read such a line the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def render(variables: Mapping[str, object]) -> str:
    """Lines NAME="value", sorted. Raises ValueError without showing a value."""
    lines = []
    for name in sorted(variables):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name}: not a name for an environment variable")
        value = str(variables[name])
        if "\0" in value:
            raise ValueError(f"{name}: an environment variable cannot hold NUL")
        escaped = re.sub(r'(["\\`$])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)
