# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`explain`: the evidence behind the last decisions, for people and as JSON."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from typing import Any

from vllm_keeper.clock import duration
from vllm_keeper.context import Context
from vllm_keeper.watch import board, evidence

FEW = 3


def explain(context: Context, count: int = FEW) -> dict[str, Any]:
    """{"name", "watched", "longest_step", "incidents"}: incidents newest first, COUNT of them at most."""
    name = context.instance.name
    book, shown = evidence.load(context.store.directory, name), board.of(name)
    return {
        "name": name,
        "watched": None if shown is None else asdict(shown),
        "longest_step": book.longest,
        "incidents": [asdict(one) for one in reversed(book.incidents[-count:])] if count else [],
    }


def render(facts: dict[str, Any]) -> str:
    watched, lines = facts["watched"], []
    if watched is None:
        lines.append(f"{facts['name']}: no watcher is looking; what one saw before:")
    else:
        lines.append(f"{facts['name']}: {watched['verdict']}: {watched['reason']}")
        lines.append(f"  canaries {_counts(watched['canaries'])}; repairs {_counts(watched['repairs'])}")
    if facts["longest_step"]:
        lines.append(f"  the longest step seen took {facts['longest_step']:.1f} s; limits grow with it")
    if not facts["incidents"]:
        lines.append("  nothing was ever decided against it")
    for incident in facts["incidents"]:
        lines += _incident(incident)
    return "\n".join(lines)


def _incident(one: dict[str, Any]) -> list[str]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one["at"]))
    after = f", after {one['seconds']:.1f} s" if one["seconds"] else ""
    lines = [
        "",
        f"  {stamp} {one['verdict']}: {one['reason']}",
        f"    decided  {one['action']}, pid {one['pid']}{after}",
        f"    done     {one['outcome'] or 'nothing'}",
    ]
    if not one["dry_run"]:
        again = one["served_again"]
        lines.append(
            f"    since    {'it has not served again' if again is None else 'serving again after ' + duration(again)}"
        )
    return [*lines, *(f"    saw      {look}" for look in _folded(one["looks"]))]


def _folded(looks: list[str]) -> list[str]:
    """Looks in a row that say the same, but for their time, as two lines."""
    found: list[str] = []
    for _said, group in itertools.groupby(looks, key=lambda look: look.partition(" ")[2]):
        first, *rest = group
        found.append(first)
        if rest:
            found.append(rest[-1] + (f" (the same {len(rest)} times since)" if len(rest) > 1 else ""))
    return found


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {key}" for key, count in sorted(counts.items())) or "none"
