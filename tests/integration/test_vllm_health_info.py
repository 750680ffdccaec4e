# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm_health_info against real servers: the stand-in for vLLM, and servers that behave badly byte by byte."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _health_info as core
from ansible_collections.steadfast.vllm.plugins.modules import vllm_health_info as module
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from vllm_keeper.watch import endpoint
from vllm_keeper.watch.board import Board

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-hunter2"
MODELS = b'{"data": [{"id": "m", "max_model_len": 1024}]}'
COMPLETION = b'{"choices": [{"text": "x", "finish_reason": "length"}]}'

Link = t.Union[socket.socket, ssl.SSLSocket]
Behaviour = Callable[[Link, bytes], None]
Result = dict[str, t.Any]


def reply(status: int, body: bytes = b"", *headers: str) -> Behaviour:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda link, _request: link.sendall("\r\n".join(lines).encode() + body)


def hang(link: Link, _request: bytes) -> None:
    """Until the other side has had enough."""
    link.settimeout(60)
    link.recv(1)


def drip(start: bytes) -> Behaviour:
    def behave(link: Link, _request: bytes) -> None:
        link.sendall(start)
        for _ in range(600):
            link.sendall(b"a")
            time.sleep(0.05)

    return behave


def endless(link: Link, _request: bytes) -> None:
    link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        link.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def guarded(answer: Behaviour) -> Behaviour:
    def behave(link: Link, request: bytes) -> None:
        right = f"authorization: bearer {KEY}\r\n".encode() in request.lower()
        (answer if right else reply(401, f'{{"error": "not {KEY}"}}'.encode()))(link, request)

    return behave


VLLM: dict[str, Behaviour] = {
    "/health": reply(200),
    "/ping": reply(200),
    "/v1/models": reply(200, MODELS),
    "/version": reply(200, b'{"version": "0.32.0"}'),
    "/openapi.json": reply(200, b"{}" * 50_000),
    "/metrics": reply(200, b"x" * 40_000),
    "/v1/completions": reply(200, COMPLETION),
}


