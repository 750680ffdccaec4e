# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes against servers that behave badly, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from vllm_keeper import probe

from tests.unit.keeper import support

Behaviour = Callable[[socket.socket, str], None]


@pytest.mark.parametrize(
    ("behave", "kind", "said"),
    [
        (support.healthy, "ok", "200 in"),
        (support.status_503, "status", "status 503 (engine is dead)"),
        (support.hanging, "timeout", "no whole answer within 0.3 s"),
        (support.dripping_headers, "timeout", "no whole answer"),
        (support.dripping_body, "timeout", "no whole answer"),
        (support.garbage, "broken", "BadStatusLine"),
        (lambda link, _path: link.shutdown(socket.SHUT_RDWR), "broken", "RemoteDisconnected"),
    ],
)
def test_each_behaviour_has_its_kind_within_the_deadline(behave: Behaviour, kind: str, said: str) -> None:
    with support.serving(behave) as server:
        begun = time.monotonic()
        answer = probe.Server(f"http://127.0.0.1:{server.port}").get("/health", 0.3)
        assert time.monotonic() - begun < 1.5
    assert answer.kind == kind
    assert said in answer.detail


def test_nobody_listens() -> None:
    answer = probe.Server(f"http://127.0.0.1:{support.free_port()}").get("/health", 1)
    assert answer.kind == "refused"


def test_a_name_that_resolves_to_nothing_is_an_answer_not_a_crash() -> None:
    assert probe.Server("http://host.invalid:1").get("/health", 1).kind == "broken"


def test_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with listener:
        port = listener.getsockname()[1]
        listener.settimeout(2)
        answer = probe.Server(f"http://[::1]:{port}").get("/health", 0.2)
        assert answer.kind == "timeout"  # accepted by the kernel, answered by nobody


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with support.serving(support.healthy) as server:
        assert probe.Server(f"http://127.0.0.1:{server.port}").get("/health", 1).kind == "ok"


def test_the_key_goes_where_it_is_needed_and_nowhere_else() -> None:
    with support.serving(support.healthy) as server:
        asked = probe.Server(f"http://127.0.0.1:{server.port}", "sk-1")
        asked.get("/health", 1)
        assert probe.completion(asked, 2).kind == "ok"
        keyed = {text.split(" ")[1]: "Authorization: Bearer sk-1" in text for text in server.requests}
    assert keyed == {"/health": False, "/v1/models": True, "/v1/completions": True}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/models", b"{}", "broken"),
        ("/v1/models", b'{"data": []}', "broken"),
        ("/v1/models", b"null", "broken"),
        ("/v1/completions", b'{"choices": []}', "broken"),
        ("/v1/completions", b"not json", "broken"),
    ],
)
def test_a_completion_is_only_what_has_one(path: str, body: bytes, kind: str) -> None:
    def behave(link: socket.socket, asked: str) -> None:
        if asked == path:
            link.sendall(support.answer(200, body))
        else:
            support.healthy(link, asked)

    with support.serving(behave) as server:
        assert probe.completion(probe.Server(f"http://127.0.0.1:{server.port}"), 2).kind == kind


def test_models_that_answer_late_leave_less_time_for_the_completion() -> None:
    def behave(link: socket.socket, asked: str) -> None:
        if asked == "/v1/completions":
            support.hanging(link, asked)
        support.healthy(link, asked)

    with support.serving(behave) as server:
        begun = time.monotonic()
        answer = probe.completion(probe.Server(f"http://127.0.0.1:{server.port}"), 0.5)
        assert (answer.kind, time.monotonic() - begun < 1.5) == ("timeout", True)


def test_the_guides_loop() -> None:
    answers = iter([503, 503, 200])
    slept: list[float] = []
    with support.serving(lambda link, _path: link.sendall(support.answer(next(answers)))) as server:
        answer, tries = probe.health(
            probe.Server(f"http://127.0.0.1:{server.port}"), "/health", 3, 5, 1, sleep=slept.append
        )
    assert (answer.kind, tries, slept) == ("ok", 3, [5, 5])


def test_after_the_last_try_nothing_is_slept() -> None:
    slept: list[float] = []
    server = probe.Server(f"http://127.0.0.1:{support.free_port()}")
    answer, tries = probe.health(server, "/health", 3, 5, 1, sleep=slept.append)
    assert (answer.kind, tries, slept) == ("refused", 3, [5, 5])
