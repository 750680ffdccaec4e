# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab seen by a client: where it answers, questions about pictures, and a steady stream of requests.

Used by the demo and by the tests.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from lab.labkit.hosts import KNOWN, chosen
from lab.labkit.hosts import Lab as Chosen
from lab.pictures import Picture

ROOT = Path(__file__).resolve().parent.parent
SERVED_BY = "X-Served-By"


def state() -> dict[str, Any]:
    """What `lab/lab.py show` says: hosts, cache, lock and the model's own account of its training."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "lab" / "lab.py"), "show"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def trained() -> bool:
    """Whether the lab's model was trained, so that its answers mean something."""
    return bool((state()["model"] or {}).get("trained"))


def instance() -> dict[str, Any]:
    """The instance that the lab's inventory describes, as written there."""
    described = yaml.safe_load((ROOT / "inventories" / "lab" / "group_vars" / "vllm.yml").read_text())
    found: dict[str, Any] = described["vllm_instances"][0]
    return found


@dataclass(frozen=True)
class Lab:
    """Addresses and names of the lab, read from its inventory."""

    balancer: str
    port: int
    model: str
    instance: str
    hosts: dict[str, str]

    @classmethod
    def read(cls) -> Lab:
        lab, described = Chosen.chosen(), instance()
        addresses = {host.name: f"{lab.network}.{host.last_octet}" for host in KNOWN}
        return cls(
            balancer=addresses["lb1"],
            port=int(described["port"]),
            model=described["served_model_name"],
            instance=described["name"],
            hosts={host.name: addresses[host.name] for host in chosen() if host.serves},
        )

    @property
    def url(self) -> str:
        """Base URL of the balancer."""
        return f"http://{self.balancer}:{self.port}"

    def direct(self, host: str) -> str:
        """Base URL of one host, past the balancer."""
        return f"http://{self.hosts[host]}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What came back: the text, the host that answered (None past the balancer), seconds."""

    text: str
    served_by: str | None
    seconds: float


def ask(base: str, model: str, question: str | Picture, timeout: float = 60.0) -> Answer:
    """Ask a chat completion in words or about a picture; requests.RequestException if no answer came."""
    messages = question.messages if isinstance(question, Picture) else [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
    began = time.monotonic()
    got = requests.post(f"{base}/v1/chat/completions", json=body, timeout=timeout)
    got.raise_for_status()
    text = str(got.json()["choices"][0]["message"]["content"]).strip()
    return Answer(text, got.headers.get(SERVED_BY), time.monotonic() - began)


def answers(base: str, model: str, timeout: float = 10.0) -> bool:
    """Whether a completion is answered now."""
    try:
        ask(base, model, "Say OK.", timeout=timeout)
    except requests.RequestException:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout: float, what: str, every: float = 0.5) -> float:
    """Seconds until the condition held; TimeoutError naming `what`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(every)
    return time.monotonic() - began


@dataclass
class Stream:
    """A client that asks one short question after the other until told to stop, and keeps count."""

    base: str
    model: str
    pause: float = 0.2
    asked: int = 0
    lost: list[str] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Stream:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(90)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.asked += 1
            try:
                answer = ask(self.base, self.model, "Say OK.", timeout=30)
            except requests.RequestException as err:
                status = err.response.status_code if err.response is not None else type(err).__name__
                self.lost.append(f"{time.strftime('%H:%M:%S')} {status}")
            else:
                self.served[answer.served_by or "?"] = self.served.get(answer.served_by or "?", 0) + 1
            self._stop.wait(self.pause)


def container(host: str) -> str:
    """The container behind a lab host: that of the lab which the environment chose."""
    return Chosen.chosen().container(host)


def on(host: str, *command: str, check: bool = True, timeout: float = 120) -> str:
    """Output of a command in a lab host."""
    done = subprocess.run(
        ["podman", "exec", container(host), *command], capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(f"{host}: {' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


def servers() -> dict[str, dict[str, str]]:
    """HAProxy's own view of each vLLM server: {name: row of its statistics}."""
    text = on("lb1", "curl", "-sf", "http://127.0.0.1:8404/stats;csv")
    rows = csv.DictReader(io.StringIO(text.lstrip("# ")))
    return {row["svname"]: row for row in rows if row["svname"] in ("gpu1", "gpu2")}


def all_get_requests() -> bool:
    """Whether HAProxy sends requests to every server: a host that serves again is back a few checks later."""
    return all(row["status"] == "UP" and row["weight"] != "0" for row in servers().values())


def processes(host: str) -> dict[int, str]:
    """{pid: title} of vLLM's processes in a lab host: the API, VLLM::EngineCore, VLLM::Worker."""
    found = {}
    for line in on(host, "ps", "-eo", "pid=,args=").splitlines():
        pid, _space, title = line.strip().partition(" ")
        # not what only names it: the keeper's runner, a session, a container's init
        if re.match(r"\S*python[\d.]* \S*/vllm serve ", title) or title.startswith("VLLM::"):
            found[int(pid)] = title.strip()
    return found


def kill(host: str, what: str) -> None:
    """SIGKILL to the "api" or to the "engine" of a lab host."""
    mark = "vllm serve" if what == "api" else "VLLM::EngineCore"
    pids = [str(pid) for pid, title in processes(host).items() if mark in title]
    if not pids:
        raise RuntimeError(f"{host}: no process {mark}")
    on(host, "kill", "-KILL", *pids)
