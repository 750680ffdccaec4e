# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the answers of a vLLM server mean, and which path a balancer should ask (private to this collection). Pure.

What vLLM does was seen on 0.32: /health and /ping alone turn 503 when the engine has died, every other path stays 200;
all of them stay 200 while it hangs, which only a completion shows.
"""

from __future__ import annotations

import base64
import json
import struct
import typing as t
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.steadfast.vllm.plugins.module_utils import _exchange
from ansible_collections.steadfast.vllm.plugins.module_utils._exchange import Answer

MODELS = "/v1/models"
# A check is sent every few seconds by every node of a balancer; vLLM's own answer to /health has no body at all.
LARGEST_CHECK_BODY = 1024
SLOW = 1.0
KEY_WANTED = (401, 403)


@dataclass(frozen=True)
class Known:
    """One of vLLM's paths."""

    means: str
    shows_engine: bool = False


# In the order of the guide's table.
PATHS: Mapping[str, Known] = {
    "/health": Known("the API answers and its engine has not died; it may hang", shows_engine=True),
    "/ping": Known("the same as /health, under SageMaker's name", shows_engine=True),
    MODELS: Known("the API answers and names its models"),
    "/": Known("something answers at the root, where vLLM has nothing"),
    "/openapi.json": Known("the API describes itself, for people and tools"),
    "/version": Known("the API tells its version"),
    "/metrics": Known("the API tells its counters, for monitoring"),
}
# What is no fault.
EXPECTED: Mapping[tuple[str, int | None], str] = {
    ("/", 404): "right for vLLM, which has nothing here; a balancer that asks it takes every server out",
    ("/openapi.json", 404): "switched off (--disable-fastapi-docs), or not vLLM",
}


@dataclass(frozen=True)
class Seen:
    """All that was asked and what came back."""

    url: str
    answers: Mapping[str, Answer]  # by path, asked as a balancer asks: without a key
    name: str = ""
    keyed: Answer | None = None  # /v1/models with the key
    key_given: bool = False
    canary: Mapping[str, t.Any] | None = None
    keeper: Mapping[str, t.Any] | None = None
    ready_url: str = ""
    ready: Answer | None = None
    balancer_path: str = ""


@dataclass
class Findings:
    """What is wrong: those that keep the instance from being healthy, and the others."""

    grave: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def paths(balancer_path: str = "") -> list[str]:
    return [*PATHS, balancer_path] if balancer_path and balancer_path not in PATHS else list(PATHS)


def meaning(path: str, answer: Answer, with_key: Answer | None = None) -> str:
    """In words, for one path."""
    known, status = PATHS.get(path), answer.status
    if (path, status) in EXPECTED:
        return EXPECTED[path, status]
    if status == 200:
        return known.means if known else "not one of vLLM's own paths"
    if status == 503 and known and known.shows_engine:
        return "the engine has died, or the server is shutting down"
    if status in KEY_WANTED:
        return "wants a key" + (f"; with api_key: {with_key.detail}" if with_key else "")
    if status is not None and 300 <= status < 400:
        return f"redirects to {answer.location or 'nowhere'}: something stands in front of vLLM"
    return "no such path: not vLLM's API, or not at this url" if status == 404 else answer.detail


def unfit(path: str, answer: Answer) -> list[str] | None:
    """Why a balancer's check should not ask this path; empty if it may, None where no answer tells."""
    status = answer.status
    if status is None:
        return None
    known = PATHS.get(path)
    reasons = []
    if status in KEY_WANTED:
        reasons.append("wants a key, and balancers send none")
    elif 300 <= status < 400:
        reasons.append("redirects, and balancers do not follow")
    elif status == 503 and known is not None and known.shows_engine:
        pass  # just what a check is for
    elif status != 200:
        reasons.append(f"status {status}")
    if status == 200 and (not answer.whole or answer.size > LARGEST_CHECK_BODY):
        reasons.append(f"costs {'over ' if not answer.whole else ''}{answer.size} bytes each time")
    if known is not None and not known.shows_engine:
        reasons.append("stays the same when the engine has died")
    return reasons


def endpoint(path: str, answer: Answer, with_key: Answer | None = None) -> dict[str, t.Any]:
    reasons = unfit(path, answer)
    return {
        "path": path,
        "outcome": answer.outcome,
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "size": answer.size,
        "meaning": meaning(path, answer, with_key),
        "fits": None if reasons is None else not reasons,
        "unfit": reasons or [],
    }


