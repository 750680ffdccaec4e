# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""check's laws, and how an end is classified."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as s
from vllm_keeper import decision as d
from vllm_keeper import state as st

observations = s.builds(
    d.Observation,
    phase=s.sampled_from([d.RUNNING, d.STARTING, d.HELD, d.STOPPING, d.STOPPED, d.FAILED, d.MISSING]),
    detail=s.just("detail"),
    enabled=s.booleans(),
    process_age=s.none() | s.floats(0, 5000),
    ready=s.booleans(),
    stopped_on_purpose=s.booleans(),
    parked=s.sampled_from(["", "why"]),
    intent=s.sampled_from(["", "", "", "start", "restart", "stop", "repair"]),
    job=s.sampled_from(["", "", "", "start", "restart", "stop"]),
    start_timeout=s.sampled_from([10.0, 600.0]),
)
healths = s.builds(d.Health, kind=s.sampled_from(["ok", "status", "refused", "timeout", "broken"]), detail=s.just("x"))


def decide(seen: d.Observation, health: d.Health) -> d.Decision:
    return d.decide_before_probe(seen) or d.decide_after_probe(seen, health)


@given(observations, healths)
def test_law_a_loading_server_is_never_restarted_within_its_start_timeout(
    seen: d.Observation, health: d.Health
) -> None:
    loading = not seen.ready and seen.process_age is not None and seen.process_age <= seen.start_timeout
    if loading and seen.phase in (d.RUNNING, d.STARTING):
        assert decide(seen, health).action == d.NONE


@given(observations, healths)
def test_law_what_is_parked_or_stopped_on_purpose_is_left_alone(seen: d.Observation, health: d.Health) -> None:
    if seen.parked or (seen.stopped_on_purpose and seen.phase in (d.STOPPED, d.FAILED)):
        assert decide(seen, health).action == d.NONE


@given(observations, healths)
def test_law_an_order_under_way_is_left_alone(seen: d.Observation, health: d.Health) -> None:
    if seen.intent in ("start", "restart", "stop") or seen.phase in (d.STOPPING, d.HELD):
        assert decide(seen, health).action == d.NONE


@given(observations)
def test_law_a_healthy_server_is_never_touched(seen: d.Observation) -> None:
    if seen.phase in (d.RUNNING, d.STARTING):
        assert decide(seen, d.Health("ok", "200")).action == d.NONE


@given(observations, healths)
def test_law_only_a_hung_server_is_killed(seen: d.Observation, health: d.Health) -> None:
    decision = decide(seen, health)
    if decision.action == d.KILL:
        assert health.kind == "timeout" and decision.verdict == "hung"


@given(observations, healths)
def test_law_a_bad_server_that_nothing_excuses_is_always_acted_on(seen: d.Observation, health: d.Health) -> None:
    excused = seen.parked or seen.intent in ("start", "restart", "stop") or seen.job in ("stop", "restart")
    if seen.phase == d.RUNNING and seen.ready and not excused and health.kind != "ok":
        assert decide(seen, health).action in (d.RESTART, d.KILL)


@given(observations, healths)
def test_law_every_decision_says_why(seen: d.Observation, health: d.Health) -> None:
    decision = decide(seen, health)
    assert decision.reason and decision.verdict


def seen(phase: str, **facts: object) -> d.Observation:
    base = d.Observation(phase=phase, detail="detail", process_age=1000.0)
    return d.Observation(**{**base.__dict__, **facts})


