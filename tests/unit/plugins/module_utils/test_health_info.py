# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server's answers mean, by tables of answers; what vLLM 0.32 answers stands in FINE."""

from __future__ import annotations

import base64
import json
import typing as t
import zlib
from dataclasses import replace

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _health_info as core
from ansible_collections.steadfast.vllm.plugins.module_utils._exchange import Answer
from hypothesis import given
from hypothesis import strategies as st

URL = "http://127.0.0.1:8000"
MODELS = json.dumps({"data": [{"id": "Qwen/Qwen3-VL-8B-Instruct", "max_model_len": 1024}, {"id": "lora"}]}).encode()


def status(number: int, body: bytes = b"", **over: t.Any) -> Answer:
    return Answer("answered", f"status {number}", number, 0.002, body, **over)


TIMEOUT = Answer("timeout", "no whole answer within 5 s", seconds=5)
REFUSED = Answer("refused", "connection refused")
FINE = {
    "/health": status(200),
    "/ping": status(200),
    "/v1/models": status(200, MODELS),
    "/": status(404, b'{"detail":"Not Found"}'),
    "/openapi.json": status(200, b"{}" * 60_000),
    "/version": status(200, b'{"version":"0.32.0"}'),
    "/metrics": status(200, b"x" * 40_000),
}
GUARDED = {**FINE, "/v1/models": status(401, b'{"error":"Unauthorized"}')}
CANARY_FINE = {
    "kind": "text",
    "ok": True,
    "sent": True,
    "status": 200,
    "seconds": 0.03,
    "detail": "one token came back",
}
KEEPER_FINE = {
    "name": "q",
    "verdict": "healthy",
    "healthy": True,
    "reason": "GET /health is 200",
    "next_action": "none",
}
READY = f"{URL.rsplit(':', 1)[0]}:9410/ready/q"


def seen(answers: dict[str, Answer] | None = None, /, **over: t.Any) -> core.Seen:
    changed = {path.replace("_", "/"): over.pop(path) for path in list(over) if path.startswith("_")}
    return core.Seen(URL, {**(answers or FINE), **changed}, name="q", **over)


def all_of(answer: Answer) -> dict[str, Answer]:
    return dict.fromkeys(core.PATHS, answer)


def test_a_vllm_as_it_should_be() -> None:
    result = core.conclude(seen(canary=CANARY_FINE, keeper=KEEPER_FINE))
    assert result["healthy"] and result["problems"] == []
    assert result["recommended_path"] == "/health"
    assert result["health_check"] == {"path": "/health", "port": "traffic-port", "protocol": "HTTP", "matcher": "200"}
    assert result["served_models"] == ["Qwen/Qwen3-VL-8B-Instruct", "lora"]
    assert (result["max_model_len"], result["version"]) == (1024, "0.32.0")
    assert {one["path"]: one["fits"] for one in result["endpoints"]} == {
        **dict.fromkeys(core.PATHS, False),
        "/health": True,
        "/ping": True,
    }
    assert "healthy, vLLM 0.32.0, serves Qwen/Qwen3-VL-8B-Instruct, lora (up to 1024 tokens)" in result["report"][0]


