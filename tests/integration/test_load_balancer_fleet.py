# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the fleet page tells a keeper before it kills a hung server, asked of a real HAProxy."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.tests.integration.balancer_rig import Balancer, Rig, wait_for

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the package haproxy")

# One address of loopback for each host, so that they can be told apart as on a network.
ADDRESSES = {"gpu1": "127.0.0.2", "gpu2": "127.0.0.3", "gpu3": "127.0.0.4"}


@pytest.fixture
def rig(tmp_path: Path) -> t.Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.end()


def three(rig: Rig, **changes: t.Any) -> Balancer:
    for name, address in ADDRESSES.items():
        rig.server(name, address=address)
    balancer = rig.balancer(fleet=True, **changes)
    wait_for(lambda: all(balancer.told(name)["check_status"] == "L7OK" for name in ADDRESSES), what="all up")
    return balancer


def ask(
    rig: Rig, path: str = "/fleet/qwen3vl", method: str = "GET", source: str = "127.0.0.1"
) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", rig.fleet_port, timeout=5, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.getheader("Content-Type")


def test_all_up_and_who_asks(rig: Rig) -> None:
    three(rig)
    assert ask(rig) == (200, "up=3 total=3 name=qwen3vl asker=\n", "text/plain")
    assert ask(rig, source="127.0.0.3")[1] == "up=3 total=3 name=qwen3vl asker=gpu2\n"


def test_whatever_takes_a_server_out_is_counted(rig: Rig) -> None:
    balancer = three(rig)
    rig.servers["gpu1"].health = 503
    wait_for(lambda: ask(rig)[1] == "up=2 total=3 name=qwen3vl asker= out=gpu1\n", what="down by its check")
    balancer.api("set server qwen3vl/gpu2 state maint")
    wait_for(lambda: ask(rig)[1] == "up=1 total=3 name=qwen3vl asker= out=gpu1 out=gpu2\n", what="in maintenance")
    balancer.api("set server qwen3vl/gpu3 weight 0%")
    assert ask(rig, source="127.0.0.4")[1] == "up=0 total=3 name=qwen3vl asker=gpu3 out=gpu1 out=gpu2 out=gpu3\n"


def test_what_a_keeper_said_is_counted(rig: Rig) -> None:
    keepers = [rig.keeper("up 100%", address="127.0.0.2")]
    keepers += [rig.keeper("up 100%", keepers[0].port, address) for address in ("127.0.0.3", "127.0.0.4")]
    three(rig, agent=True, agent_port=keepers[0].port)
    keepers[0].says, keepers[1].says = "down #hung", "up 0% #draining"
    wait_for(lambda: ask(rig)[1] == "up=1 total=3 name=qwen3vl asker= out=gpu1 out=gpu2\n", 3, "both counted")
    assert keepers[2].says == "up 100%"


def test_standby_servers_count_while_they_wait_and_while_they_serve(rig: Rig) -> None:
    three(rig, mode="primary_standby", standby=["gpu3"])
    assert ask(rig)[1].startswith("up=3 total=3 ")
    rig.servers["gpu1"].health = rig.servers["gpu2"].health = 503
    wait_for(lambda: ask(rig)[1] == "up=1 total=3 name=qwen3vl asker= out=gpu1 out=gpu2\n", what="the primaries out")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/fleet/"), ("GET", "/fleet/other"), ("GET", "/metrics"), ("POST", "/fleet/qwen3vl")],
)
def test_nothing_else_is_told(rig: Rig, method: str, path: str) -> None:
    three(rig)
    status, body, _type = ask(rig, path, method)
    assert status == 404
    assert "up=" not in body


def test_nobody_else_is_told(rig: Rig) -> None:
    three(rig)
    status, body, _type = ask(rig, source="127.0.0.9")
    assert (status, body) == (403, "Only for the balanced hosts; load_balancer_fleet_clients names others.\n")


def test_others_may_be_named(rig: Rig) -> None:
    three(rig, fleet_clients=["127.0.0.8/30"])
    assert ask(rig, source="127.0.0.9")[1] == "up=3 total=3 name=qwen3vl asker=\n"
    assert ask(rig, source="127.0.0.12")[0] == 403


def test_a_host_known_by_name_is_told_apart_by_what_the_balancers_host_knows(rig: Rig) -> None:
    rig.server("gpu1", address="127.0.0.1").address = "localhost"
    rig.balancer(fleet=True, addresses={"localhost": ["127.0.0.7", "::1"]})
    status, body, _type = ask(rig, source="127.0.0.7")
    assert (status, "name=qwen3vl asker=gpu1" in body) == (200, True)
    assert ask(rig, source="127.0.0.6")[0] == 403
