# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service that stays up must survive, one function a fault, the same for every process manager.

Each is given a serving subject, does its harm, and returns when the subject serves again or is parked with a reason;
what it returns is what was seen. Used by molecule's scenarios and by `make faults`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from lab import client
from lab.pictures import pictures, right

SERVE_AGAIN = 420.0  # a start alone takes 40 s on quiet cores and three minutes on busy ones
STREAM_TOKENS = 300


@dataclass(frozen=True)
class Seen:
    """seconds: until it served again, None where it was parked or never away. note: what else was seen."""

    seconds: float | None
    note: str = ""


@dataclass
class Subject:
    """One instance on one lab host under one manager."""

    host: str
    manager: str
    name: str = field(default_factory=lambda: str(client.instance()["name"]))

    def on(self, command: str, check: bool = True, timeout: float = 120) -> str:
        """Output of a shell command on the host."""
        return client.on(self.host, "sh", "-c", command, check=check, timeout=timeout)

    def keeper(self, *words: str, check: bool = True, timeout: float = 600) -> str:
        """Output of one of the keeper's verbs."""
        return client.on(self.host, "vllm-keeper", *words, check=check, timeout=timeout)

    @property
    def url(self) -> str:
        """Base URL, past any balancer."""
        return client.Lab.read().direct(self.host)

    @property
    def model(self) -> str:
        """The name that clients ask for."""
        return client.Lab.read().model

    def status(self) -> dict[str, Any]:
        """What the keeper knows of it."""
        said = json.loads(self.keeper("status", "--json", self.name, check=False))
        found: dict[str, Any] = said["instances"][0]
        return found

    def processes(self) -> set[int]:
        """Pids of server, engine and workers."""
        return set(client.processes(self.host))

    def answers(self, timeout: float = 5) -> bool:
        """Whether a completion is answered now."""
        return client.answers(self.url, self.model, timeout)

    def sees_colours(self) -> bool:
        """Whether a picture is answered rightly, as far as the lab's model was trained."""
        picture = next(pictures(1, seed=time.time_ns() % 10_000))
        given = client.ask(self.url, self.model, picture).text
        return right(picture.colour, given) if client.trained() else bool(given)

    def serves_again(self, before: set[int], within: float = SERVE_AGAIN) -> float:
        """Seconds until completions are answered by processes that were not there before."""
        return client.wait_until(
            lambda: self.answers() and not before & self.processes(), within, f"{self.name} on {self.host} serves again"
        )

    def parked(self, word: str, within: float = 300) -> str:
        """The reason, once it is parked for one that holds the word."""
        client.wait_until(lambda: self.status()["verdict"] == "parked", within, f"{self.name} is parked")
        reason = str(self.status()["reason"])
        assert word in reason, f"parked for another reason than {word!r}: {reason}"
        assert not self.processes(), "parked, but its processes are there"
        return reason

    def pid_of(self, what: str) -> list[str]:
        """Pids of the "api", the "engine" or the "worker"."""
        found = self.pids(what)
        assert found, f"no {what} on {self.host}"
        return found

    def pids(self, what: str) -> list[str]:
        """The same, [] while there is none."""
        mark = {"api": "vllm serve", "engine": "VLLM::EngineCore", "worker": "VLLM::Worker"}[what]
        return [str(pid) for pid, title in client.processes(self.host).items() if mark in title]

    def signal(self, number: str, what: str) -> None:
        """Send a signal to all processes of a kind."""
        self.on(f"kill -{number} {' '.join(self.pid_of(what))}")

    def quiet(self) -> None:
        """Raise AssertionError unless it serves with one family of processes and nothing pends, soon."""
        # It answers a moment before the keeper has written that down, and "busy" is said of what was just asked.
        client.wait_until(lambda: self.status()["verdict"] == "healthy", 60, "the keeper calls it healthy")
        titles = sorted(client.processes(self.host).values())
        apis = [title for title in titles if "vllm serve" in title]
        engines = [title for title in titles if title.startswith("VLLM::EngineCore")]
        assert (len(apis), len(engines)) == (1, 1), titles