def recommended(answers: Mapping[str, Answer]) -> str | None:
    """The path to ask on the traffic port. What cannot be told from a server that is down is told from vLLM itself."""
    for path in ("/health", "/ping"):
        if path in answers and unfit(path, answers[path]) == []:
            return path
    return "/health" if unfit("/health", answers["/health"]) is None else None


def _loaded(answer: Answer) -> t.Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def models(answer: Answer) -> tuple[list[str], int | None]:
    """The names that /v1/models gives, and the longest context of the first; nothing where it is no such list."""
    data = _loaded(answer) if answer.ok else None
    rows = data.get("data") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        return [], None
    found = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]]
    longest = found[0].get("max_model_len") if found else None
    return [row["id"] for row in found], longest if isinstance(longest, int) and not isinstance(longest, bool) else None


def version(answer: Answer) -> str | None:
    data = _loaded(answer) if answer.ok else None
    told = data.get("version") if isinstance(data, dict) else None
    return told[:100] if isinstance(told, str) else None


def picture(side: int = 64) -> str:
    """A small grey square as a data URL."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x80\x80\x80" * side) * side
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def canary_request(kind: str, model: str) -> tuple[str, dict[str, t.Any]]:
    """Path and content of the cheapest real request: one token."""
    common = {"model": model, "max_tokens": 1, "temperature": 0}
    if kind == "text":
        return "/v1/completions", {**common, "prompt": "Hello"}
    content = [
        {"type": "image_url", "image_url": {"url": picture()}},
        {"type": "text", "text": "What colour is this?"},
    ]
    return "/v1/chat/completions", {**common, "messages": [{"role": "user", "content": content}]}


def canary_unsent(kind: str, why: str) -> dict[str, t.Any]:
    return {"kind": kind, "ok": False, "sent": False, "status": None, "seconds": 0.0, "detail": f"not sent: {why}"}


def canary_result(kind: str, answer: Answer) -> dict[str, t.Any]:
    """Whether a completion came back, and if not, why and what to do."""
    ok, detail = False, answer.detail
    if answer.outcome == _exchange.TIMEOUT:
        detail += ": the engine hangs, or has more requests than it can serve"
    elif answer.status in KEY_WANTED:
        detail += ": give the instance's api_key"
    elif answer.status == 404:
        detail += ": no completions here; for embedding and pooling models use canary: none"
    elif answer.status == 400 and kind == "picture":
        detail += ": a model that takes no pictures wants canary: text"
    elif answer.ok:
        ok, detail = _completion(kind, _loaded(answer))
    elif answer.status is not None and answer.status >= 500:
        detail += ": the engine has died, or the server is shutting down"
    return {
        "kind": kind,
        "ok": ok,
        "sent": True,
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "detail": detail,
    }


def _completion(kind: str, data: t.Any) -> tuple[bool, str]:
    try:
        choice = data["choices"][0]
        fits = isinstance(choice["text"] if kind == "text" else choice["message"]["role"], str)
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        fits, reason = False, None
    if not fits:
        return False, "status 200, but no completion in it: it is not vLLM that answers"
    if reason == "abort":
        return False, "the completion was cut off: the server is shutting down"
    return True, "one token came back"


def keeper_row(name: str, command: str, status: int, out: str, err: str) -> dict[str, t.Any]:
    """The row of `vllm-keeper status --json NAME`, or one like it that says why there is none."""
    try:
        rows = json.loads(out)["instances"]
        row = next(row for row in rows if row["name"] == name)
        return {**row, "verdict": str(row["verdict"]), "reason": str(row["reason"]), "healthy": row["healthy"] is True}
    except (ValueError, KeyError, TypeError, StopIteration):
        words = " ".join((err or out).split())[-300:]
        return keeper_missing(
            name,
            f"`{command} status --json {name}` ended with {status} and no answer: {words}",
            "ask as root (become: true), for an instance of this host; site.yml installs the keeper",
        )


def keeper_missing(name: str, reason: str, mend: str) -> dict[str, t.Any]:
    """The row where the keeper tells nothing."""
    return {
        "name": name,
        "verdict": "unknown",
        "healthy": False,
        "reason": reason,
        "next_action": mend,
    }


def keeper_answers(answer: Answer | None) -> bool:
    """Whether the keeper's own port judges: 200 and 503 are both its word."""
    return answer is not None and answer.status in (200, 503)