class Server:
    """Answers as its table says, each request in a thread of its own."""

    def __init__(self, table: dict[str, Behaviour], host: str, context: ssl.SSLContext | None) -> None:
        self.table, self.context, self.requests = table, context, list[bytes]()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=64)
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.one, args=(self.listener.accept()[0],), daemon=True).start()

    def one(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            if self.context is not None:
                link = self.context.wrap_socket(link, server_side=True)
            with link:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += link.recv(65536) or b"\r\n\r\n"
                    if request[:4] not in (b"GET ", b"POST"):
                        link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        return
                head, _, body = request.partition(b"\r\n\r\n")
                length = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                while length and len(body) < length[0]:
                    body += link.recv(65536)
                self.requests.append(request)
                path = request.split(b" ")[1].decode()
                self.table.get(path, self.table.get("*", reply(404, b'{"detail": "Not Found"}')))(link, request)

    def asked(self, path: str) -> list[bytes]:
        return [request for request in self.requests if request.split(b" ")[1] == path.encode()]


@contextlib.contextmanager
def serving(
    over: dict[str, Behaviour] | None = None, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server({**VLLM, **(over or {})}, host, context)
    try:
        yield server
    finally:
        server.listener.close()


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def look(port: int, **options: t.Any) -> Result:
    """What the module finds, in this process."""
    params = {name: option.get("default") for name, option in module.argument_spec().items()}
    params.update({"url": f"http://127.0.0.1:{port}", "timeout": 10, "canary_timeout": 10, **options})
    return core.conclude(module.Looker(params, real_runner()).look())


def run(**options: t.Any) -> tuple[int, Result, str]:
    """Exit status, result and all output of the module as Ansible runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.steadfast.vllm.plugins.modules.vllm_health_info"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": options}),
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stdout + done.stderr


def play(book: Path | str, *options: str, hosts: str = "localhost,") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.prefix, "bin", "ansible-playbook"), "-i", hosts, "-c", "local", book, *options],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def at(result: Result, path: str) -> Result:
    return next(dict(one) for one in result["endpoints"] if one["path"] == path)


# Servers that behave badly


def test_one_that_behaves() -> None:
    with serving() as server:
        result = look(server.port, canary="text")
    assert result["healthy"] and result["problems"] == []
    assert (result["served_models"], result["max_model_len"], result["version"]) == (["m"], 1024, "0.32.0")
    assert result["recommended_path"] == "/health"
    assert at(result, "/")["status"] == 404
    assert at(result, "/openapi.json")["unfit"][0] == "costs 100000 bytes each time"


@pytest.mark.parametrize(
    ("behave", "outcome"),
    [
        (hang, "timeout"),
        (drip(b"HTTP/1.1 200 OK\r\nX-Drip: "), "timeout"),
        (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n"), "timeout"),
        (drip(b"HTTP/1.1 200 OK\r\n\r\n"), "timeout"),
        (drip(b"HTTP/1.1 "), "timeout"),
        (lambda link, _request: link.sendall(b"SSH-2.0-hello\r\n\r\n"), "broken"),
        (lambda link, _request: link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "broken"),
        (lambda link, _request: link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"), "broken"),
        (lambda link, _request: link.sendall(b"HTTP/1.1 2OO OK\r\n\r\n"), "broken"),
        (lambda link, _request: None, "broken"),
    ],
)  # fmt: skip
def test_a_bad_answer_on_one_path_costs_its_deadline_and_hides_no_other(behave: Behaviour, outcome: str) -> None:
    with serving({"/health": behave}) as server:
        begun = time.monotonic()
        result = look(server.port, timeout=1.5)
        assert time.monotonic() - begun < 8
    assert at(result, "/health")["outcome"] == outcome
    assert at(result, "/health")["fits"] is None
    assert at(result, "/ping")["status"] == 200
    assert not result["healthy"]
    assert result["recommended_path"] == "/ping"


def test_all_paths_that_hang_cost_one_deadline() -> None:
    with serving(dict.fromkeys(core.PATHS, hang)) as server:
        begun = time.monotonic()
        result = look(server.port, canary="text", timeout=1.5)
        assert time.monotonic() - begun < 8  # one after the other it were 10.5
    assert len(result["problems"]) == 1 and "no whole answer within 1.5 s" in result["problems"][0]
    assert result["canary"]["sent"] is False and server.asked("/v1/completions") == []


def test_nobody_listens() -> None:
    port = free_port()
    result = look(port)
    assert result["problems"][0].startswith(f"http://127.0.0.1:{port}: connection refused: it is down or still loads")
    assert {one["outcome"] for one in result["endpoints"]} == {"refused"}


def test_a_name_that_nobody_knows() -> None:
    result = look(1, url="http://host.invalid:1")
    assert {one["outcome"] for one in result["endpoints"]} == {"unreachable"}
    assert "host.invalid" in result["problems"][0] and "correct url" in result["problems"][0]


def test_a_redirect_is_told_and_not_followed() -> None:
    with serving() as other:
        there = f"http://ada:{KEY}@127.0.0.1:{other.port}/elsewhere?token={KEY}"
        with serving(
            {"*": reply(301, b"", f"Location: {there}"), "/health": reply(302, b"", "Location: /x")}
        ) as server:
            result = look(server.port)
    assert other.requests == []
    assert at(result, "/health")["unfit"] == ["redirects, and balancers do not follow"]
    assert at(result, "/")["meaning"].startswith(f"redirects to http://127.0.0.1:{other.port}/elsewhere:")
    assert KEY not in json.dumps(result)


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/health"])
def test_an_endless_body_is_cut_off(path: str) -> None:
    with serving({path: endless}) as server:
        result = look(server.port)
    assert (at(result, path)["status"], at(result, path)["size"]) == (200, 1 << 20)
    assert "costs over 1048576 bytes each time" in at(result, path)["unfit"]
    assert result["recommended_path"] == ("/ping" if path == "/health" else "/health")


def test_a_page_for_every_path_is_not_taken_for_vllm() -> None:
    page = reply(200, b"<html>welcome</html>")
    with serving({**dict.fromkeys(VLLM, page), "*": page}) as server:
        result = look(server.port, canary="text")
    assert not result["healthy"]
    assert any("no list of models: it is not vLLM" in problem for problem in result["problems"])
    assert result["canary"]["sent"] is False


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with serving() as server:
        assert look(server.port)["healthy"]


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with serving(host="::1") as server:
        result = look(0, url=f"http://[::1]:{server.port}")
    assert result["healthy"] and b"Host: [::1]:" in server.requests[0]


def test_localhost_is_found_on_the_family_that_listens() -> None:
    with serving() as server:
        assert look(0, url=f"http://localhost:{server.port}")["healthy"]


def test_a_prefix_is_kept() -> None:
    with serving({f"/vllm{path}": behave for path, behave in VLLM.items()}) as server:
        assert look(0, url=f"http://127.0.0.1:{server.port}/vllm/", canary="text")["healthy"]
        assert all(request.split(b" ")[1].startswith(b"/vllm/") for request in server.requests)


# Keys


def test_the_key_goes_to_what_wants_it_and_nowhere_else() -> None:
    with serving({path: guarded(VLLM[path]) for path in ("/v1/models", "/v1/completions")}) as server:
        result = look(server.port, api_key=KEY, canary="text")
        keyed = {request.split(b" ")[1] for request in server.requests if KEY.encode() in request}
    assert result["healthy"] and result["served_models"] == ["m"]
    assert keyed == {b"/v1/models", b"/v1/completions"}
    assert len(server.asked("/v1/models")) == 2


def test_a_key_is_not_sent_to_a_server_that_wants_none_but_for_the_canary() -> None:
    with serving() as server:
        look(server.port, api_key=KEY)
        assert not any(KEY.encode() in request for request in server.requests)


def test_a_wrong_key_is_no_fault_of_the_server_but_of_its_canary() -> None:
    with serving({path: guarded(VLLM[path]) for path in ("/v1/models", "/v1/completions")}) as server:
        looked = look(server.port, api_key="wrong")
        asked = look(server.port, api_key="wrong", canary="text")
    assert looked["healthy"] and "not the key of this server" in looked["problems"][0]
    assert not asked["healthy"] and asked["canary"]["detail"] == "not sent: /v1/models names no model"


def test_a_key_that_a_server_repeats_is_shown_nowhere() -> None:
    with serving({"*": guarded(reply(200)), "/v1/models": reply(401, KEY.encode())}) as server:
        status, result, output = run(url=f"http://127.0.0.1:{server.port}", api_key=KEY)
    assert status == 0 and KEY not in output
    assert at(result, "/v1/models")["status"] == 401


# Canaries


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (hang, "the engine hangs"),
        (drip(b"HTTP/1.1 200 OK\r\n\r\n"), "the engine hangs"),
        (reply(500, b'{"error": {"message": "EngineCore encountered an issue"}}'), "EngineCore encountered an issue"),
        (reply(404), "canary: none"),
        (reply(200, b"garbage"), "no completion in it"),
        (reply(200, COMPLETION.replace(b"length", b"abort")), "shutting down"),
    ],
)
def test_a_canary_that_does_not_come_back(behave: Behaviour, says: str) -> None:
    with serving({"/v1/completions": behave}) as server:
        begun = time.monotonic()
        result = look(server.port, canary="text", canary_timeout=1)
        assert time.monotonic() - begun < 8
    assert not result["healthy"] and says in result["canary"]["detail"]
    assert at(result, "/health")["status"] == 200


def test_none_is_sent_to_a_server_whose_engine_has_died() -> None:
    with serving({"/health": reply(503)}) as server:
        result = look(server.port, canary="text")
        assert server.asked("/v1/completions") == []
    assert result["canary"]["detail"] == "not sent: /health is not 200"
    assert len(result["problems"]) == 1 and "the engine has died" in result["problems"][0]
    assert result["recommended_path"] == "/health"


# The stand-in for vLLM, with an engine and a worker of its own


@pytest.fixture(scope="module")
def standin() -> Iterator[tuple[int, int]]:
    """(port, pid)"""
    port = free_port()
    command = [str(ROOT / "tests/standin/vllm"), "serve", "/", "--port", str(port), "--host", "127.0.0.1"]
    settings = {"STANDIN_START_SECONDS": "0", "VLLM_API_KEY": KEY}
    process = subprocess.Popen(command, env={**os.environ, **settings}, start_new_session=True)
    try:
        end = time.monotonic() + 20
        while not look(port)["healthy"]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield port, process.pid
    finally:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def family(session: int) -> dict[int, str]:
    """pid and title of all processes of a session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(folder.name)) == session:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
    return found


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_the_stand_in_answers_each_canary(standin: tuple[int, int], kind: str) -> None:
    result = look(standin[0], api_key=KEY, canary=kind)
    assert result["healthy"] and result["canary"]["detail"] == "one token came back", result["problems"]
    assert at(result, "/v1/models")["status"] == 401 and at(result, "/")["status"] == 404


def test_a_hung_engine_is_seen_by_the_canary_alone(standin: tuple[int, int]) -> None:
    port, session = standin
    engine = next(pid for pid, title in family(session).items() if title == "VLLM::EngineCore")
    os.kill(engine, signal.SIGSTOP)
    try:
        without = look(port, api_key=KEY)
        with_canary = look(port, api_key=KEY, canary="text", canary_timeout=1)
    finally:
        os.kill(engine, signal.SIGCONT)
    assert without["healthy"]
    assert not with_canary["healthy"] and "the engine hangs" in with_canary["canary"]["detail"]
    assert with_canary["recommended_path"] == "/health"


# The keeper


def keeper(folder: Path, script: str) -> str:
    command = folder / "vllm-keeper"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return str(command)


@pytest.mark.parametrize(("verdict", "healthy"), [("healthy", True), ("hung", False), ("starting", False)])
def test_the_keeper_s_verdict(tmp_path: Path, verdict: str, healthy: bool) -> None:
    row = {"name": "q", "verdict": verdict, "healthy": healthy, "reason": "why", "next_action": "what", "pid": 4711}
    said = json.dumps({"instances": [row]})
    command = keeper(tmp_path, f"echo $* > {tmp_path}/asked; echo '{said}'; exit {0 if healthy else 1}")
    with serving() as server:
        result = look(server.port, keeper=True, name="q", keeper_command=command)
    assert (tmp_path / "asked").read_text() == "status --json q\n"
    assert result["keeper"] == row
    assert result["healthy"] is healthy
    assert result["problems"] == ([] if healthy else [f"keeper: {verdict}: why; next: what"])


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "is not on this host"),
        ("echo no such instance >&2; exit 78", "ended with 78 and no answer: no such instance"),
        ("sleep 60", "no answer within 0.5 s"),
    ],
)
def test_a_keeper_that_cannot_be_asked_is_no_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, says: str
) -> None:
    monkeypatch.setattr(module, "KEEPER_TIMEOUT", 0.5)
    command = keeper(tmp_path, f"exec {script}" if script == "sleep 60" else script) if script else f"{tmp_path}/none"
    with serving() as server:
        result = look(server.port, keeper=True, name="q", keeper_command=command)
    assert not result["healthy"]
    assert result["keeper"]["verdict"] == "unknown" and says in result["keeper"]["reason"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
@pytest.mark.parametrize("by", ["keeper_port", "keeper_url"])
def test_the_keeper_s_port_becomes_the_recommended_path(by: str, status: int, healthy: bool) -> None:
    with serving() as server, serving({"/ready/q": reply(status, b"q: not ready: hung\n")}) as port:
        value = port.port if by == "keeper_port" else f"http://127.0.0.1:{port.port}/"
        result = look(server.port, name="q", **{by: value})
    assert result["recommended_path"] == "/ready/q"
    assert result["health_check"] == {
        "path": "/ready/q", "port": str(port.port), "protocol": "HTTP", "matcher": "200",
    }  # fmt: skip
    assert result["healthy"] is healthy
    assert healthy or "status 503: q: not ready: hung" in result["problems"][0]


@pytest.mark.parametrize(("table", "says"), [({}, "no such instance"), ({"/ready/q": hang}, "no whole answer")])
def test_a_keeper_s_port_that_does_not_judge_is_not_recommended(table: dict[str, Behaviour], says: str) -> None:
    with serving() as server, serving(table) as port:
        result = look(server.port, name="q", keeper_port=port.port, timeout=1.5)
    assert result["recommended_path"] == "/health" and not result["healthy"]
    assert says in result["problems"][0]


def test_the_keeper_s_own_port_is_understood() -> None:
    board = Board()
    with endpoint.Endpoint(("127.0.0.1", 0), board) as real:
        serving_it = threading.Thread(target=real.serve_forever, daemon=True)
        serving_it.start()

        def ask(name: str) -> Result:
            with serving() as server:
                return look(server.port, name=name, keeper_port=real.server_port)

        board.show("q", verdict="healthy")
        good = ask("q")
        board.show("q", verdict="hung")
        bad, unknown = ask("q"), ask("other")
        real.shutdown()
        serving_it.join()
    assert good["healthy"] and good["recommended_path"] == "/ready/q"
    assert not bad["healthy"] and "q: not ready: hung" in bad["problems"][0]
    assert not unknown["healthy"] and unknown["recommended_path"] == "/health"
    assert "no such instance" in unknown["problems"][0]


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gpu1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *kind) + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


def tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_is_checked_unless_told_otherwise(certificate: Path) -> None:
    with serving(context=tls_server(certificate)) as server:
        url = f"https://127.0.0.1:{server.port}"
        trusted = look(0, url=url, ca_path=str(certificate), canary="text")
        unchecked = look(0, url=url, validate_certs=False)
        refused = look(0, url=url)
        plain = look(server.port)
    assert trusted["healthy"] and trusted["health_check"]["protocol"] == "HTTPS"
    assert unchecked["healthy"]
    assert not refused["healthy"] and "TLS: self" in refused["problems"][0] and "ca_path" in refused["problems"][0]
    assert not plain["healthy"] and "https://" in plain["problems"][0]


def test_tls_to_a_server_that_speaks_none() -> None:
    with serving() as server:
        result = look(0, url=f"https://127.0.0.1:{server.port}")
    assert not result["healthy"] and "http:// in url" in result["problems"][0]


@pytest.mark.parametrize(
    "behave", [hang, drip(b"HTTP/1.1 200 OK\r\nX-Drip: "), drip(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")]
)
def test_the_deadline_holds_under_tls(certificate: Path, behave: Behaviour) -> None:
    with serving({"/health": behave}, context=tls_server(certificate)) as server:
        begun = time.monotonic()
        result = look(0, url=f"https://127.0.0.1:{server.port}", timeout=1, validate_certs=False)
        assert time.monotonic() - begun < 8
    assert at(result, "/health")["outcome"] == "timeout"


def test_a_handshake_that_never_ends_has_the_same_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # the kernel takes the connections, nobody else
        begun = time.monotonic()
        result = look(0, url=f"https://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - begun < 8
    assert {one["outcome"] for one in result["endpoints"]} == {"timeout"}


# As Ansible runs it


def test_a_server_that_is_down_is_an_answer_unless_failing_is_wished() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    status, result, _output = run(url=url)
    assert (status, result["healthy"], result["changed"]) == (0, False, False)
    status, result, _output = run(url=url, fail=True)
    assert status == 1 and result["failed"] is True
    assert "connection refused: it is down or still loads its model" in result["msg"]
    assert result["endpoints"][0]["outcome"] == "refused"


def test_check_mode_looks_as_well() -> None:
    with serving() as server:
        status, result, _output = run(url=f"http://127.0.0.1:{server.port}", _ansible_check_mode=True)
    assert (status, result["healthy"], result["changed"]) == (0, True, False)
    assert "skipped" not in result


def test_until_waits_for_the_first_good_answer(tmp_path: Path) -> None:
    looks = iter([503, 503])

    def loading(link: Link, request: bytes) -> None:
        reply(next(looks, 200))(link, request)

    (example,) = (task for task in yaml.safe_load(module.EXAMPLES) if "until" in task)
    options = example["steadfast.vllm.vllm_health_info"]
    book = tmp_path / "wait.yml"
    with serving({"/health": loading}) as server:
        options["url"] = f"http://127.0.0.1:{server.port}"
        example.update({"delay": 0, "vars": {"ansible_python_interpreter": sys.executable}})
        book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [example]}]))
        done = play(book)
        asked = [len(server.asked(path)) for path in ("/health", "/v1/completions")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked == [3, 1]
    assert done.stdout.count("FAILED - RETRYING") == 2


def test_one_page_tells_the_state_of_every_instance_from_its_host_and_from_the_balancer(tmp_path: Path) -> None:
    row = {"name": "good", "verdict": "healthy", "healthy": True, "reason": "it answers", "next_action": "none"}
    command = keeper(tmp_path, f"echo '{json.dumps({'instances': [row]})}'")
    no_ssh = tmp_path / "ssh"
    no_ssh.write_text("#!/bin/sh\necho nobody there >&2\nexit 255\n")
    no_ssh.chmod(0o755)
    with serving({"/v1/models": guarded(reply(200, MODELS))}) as server, serving({"/ready/good": reply(200)}) as port:

        def host(name: str, at: int, **over: object) -> dict[str, object]:
            instance = {"name": name, "model": "/srv/m", "port": at, "api_key": KEY}
            return {"vllm_instances": [instance], "vllm_address": "127.0.0.1", **over}

        hosts = {
            "gpu1": host("good", server.port),
            "gpu2": host("down", free_port()),
            "gpu3": host("gone", 8003, ansible_connection="ssh", ansible_ssh_executable=str(no_ssh)),
        }
        common = {
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "vllm_keeper_port": port.port,
            "vllm_health_check": {"path": "/"},
            "status_keeper_command": command,
            "status_canary": "text",
        }
        inventory = tmp_path / "hosts.yml"
        groups = {"vllm": {"hosts": hosts}, "load_balancer": {"hosts": {"lb1": {}}}}
        inventory.write_text(yaml.safe_dump({"all": {"vars": common, "children": groups}}))
        told = play("steadfast.vllm.status", "-v", hosts=str(inventory))
        failed = play("steadfast.vllm.status", "-e", "status_fail=true", "--limit", "gpu2", hosts=str(inventory))
        canaries = len(server.asked("/v1/completions"))
    page = told.stdout + told.stderr
    assert told.returncode == 0, page
    assert f"from gpu1: good at http://127.0.0.1:{server.port}: healthy, vLLM 0.32.0, serves m" in page
    assert "from gpu2: down at http://127.0.0.1:" in page and "connection refused: it is down" in page
    assert "from gpu3: NOT KNOWN: " in page and "nobody there" in page.partition("from gpu3: ")[2]
    assert f"from lb1: good at http://127.0.0.1:{server.port}: healthy" in page
    assert "from lb1: gone at http://127.0.0.1:8003: NOT HEALTHY" in page
    assert "balancer_path: / does not fit" in page and f"ask /ready/good on port {port.port}" in page
    assert canaries == 1 and KEY not in page
    assert failed.returncode != 0 and "from gpu2: down at" in failed.stdout + failed.stderr