@pytest.mark.parametrize(
    ("case", "says", "mend"),
    [
        (seen(all_of(REFUSED)), "connection refused", "vllm-keeper status q"),
        (seen(all_of(TIMEOUT)), "no whole answer within 5 s", "firewall"),
        (seen(all_of(Answer("unreachable", "No route to host"))), "No route to host", "correct url"),
        (seen(all_of(Answer("broken", "no whole HTTP answer (BadStatusLine: SSH)"))), "SSH", "https://"),
        (seen(all_of(Answer("broken", "TLS: self-signed certificate"))), "self-signed", "ca_path"),
        (seen(_health=status(503)), "status 503: the engine has died", "vllm-keeper status q"),
        (seen(_health=TIMEOUT), "/health: no whole answer", "vllm-keeper status q"),
        (seen(_health=status(404)), "status 404: no such path", "url of vLLM itself"),
        (seen(_health=status(401)), "status 401: wants a key", "url of vLLM itself"),
        (seen(_health=status(301, location="https://x/health")), "redirects to https://x/health", "url of vLLM itself"),
        (seen(_v1_models=status(200, b"<html>")), "no list of models", "correct url"),
        (seen(_v1_models=status(200, b'{"data": []}')), "no list of models", "correct url"),
        (seen(_v1_models=status(404)), "/v1/models: no such path", "url of vLLM itself"),
        (seen(_v1_models=TIMEOUT), "/v1/models: no whole answer", "vllm-keeper status q"),
        (seen(canary=core.canary_result("text", TIMEOUT)), "the engine hangs", "vllm-keeper status q"),
        (seen(canary=core.canary_unsent("text", "/v1/models names no model")), "names no model", "see api_key"),
        (seen(keeper={**KEEPER_FINE, "verdict": "hung", "healthy": False}), "keeper: hung", "next: none"),
        (seen(ready=REFUSED, ready_url=READY), f"GET {READY}: connection refused", "systemctl status vllm-keeper"),
        (seen(ready=status(404), ready_url=READY), "status 404", "no such instance"),
        (seen(ready=status(500), ready_url=READY), "status 500", "correct keeper_port"),
        (seen(ready=status(503, b"hung: 1.6 s\n"), ready_url=READY), "hung: 1.6 s", "vllm-keeper status q"),
    ],
)  # fmt: skip
def test_what_keeps_it_from_being_healthy_is_told_once_with_its_mend(case: core.Seen, says: str, mend: str) -> None:
    result = core.conclude(case)
    assert not result["healthy"]
    assert [says in problem and mend in problem for problem in result["problems"]].count(True) == 1, result["problems"]
    assert "NOT HEALTHY" in result["report"][0]


def test_a_server_that_is_down_is_one_problem_not_one_for_each_path() -> None:
    down = seen(all_of(REFUSED), canary=core.canary_unsent("text", "/health is not 200"))
    assert len(core.conclude(down)["problems"]) == 1


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (seen(GUARDED), "api_key: give it"),
        (seen(GUARDED, keyed=GUARDED["/v1/models"], key_given=True), "not the key of this server"),
        (seen(_metrics=TIMEOUT), "/metrics: no whole answer"),
        (seen(_health=replace(status(200), seconds=2.5)), "took 2.5 s"),
        (seen(_health=status(200, b"<html>" * 999)), "5994 bytes"),
        (seen(balancer_path="/"), "balancer_path: / does not fit: status 404"),
        (seen(balancer_path="/v1/models"), "stays the same when the engine has died; set vllm_health_check: {path: /h"),
    ],
)
def test_what_is_odd_is_told_and_leaves_it_healthy(case: core.Seen, says: str) -> None:
    result = core.conclude(case)
    assert result["healthy"]
    assert any(says in problem for problem in result["problems"]), result["problems"]


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_a_balancer_that_asks_the_right_path_is_no_problem(path: str) -> None:
    assert core.conclude(seen(balancer_path=path))["problems"] == []


def test_the_key_shows_the_models() -> None:
    result = core.conclude(seen(GUARDED, keyed=FINE["/v1/models"], key_given=True))
    assert result["healthy"] and result["problems"] == []
    assert result["max_model_len"] == 1024
    models = next(one for one in result["endpoints"] if one["path"] == "/v1/models")
    assert (models["status"], models["meaning"]) == (401, "wants a key; with api_key: status 200")
    assert "wants a key, and balancers send none" in models["unfit"]


