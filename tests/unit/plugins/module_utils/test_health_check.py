# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the health check dictionary."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _health_check as rules
from hypothesis import given
from hypothesis import strategies as st

GOOD = {
    "path": st.sampled_from(["/", "/health", "/a?b=c", "/" + "x" * 1023]),
    "port": st.one_of(st.just("traffic-port"), st.integers(1, 65535), st.integers(1, 65535).map(str)),
    "protocol": st.sampled_from(["HTTP", "HTTPS"]),
    "interval": st.integers(121, 300),
    "timeout": st.integers(2, 120),
    "healthy_threshold": st.integers(2, 10),
    "unhealthy_threshold": st.integers(2, 10).map(str),
    "matcher": st.sampled_from(["200", 200, "200,202", "200-299", "200, 204-206", "499"]),
}
ANYTHING: st.SearchStrategy[t.Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_the_guides_values_are_right_everywhere() -> None:
    assert rules.problems(rules.GUIDE_DEFAULTS, "x") == []
    assert rules.problems(rules.GUIDE_DEFAULTS, "x", "HTTP", "instance", "HTTP1") == []
    assert rules.problems(rules.GUIDE_DEFAULTS, "x", "TCP", "ip") == []


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("path", ["/", "/health", "/" + "x" * 1023], ["", "health", "/" + "x" * 1024, "/a b", "/ä", "/a\n", 5, ["/"]]),
        (
            "port",
            ["traffic-port", 1, 65535, "8000"],
            [0, 65536, 70000, -1, "http", "", True, 80.5, "traffic", "traffic_port", [80]],
        ),
        ("protocol", ["HTTP", "HTTPS", "TCP"], ["http", "UDP", "TLS", "TCP_UDP", "GENEVE", "QUIC", "", 1, ["HTTP"]]),
        ("interval", [5, 300, "30"], [4, 301, 0, -5, "soon", "", True, 5.5, [30]]),
        ("timeout", [2, 120, "5"], [1, 121, "x", False, 2.5]),
        ("healthy_threshold", [2, 10], [1, 11, "x", True]),
        ("unhealthy_threshold", [2, 10], [1, 11, "x", True]),
        (
            "matcher",
            ["200", 200, "200,202", "200-299", "200-299,404", "200 , 202", "599"],
            ["199", "600", 600, "99", "299-200", "200-", "-200", "200,", ",", "", "2xx", "ok", True, "200;202", "0200"],
        ),
        ("enabled", [True, False], ["yes", 1, 0, "true"]),
    ],
)
def test_each_key_has_its_limits(key: str, good: list[t.Any], bad: list[t.Any]) -> None:
    for value in good:
        assert rules.problems({key: value}, "place") == [], value
    for value in bad:
        found = rules.problems({key: value}, "place")
        assert found, value
        assert found[0].startswith(f"place.{key}: "), value


@pytest.mark.parametrize(
    ("matcher", "kind", "fits"),
    [
        ("499", ("HTTP", "instance", "HTTP1"), True),
        ("500", ("HTTP", "instance", "HTTP1"), False),
        ("200-500", ("HTTPS", "ip", "HTTP2"), False),
        ("599", ("TCP", "instance", None), True),
        ("599", ("TLS", "ip", None), True),
        ("600", ("UDP", "ip", None), False),
        ("399", ("GENEVE", "ip", None), True),
        ("400", ("GENEVE", "ip", None), False),
        ("499", (None, "lambda", None), True),
        ("500", (None, "lambda", None), False),
        ("0-99", ("HTTP", "ip", "GRPC"), True),
        ("12", ("HTTP", "ip", "GRPC"), True),
        ("200", ("HTTP", "ip", "GRPC"), False),
        ("12", ("HTTP", "ip", "HTTP1"), False),
    ],
)
def test_the_matcher_follows_the_target_group(
    matcher: str, kind: tuple[str | None, str | None, str | None], fits: bool
) -> None:
    assert (rules.problems({"matcher": matcher}, "x", *kind) == []) is fits


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"protocol": "TCP"}, ("HTTP", "instance", "HTTP1"), "HTTP or HTTPS only"),
        ({"protocol": "TCP"}, ("TCP", "alb", None), "itself an ALB"),
        ({"protocol": "HTTP"}, (None, "lambda", None), "leave it out"),
        ({"port": "traffic-port"}, (None, "lambda", None), "no port"),
        ({"enabled": False}, ("HTTP", "instance", "HTTP1"), "only a Lambda"),
        ({"path": "/health"}, ("HTTP", "ip", "GRPC"), "/package.Service/Method"),
        ({"protocol": "TCP", "path": "/health"}, ("TCP", "ip", None), "sends nothing"),
        ({"protocol": "TCP", "matcher": "200"}, ("TCP", "ip", None), "sends nothing"),
    ],
)
def test_what_a_kind_of_target_group_cannot_have(
    settings: dict[str, t.Any], kind: tuple[str | None, str | None, str | None], words: str
) -> None:
    found = rules.problems(settings, "x", *kind)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("interval", "timeout", "fits"), [(6, 5, True), (5, 5, False), (30, 31, False), ("6", "5", True)]
)
def test_a_check_ends_before_the_next_begins(interval: t.Any, timeout: t.Any, fits: bool) -> None:
    assert (rules.problems({"interval": interval, "timeout": timeout}, "x") == []) is fits


