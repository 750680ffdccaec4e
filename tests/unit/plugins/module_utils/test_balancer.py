# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What HAProxy's configuration says, from hosts, health check and options."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._balancer import (
    BalancerError,
    port_conflicts,
    quoted,
    view,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import complete
from hypothesis import given
from hypothesis import strategies as st

Made = dict[str, t.Any]


def instance(name: str = "qwen3vl", port: int = 8000, **changes: t.Any) -> Made:
    return {"name": name, "port": port, "host": "0.0.0.0", "standby": False, "timeouts": {"keep_alive": 75}, **changes}


def host(name: str, *instances: Made, address: str = "") -> Made:
    return {"host": name, "address": address or name, "instances": list(instances or [instance()])}


def options(**changes: t.Any) -> Made:
    return {
        "mode": "active_active",
        "standby": [],
        "ports": {},
        "bind_address": "*",
        "stats_port": 8404,
        "slow_start": 30,
        "keep_alive": 60,
        "agent": True,
        "agent_port": 9410,
        "fleet": True,
        "fleet_port": 9411,
        "fleet_clients": [],
        "addresses": {},
        **changes,
    }


TWO = [host("gpu1", address="10.0.0.1"), host("gpu2", address="10.0.0.2")]


def problems(backends: list[Made], **changes: t.Any) -> list[str]:
    with pytest.raises(BalancerError) as caught:
        view(backends, complete(), options(**changes))
    return caught.value.problems


def defaults_of(health_check: Made, **changes: t.Any) -> str:
    return str(view(TWO, complete(health_check), options(**changes))["backends"][0]["server_defaults"])


def test_the_guides_instance_on_two_hosts() -> None:
    seen = view(TWO, complete(), options())
    assert seen["frontends"] == [{"name": "qwen3vl", "bind": "*:8000", "backend": "qwen3vl"}]
    (backend,) = seen["backends"]
    assert backend["servers"] == [
        {"name": "gpu1", "endpoint": "10.0.0.1:8000", "backup": False},
        {"name": "gpu2", "endpoint": "10.0.0.2:8000", "backup": False},
    ]
    assert backend["check"] == {"path": "/health", "status": "200"}
    assert backend["check_timeout"] == 5
    assert backend["server_defaults"].startswith("check inter 30s rise 5 fall 2 ")
    assert [(bind["name"], bind["port"]) for bind in seen["binds"]] == [
        ("qwen3vl", 8000),
        ("the statistics page", 8404),
        ("the fleet page", 9411),
    ]


@pytest.mark.parametrize(
    ("health_check", "words"),
    [
        ({"interval": 10, "timeout": 3, "healthy_threshold": 3, "unhealthy_threshold": 4}, "inter 10s rise 3 fall 4"),
        ({"port": 9000}, " port 9000 "),
        ({"protocol": "HTTPS"}, " check-ssl verify none "),
        ({}, " slowstart 30s "),
    ],
)
def test_the_health_check_becomes_server_words(health_check: Made, words: str) -> None:
    assert words in defaults_of(health_check)


def test_no_words_for_what_is_not_wanted() -> None:
    words = defaults_of({}, slow_start=0, agent=False)
    assert not any(unwanted in words for unwanted in ("slowstart", "port ", "ssl", "agent"))


def test_each_servers_keeper_is_asked_for_the_backends_instance() -> None:
    hosts = [host("gpu1", instance("chat"), instance("embed", 8001))]
    seen = view(hosts, complete(), options(agent_port="9500"))
    for backend in seen["backends"]:
        words = f'agent-check agent-port 9500 agent-inter 1s agent-send "agent {backend["name"]}\\n"'
        assert backend["server_defaults"].endswith(words)