def kill_api(subject: Subject) -> Seen:
    """kill -9 of the API server."""
    before = subject.processes()
    subject.signal("KILL", "api")
    return Seen(subject.serves_again(before))


def kill_engine(subject: Subject) -> Seen:
    """kill -9 of the EngineCore: the API ends with status 0."""
    before = subject.processes()
    subject.signal("KILL", "engine")
    return Seen(subject.serves_again(before))


def _hangs(subject: Subject, what: str) -> Seen:
    before = subject.processes()
    began = time.monotonic()
    subject.signal("STOP", what)
    subject.serves_again(before)
    seconds = time.monotonic() - began
    incident = json.loads(subject.keeper("explain", "--json", subject.name))["incidents"][0]
    assert incident["verdict"] == "hung", incident
    return Seen(seconds, f"hung: decided {incident['seconds']:.1f} s after the first sign")


def stop_api(subject: Subject) -> Seen:
    """SIGSTOP of the API: nothing answers, nothing dies."""
    return _hangs(subject, "api")


def stop_engine(subject: Subject) -> Seen:
    """SIGSTOP of the EngineCore: /health stays 200 while no completion is answered."""
    return _hangs(subject, "engine")


MOMENTS = (3.0, 9.0, 20.0)  # seconds into a start
STALLED = 25.0  # seconds that finding a stopped process, ending the start and ordering the next one may take


def ordered_start(subject: Subject) -> tuple[float, set[int]]:
    """(when a start was ordered, processes of before) of a server that serves and is stopped first."""
    before = subject.processes()
    subject.keeper("stop", subject.name)
    began = time.monotonic()
    subject.keeper("start", "--no-wait", subject.name)
    appears(subject, "api", before)
    return began, before


def appears(subject: Subject, what: str, before: set[int], within: float = 300) -> None:
    """Wait for a process of that kind that was not there before."""
    client.wait_until(lambda: bool(set(map(int, subject.pids(what))) - before), within, f"a new {what}", 0.1)


def _stalls(subject: Subject, what: str) -> Seen:
    began, before = ordered_start(subject)
    subject.serves_again(before)
    start = time.monotonic() - began
    took = []
    for moment in MOMENTS:
        began, before = ordered_start(subject)
        time.sleep(max(0.0, began + moment - time.monotonic()))
        # An engine or a worker may come later than that.
        appears(subject, what, before)
        hurt = subject.processes()
        subject.signal("STOP", what)
        stopped = time.monotonic()
        subject.serves_again(before | hurt)
        took.append(time.monotonic() - began)
        incident = json.loads(subject.keeper("explain", "--json", subject.name))["incidents"][0]
        assert "stopped by a signal" in incident["reason"], incident
        assert took[-1] <= (stopped - began) + start * 1.5 + STALLED, f"{took[-1]:.0f} s, a start takes {start:.0f} s"
    each = ", ".join(f"{seconds:.0f}" for seconds in took)
    ratio = max(took) / start
    return Seen(
        max(took), f"since the start was ordered: {each} s; a start takes {start:.0f} s: {ratio:.1f} times that"
    )


def stall_api(subject: Subject) -> Seen:
    """SIGSTOP of the API 3, 9 and 20 s into a start."""
    return _stalls(subject, "api")


def stall_engine(subject: Subject) -> Seen:
    """SIGSTOP of the EngineCore 3, 9 and 20 s into a start, or once there is one."""
    return _stalls(subject, "engine")


def stall_worker(subject: Subject) -> Seen:
    """SIGSTOP of the worker 3, 9 and 20 s into a start, or once there is one."""
    return _stalls(subject, "worker")


def restart_host(subject: Subject) -> Seen:
    """The host restarts: it starts on boot."""
    command = ["podman", "restart", "--time", "60", client.container(subject.host)]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    began = time.monotonic()
    client.wait_until(subject.answers, SERVE_AGAIN + 300, f"{subject.name} serves after the host's start", 1)
    return Seen(time.monotonic() - began, "from the host's start on")


