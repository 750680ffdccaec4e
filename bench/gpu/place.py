# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One server under `vllm-keeper run`, watchers beside it, and the end of all that was begun here and of nothing else.

No process manager is there: `run --forever` starts again what has ended, tests/standin/supervisorctl answers for
supervisor. As root only, since the keeper writes to /run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from vllm_keeper import processes, runfile
from vllm_keeper.watch import board

from bench.gpu import ask

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ROOT / "roles/health/files"
HANG = Path(__file__).parent / "hang"
NAME = "gpu-bench"
ENGINE = "VLLM::EngineCore"
READY_WITHIN = 30.0  # seconds for a new watcher to see a server that serves
POLL = 0.1
# What vLLM 0.32 leaves out of the name of a graph that it compiled (MultiModalConfig.compute_hash).
NOT_IN_ITS_NAME = ("language-model-only", "limit-mm-per-prompt")


@dataclass(frozen=True)
class Run:
    """One way to start the server. words: options of vllm serve. environment: beside that of all runs."""

    words: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        more = [f"{key} {json.dumps(value)}" for key, value in self.words.items()]
        return ", ".join(more + [f"{key}={value}" for key, value in self.environment.items()]) or "defaults"

    @property
    def pictures(self) -> bool:
        limits = self.words.get("limit-mm-per-prompt")
        return not (isinstance(limits, Mapping) and limits.get("image") == 0)


@dataclass(frozen=True)
class Options:
    """python: vLLM's, which has NVML's package; "" for no GPU. words: for every run."""

    work: Path
    vllm: Sequence[str]
    model: str
    served: str
    port: int
    python: str
    keeper_python: str
    environment: Mapping[str, str]
    words: Mapping[str, Any]
    start_timeout: float
    standin: bool = False


def cache_root(words: Mapping[str, Any], given: str) -> str:
    """VLLM_CACHE_ROOT of a run with WORDS, below the GIVEN one.

    A start without pictures takes the graph that one with pictures has left, and dies of it: 'NoneType' object has no
    attribute 'size'. So runs that differ in what that graph's name leaves out share no folder.
    """
    chosen = {name: words[name] for name in NOT_IN_ITS_NAME if name in words}
    if not chosen:
        return given
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
    return str(Path(given) / f"of-{digest[:12]}")


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


