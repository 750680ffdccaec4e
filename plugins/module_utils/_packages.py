# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages of the distribution are missing, asked of its own tool (private to this collection).

A package task costs a second although it changes nothing; this look costs milliseconds of a look that is made anyway.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

# argv -> (exit status, standard output, standard error)
Runner = Callable[[list[str]], tuple[int, str, str]]

DPKG = ["dpkg-query", "--show", "--showformat", "${Status}\\t${Package}\\n"]


def missing(wanted: Sequence[str], run: Runner) -> list[str]:
    """Those of `wanted` that are not installed, in their order; all of them where neither dpkg nor rpm is there."""
    if not wanted:
        return []
    if shutil.which("dpkg-query"):
        _code, out, _err = run([*DPKG, *wanted])
        return [name for name in wanted if name not in dpkg_installed(out)]
    if shutil.which("rpm"):
        return [name for name in wanted if run(["rpm", "--query", "--whatprovides", name])[0] != 0]
    return list(wanted)


def dpkg_installed(out: str) -> set[str]:
    """Names with the status "ok installed" in dpkg-query's answer; on hold or not does not matter here."""
    rows = (line.split("\t") for line in out.splitlines() if "\t" in line)
    return {name for status, name in rows if status.endswith(" ok installed")}