def conclude(seen: Seen) -> dict[str, t.Any]:
    """The result of the module, but for the changed status."""
    guarded = seen.keyed if seen.answers[MODELS].status in KEY_WANTED else None
    listing = guarded or seen.answers[MODELS]
    served, longest = models(listing)
    path = recommended(seen.answers)
    port = "traffic-port"
    if keeper_answers(seen.ready):
        ready = _exchange.target(seen.ready_url, "keeper")
        path, port = ready.prefix, str(ready.port)
    found = Findings()
    _server(seen, found)
    if seen.answers["/health"].ok:
        _models(seen, listing, served, found)
    _canary(seen, found)
    _keeper(seen, found)
    _balancer(seen, path, port, found)
    endpoints = [endpoint(one, answer, guarded if one == MODELS else None) for one, answer in seen.answers.items()]
    result: dict[str, t.Any] = {
        "name": seen.name or None,
        "url": seen.url,
        "healthy": not found.grave,
        "endpoints": endpoints,
        "recommended_path": path,
        "health_check": {"path": path, "port": port, "protocol": "HTTP", "matcher": "200"} if path else None,
        "served_models": served,
        "max_model_len": longest,
        "version": version(seen.answers["/version"]),
        "canary": dict(seen.canary) if seen.canary is not None else None,
        "keeper": dict(seen.keeper) if seen.keeper is not None else None,
        "ready": _ready(seen.ready_url, seen.ready) if seen.ready is not None else None,
        "problems": found.grave + found.notes,
    }
    if result["health_check"] and port == "traffic-port" and seen.url.startswith("https:"):
        result["health_check"]["protocol"] = "HTTPS"
    return {**result, "report": report(result)}


def _ready(url: str, answer: Answer) -> dict[str, t.Any]:
    return {
        "url": url,
        "outcome": answer.outcome,
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "said": _words(answer),
    }


def _words(answer: Answer) -> str:
    return _exchange.said(answer.body).strip(" ()") or answer.detail


def _host(seen: Seen) -> str:
    return f"on the host, `vllm-keeper status {seen.name or 'NAME'}` tells why and what is done about it"


def _server(seen: Seen, found: Findings) -> None:
    """What the paths themselves say."""
    silent = {path: answer for path, answer in seen.answers.items() if answer.status is None}
    if len(silent) == len(seen.answers) and len({answer.outcome for answer in silent.values()}) == 1:
        found.grave.append(_silence(seen, silent["/health"]))
        return
    health = seen.answers["/health"]
    if health.status is not None and not health.ok:
        mend = _host(seen)
        if health.status in KEY_WANTED or 300 <= health.status < 400 or health.status == 404:
            mend = "vLLM's own /health wants no key and redirects nobody: give the url of vLLM itself"
        found.grave.append(f"GET {seen.url}/health: status {health.status}: {meaning('/health', health)}; {mend}")
    elif health.ok and (health.size > LARGEST_CHECK_BODY or not health.whole):
        found.notes.append(
            f"GET {seen.url}/health: {health.size} bytes, where vLLM sends none: something else answers; "
            "give the url of vLLM itself"
        )
    if "/health" in silent:
        found.grave.append(f"GET {seen.url}/health: {health.detail}; {_host(seen)}")
    for path, answer in silent.items():
        if path not in ("/health", MODELS):
            found.notes.append(f"GET {seen.url}{path}: {answer.detail}")
    if health.ok and health.seconds > SLOW:
        found.notes.append(
            f"GET {seen.url}/health: took {health.seconds:.1f} s: the API lacks CPU; a balancer's timeout must be "
            "longer, or the host less busy"
        )


def _silence(seen: Seen, answer: Answer) -> str:
    mend = {
        _exchange.REFUSED: f"it is down or still loads its model; {_host(seen)}",
        _exchange.TIMEOUT: f"the API is stopped or lacks CPU, or a firewall drops packets; {_host(seen)}",
        _exchange.UNREACHABLE: "see to the name, the address and the route, or correct url",
    }.get(answer.outcome, "it is not vLLM that listens here, or url needs https:// in place of http:// or the reverse")
    if answer.detail.startswith("TLS: "):
        mend = "give ca_path, or validate_certs: false, or http:// in url where the server speaks no TLS"
    return f"{seen.url}: {answer.detail}: {mend}"


def _models(seen: Seen, answer: Answer, served: Sequence[str], found: Findings) -> None:
    """A proxy's page for every path is 200 as well: a vLLM server is known by its models."""
    place = f"GET {seen.url}{MODELS}"
    if answer.status in KEY_WANTED:
        mend = "it is not the key of this server; give the right one" if seen.key_given else "give it to see the models"
        found.notes.append(f"{place}: status {answer.status}: api_key: {mend}")
    elif answer.status is None:
        found.grave.append(f"{place}: {answer.detail}; {_host(seen)}")
    elif not answer.ok:
        found.grave.append(f"{place}: {meaning(MODELS, answer)}; give the url of vLLM itself")
    elif not served:
        found.grave.append(f"{place}: status 200, but no list of models: it is not vLLM that answers; correct url")


