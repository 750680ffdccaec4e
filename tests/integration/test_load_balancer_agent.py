# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the keeper's word does to a server, seen through a real HAProxy: agent-check beside the health check."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.tests.integration.balancer_rig import Balancer, Keeper, Rig, free_port, wait_for
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.endpoint import Endpoint

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the package haproxy")

# The three answers of a keeper, as docs/load-balancer.md has them.
SERVING = "up 100%"
DRAINING = "up 0% #draining"
HUNG = "down #hung"


@pytest.fixture
def rig(tmp_path: Path) -> t.Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.end()


def started(rig: Rig, agent_port: int, **changes: t.Any) -> Balancer:
    balancer = rig.balancer(agent=True, agent_port=agent_port, **changes)
    wait_for(
        lambda: all(balancer.told(name)["check_status"] == "L7OK" for name in rig.servers), what="every server checked"
    )
    return balancer


def one(rig: Rig, **changes: t.Any) -> tuple[Keeper, Balancer]:
    rig.server("gpu1")
    keeper = rig.keeper(SERVING)
    balancer = started(rig, keeper.port, **changes)
    wait_for(lambda: balancer.told("gpu1")["agent"] == "up", what="the keeper heard")
    return keeper, balancer


@contextlib.contextmanager
def streaming(balancer: Balancer, chunks: int) -> t.Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"/stream?n={chunks}")
        response = connection.getresponse()
        assert response.readline() == b"token 0\n"
        yield response


def test_a_hung_server_is_out_within_about_a_second_and_its_streams_go_on(rig: Rig) -> None:
    keeper, balancer = one(rig)
    rig.server("gpu2", address="127.0.0.2")  # without a keeper: its agent's port is refused
    reloaded = balancer.reload(rig.configuration(agent=True, agent_port=keeper.port))
    assert reloaded.returncode == 0, reloaded.stderr
    wait_for(lambda: balancer.told("gpu2")["agent"] == "silent", what="gpu2 asked in vain")
    wait_for(lambda: balancer.told("gpu1")["agent"] == "up", what="gpu1's keeper heard")

    balancer.api("set server qwen3vl/gpu2 state maint")
    with streaming(balancer, 30) as response:
        balancer.api("set server qwen3vl/gpu2 state ready")
        before = time.monotonic()
        keeper.says = HUNG
        wait_for(lambda: balancer.state_of("gpu1") == "DOWN (agent)", 5, "gpu1 out")
        # One interval of 1 s, spread by HAProxy by 5 %, and what a busy test machine adds.
        assert time.monotonic() - before < 2
        assert {balancer.request()[1] for _ in range(10)} == {"gpu2"}
        assert response.read().decode().splitlines()[-1] == "token 29"

    told = balancer.told("gpu1")
    assert (told["serving"], told["check_status"], told["agent"]) == (False, "L7OK", "down")
    assert told["agent_says"] == "via agent : down (hung)"
    keeper.say(SERVING)
    # At once, by one word: the health check has been good all the time.
    wait_for(lambda: balancer.told("gpu1")["serving"], 2, "gpu1 back")
    assert {balancer.request()[1] for _ in range(10)} == {"gpu1", "gpu2"}


def test_a_draining_server_gets_no_new_request_and_finishes_its_streams(rig: Rig) -> None:
    keeper, balancer = one(rig)
    with streaming(balancer, 30) as response:
        keeper.say(DRAINING)
        wait_for(lambda: balancer.told("gpu1")["agent"] == "draining", 2, "gpu1 drained")
        assert balancer.request()[0] == 503
        told = balancer.told("gpu1")
        assert (told["status"], told["serving"], told["requests"]) == ("UP", False, 1)
        assert response.read().decode().splitlines()[-1] == "token 29"
    keeper.say(SERVING)
    wait_for(lambda: balancer.request()[0] == 200, 2, "gpu1 back")


