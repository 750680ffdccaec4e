# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's breaker: how many of a group may be under repair at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper.watch.fleet import FleetSettings, judge, may_act

from tests.unit.keeper import support


def page(up: int, total: int, asker: str | None = None, *out: str) -> str:
    lines = [f"up={up} total={total}", *([f"asker={asker}"] if asker is not None else [])]
    return "\n".join(lines + [f"out={name}" for name in out]) + "\n"


@pytest.mark.parametrize(
    ("text", "limit", "allowed"),
    [
        # Known by name, and still counted as up, since it was only just found.
        (page(4, 4, "gpu1"), 1, True),
        (page(3, 4, "gpu1", "gpu2"), 1, False),
        (page(3, 4, "gpu1", "gpu2"), 2, True),
        (page(2, 4, "gpu1", "gpu2", "gpu3"), 2, False),
        # Among those that are out: the first ones of the alphabet go first.
        (page(3, 4, "gpu1", "gpu1"), 1, True),
        (page(2, 4, "gpu1", "gpu1", "gpu2"), 1, True),
        (page(2, 4, "gpu2", "gpu1", "gpu2"), 1, False),
        (page(2, 4, "gpu2", "gpu2", "gpu1"), 2, True),
        # Nothing to lose.
        (page(0, 4, "gpu4", "gpu1", "gpu2", "gpu3", "gpu4"), 1, True),
        (page(0, 0), 1, True),
        # Not known by name: it is one of those that are out, or will be.
        (page(4, 4), 1, True),
        (page(3, 4), 1, True),
        (page(2, 4), 1, False),
        (page(2, 4, ""), 1, False),
        (page(2, 4), 2, True),
        # The order of the lines and what else stands there do not matter.
        ("name=q asker=gpu1 out=gpu2\ntotal=4 other=1 up=3", 1, False),
    ],
)
def test_who_may_act(text: str, limit: int, allowed: bool) -> None:
    assert judge(text, limit)[0] is allowed


@pytest.mark.parametrize("text", ["", "<html>", "up= total=4", "up=x total=4", "up=3", "setup=3 subtotal=4"])
def test_a_page_that_is_not_understood_holds_nobody_back(text: str) -> None:
    assert judge(text, 1) == (True, "the fleet page says nothing that is understood")


def test_the_reason_says_how_many_serve_and_who_is_out() -> None:
    assert judge(page(2, 4, "gpu2", "gpu1", "gpu2"), 1) == (False, "2 of 4 serve, out are gpu1, gpu2")


hosts = some.sets(some.integers(1, 40).map("gpu{}".format), min_size=1, max_size=12)


@given(hosts, some.integers(1, 5), some.data())
def test_law_of_all_that_are_out_no_more_than_the_limit_may_act(
    all_out: set[str], limit: int, data: some.DataObject
) -> None:
    """Asked by name, while somebody still serves; and always somebody may, or a group would stay broken for ever."""
    up = data.draw(some.integers(1, 20))
    order = data.draw(some.permutations(sorted(all_out)))
    allowed = {name for name in all_out if judge(page(up, up + len(all_out), name, *order), limit)[0]}
    assert len(allowed) == min(limit, len(all_out))


@given(hosts, some.integers(1, 5), some.integers(1, 20))
def test_law_who_was_only_just_found_adds_nobody_beyond_the_limit(out: set[str], limit: int, up: int) -> None:
    allowed = judge(page(up, up + len(out), "gpu-new", *out), limit)[0]
    assert allowed == (len(out) < limit)


@given(some.text(max_size=200), some.integers(1, 5))
def test_no_page_is_too_strange(text: str, limit: int) -> None:
    judge(text, limit)
    judge(f"up=1 total=3 {text}", limit)


def test_without_a_balancer_each_host_acts_by_its_own_budget() -> None:
    assert may_act(FleetSettings()) == (True, "")


def test_the_page_is_asked_for_each_time() -> None:
    pages = [page(3, 4, "gpu1", "gpu2"), page(4, 4, "gpu1")]
    with support.serving(lambda link, _path: link.sendall(support.answer(200, pages.pop(0).encode()))) as server:
        settings = FleetSettings(url=f"http://127.0.0.1:{server.port}/fleet/q")
        assert may_act(settings)[0] is False
        assert may_act(settings)[0] is True
    assert [request.split(" ")[1] for request in server.requests] == ["/fleet/q", "/fleet/q"]


@pytest.mark.parametrize("behave", [support.status_503, support.garbage, support.hanging])
def test_a_balancer_that_does_not_answer_holds_nobody_back(behave: object) -> None:
    with support.serving(behave) as server:  # type: ignore[arg-type]
        settings = FleetSettings(url=f"http://127.0.0.1:{server.port}/fleet/q", timeout=0.2)
        allowed, why = may_act(settings)
    assert allowed
    assert why.startswith("the fleet page cannot be asked (GET /fleet/q: ")


def test_a_balancer_that_is_gone_holds_nobody_back() -> None:
    allowed, why = may_act(FleetSettings(url=f"http://127.0.0.1:{support.free_port()}/"))
    assert allowed
    assert "connection refused" in why