@pytest.mark.parametrize(
    ("observation", "kind", "verdict", "action"),
    [
        (seen(d.RUNNING, ready=True), "ok", "healthy", d.NONE),
        (seen(d.RUNNING, ready=True, process_age=5.0), "refused", "dead", d.RESTART),
        (seen(d.RUNNING, ready=True), "status", "dead", d.RESTART),
        (seen(d.RUNNING, ready=True), "timeout", "hung", d.KILL),
        (seen(d.RUNNING, ready=False, process_age=599.0), "refused", "starting", d.NONE),
        (seen(d.RUNNING, ready=False, process_age=601.0), "refused", "dead", d.RESTART),
        (seen(d.STARTING, process_age=601.0), "refused", "starting", d.NONE),  # the manager's limit comes first
        (seen(d.STARTING, process_age=631.0), "refused", "dead", d.RESTART),
        (seen(d.STARTING, process_age=None), "refused", "starting", d.NONE),
        (seen(d.HELD, process_age=None), "refused", "starting", d.NONE),
        (seen(d.STOPPING), "refused", "draining", d.NONE),
        (seen(d.FAILED), "refused", "dead", d.START),
        (seen(d.STOPPED), "refused", "dead", d.START),
        (seen(d.STOPPED, enabled=False), "refused", "stopped", d.NONE),
        (seen(d.STOPPED, job="start"), "refused", "starting", d.NONE),
        (seen(d.STOPPED, stopped_on_purpose=True), "refused", "stopped", d.NONE),
        (seen(d.STOPPED, stopped_on_purpose=True, parked="why"), "refused", "parked", d.NONE),
        (seen(d.STOPPED, intent="repair"), "refused", "dead", d.START),
        (seen(d.RUNNING, ready=True, stopped_on_purpose=True), "refused", "dead", d.RESTART),
        (seen(d.MISSING), "refused", "dead", d.NONE),
    ],
)
def test_table(observation: d.Observation, kind: str, verdict: str, action: str) -> None:
    decision = decide(observation, d.Health(kind, "x"))
    assert (decision.verdict, decision.action) == (verdict, action)


@pytest.mark.parametrize(
    ("facts", "end", "said"),
    [
        # systemctl stop and restart of a running server
        (
            d.EndFacts(stopping="purpose", job="stop", result="success", exit_code="exited", exit_status="0"),
            st.PURPOSE,
            "",
        ),
        (d.EndFacts(stopping="purpose", job="restart", result="success"), st.PURPOSE, ""),
        # a stop that had to be enforced is still somebody's wish
        (d.EndFacts(stopping="purpose", job="stop", result="timeout"), st.PURPOSE, ""),
        # an engine's death: vLLM exits with 0, nobody asked
        (d.EndFacts(stopping="self", result="success", exit_code="exited", exit_status="0"), st.FAILED, "status 0"),
        (
            d.EndFacts(stopping="self", result="signal", exit_code="killed", exit_status="KILL"),
            st.FAILED,
            "killed by signal KILL",
        ),
        # a stop during activation: ExecStop is not run, the job tells
        (d.EndFacts(job="stop", result="success", exit_code="killed", exit_status="TERM"), st.PURPOSE, ""),
        (d.EndFacts(job="stop", result="signal"), st.PURPOSE, ""),
        (d.EndFacts(job=None, result="success"), st.PURPOSE, ""),
        # the server died while it started
        (d.EndFacts(job="", result="exit-code", exit_code="exited", exit_status="1"), st.FAILED, "status 1"),
        (d.EndFacts(job="start", result="timeout", exit_code="killed", exit_status="TERM"), st.FAILED, "timeout"),
        (d.EndFacts(job="", result="exit-code", note="port 8000 is taken"), st.FAILED, "port 8000 is taken"),
        (d.EndFacts(job=None, result="success", note="not ready"), st.FAILED, "not ready"),
        # the kernel took its memory: systemd runs ExecStop with the main process alive
        (d.EndFacts(stopping="purpose", result="oom-kill"), st.FAILED, "lack of memory"),
        # the keeper ended it, whatever else it looks like
        (d.EndFacts(intent="repair", stopping="self", job="restart", result="signal"), st.REPAIR, "keeper"),
        # the host goes down
        (d.EndFacts(stopping="purpose", job="stop", host_going_down=True, result="success"), st.SHUTDOWN, "host"),
        (d.EndFacts(intent="stop", result="signal", exit_code="killed", exit_status="KILL"), st.PURPOSE, ""),
    ],
)
def test_how_a_run_ended(facts: d.EndFacts, end: str, said: str) -> None:
    found, reason = d.classify_end(facts)
    assert found == end
    assert said in reason