def test_the_keepers_word_brings_a_server_back_only_if_the_check_agrees(rig: Rig) -> None:
    keeper, balancer = one(rig)
    gpu1 = rig.servers["gpu1"]
    keeper.say(HUNG)
    gpu1.health = 503
    checks = gpu1.served["/health"]
    wait_for(lambda: gpu1.served["/health"] >= checks + 3, what="the check fails more often than it may")
    keeper.say(SERVING)
    wait_for(lambda: balancer.told("gpu1")["agent"] == "up", what="the keeper heard")
    assert balancer.state_of("gpu1").startswith("DOWN")
    assert balancer.request()[0] == 503
    gpu1.health = 200
    wait_for(lambda: balancer.told("gpu1")["serving"], what="gpu1 back")


def test_the_check_brings_a_server_back_only_if_the_keeper_agrees(rig: Rig) -> None:
    keeper, balancer = one(rig)
    rig.servers["gpu1"].health = 503
    wait_for(lambda: balancer.state_of("gpu1") == "DOWN", what="down by its check")
    keeper.say("down #starting")
    rig.servers["gpu1"].health = 200
    checks = rig.servers["gpu1"].served["/health"]
    wait_for(lambda: rig.servers["gpu1"].served["/health"] >= checks + 4, what="more checks than it takes")
    assert balancer.state_of("gpu1") == "DOWN (agent)"


@pytest.mark.parametrize("keeper", ["refuses", "says nothing", "hangs up"])
def test_without_a_keepers_word_the_check_alone_decides(rig: Rig, keeper: str) -> None:
    gpu1 = rig.server("gpu1")
    port = free_port() if keeper == "refuses" else rig.keeper("" if keeper == "hangs up" else None).port
    balancer = started(rig, port)
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="asked in vain")
    assert balancer.request()[0] == 200
    reloaded = balancer.reload()
    assert reloaded.returncode == 0, reloaded.stderr
    assert balancer.request()[0] == 200
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="asked in vain again")
    assert balancer.request()[0] == 200
    assert balancer.notices() == []

    gpu1.health = 503
    wait_for(lambda: balancer.state_of("gpu1") == "DOWN", what="down by its check")
    gpu1.health = 200
    wait_for(lambda: balancer.request()[0] == 200, what="back by its check")


def test_a_keeper_that_dies_while_its_server_serves_changes_nothing(rig: Rig) -> None:
    keeper, balancer = one(rig)
    keeper.die()
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="the keeper is gone")
    assert balancer.request()[0] == 200
    assert balancer.notices() == []


def test_a_keeper_that_does_not_know_yet_says_nothing_and_changes_nothing(rig: Rig) -> None:
    """As after its own restart: neither is a server that serves taken out, nor a hung one put back."""
    keeper, balancer = one(rig)
    keeper.say("")
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="hung up on")
    assert balancer.request()[0] == 200
    keeper.say(HUNG)
    wait_for(lambda: balancer.request()[0] == 503, 2, "gpu1 out")
    keeper.say("")
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="hung up on again")
    assert balancer.state_of("gpu1") == "DOWN (agent)"


