# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's port, over a real socket: what balancers and Prometheus are told, whoever else connects."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from vllm_keeper import __version__
from vllm_keeper.watch import board as boards
from vllm_keeper.watch import endpoint
from vllm_keeper.watch.board import FRESH, Board, Shown
from vllm_keeper.watch.endpoint import MOST, VERDICTS, Endpoint

WITHIN = 20.0
SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\["\\n])*",?)*)\})? (\S+)$')


class Port:
    def __init__(self, address: str = "127.0.0.1") -> None:
        self.board = Board()
        self.endpoint = Endpoint((address, 0), self.board)
        self.port = self.endpoint.server_port
        self._thread = threading.Thread(target=self.endpoint.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.endpoint.shutdown()
        self._thread.join()
        self.endpoint.server_close()

    def say(self, content: bytes, address: str = "127.0.0.1") -> bytes:
        with socket.create_connection((address, self.port), timeout=WITHIN) as link:
            link.sendall(content)
            return b"".join(iter(lambda: link.recv(65536), b""))

    def agent(self, name: str = "q") -> bytes:
        return self.say(f"agent {name}\n".encode())

    def get(self, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        connection.request(method, path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text, response.headers

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What Prometheus would make of /metrics; fails on a line that it would not take."""
        status, text, headers = self.get("/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert text.endswith("\n")
        found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        kinds: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split(" ")[2:]
                assert name not in kinds, f"{name} twice"
                kinds[name] = kind
            elif not line.startswith("# HELP "):
                match = SAMPLE.match(line)
                assert match, line
                family = match[1] if match[1] in kinds else re.sub(r"_(sum|count)$", "", match[1])
                assert kinds[family] in (("summary",) if family != match[1] else ("gauge", "counter")), line
                labels = re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', match[2] or "")
                key = (match[1].removeprefix("vllm_keeper_"), frozenset(labels))
                assert key not in found, f"{line} twice"
                found[key] = float(match[3])
        return found

    def sample(self, name: str, **labels: str) -> float:
        return self.samples()[name, frozenset(labels.items())]


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.close()


# --- the agent check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "word"),
    [
        ({"verdict": "healthy"}, b"up 100%\n"),
        ({"verdict": "busy"}, b"up 100%\n"),
        ({"verdict": "busy", "mute": True}, b"up 0% #mute\n"),
        ({"verdict": "hung", "mute": True}, b"down #hung\n"),
        ({"verdict": "healthy", "drained": "by hand"}, b"up 0% #draining\n"),
        ({"verdict": "hung", "drained": "by hand"}, b"up 0% #draining\n"),
        ({"verdict": "draining"}, b"up 0% #draining\n"),
        ({"verdict": "stopped"}, b"up 0% #stopped\n"),
        ({"verdict": "hung"}, b"down #hung\n"),
        ({"verdict": "dead"}, b"down #dead\n"),
        ({"verdict": "starting"}, b"down #starting\n"),
        ({"verdict": "parked"}, b"down #parked\n"),
        ({"verdict": "gpu_fault"}, b"down #gpu_fault\n"),
        ({"verdict": "unknown"}, b""),
        ({"verdict": "unknown", "drained": "by hand"}, b""),
    ],
)
def test_haproxy_is_told_exactly_this(port: Port, shown: dict[str, Any], word: bytes) -> None:
    port.board.show("q", **shown)
    assert port.agent() == word


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("drained", ["", "by hand"])
def test_never_a_word_that_undoes_what_a_person_set(port: Port, verdict: str, drained: str) -> None:
    port.board.show("q", verdict=verdict, drained=drained)
    assert not {b"ready", b"drain", b"maint", b"stopped"} & set(port.agent().split())
    port.endpoint.leaving = True
    assert not {b"ready", b"drain", b"maint", b"stopped"} & set(port.agent().split())


def test_nothing_is_said_of_who_is_not_watched(port: Port) -> None:
    assert port.agent("q") == b""
    port.board.show("q", verdict="healthy")
    assert port.agent("other") == b""


def test_without_a_name_it_is_the_only_one_or_nobody(port: Port) -> None:
    port.board.show("q", verdict="hung")
    assert port.say(b"agent\n") == b"down #hung\n"
    port.board.show("r", verdict="healthy")
    assert port.say(b"agent\n") == b""


def test_a_view_that_nobody_renews_is_told_to_nobody(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    port.board.show("q", verdict="healthy")
    late = boards.now() + FRESH + 1
    monkeypatch.setattr("vllm_keeper.watch.endpoint.now", lambda: late)
    assert port.agent() == b""
    status, text, _headers = port.get("/ready/q")
    assert (status, text) == (503, "q: not ready: unknown\n")
    assert port.sample("ready", instance="q") == 0


@pytest.mark.parametrize(
    ("shown", "word"),
    [
        ({"verdict": "healthy"}, b"up 100%\n"),
        ({"verdict": "hung"}, b"up 100%\n"),
        ({"verdict": "healthy", "drained": "by hand"}, b"up 0% #draining\n"),
    ],
)
def test_the_last_word_leaves_the_server_to_its_health_check(port: Port, shown: dict[str, Any], word: bytes) -> None:
    """HAProxy holds on to it for as long as no keeper is there; what somebody drained stays so."""
    port.board.show("q", **shown)
    port.endpoint.leaving = True
    assert port.agent() == word


def test_a_line_with_a_carriage_return_is_one_too(port: Port) -> None:
    port.board.show("q", verdict="healthy")
    assert port.say(b"agent q\r\n") == b"up 100%\n"


# --- /ready ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", VERDICTS)
def test_ready_is_200_only_if_a_request_would_be_answered(port: Port, verdict: str) -> None:
    port.board.show("q", verdict=verdict)
    good = verdict in ("healthy", "busy")
    told = (200, f"q: ready: {verdict}\n") if good else (503, f"q: not ready: {verdict}\n")
    assert port.get("/ready/q")[:2] == told
    assert port.get("/ready")[:2] == told


def test_what_is_drained_is_not_ready_and_says_by_whom(port: Port) -> None:
    port.board.show("q", verdict="healthy", drained="new GPU")
    assert port.get("/ready/q")[:2] == (503, "q: not ready: new GPU\n")


def test_of_several_all_must_be_ready_unless_one_is_asked_for(port: Port) -> None:
    port.board.show("q", verdict="healthy")
    port.board.show("r", verdict="hung")
    assert port.get("/ready")[:2] == (503, "q: ready: healthy\nr: not ready: hung\n")
    assert port.get("/ready/q")[0] == 200
    assert port.get("/ready/r")[0] == 503


def test_where_nobody_is_watched_nobody_is_ready(port: Port) -> None:
    assert port.get("/ready")[:2] == (503, "no instance is watched here\n")
    assert port.get("/ready/q")[:2] == (404, "q: not watched here\n")


@pytest.mark.parametrize("path", ["/", "/ready2", "/readyz", "/health", "/metrics/x", "/../etc/passwd"])
def test_other_paths_are_404_and_say_what_there_is(port: Port, path: str) -> None:
    port.board.show("q", verdict="healthy")
    assert port.get(path)[:2] == (404, "GET /ready, /ready/NAME or /metrics\n")


def test_a_slash_or_a_query_more_does_not_matter(port: Port) -> None:
    port.board.show("q", verdict="healthy")
    assert [port.get(path)[0] for path in ("/ready/", "/ready?x=1", "/ready/q/", "/metrics/")] == [200] * 4


def test_head_is_get_without_the_text_and_nothing_is_to_be_kept(port: Port) -> None:
    port.board.show("q", verdict="hung")
    status, text, headers = port.get("/ready/q", "HEAD")
    assert (status, text, headers["Content-Length"]) == (503, "", str(len("q: not ready: hung\n")))
    assert headers["Cache-Control"] == "no-store"


def test_it_changes_nothing_for_anybody(port: Port) -> None:
    port.board.show("q", verdict="healthy")
    before = port.board.all()
    assert [port.get("/ready/q", method)[0] for method in ("POST", "PUT", "DELETE", "PATCH")] == [501] * 4
    assert port.board.all() == before


# --- /metrics -------------------------------------------------------------------------------------------------


def test_metrics_say_what_is_known(port: Port) -> None:
    port.board.show(
        "q", verdict="hung", canaries={"ok": 5, "timeout": 1}, canary_seconds=1.25, repairs={"hung": 2, "dead": 1},
        detection=(3, 4.5, 1.0), recovery=(2, 60.0, 30.0), running=3.0, waiting=9.0, stalled=1.6, longest=0.4,
        longest_idle=0.3,
    )  # fmt: skip
    port.board.show("r", verdict="healthy", drained="by hand")
    port.board.host = {"disk /var": ("warning", "3 % free")}
    found = port.samples()

    def of(name: str, **labels: str) -> float:
        return found[name, frozenset({"instance": "q", **labels}.items())]

    assert found["info", frozenset({("version", __version__)})] == 1
    assert (of("ready"), of("requests_running"), of("requests_waiting")) == (0, 3, 9)
    assert (of("stalled_seconds"), of("longest_step_seconds"), of("canary_seconds_total")) == (1.6, 0.4, 1.25)
    assert of("longest_idle_step_seconds") == 0.3
    assert {verdict: of("verdict", verdict=verdict) for verdict in VERDICTS if of("verdict", verdict=verdict)} == {
        "hung": 1
    }
    assert (of("canaries_total", outcome="ok"), of("repairs_total", verdict="hung")) == (5, 2)
    assert (of("detection_seconds_count"), of("detection_seconds_sum")) == (3, 4.5)
    assert (of("recovery_seconds_count"), of("recovery_seconds_sum")) == (2, 60)
    assert 0 <= of("verdict_seconds") < WITHIN
    assert 0 <= of("look_age_seconds") < WITHIN
    assert (of("drained"), found["drained", frozenset({("instance", "r")})]) == (0, 1)
    assert found["ready", frozenset({("instance", "r")})] == 0, "drained"
    assert found["host_short", frozenset({("subject", "disk /var"), ("level", "warning")})] == 1
    assert found["cpu_seconds_total", frozenset()] > 0


def test_metrics_of_nobody_are_metrics_all_the_same(port: Port) -> None:
    assert {name for name, _labels in port.samples()} == {"info", "cpu_seconds_total"}


def test_a_label_may_hold_anything(port: Port) -> None:
    port.board.host = {'disk "a\\b"\nc': ("warning", "x")}
    (key,) = [key for key in port.samples() if key[0] == "host_short"]
    assert dict(key[1])["subject"] == r"disk \"a\\b\"\nc"


def test_large_counts_are_not_rounded(port: Port) -> None:
    port.board.show("q", canaries={"ok": 1_234_567_890})
    assert port.sample("canaries_total", instance="q", outcome="ok") == 1_234_567_890


def test_every_verdict_that_is_ever_shown_has_a_metric() -> None:
    assert Shown().verdict in VERDICTS
    assert len(VERDICTS) == len(set(VERDICTS)) == 10


# --- whoever else connects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\n", b"\r\n\r\n", b"agent q r s\n", b"agents\n", b"\0\xff\xfe\n", b"GET\n", b"GET /ready HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\n", b"x" * 70_000 + b"\n", b"GET /ready HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"agent \xff\xfe\n", b"GET /ready/%ff%00 HTTP/1.0\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_harms_nobody(port: Port, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    port.board.show("q", verdict="healthy")
    try:
        answer = port.say(content)
    except ConnectionResetError:
        answer = b""  # it sent more than anybody would read
    assert not answer.startswith(b"up")
    assert port.agent() == b"up 100%\n"
    assert capfd.readouterr().err == ""


def test_who_hangs_up_in_the_middle_is_no_news(port: Port, capfd: pytest.CaptureFixture[str]) -> None:
    port.board.show("q", verdict="healthy")
    for content in (b"", b"age", b"agent q\n", b"GET /metrics HTTP/1.1\r\n\r\n"):
        link = socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN)
        # With a reset, not an orderly end.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        link.sendall(content)
        link.close()
    assert port.agent() == b"up 100%\n"
    assert capfd.readouterr().err == ""


def test_who_connects_and_says_nothing_is_hung_up_on(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    port.board.show("q", verdict="healthy")
    with socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN) as silent:
        assert port.agent() == b"up 100%\n", "nobody waits for the silent one"
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN) as half:
        half.sendall(b"GET /ready HTTP/1.1\r\nHos")
        assert half.recv(1) == b""


def test_who_drips_a_byte_now_and_then_is_hung_up_on_too(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.3)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN) as dripping, contextlib.suppress(OSError):
        while time.monotonic() - began < WITHIN:
            dripping.sendall(b"G")
            dripping.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if dripping.recv(1) == b"":
                    break
    assert time.monotonic() - began < WITHIN, "held for as long as it liked"


def test_as_many_as_have_room_are_held_and_more_are_hung_up_on(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", WITHIN)
    port.board.show("q", verdict="healthy")
    silent = [socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN) for _ in range(MOST)]
    try:
        with socket.create_connection(("127.0.0.1", port.port), timeout=WITHIN) as one_more:
            assert one_more.recv(1) == b""
    finally:
        for link in silent:
            link.close()
    end = time.monotonic() + WITHIN
    while True:  # until their threads have seen that they are gone
        try:
            if port.agent() == b"up 100%\n":
                break
        except ConnectionError:
            pass
        assert time.monotonic() < end, "the room was not given back"
        time.sleep(0.02)


def test_many_at_once_are_all_answered(port: Port) -> None:
    port.board.show("q", verdict="healthy")
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(5):
            answers = (port.agent(), port.get("/ready/q")[0], port.get("/metrics")[0])
            if answers != (b"up 100%\n", 200, 200):
                wrong.append(answers)

    askers = [threading.Thread(target=ask) for _ in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(WITHIN)
    assert wrong == []
    assert not any(asker.is_alive() for asker in askers)


def test_all_addresses_of_both_families_where_it_is_asked_for() -> None:
    try:
        both = Port("::")
    except OSError:
        # A host without IPv6: there is nothing to listen on, which is told and does no other harm (daemon.py).
        assert not socket.has_ipv6 or not _has_ipv6()
        return
    try:
        both.board.show("q", verdict="healthy")
        assert both.agent() == b"up 100%\n"
        if _has_ipv6():
            assert both.say(b"agent q\n", "::1") == b"up 100%\n"
    finally:
        both.close()


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as link:
        try:
            link.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_port_that_is_taken_is_an_oserror(port: Port) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint(("127.0.0.1", port.port), Board())
