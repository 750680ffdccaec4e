# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the balancer does to requests, seen through a real HAProxy."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.tests.integration.balancer_rig import Balancer, Rig, wait_for

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the package haproxy")


@pytest.fixture
def rig(tmp_path: Path) -> t.Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.end()


def served_by(balancer: Balancer, requests: int = 10) -> set[str | None]:
    answers = [balancer.request("POST", "/v1/chat/completions") for _ in range(requests)]
    assert {status for status, _, _ in answers} == {200}
    return {name for _, _, name in answers}


def both_up(balancer: Balancer) -> bool:
    return all(row["status"] == "UP" and row["check_status"] == "L7OK" for row in balancer.stats().values())


def test_every_healthy_host_serves_and_is_named(rig: Rig) -> None:
    rig.server("gpu1")
    rig.server("gpu2")
    balancer = rig.balancer()
    wait_for(lambda: both_up(balancer), what="both up")

    for _ in range(6):
        status, body, name = balancer.request()
        assert (status, body) == (200, name)
    assert served_by(balancer) == {"gpu1", "gpu2"}


def test_the_header_can_be_left_out(rig: Rig) -> None:
    rig.server("gpu1")
    balancer = rig.balancer(variables={"load_balancer_served_by_header": False})
    assert balancer.request() == (200, "gpu1", None)


def test_a_host_goes_after_the_unhealthy_threshold_and_returns_after_the_healthy_one(rig: Rig) -> None:
    gpu1, _ = rig.server("gpu1"), rig.server("gpu2")
    balancer = rig.balancer(health_check={"healthy_threshold": 3, "unhealthy_threshold": 2})
    wait_for(lambda: both_up(balancer), what="both up")

    before = gpu1.served["/health"]
    gpu1.health = 503
    wait_for(lambda: balancer.state_of("gpu1") == "DOWN", what="gpu1 out")
    assert gpu1.served["/health"] - before == 2
    assert balancer.stats()["gpu1"]["check_status"] == "L7STS"
    assert served_by(balancer) == {"gpu2"}

    before = gpu1.served["/health"]
    gpu1.health = 200
    wait_for(lambda: balancer.state_of("gpu1") == "UP", what="gpu1 back")
    assert gpu1.served["/health"] - before == 3
    assert served_by(balancer) == {"gpu1", "gpu2"}


def test_a_standby_serves_only_while_no_primary_can(rig: Rig) -> None:
    gpu1, _ = rig.server("gpu1"), rig.server("gpu2")
    balancer = rig.balancer(mode="primary_standby", standby=["gpu2"])
    wait_for(lambda: both_up(balancer), what="both up")
    assert served_by(balancer) == {"gpu1"}

    gpu1.health = 503
    wait_for(lambda: balancer.state_of("gpu1") == "DOWN", what="the primary out")
    assert served_by(balancer) == {"gpu2"}

    gpu1.health = 200
    wait_for(lambda: balancer.state_of("gpu1") == "UP", what="the primary back")
    assert served_by(balancer) == {"gpu1"}


def test_the_root_as_health_path_shows_both_down_with_404(rig: Rig) -> None:
    rig.server("gpu1")
    rig.server("gpu2")
    balancer = rig.balancer(health_check={"path": "/"})
    wait_for(lambda: {row["status"] for row in balancer.stats().values()} == {"DOWN"}, what="both down")

    for row in balancer.stats().values():
        assert (row["check_status"], row["check_code"]) == ("L7STS", "404")
    assert balancer.request()[0] == 503


@pytest.mark.parametrize(("matcher", "answer", "state"), [("200-299", 204, "UP"), ("200,202", 201, "DOWN")])
def test_the_matcher_decides_which_answers_are_good(rig: Rig, matcher: str, answer: int, state: str) -> None:
    gpu1 = rig.server("gpu1")
    gpu1.health = answer
    balancer = rig.balancer(health_check={"matcher": matcher})
    wait_for(lambda: gpu1.served["/health"] >= 3, what="three checks")
    assert balancer.state_of("gpu1") == state