@pytest.mark.parametrize(("word", "force"), [(HUNG, "agent up"), (DRAINING, "weight 100%")])
def test_the_last_word_of_a_dead_keeper_holds_until_it_is_overruled(rig: Rig, word: str, force: str) -> None:
    keeper, balancer = one(rig)
    keeper.say(word)
    wait_for(lambda: not balancer.told("gpu1")["serving"], 2, "gpu1 out")
    keeper.die()
    wait_for(lambda: balancer.told("gpu1")["agent"] == "silent", what="the keeper is gone")
    assert balancer.request()[0] == 503
    (notice,) = balancer.notices()
    assert notice.startswith("qwen3vl/gpu1: ")
    assert f"'set server qwen3vl/gpu1 {force}'" in notice
    balancer.api(f"set server qwen3vl/gpu1 {force}")
    wait_for(lambda: balancer.request()[0] == 200, 3, "back by hand")
    assert balancer.notices() == []


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_what_a_person_took_out_the_keeper_does_not_put_back(rig: Rig, state: str) -> None:
    keeper, balancer = one(rig)
    balancer.api(f"set server qwen3vl/gpu1 state {state}")
    for word in (SERVING, DRAINING, SERVING, HUNG, SERVING):
        keeper.say(word)
        keeper.say(word)  # asked again, so the first answer has been heard
    assert balancer.state_of("gpu1").startswith(state.upper())
    assert balancer.request()[0] == 503
    balancer.api("set server qwen3vl/gpu1 state ready")
    wait_for(lambda: balancer.request()[0] == 200, what="back by hand")


def test_why_a_keeper_never_says_ready(rig: Rig) -> None:
    """HAProxy takes "ready" for the end of every drain, also of one that a person ordered."""
    keeper, balancer = one(rig)
    balancer.api("set server qwen3vl/gpu1 state drain")
    assert balancer.request()[0] == 503
    keeper.say("up ready")
    wait_for(lambda: balancer.request()[0] == 200, 3, "put back against a person's will")


@pytest.mark.parametrize("answer", ["down#hung", "HTTP/1.1 400 Bad Request"])
def test_an_answer_that_is_not_understood_changes_nothing_and_is_told(rig: Rig, answer: str) -> None:
    """The reason begins with a sharp after a blank; without the blank HAProxy takes nothing of it."""
    keeper, balancer = one(rig)
    keeper.say(answer)
    wait_for(lambda: balancer.told("gpu1")["agent"] == "unclear", what="the answer heard")
    assert balancer.request()[0] == 200
    (notice,) = balancer.notices()
    assert "none of a keeper" in notice


def test_the_keeper_is_told_which_instance_is_meant(rig: Rig) -> None:
    keeper, _ = one(rig)
    assert set(keeper.asked) == {"agent qwen3vl\n"}


def test_with_all_servers_out_clients_get_503_not_a_hung_server(rig: Rig) -> None:
    """An ALB fails open then; HAProxy does not."""
    rig.server("gpu1")
    rig.server("gpu2", address="127.0.0.2")
    keepers = [rig.keeper(SERVING)]
    keepers.append(rig.keeper(SERVING, keepers[0].port, "127.0.0.2"))
    balancer = started(rig, keepers[0].port)
    for keeper in keepers:
        keeper.say(HUNG)
    wait_for(lambda: not any(balancer.told(name)["serving"] for name in rig.servers), 3, "both out")
    assert balancer.request()[0] == 503
    keepers[1].say(SERVING)
    wait_for(lambda: balancer.request()[:2] == (200, "gpu2"), 2, "gpu2 back")


@pytest.mark.parametrize("word", [HUNG, DRAINING])
def test_a_reload_does_not_put_back_what_the_keeper_took_out(rig: Rig, word: str) -> None:
    keeper, balancer = one(rig)
    keeper.say(word)
    wait_for(lambda: not balancer.told("gpu1")["serving"], 2, "gpu1 out")
    reloaded = balancer.reload()
    assert reloaded.returncode == 0, reloaded.stderr
    # At once, before the keeper was asked again, and after it was.
    assert balancer.request()[0] == 503
    keeper.say(word)
    assert balancer.request()[0] == 503
    keeper.say(SERVING)
    wait_for(lambda: balancer.request()[0] == 200, what="gpu1 back")


@pytest.mark.parametrize("word", [HUNG, DRAINING])
def test_a_balancer_that_no_longer_asks_forgets_what_it_heard(rig: Rig, word: str) -> None:
    keeper, balancer = one(rig)
    keeper.say(word)
    wait_for(lambda: not balancer.told("gpu1")["serving"], 2, "gpu1 out")
    reloaded = balancer.reload(rig.configuration(agent=False))
    assert reloaded.returncode == 0, reloaded.stderr
    wait_for(lambda: balancer.request()[0] == 200, what="back by its check alone")
    assert balancer.told("gpu1")["agent"] == "none"


