# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`drain`: no more requests to this server, and wait until those that it has are answered. It runs on.

Balancers learn it from the watcher's port: the agent check says `drain`, `GET /ready` says 503.
"""

from __future__ import annotations

from vllm_keeper import exits
from vllm_keeper import state as st
from vllm_keeper.clock import Moment, duration
from vllm_keeper.context import Context
from vllm_keeper.watch import board, counters

POLL = 0.5
SETTLE = 3.0  # until the balancers have asked again: the agent check does so every second
QUIET = 2  # looks in a row without a request, since a canary may be among them
METRICS_TIMEOUT = 5.0


def drain(context: Context, wait: bool = True, within: float | None = None, reason: str = "") -> int:
    name = context.instance.name
    why = context.log.clean(reason) or "drained by vllm-keeper drain"

    def change(state: st.State, now: Moment) -> None:
        state.drained = st.Drained(now, why)

    context.update(change)
    told = board.of(name)
    if told is None:
        context.log.warning("no watcher is running here, so no balancer is told; take it out there by hand")
    if not wait:
        context.log.result(f"{name}: drained; to have requests again: vllm-keeper resume {name}", "notice")
        return exits.OK
    return _wait(context, context.instance.drain_timeout if within is None else within)


def _wait(context: Context, limit: float) -> int:
    name, clock = context.instance.name, context.clock
    begun = clock.monotonic()
    quiet, left = 0, "how many is unknown"
    clock.sleep(SETTLE)
    while True:
        answer = context.server.get("/metrics", METRICS_TIMEOUT)
        counted = counters.parse(answer.body) if answer.kind == "ok" else None
        if answer.kind == "refused":
            context.log.result(f"{name}: drained; it does not run", "notice")
            return exits.OK
        if counted is not None:
            requests = counted.running + counted.waiting
            quiet, left = (0 if requests else quiet + 1), f"{requests:g} requests"
        if quiet >= QUIET:
            spent = duration(clock.monotonic() - begun)
            context.log.result(
                f"{name}: drained, no request is left after {spent}; to have some again: vllm-keeper resume {name}",
                "notice",
            )
            return exits.OK
        if clock.monotonic() - begun >= limit:
            context.log.result(
                f"{name}: drained, but still at work after {duration(limit)} ({left}); "
                f"ask again with vllm-keeper drain {name}, or give it up with vllm-keeper resume {name}",
                "warning",
            )
            return exits.BAD
        clock.sleep(POLL)