def test_all_problems_come_at_once_with_their_places() -> None:
    found = rules.problems({"prot": "HTTP", "port": 70000, "matcher": "600", "interval": 5, "timeout": 5}, "h")
    assert [line.split(":")[0] for line in found] == ["h.prot", "h.port", "h.matcher", "h.timeout"]
    assert "did you mean port?" in found[0] or "did you mean protocol?" in found[0]


@pytest.mark.parametrize("settings", ["path: /health", ["path"], 5, True])
def test_settings_that_are_no_dictionary(settings: t.Any) -> None:
    assert "is not a dictionary" in rules.problems(settings, "h")[0]
    with pytest.raises(rules.HealthCheckError, match="is not a dictionary"):
        rules.complete(settings)


def test_complete_reports_all_that_problems_does() -> None:
    with pytest.raises(rules.HealthCheckError) as caught:
        rules.complete({"path": "health", "timeout": 40, "matcher": "600"}, "vllm_health_check")
    # The timeout is wrong only beside the guide's interval, which was not given.
    assert [line.split(":")[0].removeprefix("vllm_health_check.") for line in caught.value.problems] == [
        "path",
        "matcher",
        "timeout",
    ]


def test_complete_without_anything_is_the_guide() -> None:
    assert rules.complete(None) == rules.complete({}) == rules.GUIDE_DEFAULTS
    assert rules.complete({"path": None}) == rules.GUIDE_DEFAULTS


def test_complete_for_tcp_says_nothing_of_http() -> None:
    assert rules.complete({"protocol": "TCP"}) == {
        **rules.GUIDE_DEFAULTS,
        "protocol": "TCP",
        "path": None,
        "matcher": None,
    }
    with pytest.raises(rules.HealthCheckError, match=r"health_check\.path"):
        rules.complete({"protocol": "TCP", "path": "/health"})


@given(st.fixed_dictionaries({}, optional=GOOD))
def test_complete_keeps_what_is_given_and_is_its_own_completion(settings: dict[str, t.Any]) -> None:
    # The guide's interval is below the longest timeout, so the two go together here.
    if "timeout" in settings and "interval" not in settings:
        settings = {**settings, "interval": 300}
    whole = rules.complete(settings)
    assert set(whole) == set(rules.GUIDE_DEFAULTS)
    assert rules.problems(whole, "x") == []
    assert rules.complete(whole) == whole
    for key, value in settings.items():
        assert str(whole[key]) == str(value).replace(" ", "")


@given(ANYTHING | st.dictionaries(st.sampled_from(rules.KEYS) | st.text(), ANYTHING))
def test_no_input_is_a_traceback(settings: t.Any) -> None:
    found = rules.problems(settings, "x", "HTTP", "instance", "HTTP1")
    assert all(line.startswith("x") for line in found)
    try:
        rules.complete(settings)
    except rules.HealthCheckError as error:
        assert error.problems


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 30)), min_size=1, max_size=6))
def test_a_matcher_names_just_its_codes(ranges: list[tuple[int, int]]) -> None:
    spans = [(first, min(first + more, 999)) for first, more in ranges]
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    assert rules.codes(text) == frozenset(code for first, last in spans for code in range(first, last + 1))