def port_taken(subject: Subject) -> Seen:
    """Another program took the port while it was stopped: said as the reason, and over once the port is free."""
    subject.keeper("stop", subject.name)
    port = client.Lab.read().port
    squatter = (
        f"import http.server; http.server.HTTPServer(('', {port}), http.server.BaseHTTPRequestHandler).serve_forever()"
    )
    subject.on(f"setsid python3 -c {shlex.quote(squatter)} >/dev/null 2>&1 </dev/null & sleep 1")
    try:
        said = subject.keeper("start", subject.name, check=False)
        state = subject.status()
        told = " ".join([said, state["reason"], *(start["reason"] or "" for start in state["starts"])])
        assert f"port {port} is taken" in told or "ddress already in use" in told, told
    finally:
        subject.on("pkill -f '[h]ttp.server.HTTPServer' || true")
    began = time.monotonic()
    if subject.status()["verdict"] == "parked":
        subject.keeper("resume", subject.name)
    elif subject.status()["verdict"] in ("stopped", "dead"):
        subject.keeper("start", subject.name)
    client.wait_until(subject.answers, SERVE_AGAIN, "it serves once the port is free")
    return Seen(time.monotonic() - began, "after the port was free")


def _edited(subject: Subject, path: str, command: str, word: str) -> Seen:
    """Break what a start needs, restart it into that, see it parked for it, mend it, see it serve."""
    subject.on(f"cp -a {path} {path}.conformance && {command}")
    try:
        subject.keeper("restart", subject.name, check=False)
        reason = subject.parked(word)
        subject.keeper("check", subject.name, check=False)
        assert not subject.processes(), "a check started what is parked"
    finally:
        subject.on(f"mv {path}.conformance {path}")
    began = time.monotonic()
    subject.keeper("start", subject.name, check=False)
    client.wait_until(subject.answers, SERVE_AGAIN, "it serves once that is mended")
    return Seen(time.monotonic() - began, f"parked ({reason[:60]}...), then mended")


def bad_argument(subject: Subject) -> Seen:
    """An argument that vLLM refuses: parked at once with vLLM's words, not tried for ever."""
    path = f"/etc/vllm/{subject.name}.yaml"
    return _edited(subject, path, f"echo 'no-such-option: 1' >> {path}", "no-such-option")


def model_missing(subject: Subject) -> Seen:
    """The model's folder is gone: parked with its path."""
    config = f"/etc/vllm-keeper/{subject.name}.json"
    model = json.loads(subject.on(f"cat {config}"))["model_path"]
    # The lab's models are mounted read-only: it is the configuration that names one that is not there.
    edit = f"sed -i s#{model}#{model}-gone# {config} /etc/vllm/{subject.name}.yaml"
    yaml = f"/etc/vllm/{subject.name}.yaml"
    subject.on(f"cp -a {yaml} {yaml}.model")
    try:
        return _edited(subject, config, f"{edit}; cp -a {yaml}.model {yaml}", f"{model}-gone")
    finally:
        subject.on(f"mv {yaml}.model {yaml}")


