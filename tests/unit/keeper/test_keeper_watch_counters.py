# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What /metrics says about progress: vLLM's own text, and everything that is not quite it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from vllm_keeper.watch import counters
from vllm_keeper.watch.counters import Counters, Engine, parse, queued, requests

from tests.standin.vllm_standin.metrics import Metrics


def of(**changes: int) -> Metrics:
    metrics = Metrics("qwen", 1024)
    metrics.stepped(**{"running": 0, "waiting": 0, "prompts": 0, "generated": 0, **changes}, cache=0.0)
    return metrics


def only(text: bytes) -> Engine:
    counted = parse(text)
    assert counted is not None
    (engine,) = counted.engines.values()
    return engine


def test_an_idle_server_is_read_and_has_no_work() -> None:
    counted = parse(of().render())
    assert counted is not None
    assert list(counted.engines) == ["0"]
    assert not only(of().render()).has_work
    assert (counted.running, counted.waiting) == (0, 0)


def test_requests_that_run_and_wait_are_work() -> None:
    engine = only(of(running=3, waiting=9).render())
    assert (engine.running, engine.waiting, engine.has_work) == (3, 9, True)
    assert only(of(waiting=1).render()).has_work


def test_every_step_moves_the_counters_and_nothing_else_does() -> None:
    metrics = of(running=1)
    before = only(metrics.render()).moved
    metrics.http("/metrics", "GET", 200, 0.001, 0, 100)
    metrics.http("/v1/models", "GET", 200, 0.001, 0, 100)
    metrics.stepped(running=2, waiting=5, prompts=0, generated=0, cache=0.5)
    metrics.seen(pictures=1)
    assert only(metrics.render()).moved == before
    metrics.stepped(running=2, waiting=5, prompts=0, generated=1, cache=0.5)
    assert only(metrics.render()).moved != before


@pytest.mark.parametrize("reason", ["stop", "length", "abort"])
def test_a_finished_request_moves_them_for_whatever_reason(reason: str) -> None:
    metrics = of()
    before = only(metrics.render()).moved
    metrics.finished(reason, 4, 1, 1, 0.1)
    assert only(metrics.render()).moved != before


def test_a_large_number_still_moves_by_one() -> None:
    """prometheus_client writes 12345678.0 as 1.2345678e+07."""
    metrics = of(prompts=12_345_678)
    before = only(metrics.render()).moved
    assert max(before) == 12_345_678
    metrics.stepped(running=0, waiting=0, prompts=1, generated=0, cache=0.0)
    assert only(metrics.render()).moved != before


def test_each_engine_of_several_is_seen_by_itself() -> None:
    busy = of(running=2, generated=7).render()
    other = of(waiting=4, generated=1).render().replace(b'engine="0"', b'engine="1"')
    counted = parse(busy + other)
    assert counted is not None
    assert sorted(counted.engines) == ["0", "1"]
    assert (counted.engines["0"].running, counted.engines["1"].waiting) == (2, 4)
    assert (counted.running, counted.waiting) == (2, 4)
    assert counted.engines["0"].moved != counted.engines["1"].moved


def test_without_a_label_it_is_engine_0() -> None:
    assert parse(b"vllm:generation_tokens_total 5\n") == Counters({"0": Engine((5.0,))})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>404</html>",
        b"vllm:num_requests_running 1.0\n",  # its statistics are switched off: nothing would ever move
        b'vllm:generation_tokens_total{engine="0"} many\n',
        b'vllm:generation_tokens_total{engine="0"} NaN\n',
        b'vllm:generation_tokens_total{engine="0"} +Inf\n',
        b'vllm:generation_tokens_total{engine="0"\n',
        b"# HELP vllm:generation_tokens_total 5\n",
        b"sglang:generation_tokens_total 5\n",
        b"vllm:generation_tokens_total_created 1.7e9\n",
        bytes(range(256)) * 8,
    ],
)
def test_what_says_nothing_about_progress_is_none(text: bytes) -> None:
    assert parse(text) is None


def test_one_garbled_line_costs_no_other() -> None:
    text = b'vllm:prompt_tokens_total{engine="0"} x\nvllm:generation_tokens_total{engine="0"} 5\n'
    assert parse(text) == Counters({"0": Engine((5.0,))})


