# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in under test or measured: started, asked, looked at, and ended with all that belongs to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

PROGRAM = Path(__file__).with_name("vllm")
TITLES = {"engine": "VLLM::EngineCore", "worker": "VLLM::Worker"}
TICKS = os.sysconf("SC_CLK_TCK")


class Answer(NamedTuple):
    """status None: no whole answer in time ("timeout") or none at all ("refused", "broken")."""

    status: int | None
    why: str
    seconds: float
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def until(holds: Callable[[], object], seconds: float = 20, every: float = 0.01) -> float:
    """Seconds until it held; TimeoutError if it never did."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {holds}")
        time.sleep(every)
    return time.monotonic() - began


def ask(
    port: int, path: str, within: float = 10, content: object = None, headers: dict[str, str] | None = None
) -> Answer:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within)
    try:
        body = None if content is None else json.dumps(content)
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, "answered", time.monotonic() - began, response.read())
    except TimeoutError:
        return Answer(None, "timeout", time.monotonic() - began)
    except ConnectionRefusedError:
        return Answer(None, "refused", time.monotonic() - began)
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"broken: {error!r}", time.monotonic() - began)
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    """Of all its threads: a child belongs to the one that made it."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def title(pid: int) -> str:
    """The first word of its command line; empty once it is dead."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    return ""


def cpu(pid: int) -> float:
    """Seconds of CPU it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def below(api: int) -> dict[str, int]:
    """{"engine": pid, "worker": pid} of a living API, as far as they are there."""
    found: dict[str, int] = {}
    engine = next((pid for pid in children(api) if title(pid) == TITLES["engine"]), None)
    if engine is not None:
        found["engine"] = engine
        found.update(("worker", pid) for pid in children(engine) if title(pid) == TITLES["worker"])
    return found


class StandIn:
    """One `tests/standin/vllm serve`; as a context, it is started and ready, and gone afterwards."""

    def __init__(self, *options: str, steps: float = 0.01, **environment: str) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="standin-")
        self.command = [str(PROGRAM), "serve", self.folder.name, "--port", str(self.port), *options]
        self.environment = {
            **os.environ, "STANDIN_START_SECONDS": "0", "STANDIN_STEP_SECONDS": str(steps), **environment
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.pids: dict[str, int] = {}

    def start(self) -> StandIn:
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.DEVNULL)
        until(lambda: self.get("/health").status == 200)
        self.pids = {"api": self.process.pid, **below(self.process.pid)}
        return self

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        for name in ("api", "engine", "worker"):
            # By title: after an end, its number may be somebody else's.
            if name in self.pids and (name == "api" or title(self.pids[name]) == TITLES[name]):
                self.signal(signal.SIGKILL, name)
        if self.process is not None:
            self.process.wait()
        self.folder.cleanup()

    def signal(self, number: int, name: str) -> None:
        if name == "api" and self.process is not None:
            self.process.send_signal(number)  # nothing, once it has been waited for
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[name], number)

    def lives(self, name: str) -> bool:
        """Whether engine or worker is there and no zombie."""
        return title(self.pids[name]) == TITLES[name]

    def get(self, path: str, within: float = 10, **headers: str) -> Answer:
        return ask(self.port, path, within, None, headers)

    def complete(self, within: float = 10, tokens: int = 1, **more: object) -> Answer:
        content = {"prompt": "four", "max_tokens": tokens, **more}
        return ask(self.port, "/v1/completions", within, content)

    def metrics(self) -> dict[str, float]:
        """{sample with its labels: value}"""
        lines = self.get("/metrics").body.decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _space, value in pairs}

    def value(self, family: str, **labels: str) -> float:
        """The one sample of this name with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [
            value
            for name, value in self.metrics().items()
            if name.partition("{")[0] == f"vllm:{family}" and all(label in name for label in wanted)
        ]
        if len(found) != 1:
            raise LookupError(f"vllm:{family} {labels}: {len(found)} samples")
        return found[0]