@pytest.mark.parametrize(
    ("path", "answer", "fits", "why"),
    [
        ("/health", status(200), True, ""),
        ("/health", status(503), True, ""),  # it does just what a check is for
        ("/health", status(500), False, "status 500"),
        ("/health", status(204), False, "status 204"),
        ("/health", status(302), False, "redirects"),
        ("/health", status(403), False, "wants a key"),
        ("/health", status(200, b"x" * 1024), True, ""),
        ("/health", status(200, b"x" * 1025), False, "costs 1025 bytes"),
        ("/health", status(200, b"", whole=False), False, "costs over"),
        ("/health", REFUSED, None, ""),
        ("/ping", status(200), True, ""),
        ("/", status(404), False, "status 404"),
        ("/", status(200), False, "when the engine has died"),
        ("/v1/models", status(200), False, "when the engine has died"),
        ("/metrics", status(200, b"x" * 40_000), False, "costs 40000 bytes"),
        ("/metrics", status(503), False, "status 503"),
        ("/lb-check", status(200), True, ""),
        ("/lb-check", status(503), False, "status 503"),
    ],
)
def test_which_path_fits_a_balancer(path: str, answer: Answer, fits: bool | None, why: str) -> None:
    told = core.endpoint(path, answer)
    assert told["fits"] is fits
    assert why in "; ".join(told["unfit"])


@pytest.mark.parametrize(
    ("answers", "path"),
    [
        (FINE, "/health"),
        ({**FINE, "/health": status(503), "/ping": status(503)}, "/health"),
        ({**FINE, "/health": status(404)}, "/ping"),
        ({**FINE, "/health": status(404), "/ping": status(404)}, None),
        ({**FINE, "/health": status(301), "/ping": TIMEOUT}, None),
        (all_of(REFUSED), "/health"),
        ({**FINE, "/health": TIMEOUT}, "/ping"),
    ],
)
def test_the_recommended_path(answers: dict[str, Answer], path: str | None) -> None:
    result = core.conclude(seen(answers))
    assert result["recommended_path"] == path
    assert (result["health_check"] is None) == (path is None)
    if path is None:
        assert any("no path here fits" in problem for problem in result["problems"])


@pytest.mark.parametrize("code", [200, 503])
def test_a_keeper_that_judges_is_what_a_balancer_should_ask(code: int) -> None:
    result = core.conclude(seen(ready=status(code, b"x"), ready_url=READY, balancer_path="/"))
    assert result["recommended_path"] == "/ready/q"
    assert result["health_check"] == {"path": "/ready/q", "port": "9410", "protocol": "HTTP", "matcher": "200"}
    assert result["healthy"] is (code == 200)
    assert any(line.endswith("{path: /ready/q, port: 9410}") for line in result["problems"])


def test_https_stays_https_in_the_check() -> None:
    https = replace(seen(), url="https://gpu1:8000")
    assert core.conclude(https)["health_check"]["protocol"] == "HTTPS"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b"{", b'{"data": {"id": "x"}}', b'{"data": [1, null, {"id": 7}, {"id": ""}]}',
     b"\xff\xfe", b"[" * 100_000, b'{"data": [{"name": "x"}]}'],
)  # fmt: skip
def test_no_list_of_models_is_no_crash(body: bytes) -> None:
    assert core.models(status(200, body)) == ([], None)
    assert core.version(status(200, body)) is None


@pytest.mark.parametrize("longest", [None, True, "1024", [1]])
def test_a_length_that_is_no_number_is_none(longest: object) -> None:
    body = json.dumps({"data": [{"id": "m", "max_model_len": longest}]}).encode()
    assert core.models(status(200, body)) == (["m"], None)


@given(st.dictionaries(st.sampled_from(list(core.PATHS)), st.tuples(st.integers(100, 599), st.binary(max_size=40))))
def test_no_answers_whatever_make_it_raise_or_contradict_itself(some: dict[str, tuple[int, bytes]]) -> None:
    result = core.conclude(seen({**FINE, **{path: status(*answer) for path, answer in some.items()}}))
    assert not result["healthy"] or result["endpoints"][0]["status"] == 200
    assert result["healthy"] or result["problems"]
    fitting = {one["path"] for one in result["endpoints"] if one["fits"]}
    assert result["recommended_path"] in fitting or (result["recommended_path"] is None and not fitting)