def test_labels_may_hold_anything() -> None:
    line = b'vllm:generation_tokens_total{engine="3",model_name="a \\"b\\", c\xff"} 5\n'
    assert parse(line) == Counters({"3": Engine((5.0,))})


@given(some.binary(max_size=400))
def test_no_bytes_are_too_strange(text: bytes) -> None:
    parse(text)
    parse(b"vllm:generation_tokens_total{" + text)
    parse(b"vllm:generation_tokens_total " + text)


@given(some.integers(0, 400), some.binary(max_size=20))
def test_an_answer_that_was_cut_or_patched_is_read_as_far_as_it_goes(place: int, patch: bytes) -> None:
    """Whatever is left is a number that is finite, or nothing."""
    whole = of(running=1, generated=5).render(
        ("vllm:generation_tokens_total", "vllm:num_requests_running", "vllm:prompt_tokens_total")
    )
    counted = parse(whole[:place] + patch)
    for engine in counted.engines.values() if counted is not None else ():
        assert all(map(math.isfinite, engine.moved))


@given(some.lists(some.tuples(some.integers(0, 5), some.integers(0, 50), some.integers(0, 50)), max_size=4))
@settings(max_examples=25)
def test_the_same_state_is_always_the_same_and_another_is_another(steps: list[tuple[int, int, int]]) -> None:
    metrics = of()
    for running, prompts, generated in steps:
        before = only(metrics.render()).moved
        assert only(metrics.render()).moved == before
        metrics.stepped(running, 0, prompts, generated, 0.0)
        assert (only(metrics.render()).moved != before) == bool(prompts or generated)


# --- a glance ---------------------------------------------------------------------------------------------------


def engines(**steps: float) -> bytes:
    """/metrics of several engines, each with so many steps; two requests run and one waits at each."""
    lines = ["# TYPE vllm:iteration_tokens_total histogram"]
    for engine, count in steps.items():
        labels = f'{{engine="{engine}",model_name="a name, with spaces"}}'
        lines += [
            f"vllm:iteration_tokens_total_count{labels} {float(count)}",
            f"vllm:num_requests_running{labels} 2.0",
            f"vllm:num_requests_waiting{labels} 1.0",
            f'vllm:num_requests_waiting_by_reason{{engine="{engine}",reason="capacity"}} 1.0',
        ]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize(("running", "waiting"), [(3, 9), (3, 0), (0, 0), (0, 1)])
def test_a_glance_sees_what_parse_sees(running: int, waiting: int) -> None:
    text = of(running=running, waiting=waiting).render()
    whole = parse(text)
    assert whole is not None
    assert requests(text) == (whole.running, whole.waiting) == (running, waiting)
    assert queued(text) is (waiting > 0)


def test_requests_are_those_of_all_engines() -> None:
    assert requests(engines(a=1, b=2)) == (4, 2), "and not its parts once more"
    nobody = engines(a=1).replace(b"} 1.0", b"} 0.0")
    assert [queued(text) for text in (nobody, engines(b=1), nobody + engines(b=1), b"", b"garbled")] == [
        False, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "goes_on"),
    [
        (engines(a=1), engines(a=2), True),
        (engines(a=2), engines(a=1), True),  # which way does not matter: counters are reset
        (engines(a=1), engines(a=1), False),
        (engines(a=1, b=1), engines(a=2, b=2), True),
        (engines(a=1, b=1), engines(a=2, b=1), False),  # one of several stands still
        (engines(a=1), engines(a=2, b=1), False),
        (engines(a=1, b=1), engines(a=2), False),
        (b"", b"", False),
        (engines(a=1), b"garbled", False),
        (engines(a=1), engines(a=2).replace(b" 2.0", b" many"), False),
    ],
)
def test_all_engines_have_to_go_on(before: bytes, after: bytes, goes_on: bool) -> None:
    assert counters.goes_on(before, after) is goes_on


@given(some.binary(max_size=300))
def test_law_a_glance_at_anything_raises_nothing(text: bytes) -> None:
    for garbled in (text, counters.STEPS + text, engines(a=1) + counters.STEPS + text, counters.QUEUE + text):
        assert not counters.goes_on(garbled, garbled)
        assert counters.goes_on(engines(a=1), garbled) in (True, False)
        assert queued(garbled) in (True, False)
        assert min(requests(b"\nvllm:num_requests_running " + garbled)) >= 0
