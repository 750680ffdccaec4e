# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results as a table for people. Pure, but for the file that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GIB = 2**30
IN_GIB = ("weights", "beside", "total", "share", "cache")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |" for row in rows)]


def _gib(value: Any) -> str:
    return f"{value / GIB:.2f}" if isinstance(value, (int, float)) else ""


def _starts(found: Sequence[tuple[str, Any]]) -> list[str]:
    rows = [
        (
            value["run"], value.get("health_200"), value.get("first_completion"), value.get("first_picture"),
            "; ".join(f"{one['phase']} {one['seconds']}" for one in value.get("phases", [])),
            "; ".join(f"{one['module']} {one['seconds']} s" for one in value.get("compiled_by_flashinfer", [])),
        )
        for what, value in found
        if what.partition(" ")[0] == "start" and isinstance(value, Mapping) and "run" in value
    ]  # fmt: skip
    head = ("start", "/health 200, s", "completion, s", "picture, s", "phases, s each", "compiled by FlashInfer")
    return ["## Starts", "", *table(head, rows), ""] if rows else []


def _memory(found: Sequence[tuple[str, Any]]) -> list[str]:
    entries = {what: value for what, value in found if what.startswith("memory: ")}
    rows: list[Sequence[object]] = []
    for what, value in entries.items():
        run, told, real = what.partition(": ")[2], value["preflight"], value["real"]
        for name in IN_GIB:
            rows.append((run, name, _gib(told.get(name)), _gib(real.get(name)), value["ratios"].get(name)))
        held = [
            str(value[key].get("used_mib", "")) for key in value if key.startswith("after_") and "answers" not in key
        ]
        rows.append((run, "NVML after the start and after loads, MiB", "", ", ".join(held), ""))
    head = ("run", "what, GiB", "preflight", "vLLM", "vLLM / preflight")
    return ["## Memory", "", *table(head, rows), ""] if rows else []


def _hangs(found: Sequence[tuple[str, Any]]) -> list[str]:
    rows = [
        (value["text"], f"{value['found']} of {value['n']}", value["seconds"], value["median"], value["most"])
        for what, value in found
        if what.startswith("hangs ")
    ]
    head = ("fault", "found", "seconds to the verdict", "median", "most")
    return ["## Hangs", "", *table(head, rows), ""] if rows else []


def _last(found: Sequence[tuple[str, Any]], name: str) -> Any:
    return next((value for what, value in reversed(found) if what == name), None)


def _others(found: Sequence[tuple[str, Any]]) -> list[str]:
    lines = []
    soak, throughput = _last(found, "soak"), _last(found, "throughput")
    if soak:
        lines.append(f"At its limit: {soak['seconds']} s in {soak['turns']} turns, {soak['incidents']} false verdicts.")
    if throughput:
        lines.append(
            f"Tokens a second, watched / not: {throughput['median_ratio']} (95 %: {throughput['interval95']}, "
            f"n={len(throughput['rows_watched_not'])}); "
            f"the watcher took {throughput['watcher_cpu_ms_a_second']} ms a second."
        )
    for what, value in {what: value for what, value in found if what.startswith("compare ")}.items():
        for one, told in value.items():
            rates = [f"{kind} {told[kind]['median']:.0f} tokens/s" for kind in ("sampled", "short") if kind in told]
            lines.append(f"{what}={one}: {', '.join(rates)}, /health 200 after {told.get('health_200')} s")
    lines += [
        f"NOT SERVING: {value['run']}: {value['cause']}" for what, value in found if what.endswith(": not serving")
    ]
    lines += [f"NOT DONE: {what.partition(': ')[2]}: {value}" for what, value in found if what.startswith("not done: ")]
    return [f"- {line}" for line in lines]


def text(found: Sequence[tuple[str, Any]], standin: bool) -> str:
    head = ["# vLLM under the keeper on one GPU", ""]
    if standin:
        head += ["**A stand-in for vLLM on a machine without a GPU: these figures say nothing about vLLM.**", ""]
    machine = _last(found, "machine")
    if machine:
        head += [*(f"- {key}: {value}" for key, value in machine.items()), ""]
    return "\n".join([*head, *_starts(found), *_memory(found), *_hangs(found), *_others(found)]).rstrip() + "\n"