TEXT = b'{"choices": [{"text": "", "finish_reason": "length"}]}'
CHAT = b'{"choices": [{"message": {"role": "assistant", "content": null}, "finish_reason": "length"}]}'


@pytest.mark.parametrize(
    ("kind", "answer", "ok", "says"),
    [
        ("text", status(200, TEXT), True, "one token came back"),
        ("picture", status(200, CHAT), True, "one token came back"),
        ("text", status(200, CHAT), False, "not vLLM that answers"),
        ("picture", status(200, TEXT), False, "not vLLM that answers"),
        ("text", status(200, TEXT.replace(b"length", b"abort")), False, "cut off"),
        ("text", status(200, b'{"choices": []}'), False, "no completion in it"),
        ("text", status(200, b'{"choices": [[]]}'), False, "no completion in it"),
        ("text", status(200, b"garbage"), False, "no completion in it"),
        ("text", status(401), False, "give the instance's api_key"),
        ("text", status(404), False, "canary: none"),
        ("picture", status(400), False, "canary: text"),
        ("text", status(400), False, "status 400"),
        ("text", status(500), False, "the engine has died"),
        ("text", TIMEOUT, False, "the engine hangs"),
        ("text", REFUSED, False, "connection refused"),
    ],
)
def test_the_canary(kind: str, answer: Answer, ok: bool, says: str) -> None:
    result = core.canary_result(kind, answer)
    assert (result["ok"], result["kind"], result["sent"]) == (ok, kind, True)
    assert says in result["detail"]


def test_a_canary_is_one_token_and_its_picture_a_real_one() -> None:
    path, content = core.canary_request("text", "m")
    assert path == "/v1/completions" and content["max_tokens"] == 1 and content["model"] == "m"
    path, content = core.canary_request("picture", "m")
    assert path == "/v1/chat/completions" and content["max_tokens"] == 1
    url = content["messages"][0]["content"][0]["image_url"]["url"]
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    assert len(url) < 1000 and png[:8] == b"\x89PNG\r\n\x1a\n"
    start = png.index(b"IDAT") + 4
    pixels = zlib.decompress(png[start : start + int.from_bytes(png[start - 8 : start - 4], "big")])
    assert pixels == (b"\0" + b"\x80" * 3 * 64) * 64


def test_the_keeper_s_row_is_handed_on_whole() -> None:
    row = {**KEEPER_FINE, "pid": 4711, "parked": None}
    out = json.dumps({"version": 1, "instances": [{"name": "other"}, row]})
    assert core.keeper_row("q", "vllm-keeper", 0, out, "") == row


@pytest.mark.parametrize(
    ("out", "err"),
    [
        ("", "vllm-keeper: no such instance"),
        ("vllm-keeper: no such instance", ""),
        ('{"instances": [{"name": "other"}]} no such instance', ""),
        ('{"instances": {}}', "no such instance"),
        ('{"instances": [{"name": "q"}]}', "no such instance"),
    ],
)
def test_a_keeper_that_tells_nothing_is_told_with_its_words(out: str, err: str) -> None:
    row = core.keeper_row("q", "vllm-keeper", 78, out, err)
    assert (row["verdict"], row["healthy"]) == ("unknown", False)
    assert "ended with 78" in row["reason"] and "no such instance" in row["reason"] and "as root" in row["next_action"]


def test_the_page_names_every_path_and_what_was_asked_besides() -> None:
    page = "\n".join(
        core.conclude(seen(canary=CANARY_FINE, keeper=KEEPER_FINE, ready=status(200, b"healthy\n"), ready_url=READY))[
            "report"
        ]
    )
    assert all(f"  {path} " in page for path in core.PATHS)
    assert "keeper         healthy: GET /health is 200" in page
    assert f"keeper's port  200: healthy ({READY})" in page
    assert "canary         text: one token came back in 0.030 s" in page
    assert "a balancer should ask /ready/q on port 9410" in page
    down = "\n".join(core.conclude(seen(all_of(REFUSED)))["report"])
    assert "no answer to any of /health, /ping" in down and "a balancer should ask /health on the traffic port" in down
