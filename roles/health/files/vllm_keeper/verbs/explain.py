# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`explain`: the evidence behind the last decisions, for people and as JSON."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import asdict
from typing import Any

from vllm_keeper.clock import duration
from vllm_keeper.context import Context
from vllm_keeper.watch import board, evidence

FEW = 3
# What differs from one look to the next though it says the same: seconds ("no progress for 1.2 s"), an engine's sum of
# counters ("0:1234"), and whether /health was asked, where it answered with 200: it is every five seconds.
DIFFERS = re.compile(r", GET \S+: 200 in [\d.]+ s|[\d.]+(?= s\b)|(?<=\d:)\d+")


def explain(context: Context, count: int = FEW) -> dict[str, Any]:
    """{"name", "watched", "longest_step", "longest_idle_step", "incidents"}: incidents newest first, COUNT of them at
    most; steps of recent work, in seconds.
    """
    name = context.instance.name
    book, shown = evidence.load(context.store.directory, name), board.of(name)
    longest = book.steps.after(time.time(), 0.0).longest  # what is written down may be days old
    return {
        "name": name,
        "watched": None if shown is None else asdict(shown),
        "longest_step": longest.taken if shown is None else shown.longest,
        "longest_idle_step": longest.idle if shown is None else shown.longest_idle,
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
        took, idle = facts["longest_step"], facts["longest_idle_step"]
        lines.append(
            f"  the longest step of recent work took {took:.1f} s, and its processes were idle for up to {idle:.1f} s "
            "in one; limits grow with them"
        )
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
    """Looks in a row that say the same, but for their times and for figures that grow, as two lines: first and last."""
    found: list[str] = []
    for _text, group in itertools.groupby(looks, key=_said):
        first, *rest = group
        found.append(first)
        if rest:
            found.append(rest[-1] + (f" (the same {len(rest)} times since)" if len(rest) > 1 else ""))
    return found


def _said(look: str) -> str:
    """What a look says, without the time at its beginning."""
    return DIFFERS.sub("", look.partition(" ")[2])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {key}" for key, count in sorted(counts.items())) or "none"