def stop_while_streaming(subject: Subject) -> Seen:
    """An ordered stop lets the stream that runs end as it should, then nothing is left."""
    got: dict[str, str] = {}

    def read() -> None:
        body = {
            "model": subject.model, "prompt": "Once", "max_tokens": STREAM_TOKENS, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        with requests.post(f"{subject.url}/v1/completions", json=body, stream=True, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: {"):
                    got["reason"] = json.loads(line[6:])["choices"][0].get("finish_reason") or got.get("reason", "")
                    got["count"] = str(int(got.get("count", "0")) + 1)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    client.wait_until(lambda: int(got.get("count", "0")) > 2, 60, "the stream runs", 0.05)
    before = int(got["count"])
    subject.keeper("stop", subject.name)
    reader.join(60)
    assert got.get("reason") == "length", f"the stream ended with {got}"
    assert int(got["count"]) > before, "nothing was streamed after the stop began: the stream was too short to tell"
    assert not subject.processes()
    began = time.monotonic()
    subject.keeper("start", subject.name)
    assert subject.answers(), "start returned before it answered"
    return Seen(time.monotonic() - began, f"stream of {STREAM_TOKENS} tokens complete; seconds are the start's")


def restart_twice(subject: Subject) -> Seen:
    """Two restarts ordered at once: one family of processes serves in the end."""
    before = subject.processes()
    began = time.monotonic()
    both = f"vllm-keeper restart --no-wait {subject.name} & vllm-keeper restart --no-wait {subject.name} & wait"
    subject.on(both, check=False)
    subject.serves_again(before)
    return Seen(time.monotonic() - began)


DAEMONS = {
    "systemd": "systemctl daemon-reexec",
    "supervisor": "systemctl restart supervisor",
    "compose": "systemctl restart docker",
    "tmux": "pkill -KILL -x 'tmux: server'",
    "screen": "pkill -KILL -x screen",
}


def restart_daemon(subject: Subject) -> Seen:
    """The manager's own daemon restarts, and under tmux and screen is killed: it serves on, or again."""
    subject.on(DAEMONS[subject.manager], timeout=180)
    began = time.monotonic()
    time.sleep(2)
    if subject.manager in ("tmux", "screen"):
        # Where systemd does not run, nobody starts a session again but the keeper, from cron.
        subject.keeper("check", subject.name, check=False)
    client.wait_until(subject.answers, SERVE_AGAIN, "it serves after the daemon's restart")
    seconds = time.monotonic() - began
    return Seen(seconds if seconds > 4 else None)


def leftover_engine(subject: Subject) -> Seen:
    """API and whoever watches it die in the same moment and an engine is left: it is ended before the next start."""
    before = subject.processes()
    watchers = subject.on("pgrep -f '[v]llm_keeper.* run ' || true").split()
    subject.on(f"kill -KILL {' '.join([*subject.pid_of('api'), *watchers])}")
    began = time.monotonic()
    if subject.manager in ("tmux", "screen"):
        time.sleep(1)
        subject.keeper("check", subject.name, check=False)
    subject.serves_again(before)
    return Seen(time.monotonic() - began)


LOGS = {
    "systemd": ("/var/log/journal", "systemctl restart systemd-journald"),
    "supervisor": ("/var/log/vllm", "true"),
    "tmux": ("/var/log/vllm", "true"),
    "screen": ("/var/log/vllm", "true"),
}


def disk_full(subject: Subject) -> Seen:
    """The disk of the logs is full: it serves on, and a crash is still repaired."""
    folder, reopen = LOGS[subject.manager]
    subject.keeper("stop", subject.name)
    subject.on(f"mkdir -p {folder} && mount -t tmpfs -o size=8m,mode=755 tmpfs {folder} && {reopen}")
    try:
        subject.keeper("start", subject.name)
        subject.on(f"dd if=/dev/zero of={folder}/fill bs=64k 2>/dev/null; df {folder} | tail -1", check=False)
        assert subject.answers(), "a full disk stopped it"
        before = subject.processes()
        subject.signal("KILL", "api")
        seconds = subject.serves_again(before)
    finally:
        subject.on(f"rm -f {folder}/fill")
        subject.keeper("stop", subject.name, check=False)
        subject.on(f"umount -l {folder} && {reopen}", check=False)
        subject.keeper("start", subject.name, check=False)
    return Seen(seconds, "after kill -9 of the API on a full disk")


FAULTS: dict[str, Callable[[Subject], Seen]] = {
    function.__name__: function
    for function in (
        kill_api, kill_engine, stop_api, stop_engine, stall_api, stall_engine, stall_worker, stop_while_streaming,
        restart_twice, restart_daemon, leftover_engine, bad_argument, model_missing, port_taken, disk_full,
        restart_host,
    )
}  # fmt: skip

# What a manager cannot do by nature, and why.
BY_NATURE: dict[tuple[str, str], str] = {
    ("compose", "disk_full"): "Docker's logs lie with its containers and images: a full disk there is a full Docker",
    ("compose", "leftover_engine"): "a container's processes end with its first one, by the kernel",
    ("systemd", "leftover_engine"): "a unit's processes end together, by its control group: the same as kill_api",
}


def suffer(subject: Subject, fault: str) -> Seen:
    """One fault, and the proof that nothing of it is left. No back-off of the faults before it counts."""
    subject.keeper("resume", subject.name)
    seen = FAULTS[fault](subject)
    subject.quiet()
    return seen