def test_the_check_asks_for_the_instance_by_name_where_its_path_says_so() -> None:
    hosts = [host("gpu1", instance("chat"), instance("embed", 8001))]
    seen = view(hosts, complete({"path": "/ready/{name}", "port": 9410}), options())
    assert [backend["check"]["path"] for backend in seen["backends"]] == ["/ready/chat", "/ready/embed"]
    assert all(" port 9410 " in backend["server_defaults"] for backend in seen["backends"])


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("/ready/{nam}", ["'{nam}'"]),
        ("/{name}/{x}/{y}", ["'{x}'", "'{y}'"]),
        ("/a}", ["'}'"]),
        ("/ready/{name", ["'{name'"]),
    ],
)
def test_braces_in_the_path_mean_the_name_or_nothing(path: str, held: list[str]) -> None:
    with pytest.raises(BalancerError) as caught:
        view(TWO, complete({"path": path}), options())
    assert len(caught.value.problems) == len(held)
    for line, part in zip(caught.value.problems, held):
        assert line.startswith(f"load_balancer_health_check.path: {path!r} holds {part}, but only {{name}} ")


def test_the_fleet_page_knows_the_servers_and_who_asks() -> None:
    hosts = [
        host("gpu1", instance("chat"), instance("embed", 8001), address="10.0.0.1"),
        host("gpu2", instance("chat"), address="gpu2.example.org"),
        host("gpu3", instance("chat"), address="unknown.example.org"),
    ]
    known = {"gpu2.example.org": ["2001:db8::2", "10.0.0.2"]}
    fleet = view(hosts, complete(), options(addresses=known, fleet_clients=["192.0.2.0/24"]))["fleet"]
    assert fleet == {
        "bind": "*:9411",
        "clients": ["10.0.0.1", "10.0.0.2", "127.0.0.1", "192.0.2.0/24", "2001:db8::2", "::1"],
        "askers": [
            {"name": "gpu1", "addresses": ["10.0.0.1"]},
            {"name": "gpu2", "addresses": ["10.0.0.2", "2001:db8::2"]},
        ],
        "backends": [
            {"name": "chat", "servers": ["gpu1", "gpu2", "gpu3"]},
            {"name": "embed", "servers": ["gpu1"]},
        ],
    }


def test_without_the_fleet_page_its_port_is_free() -> None:
    seen = view(TWO, complete(), options(fleet=False, ports={"qwen3vl": 9411}))
    assert seen["fleet"] is None
    assert [bind["port"] for bind in seen["binds"]] == [9411, 8404]


@pytest.mark.parametrize(
    ("health_check", "check"),
    [
        ({"matcher": "200, 202-204"}, {"path": "/health", "status": "200,202-204"}),
        ({"path": "/it's?a=1#x"}, {"path": "'/it'\\''s?a=1#x'", "status": "200"}),
        ({"protocol": "TCP"}, None),
    ],
)
def test_what_a_check_asks(health_check: Made, check: Made | None) -> None:
    assert view(TWO, complete(health_check), options())["backends"][0]["check"] == check


@pytest.mark.parametrize(("keep_alive", "delay"), [(61, 4), (75, 5), (3600, 5)])
def test_unused_connections_are_looked_at_well_within_the_servers_keep_alive(keep_alive: int, delay: int) -> None:
    hosts = [host("gpu1", instance(timeouts={"keep_alive": keep_alive}))]
    words = view(hosts, complete(), options())["backends"][0]["server_defaults"]
    assert f"pool-purge-delay {delay}s" in words


def test_ipv6_is_bracketed() -> None:
    seen = view([host("gpu1", address="2001:db8::1")], complete(), options(bind_address="::"))
    assert seen["frontends"][0]["bind"] == "[::]:8000"
    assert seen["backends"][0]["servers"][0]["endpoint"] == "[2001:db8::1]:8000"


def test_only_names_have_to_be_looked_up() -> None:
    hosts = [host("gpu1", address="gpu1.example.org"), host("gpu2", address="10.0.0.2"), host("gpu3", address="::1")]
    assert view(hosts, complete(), options())["names"] == ["gpu1.example.org"]


def test_one_frontend_for_each_name_one_server_for_each_host_that_has_it() -> None:
    hosts = [host("gpu1", instance("chat"), instance("embed", 8001)), host("gpu2", instance("chat"))]
    seen = view(hosts, complete(), options(ports={"chat": 80}))
    assert [(front["name"], front["bind"]) for front in seen["frontends"]] == [("chat", "*:80"), ("embed", "*:8001")]
    assert [[server["name"] for server in back["servers"]] for back in seen["backends"]] == [["gpu1", "gpu2"], ["gpu1"]]


