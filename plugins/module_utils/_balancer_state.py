# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running HAProxy says of its servers: who gets requests, and what the check and the keeper said last.

Private to steadfast.vllm: it may change without notice. Pure, standard library only.
"""

from __future__ import annotations

import csv
import io
import typing as t

# HAProxy's word for the last agent check, where an answer was understood; all others are ways not to answer.
UNDERSTOOD = {"L7OK": "up", "L7STS": "down", "CHECKED": "unclear", "INI": "unknown"}
SILENT = "silent"


def servers(text: str) -> list[dict[str, t.Any]]:
    """The servers in the CSV of `show stat`, in HAProxy's order."""
    rows = csv.DictReader(io.StringIO(text.lstrip("# ")))
    return [_server(row) for row in rows if row.get("type") == "2"]


def notices(seen: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """A line for each server that waits for a word of a keeper that does not speak, or not so that it is understood."""
    found = []
    for server in seen:
        place = f"{server['backend']}/{server['name']}"
        held = "down" if server["status"].startswith("DOWN (agent)") else "drained" if server["weight"] == 0 else ""
        if server["agent"] == SILENT and held:
            force = "agent up" if held == "down" else "weight 100%"
            why = server["agent_says"] or server["agent_status"]
            found.append(
                f"{place}: {held} by its keeper's last word, and the keeper no longer answers ({why}); "
                f"start vllm-keeper.service on {server['name']}, or send 'set server {place} {force}' to HAProxy's "
                "runtime API"
            )
        elif server["agent"] == "unclear":
            found.append(
                f"{place}: the answer on the keeper's port is none of a keeper ({server['agent_says']}), so the health "
                "check alone decides; see that load_balancer_agent_port is the keeper's port"
            )
    return found


def _server(row: t.Mapping[str, str]) -> dict[str, t.Any]:
    status, weight = row["status"], int(row["weight"] or 0)
    agent_status = row.get("agent_status", "").lstrip("* ")
    agent = UNDERSTOOD.get(agent_status, SILENT) if agent_status else "none"
    return {
        "backend": row["pxname"],
        "name": row["svname"],
        "address": row.get("addr", ""),
        "status": status,
        # A server on its way down (UP 1/2) still serves, one on its way up (DOWN 1/2) does not yet.
        "serving": weight > 0 and (status.startswith("UP") or status == "no check"),
        "weight": weight,
        "standby": row["bck"] == "1",
        "requests": int(row["scur"] or 0),
        "check_status": row["check_status"].lstrip("* "),
        "check_code": row["check_code"],
        "agent": "draining" if agent == "up" and weight == 0 else agent,
        "agent_status": agent_status,
        "agent_says": row.get("last_agt", ""),
    }
