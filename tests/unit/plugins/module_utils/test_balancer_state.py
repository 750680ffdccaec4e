# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read from HAProxy's statistics; tests/integration/test_load_balancer_agent.py reads a real one's."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._balancer_state import notices, servers

# What is read of HAProxy's columns; it has many more.
READ = "pxname svname scur status weight bck type check_status check_code agent_status last_agt addr".split()
TITLES = f"# {','.join(READ)},"


def row(**changes: str) -> str:
    said = {
        "pxname": "qwen3vl",
        "svname": "gpu1",
        "scur": "0",
        "status": "UP",
        "weight": "1",
        "bck": "0",
        "type": "2",
        "check_status": "L7OK",
        "check_code": "200",
        "agent_status": "",
        "last_agt": "",
        "addr": "10.0.0.1:8000",
        **changes,
    }
    return ",".join(said[title] for title in READ) + ","


def told(**changes: str) -> dict[str, t.Any]:
    (server,) = servers(f"{TITLES}\n{row(**changes)}\n\n")
    return server


def test_only_servers_are_told_of() -> None:
    text = "\n".join(
        [TITLES, row(type="0", svname="FRONTEND"), row(type="1", svname="BACKEND"), row(svname="gpu2"), ""]
    )
    assert [server["name"] for server in servers(text)] == ["gpu2"]
    assert servers("") == []


@pytest.mark.parametrize(
    ("status", "weight", "serving"),
    [
        ("UP", "1", True),
        ("UP", "0", False),
        ("UP 1/2", "1", True),
        ("no check", "1", True),
        ("DOWN", "1", False),
        ("DOWN 1/2", "1", False),
        ("DOWN (agent)", "1", False),
        ("MAINT", "1", False),
        ("DRAIN", "1", False),
        ("DRAIN (agent)", "1", False),
        ("NOLB", "1", False),
    ],
)
def test_who_gets_requests(status: str, weight: str, serving: bool) -> None:
    assert told(status=status, weight=weight)["serving"] is serving


@pytest.mark.parametrize(
    ("agent_status", "weight", "agent"),
    [
        ("", "1", "none"),
        ("", "0", "none"),
        ("INI", "1", "unknown"),
        ("L7OK", "1", "up"),
        ("* L7OK", "1", "up"),
        ("L7OK", "0", "draining"),
        ("L7STS", "1", "down"),
        ("CHECKED", "1", "unclear"),
        ("L4CON", "1", "silent"),
        ("L4TOUT", "0", "silent"),
        ("L7TOUT", "1", "silent"),
        ("L7RSP", "1", "silent"),
    ],
)
def test_what_the_keeper_said_last(agent_status: str, weight: str, agent: str) -> None:
    assert told(agent_status=agent_status, weight=weight)["agent"] == agent


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"agent_status": "L7OK"}, []),
        ({"agent_status": "L4CON"}, []),
        ({"status": "DOWN (agent)", "agent_status": "L7STS"}, []),
        ({"status": "DOWN", "agent_status": "L4CON"}, []),
        ({"weight": "0"}, []),
        (
            {"status": "DOWN (agent)", "agent_status": "L4CON", "last_agt": "Connection refused"},
            ["qwen3vl/gpu1: down", "(Connection refused)", "'set server qwen3vl/gpu1 agent up'"],
        ),
        (
            {"weight": "0", "agent_status": "L4TOUT"},
            ["qwen3vl/gpu1: drained", "(L4TOUT)", "'set server qwen3vl/gpu1 weight 100%'"],
        ),
        ({"agent_status": "CHECKED", "last_agt": "down#hung"}, ["none of a keeper (down#hung)"]),
    ],
)
def test_what_needs_a_person(changes: dict[str, str], parts: list[str]) -> None:
    found = notices([told(**changes)])
    assert len(found) == bool(parts)
    for part in parts:
        assert part in found[0]