@pytest.mark.parametrize(
    ("second", "changes"),
    [(host("gpu2", instance(standby=True)), {}), (host("gpu2"), {"standby": ["gpu2"]})],
    ids=["by instance", "by host"],
)
def test_standby_servers_are_backups(second: Made, changes: Made) -> None:
    seen = view([host("gpu1"), second], complete(), options(mode="primary_standby", **changes))
    assert [server["backup"] for server in seen["backends"][0]["servers"]] == [False, True]


@pytest.mark.parametrize(
    ("backends", "changes", "expected"),
    [
        ([], {}, ["load_balancer_hosts: no host with an instance"]),
        ([host("gpu1"), host("gpu1")], {}, ["gpu1 is listed twice"]),
        ([host("gpu 1", address="10.0.0.1")], {}, ["'gpu 1' cannot name a HAProxy server"]),
        ([host("gpu1", address="10.0.0.1 weight 0")], {}, ["vllm_address '10.0.0.1 weight 0' is no address"]),
        ([host("gpu1", instance(host="127.0.0.1"))], {}, ["127.0.0.1 hears only its own host"]),
        (TWO, {"mode": "both"}, ["load_balancer_mode: 'both' is not known"]),
        (TWO, {"standby": ["gpu2"]}, ["gpu2: vllm_instances qwen3vl: is a standby, but load_balancer_mode is"]),
        (TWO, {"mode": "primary_standby"}, ["nothing is a standby"]),
        (TWO, {"mode": "primary_standby", "standby": ["gpu1", "gpu2"]}, ["only standby servers (gpu1, gpu2)"]),
        (TWO, {"mode": "primary_standby", "standby": ["gpu3"]}, ["'gpu3' is none of the balanced hosts"]),
        (TWO, {"ports": {"qwen": 80}}, ["load_balancer_ports.qwen: no instance has this name, did you mean qwen3vl?"]),
        (TWO, {"ports": {"qwen3vl": 70000}}, ["70000 is not a port"]),
        (TWO, {"ports": {"qwen3vl": True}}, ["True is not a port"]),
        (TWO, {"ports": {"qwen3vl": 8404}}, ["port 8404 is wanted by the frontend qwen3vl and the statistics page"]),
        (TWO, {"ports": {"qwen3vl": 9411}}, ["the frontend qwen3vl and the fleet page (load_balancer_fleet_port)"]),
        (TWO, {"fleet_port": 8404}, ["statistics page (load_balancer_stats_port) and the fleet page"]),
        (TWO, {"fleet_port": 0}, ["load_balancer_fleet_port: 0 is not a port"]),
        (TWO, {"agent_port": "keeper"}, ["load_balancer_agent_port: 'keeper' is not a port"]),
        (
            TWO,
            {"fleet_clients": ["10.0.0.0/8", "gpu1", "10.0.0.0/33"]},
            [
                "load_balancer_fleet_clients[1]: 'gpu1' is neither an address nor a network",
                "load_balancer_fleet_clients[2]: '10.0.0.0/33' is neither",
            ],
        ),
        (
            [host("gpu1", instance("a"), instance("b", 8001))],
            {"ports": {"b": 8000}},
            ["port 8000 is wanted by the frontend a and the frontend b"],
        ),
        (
            [host("gpu1"), host("gpu2", instance(port=8001))],
            {},
            ["different ports on its hosts (gpu1 8000, gpu2 8001)"],
        ),
        (TWO, {"keep_alive": 75}, ["75 s is not longer than load_balancer_timeout_keep_alive 75 s"] * 2),
        (TWO, {"standby": ["gpu1"], "ports": {"x": 1}}, ["gpu1: vllm_instances qwen3vl: is a standby", "ports.x"]),
    ],
)
def test_what_cannot_be_is_refused_with_place_and_mend(
    backends: list[Made], changes: Made, expected: list[str]
) -> None:
    found = problems(backends, **changes)
    assert len(found) == len(expected), found
    for line, part in zip(found, expected):
        assert part in line
        assert ": " in line