class Place:
    def __init__(self, options: Options) -> None:
        self.options, self.port = options, options.port
        # Several that are only tried may run beside each other.
        self.name = f"{NAME}-{os.getpid()}" if options.standin else NAME
        self.work, self.etc, self.state = options.work, options.work / "etc", options.work / "var"
        for folder in (self.work, self.etc, self.state):
            folder.mkdir(parents=True, exist_ok=True)
        self.log, self.trigger = self.work / "server.log", self.work / "hang"
        self.begun: list[subprocess.Popen[bytes]] = []
        self.eyes = 0

    # What it began.

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """In a session of its own, by which its processes are known later."""
        with log.open("ab") as file:
            made = subprocess.Popen(
                command, env=dict(environment), stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=self.work,
                start_new_session=True,
            )  # fmt: skip
        self.begun.append(made)
        one = processes.read(made.pid)
        if one is not None:
            with (self.work / "sessions").open("a", encoding="utf-8") as known:
                known.write(f"{_boot()} {made.pid} {one.born}\n")
        return made

    def mine(self) -> list[processes.Process]:
        """Living processes of sessions that were begun here since this boot."""
        known: dict[int, int] = {}
        with contextlib.suppress(OSError):
            for line in (self.work / "sessions").read_text(encoding="utf-8").splitlines():
                boot, pid, born = line.split()
                if boot == _boot():
                    known[int(pid)] = int(born)
        everyone = processes.everyone()
        found = []
        for one in everyone.values():
            leader = everyone.get(one.session)
            # A leader that was born at another time has got the number of one of ours that has ended.
            if one.session in known and (leader is None or leader.born == known[one.session]):
                found.append(one)
        return sorted(found, key=lambda one: one.pid)

    def end(self, politely: float = 0.0) -> None:
        """All that was begun here."""
        if politely:
            for made in self.begun:
                if made.poll() is None:
                    with contextlib.suppress(OSError):
                        made.terminate()
            until = time.monotonic() + politely
            while time.monotonic() < until and any(made.poll() is None for made in self.begun):
                time.sleep(POLL)
        for _ in range(50):
            left = self.mine()
            if not left:
                break
            processes.end(left)
            for made in self.begun:
                made.poll()
            time.sleep(POLL)
        self.begun = [made for made in self.begun if made.poll() is None]
        with contextlib.suppress(OSError):
            (self.work / "run.json").unlink()
        self.trigger.unlink(missing_ok=True)

    # The server.

    def configure(self, run: Run) -> Path:
        """The files that site.yml would write; vLLM's configuration."""
        options = self.options
        words = {
            "model": options.model, "served-model-name": options.served, "host": "127.0.0.1", "port": self.port,
            "tensor-parallel-size": 1, "shutdown-timeout": 60,
            "disable-access-log-for-endpoints": "/health,/metrics,/metrics/", **options.words, **run.words,
        }  # fmt: skip
        file = self.work / f"{self.name}.yaml"
        file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in words.items()), encoding="utf-8")
        environment = {**options.environment, **run.environment, "STEADFAST_GPU_HANG": str(self.trigger)}
        if set(NOT_IN_ITS_NAME) & set(words):
            root = environment.get("VLLM_CACHE_ROOT") or str(self.work / "vllm-cache")
            environment["VLLM_CACHE_ROOT"] = cache_root(words, root)
        path = [str(HANG), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = ":".join(filter(None, path))
        secrets = self.work / "environment"
        secrets.write_text("".join(f"{key}='{value}'\n" for key, value in environment.items()), encoding="utf-8")
        settings = {
            "name": self.name, "manager": "supervisor", "control": [str(ROOT / "tests/standin/supervisorctl")],
            "base_url": f"http://127.0.0.1:{self.port}", "config_file": str(file), "env_file": str(secrets),
            "model_path": options.model if options.model.startswith("/") else "", "log_file": str(self.log),
            "start_timeout": options.start_timeout, "drain_timeout": 60,
            "gpu": {"enabled": bool(options.python), **({"python": options.python} if options.python else {})},
            # What is measured is not held up, and nothing is restarted.
            "gate": {"back_off": [0], "budget": 100, "jitter": 0}, "watch": {"dry_run": True},
        }  # fmt: skip
        (self.etc / f"{self.name}.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return file

    def keeper(self, state: Path, *words: str) -> list[str]:
        program = [self.options.keeper_python, "-m", "vllm_keeper"]
        return [*program, "--config-dir", str(self.etc), "--state-dir", str(state), *words]

    def keeper_environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(FILES)}

    def run(self, run: Run) -> subprocess.Popen[bytes]:
        """Begin it. What it writes comes to the log's end."""
        file = self.configure(run)
        command = [*self.options.vllm, "serve", "--config", str(file)]
        words = self.keeper(self.state, "run", self.name, "--forever", "--delay", "0", "--", *command)
        made = self.start(words, self.keeper_environment(), self.log)
        (self.work / "run.json").write_text(json.dumps({"label": run.label, "port": self.port}), encoding="utf-8")
        return made

    def serves(self, run: Run) -> bool:
        """Whether this very run is there, from this call of the program or one before, and answers."""
        try:
            data = json.loads((self.work / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if data.get("label") != run.label or self.api() is None:
            return False
        self.port = int(data["port"])
        return self.complete(1, 10).status == 200

    def api(self) -> int | None:
        found = runfile.living(self.name)
        return None if found is None else found.pid

    def engine(self) -> int | None:
        main = self.api()
        kin = processes.kin(main) if main is not None else {}
        return next((pid for pid, one in sorted(kin.items()) if one.title.startswith(ENGINE)), None)

    def server(self) -> list[processes.Process]:
        """The API and all below it."""
        main = self.api()
        return [] if main is None else sorted(processes.kin(main).values(), key=lambda one: one.pid)

    def get(self, path: str, timeout: float = 2.0) -> ask.Answer:
        return ask.ask(self.port, path, None, timeout)

    def complete(self, tokens: int = 4, timeout: float = 120.0) -> ask.Answer:
        return ask.ask(self.port, "/v1/completions", ask.completion(self.options.served, tokens), timeout)

    def picture(self, side: int, seed: int, timeout: float = 120.0) -> ask.Answer:
        body = ask.picture_question(self.options.served, ask.picture(side, seed), 4)
        return ask.ask(self.port, "/v1/chat/completions", body, timeout)

    def users(self, kind: str, seconds: float, users: int) -> Users:
        return Users(self, kind, seconds, users)


class Users:
    """The program bench.gpu.users; as a context it is ended at the end."""

    def __init__(self, place: Place, kind: str, seconds: float, users: int) -> None:
        self.place, self.kind, self.seconds, self.count = place, kind, seconds, users
        self.process: subprocess.Popen[bytes] | None = None
        self.file = place.work / "users.log"

    def __enter__(self) -> Users:
        self.file.write_bytes(b"")
        command = [
            sys.executable, "-m", "bench.gpu.users", self.kind, str(self.seconds), str(self.count),
            "--port", str(self.place.port), "--model", self.place.options.served,
        ]  # fmt: skip
        self.process = self.place.start(command, {**os.environ, "PYTHONPATH": str(ROOT)}, self.file)
        return self

    def wait(self, seconds: float) -> dict[str, Any]:
        """Until they have ended, or SECONDS; what they were answered."""
        if self.process is None:
            return {}
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        text = self.file.read_text(encoding="utf-8", errors="replace").strip()
        try:
            said: dict[str, Any] = json.loads(text.splitlines()[-1])
            return said
        except (ValueError, IndexError):
            return {"said": text[-400:]}

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Eyes:
    """A watcher that repairs nothing, and what it says ten times a second.

    KEPT: with the runner's own state directory, where it remembers what the watchers there saw before. Otherwise it
    knows nothing of those before, and of the start that it was ready.
    """

    def __init__(self, place: Place, wait: bool = True, poll: bool = True, kept: bool = False) -> None:
        self.place, self.wait, self.polls, self.kept = place, wait, poll, kept
        place.eyes += 1
        self.state, self.port = place.state if kept else place.work / f"watch-{place.eyes}", free_port()
        self.log = place.work / f"watch-{place.eyes}.log"
        self.verdicts: dict[str, int] = {}
        self.rows: list[tuple[float, str, float]] = []
        self.longest = self.most_waiting = 0.0
        self.ready = False
        self.ended = threading.Event()

    def __enter__(self) -> Eyes:
        # The history of starts, and nothing of what a watcher before it saw.
        if not self.kept:
            shutil.rmtree(self.state, ignore_errors=True)
            self.state.mkdir(parents=True)
            with contextlib.suppress(OSError):
                shutil.copy(self.place.state / f"{self.place.name}.json", self.state)
        self.log.unlink(missing_ok=True)
        words = self.place.keeper(self.state, "watch", "--listen", f"127.0.0.1:{self.port}")
        self.process = self.place.start(words, self.place.keeper_environment(), self.log)
        self.begun = time.monotonic()
        if self.wait:
            self.ready = self.becomes_ready(READY_WITHIN)
        self.thread = threading.Thread(target=self._poll, daemon=True)
        if self.polls:
            self.thread.start()
        return self

    def becomes_ready(self, within: float) -> bool:
        until = time.monotonic() + within
        while time.monotonic() < until and self.process.poll() is None:
            if ask.ask(self.port, f"/ready/{self.place.name}").status == 200:
                return True
            time.sleep(0.05)
        return False

    def _poll(self) -> None:
        while not self.ended.wait(POLL):
            answer = ask.ask(self.port, "/metrics")
            if answer.status != 200:
                continue
            found = re.findall(r'vllm_keeper_verdict\{[^}]*verdict="(\w+)"[^}]*\} 1', answer.text)
            verdict = ",".join(found) or "none"
            stalled = ask.metric(answer.text, "vllm_keeper_stalled_seconds")
            self.longest = ask.metric(answer.text, "vllm_keeper_longest_step_seconds")
            self.most_waiting = max(self.most_waiting, ask.metric(answer.text, "vllm_keeper_requests_waiting"))
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
            if stalled > 0.9 or verdict not in board.SERVING:
                self.rows.append((round(time.monotonic() - self.begun, 2), verdict, round(stalled, 2)))

    def incidents(self) -> list[dict[str, Any]]:
        try:
            data = json.loads((self.state / f"{self.place.name}.watch").read_text(encoding="utf-8"))
            found: list[dict[str, Any]] = data["incidents"]
            return found
        except (OSError, ValueError, KeyError):
            return []

    def told(self) -> dict[str, Any]:
        """stalls: (seconds, verdict, seconds without progress), the longest of each."""
        peaks: list[tuple[float, str, float]] = []
        for row in self.rows:
            if not peaks or row[2] < peaks[-1][2] or row[1] != peaks[-1][1]:
                peaks.append(row)
            else:
                peaks[-1] = row
        said = self.log.read_text(encoding="utf-8", errors="replace")[-600:] if self.log.exists() else ""
        return {
            **({} if self.verdicts else {"watcher_said": said}),
            "verdicts": self.verdicts, "longest_step": self.longest, "most_waiting": self.most_waiting,
            "stalls": peaks[:25],
            "incidents": [
                [one.get("verdict"), one.get("reason"), one.get("looks", [])[-3:]] for one in self.incidents()
            ],
        }  # fmt: skip

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.ended.set()
        if self.polls:
            self.thread.join(5)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)  # it may have been stopped
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def refusal(place: Place) -> str:
    """Why nothing should be started here, "" if nothing speaks against it."""
    if os.geteuid() != 0:
        return f"{runfile.DIRECTORY}: only root may write there: run this as root"
    if (
        not place.options.standin
        and board.read() is not None
        and not any("watch" in one.command for one in place.mine())
    ):
        return "a watcher of vllm-keeper runs on this machine: stop it first (systemctl stop vllm-keeper)"
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            link.bind(("127.0.0.1", place.port))
        except OSError:
            if place.api() is None:
                return f"port {place.port} is taken: choose another with --port"
    return ""
