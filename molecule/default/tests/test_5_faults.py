# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the API and of the engine, a hung engine: serving again, no orphan, few requests lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import requests

from lab import client, faults, nemesis
from lab.soak import soak

NEMESIS = 3  # a seed whose first steps stop processes of a start too
START = 120.0  # seconds: what a start takes here while the other host starts too, on a bad day


def test_a_server_that_is_only_busy_is_left_alone(lab: client.Lab, measured: Callable[[str], None]) -> None:
    """`make soak` for twenty minutes; here in short."""
    client.wait_until(lambda: client.answers(lab.direct("gpu1"), lab.model), 300, "gpu1 serves")
    seen = soak("gpu1", 30)
    measured(f"soak of gpu1: {seen}")
    assert seen.same_processes
    assert not seen.incidents, seen.incidents
    assert seen.answered > 0
    assert seen.most_waiting > 0, "its queue was never full"


@pytest.mark.parametrize(("host", "what"), [("gpu1", "api"), ("gpu2", "engine")])
def test_a_killed_server_comes_back_and_leaves_no_orphan(
    lab: client.Lab, host: str, what: str, measured: Callable[[str], None]
) -> None:
    client.wait_until(client.all_get_requests, 60, "both hosts get requests")
    before = set(client.processes(host))
    with client.Stream(lab.url, lab.model) as stream:
        time.sleep(1)
        client.kill(host, what)
        began = time.monotonic()
        client.wait_until(lambda: not client.answers(lab.direct(host), lab.model, 3), 30, f"{host} goes away", 0.1)
        client.wait_until(lambda: client.answers(lab.direct(host), lab.model, 5), 400, f"{host} serves again")
        away = time.monotonic() - began
    lost = f"{len(stream.lost)} of {stream.asked} requests lost {stream.lost}"
    measured(f"kill -9 of the {what} on {host}: away {away:.0f} s, {lost}")
    assert not before & set(client.processes(host)), "processes of before are left"
    # what was in flight on the killed server is lost with it; the rest must reach the other host
    assert len(stream.lost) <= 3, stream.lost
    assert client.on(host, "systemctl", "is-active", "qwen3vl", check=False).strip() in ("active", "activating")


def test_a_hung_engine_is_found_in_seconds_though_health_says_200(
    lab: client.Lab, measured: Callable[[str], None]
) -> None:
    """The fault that no health check finds: the engine stands still, /health stays 200, completions hang."""
    host = "gpu2"
    client.wait_until(client.all_get_requests, 300, "both hosts get requests")
    before = set(client.processes(host))
    engines = [str(pid) for pid, title in client.processes(host).items() if title.startswith("VLLM::EngineCore")]
    with client.Stream(lab.url, lab.model) as stream:
        time.sleep(1)
        client.on(host, "kill", "-STOP", *engines)
        began = time.monotonic()
        assert requests.get(f"{lab.direct(host)}/health", timeout=2).status_code == 200
        found = client.wait_until(
            lambda: not before & set(client.processes(host)), 60, "the hung server is killed", 0.1
        )
        client.wait_until(lambda: client.answers(lab.direct(host), lab.model, 5), 400, f"{host} serves again")
        away = time.monotonic() - began
    measured(
        f"SIGSTOP of the engine on {host}: killed after {found:.1f} s, away {away:.0f} s, "
        f"{len(stream.lost)} of {stream.asked} requests lost {stream.lost}"
    )
    assert len(stream.lost) <= 3, stream.lost
    told = json.loads(client.on(host, "vllm-keeper", "explain", "--json", lab.instance))
    assert told["watched"] is not None
    assert told["incidents"][0]["verdict"] == "hung", told["incidents"][0]
    assert told["incidents"][0]["looks"], "no evidence was kept"


def test_random_faults_at_once_leave_both_hosts_whole(lab: client.Lab, measured: Callable[[str], None]) -> None:
    """Three steps of `make nemesis`: what is stopped and killed while servers serve and while they start."""
    subjects = [faults.Subject(host, "systemd") for host in lab.hosts]
    took = nemesis.run(subjects, seed=NEMESIS, steps=3, start=START)
    measured(f"nemesis, seed {NEMESIS}: whole after {', '.join(f'{seconds:.0f}' for seconds in took)} s")


def test_an_ordered_stop_is_not_undone_by_the_keeper(lab: client.Lab) -> None:
    client.wait_until(
        lambda: client.on("gpu2", "systemctl", "is-active", "qwen3vl", check=False).strip() == "active",
        300,
        "gpu2 is active",
    )
    client.on("gpu2", "systemctl", "stop", "qwen3vl")
    assert client.on("gpu2", "vllm-keeper", "check").count("stopped")
    assert client.on("gpu2", "systemctl", "is-active", "qwen3vl", check=False).strip() == "inactive"
    assert not client.processes("gpu2")
    assert client.answers(lab.url, lab.model), "the other host serves meanwhile"


def test_a_start_that_cannot_work_fails_in_time_and_is_parked_with_the_reason(
    lab: client.Lab, measured: Callable[[str], None]
) -> None:
    # stopped already by the test before, which leaves the one start that both need to this one
    client.on("gpu2", "systemctl", "stop", "qwen3vl", timeout=150)
    config = client.on("gpu2", "cat", "/etc/vllm/qwen3vl.yaml")
    client.on("gpu2", "sh", "-c", "echo 'no-such-option: 1' >> /etc/vllm/qwen3vl.yaml")
    since = client.on("gpu2", "date", "+%F %T").strip()
    try:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="systemctl start"):
            client.on("gpu2", "systemctl", "start", "qwen3vl", timeout=300)
        measured(f"systemctl start with an unknown option: failed after {time.monotonic() - began:.0f} s")
        assert "no-such-option" in client.on("gpu2", "journalctl", "-u", "qwen3vl", "--since", since, "--no-pager")
        client.wait_until(
            lambda: "parked" in client.on("gpu2", "vllm-keeper", "status", check=False), 240, "gpu2 is parked"
        )
        # cron's check must leave it parked
        client.on("gpu2", "vllm-keeper", "check", check=False)
        assert not client.processes("gpu2")
        assert "argument" in client.on("gpu2", "vllm-keeper", "status", check=False)
    finally:
        client.on("gpu2", "sh", "-c", f"cat > /etc/vllm/qwen3vl.yaml <<'EOF'\n{config}EOF")
    # a changed configuration un-parks by itself
    client.on("gpu2", "systemctl", "start", "qwen3vl", timeout=400)
    assert client.answers(lab.direct("gpu2"), lab.model), "systemctl start returned before the model answered"