def _canary(seen: Seen, found: Findings) -> None:
    canary = seen.canary
    # Why none was sent to a server that is down was said already.
    if canary is not None and not canary["ok"] and seen.answers["/health"].ok:
        mend = f"; {_host(seen)}" if canary["sent"] else "; see api_key and url"
        found.grave.append(f"canary ({canary['kind']}): {canary['detail']}{mend}")


def _keeper(seen: Seen, found: Findings) -> None:
    if seen.keeper is not None and not seen.keeper["healthy"]:
        action = seen.keeper.get("next_action") or "see its reason"
        found.grave.append(f"keeper: {seen.keeper['verdict']}: {seen.keeper['reason']}; next: {action}")
    if seen.ready is None or seen.ready.ok:
        return
    if keeper_answers(seen.ready):
        found.grave.append(f"GET {seen.ready_url}: status 503: {_words(seen.ready)}; {_host(seen)}")
        return
    mend = "does its watch run? `systemctl status vllm-keeper`, and does a firewall let you through?"
    if seen.ready.status == 404:
        mend = "the keeper there has no such instance: correct name, or keeper_url"
    elif seen.ready.status is not None:
        mend = "it is not the keeper that answers: correct keeper_port or keeper_url"
    found.grave.append(f"GET {seen.ready_url}: {seen.ready.detail}: {mend}")


def _balancer(seen: Seen, path: str | None, port: str, found: Findings) -> None:
    """What the balancer asks now, against what it should ask."""
    if path is None:
        found.notes.append(
            f"{seen.url}: no path here fits a balancer's check: let it ask vLLM itself, or the keeper (keeper_port)"
        )
    asked = seen.balancer_path
    reasons = unfit(asked, seen.answers[asked]) if asked else None
    other = "" if port == "traffic-port" else f", port: {port}"
    if reasons:
        found.notes.append(
            f"balancer_path: {asked} does not fit: {'; '.join(reasons)}"
            + (f"; set vllm_health_check: {{path: {path}{other}}}" if path else "")
        )


def report(result: Mapping[str, t.Any]) -> list[str]:
    """For people, a line each thing: the answer first, then what it rests on, then what to do."""
    head = f"{result['name'] or 'vLLM'} at {result['url']}: {'healthy' if result['healthy'] else 'NOT HEALTHY'}"
    if result["version"]:
        head += f", vLLM {result['version']}"
    if result["served_models"]:
        head += f", serves {', '.join(result['served_models'])}"
    if result["max_model_len"]:
        head += f" (up to {result['max_model_len']} tokens)"
    lines = [head]
    if result["keeper"]:
        lines.append(f"  keeper         {result['keeper']['verdict']}: {result['keeper']['reason']}")
    if result["ready"]:
        ready = result["ready"]
        lines.append(f"  keeper's port  {ready['status'] or ready['outcome']}: {ready['said']} ({ready['url']})")
    if result["canary"]:
        canary = result["canary"]
        took = f" in {canary['seconds']:.3f} s" if canary["ok"] else ""
        lines.append(f"  canary         {canary['kind']}: {canary['detail']}{took}")
    silent = {one["outcome"] for one in result["endpoints"] if one["status"] is None}
    if len(silent) == 1 and all(one["status"] is None for one in result["endpoints"]):
        lines.append(f"  {'paths':14} no answer to any of {', '.join(one['path'] for one in result['endpoints'])}")
    else:
        lines += [_line(one) for one in result["endpoints"]]
    check = result["health_check"]
    where = "on the traffic port" if check and check["port"] == "traffic-port" else f"on port {check and check['port']}"
    lines.append(f"  a balancer should ask {check['path']} {where}" if check else "  no path fits a balancer's check")
    lines += [f"  PROBLEM: {problem}" for problem in result["problems"]]
    return lines


def _line(one: Mapping[str, t.Any]) -> str:
    fit = {None: "unknown", True: "fits", False: "no"}[one["fits"]]
    expected = (one["path"], one["status"]) in EXPECTED  # its words have the reason
    words = one["meaning"] + (f" (unfit: {'; '.join(one['unfit'])})" if one["unfit"] and not expected else "")
    took = f"{one['status'] or one['outcome']!s:>7} {one['seconds'] * 1000:5.0f} ms"
    return f"  {one['path']:14} {took}  {fit:7}  {words}"