def test_a_changed_port_is_used_after_a_reload(rig: Rig) -> None:
    """HAProxy's own state file would bring the old ports back."""
    keeper, balancer = one(rig)
    gone = rig.servers["gpu1"]
    rig.server("gpu1")  # another port, the same name
    other = rig.keeper(SERVING)
    check = rig.server("keeper of gpu1")
    del rig.servers["keeper of gpu1"]
    reloaded = balancer.reload(
        rig.configuration(agent=True, agent_port=other.port, health_check={"port": str(check.port)})
    )
    assert reloaded.returncode == 0, reloaded.stderr
    gone.die()
    keeper.die()
    assert balancer.request()[0] == 200
    assert balancer.told("gpu1")["address"].endswith(f":{rig.servers['gpu1'].port}")
    other.say(SERVING)
    wait_for(lambda: check.served["/health"] > 0, what="the check asks the other port")

    back = rig.configuration(agent=True, agent_port=other.port)
    assert balancer.reload(back).returncode == 0
    before = rig.servers["gpu1"].served["/health"]
    wait_for(lambda: rig.servers["gpu1"].served["/health"] > before, what="the check asks the traffic port again")


@pytest.fixture
def endpoint() -> t.Iterator[Endpoint]:
    """The keeper's own port, rather than the rig's stand-in for it."""
    made = Endpoint(("127.0.0.1", 0), Board())
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_what_the_keepers_own_port_says_is_what_haproxy_does(rig: Rig, endpoint: Endpoint) -> None:
    rig.server("gpu1")
    board = endpoint.board
    board.show("qwen3vl", verdict="healthy")
    board.show("another", verdict="hung")  # the answer is that of the instance that was asked for
    balancer = started(rig, endpoint.server_port)
    wait_for(lambda: balancer.told("gpu1")["agent"] == "up", what="the keeper heard")

    def serves(status: int, agent: str, what: str) -> None:
        wait_for(lambda: balancer.told("gpu1")["agent"] == agent, what=f"{what}: {agent}")
        wait_for(lambda: balancer.request()[0] == status, what=f"{what}: {status}")

    for verdict in ("hung", "gpu_fault"):
        board.show("qwen3vl", verdict=verdict)
        serves(503, "down", verdict)
        assert balancer.told("gpu1")["agent_says"] == f"via agent : down ({verdict})"
        assert balancer.state_of("gpu1") == "DOWN (agent)"
        board.show("qwen3vl", verdict="busy")
        serves(200, "up", f"back from {verdict}")

    with streaming(balancer, 30) as response:
        board.show("qwen3vl", drained="by hand")
        serves(503, "draining", "drained")
        assert response.read().decode().splitlines()[-1] == "token 29", "who was served is served to the end"
    board.show("qwen3vl", drained="")
    serves(200, "up", "resumed")

    board.show("qwen3vl", verdict="stopped")
    serves(503, "draining", "stopped")
    board.show("qwen3vl", verdict="healthy")
    serves(200, "up", "started")

    # A keeper that has just been started knows nothing yet, says nothing, and so changes nothing.
    board.show("qwen3vl", verdict="unknown")
    serves(200, "silent", "unknown")
    board.show("qwen3vl", verdict="hung")
    serves(503, "down", "hung")
    board.show("qwen3vl", verdict="unknown")
    serves(503, "silent", "unknown again")

    # One that is stopped in order leaves the server to its health check, for as long as no keeper is there.
    board.show("qwen3vl", verdict="hung")
    serves(503, "down", "hung again")
    endpoint.leaving = True
    serves(200, "up", "its last word")
    assert balancer.notices() == []