def test_a_tcp_check_asks_nothing(rig: Rig) -> None:
    gpu1 = rig.server("gpu1")
    gpu1.health = 503
    balancer = rig.balancer(health_check={"protocol": "TCP", "path": None, "matcher": None})
    wait_for(lambda: balancer.stats()["gpu1"]["check_status"] == "L4OK", what="a check")
    assert balancer.state_of("gpu1") == "UP"
    assert gpu1.served["/health"] == 0


def test_checks_can_ask_another_port(rig: Rig) -> None:
    gpu1, side = rig.server("gpu1"), Rig(rig.folder)
    keeper = side.server("keeper")
    try:
        keeper.health = 503
        balancer = rig.balancer(health_check={"port": str(keeper.port)})
        wait_for(lambda: balancer.state_of("gpu1") == "DOWN", what="down by the other port's word")
        assert gpu1.served["/health"] == 0
    finally:
        side.end()


def test_a_dead_host_costs_no_request_before_the_checks_notice(rig: Rig) -> None:
    gpu1, gpu2 = rig.server("gpu1"), rig.server("gpu2")
    balancer = rig.balancer(health_check={"interval": 30, "unhealthy_threshold": 10})
    # A server whose very first check fails is down at once, whatever the threshold.
    wait_for(lambda: balancer.stats()["gpu1"]["check_status"] == "L7OK", what="the first check")
    gpu1.die()

    assert served_by(balancer, 20) == {"gpu2"}
    assert balancer.state_of("gpu1") == "UP"  # so it was the second try that saved them, not the checks
    assert gpu2.served["/v1/chat/completions"] == 20


def test_a_request_that_was_sent_is_never_repeated(rig: Rig) -> None:
    gpu1, gpu2 = rig.server("gpu1"), rig.server("gpu2")
    balancer = rig.balancer()
    wait_for(lambda: both_up(balancer), what="both up")

    assert balancer.request("POST", "/poison")[0] == 502
    assert gpu1.served["/poison"] + gpu2.served["/poison"] == 1


def test_a_client_that_hangs_up_is_hung_up_on_the_server(rig: Rig) -> None:
    gpu1 = rig.server("gpu1")
    balancer = rig.balancer()
    with socket.create_connection(("127.0.0.1", balancer.port), timeout=5) as client:
        client.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        wait_for(lambda: gpu1.served["/slow"] == 1, what="the request arrived")
    assert gpu1.given_up.wait(5)


def test_tokens_come_one_by_one(rig: Rig) -> None:
    rig.server("gpu1")
    balancer = rig.balancer()
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    connection.request("GET", "/stream?n=10")
    response = connection.getresponse()
    started, moments = time.monotonic(), []
    while response.readline():
        moments.append(time.monotonic() - started)
    connection.close()
    # Sent 0.1 s apart; held back until a packet is full they would come all at once, at the end.
    assert len(moments) == 10
    assert moments[4] < 0.65 < moments[9]


def test_a_reload_keeps_streams_states_and_the_drained(rig: Rig) -> None:
    rig.server("gpu1")
    gpu2 = rig.server("gpu2")
    rig.server("gpu3")
    balancer = rig.balancer(health_check={"healthy_threshold": 10})
    wait_for(lambda: both_up(balancer), what="all up")
    gpu2.health = 503
    wait_for(lambda: balancer.state_of("gpu2") == "DOWN", what="gpu2 out")
    balancer.api("set server qwen3vl/gpu3 state drain")

    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    connection.request("GET", "/stream?n=30")
    response = connection.getresponse()
    assert response.readline() == b"token 0\n"
    before = balancer.api("show info")
    reloaded = balancer.reload()
    assert reloaded.returncode == 0, reloaded.stderr
    assert balancer.api("show info") != before

    # At once, before any check of the new process could have failed.
    assert balancer.state_of("gpu1") == "UP"
    assert balancer.state_of("gpu2") == "DOWN"
    assert balancer.state_of("gpu3").startswith("DRAIN")
    assert served_by(balancer, 20) == {"gpu1"}
    assert response.read().decode().splitlines()[-1] == "token 29"
    connection.close()


