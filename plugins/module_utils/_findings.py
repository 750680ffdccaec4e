# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check of the preflight says (private to this collection). Pure, standard library only."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping, Sequence

Seen = Mapping[str, t.Any]
Wanted = Mapping[str, t.Any]


class Finding(t.TypedDict):
    """One thing that was looked at. cause, evidence and fix say why it is a problem, or what was seen."""

    check: str
    ok: bool
    severity: str
    cause: str
    evidence: str
    fix: str


Check = t.Callable[[Wanted, Seen], Iterator[Finding]]


def fine(check: str, evidence: str) -> Finding:
    return Finding(check=check, ok=True, severity="none", cause="", evidence=evidence, fix="")


def error(check: str, cause: str, evidence: str, fix: str) -> Finding:
    return Finding(check=check, ok=False, severity="error", cause=cause, evidence=evidence, fix=fix)


def warning(check: str, cause: str, evidence: str, fix: str) -> Finding:
    return Finding(check=check, ok=False, severity="warning", cause=cause, evidence=evidence, fix=fix)


def human(size: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def told(findings: Sequence[Finding], severity: str) -> str:
    """The findings of a severity as one message, a line each."""
    return "\n".join(
        f"{finding['check']}: {finding['cause']} ({finding['evidence']}): {finding['fix']}"
        for finding in findings
        if finding["severity"] == severity
    )