def test_a_host_may_balance_itself_over_loopback() -> None:
    hosts = [host("gpu1", instance(host="127.0.0.1"), address="127.0.0.1")]
    assert view(hosts, complete(), options(ports={"qwen3vl": 80}))["backends"][0]["servers"]


LISTENER = {"port": 8000, "address": "0.0.0.0", "pid": 812, "command": "nginx", "user": "root", "unit": "nginx.service"}
BIND = {"name": "qwen3vl", "address": "*", "port": 8000, "variable": "load_balancer_ports: {qwen3vl: ...}"}


@pytest.mark.parametrize(
    ("listener", "bind", "refused"),
    [
        ({}, {}, True),
        ({"port": 8001}, {}, False),
        ({"unit": "haproxy.service", "command": "python3"}, {}, False),
        ({"unit": None, "command": "haproxy"}, {}, False),
        ({"address": "10.0.0.1"}, {"address": "10.0.0.2"}, False),
        ({"address": "10.0.0.1"}, {"address": "10.0.0.1"}, True),
        ({"address": "10.0.0.1"}, {}, True),
        ({"address": "::"}, {"address": "10.0.0.2"}, True),
        ({"command": None, "pid": None, "unit": None}, {}, True),
    ],
)
def test_a_port_that_another_program_has(listener: Made, bind: Made, refused: bool) -> None:
    found = port_conflicts([{**BIND, **bind}], [{**LISTENER, **listener}], "haproxy.service")
    assert bool(found) is refused


def test_the_owner_of_a_port_is_named_and_the_right_variable() -> None:
    (line,) = port_conflicts([BIND], [LISTENER], "haproxy.service")
    assert "nginx (pid 812, user root, unit nginx.service)" in line
    assert "load_balancer_ports: {qwen3vl: ...}" in line


def test_every_bind_names_the_variable_that_moves_it() -> None:
    binds = view(TWO, complete(), options())["binds"]
    lines = [
        line
        for bind in binds
        for line in port_conflicts([bind], [{**LISTENER, "port": bind["port"]}], "haproxy.service")
    ]
    assert [line.rpartition(" with ")[2] for line in lines] == [
        "load_balancer_ports: {qwen3vl: ...}",
        "load_balancer_stats_port",
        "load_balancer_fleet_port",
    ]


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_quoted_word_is_read_back_as_it_was(text: str) -> None:
    """HAProxy's rule: between strong quotes all is literal; outside them a backslash takes the next one literally."""
    read, position, quoting = "", 0, False
    word = quoted(text)
    while position < len(word):
        char = word[position]
        if char == "'":
            quoting = not quoting
        elif char == "\\" and not quoting:
            position += 1
            read += word[position]
        else:
            assert quoting or char not in ' #"$'
            read += char
        position += 1
    assert read == text
    assert not quoting


names = st.sampled_from(["chat", "embed", "vision"])
hosts = st.dictionaries(
    st.sampled_from(["gpu1", "gpu2", "gpu3"]), st.dictionaries(names, st.booleans(), max_size=3), max_size=3
)
PORTS = {"chat": 8000, "embed": 8001, "vision": 8002}


@given(
    hosts,
    st.lists(st.sampled_from(["gpu1", "gpu2", "gpu3", "gpu4"]), unique=True),
    st.sampled_from(["active_active", "primary_standby"]),
)
def test_whatever_is_asked_the_answer_is_whole_or_refused(
    fleet: dict[str, dict[str, bool]], standby: list[str], mode: str
) -> None:
    backends = [
        {
            "host": name,
            "address": name,
            "instances": [instance(each, PORTS[each], standby=waits) for each, waits in runs.items()],
        }
        for name, runs in fleet.items()
    ]
    wanted = sorted((each, name) for name, runs in fleet.items() for each in runs)
    try:
        seen = view(backends, complete(), options(mode=mode, standby=standby))
    except BalancerError as error:
        assert error.problems
        return
    made = sorted((back["name"], server["name"]) for back in seen["backends"] for server in back["servers"])
    assert made == wanted
    assert len({bind["port"] for bind in seen["binds"]}) == len(seen["binds"])
    for backend in seen["backends"]:
        waiting = [server["backup"] for server in backend["servers"]]
        assert not all(waiting)
        assert mode == "primary_standby" or not any(waiting)