def test_a_reload_under_load_loses_no_request(rig: Rig) -> None:
    rig.server("gpu1")
    rig.server("gpu2")
    balancer = rig.balancer()
    wait_for(lambda: both_up(balancer), what="both up")
    done, failures, sent = threading.Event(), [], [0] * 4

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
        while not done.is_set():
            try:
                connection.request("POST", "/v1/completions", body=b"{}")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    failures.append(f"{response.status}")
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
            sent[number] += 1
            time.sleep(0.005)
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for each in clients:
        each.start()
    for _ in range(3):
        assert balancer.reload().returncode == 0
        time.sleep(0.5)
    done.set()
    for each in clients:
        each.join()
    assert failures == []
    assert min(sent) > 20


def test_a_reload_that_does_not_take_is_reported_and_the_old_one_goes_on(rig: Rig) -> None:
    rig.server("gpu1")
    balancer = rig.balancer()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        text = balancer.config.read_text().replace(f":{rig.port}\n", f":{taken}\n")
        reloaded = balancer.reload(text, patience=3)
    assert reloaded.returncode == 1
    assert "still in charge, with the old configuration" in reloaded.stderr
    assert balancer.request() == (200, "gpu1", "gpu1")


def test_the_balancer_hangs_up_before_the_server_does(rig: Rig) -> None:
    # The margins of the real thing (75 s here, 60 s there, 5 s between two looks) scaled to seconds.
    gpu1 = rig.server("gpu1", keep_alive=8)
    balancer = rig.balancer(server_keep_alive=8, keep_alive=7)
    clients = [http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10) for _ in range(8)]
    for _ in range(2):
        for client in clients:
            client.request("POST", "/v1/completions", body=b"{}")
        for client in clients:
            response = client.getresponse()
            assert response.status == 200
            response.read()
    assert len(gpu1.connections) >= 1
    wait_for(lambda: not gpu1.connections, 7.5, what="unused connections closed by the balancer")
    assert gpu1.hung_up_first == 0
    for client in clients:
        client.close()


def test_a_server_that_hangs_up_early_causes_no_502(rig: Rig) -> None:
    """vLLM's web server forgets an idle connection in an instant; clients pause for about as long."""
    gpu1 = rig.server("gpu1", keep_alive=0.3)
    balancer = rig.balancer()
    statuses: list[int] = []
    lost: list[str] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
        for turn in range(12):
            try:
                connection.request("POST", "/v1/completions", body=b"{}")
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                lost.append(repr(error))
                connection.close()
            time.sleep(0.296 + (number * 12 + turn) % 24 * 0.0005)
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert gpu1.hung_up_first > 0
    assert set(statuses) == {200}
    # Lost without an answer is what HTTP lets a client repeat; it has to be rare all the same.
    assert len(lost) <= len(statuses) // 20


def test_statistics_and_metrics_are_on_loopback_only(rig: Rig) -> None:
    rig.server("gpu1")
    balancer = rig.balancer()
    connection = http.client.HTTPConnection("127.0.0.1", balancer.stats_port, timeout=5)
    connection.request("GET", "/metrics")
    assert b'haproxy_server_status{proxy="qwen3vl",server="gpu1"' in connection.getresponse().read()
    connection.close()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        # No packet is sent: this only asks which of this machine's addresses would be used.
        route.connect(("192.0.2.1", 9))
        own = route.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no address besides loopback")
    with socket.socket() as outside:
        outside.settimeout(2)
        assert outside.connect_ex((own, balancer.stats_port)) != 0


def test_only_root_may_use_the_runtime_api(rig: Rig) -> None:
    rig.server("gpu1")
    rig.balancer()
    seen = (rig.folder / "admin.sock").stat()
    assert (seen.st_mode & 0o777, seen.st_uid, seen.st_gid) == (0o660, 0, 0)
