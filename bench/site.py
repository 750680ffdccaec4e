# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host on this machine for measurements: the keeper's `watch`, and stand-ins for vLLM that `vllm-keeper run` runs.

No process manager is there: `run --forever` starts again what has ended, tests/standin/supervisorctl answers for
supervisor. All else is what a host has. As root only, since the keeper writes to /run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from vllm_keeper import processes, runfile
from vllm_keeper.watch import evidence

from tests.standin import rig

ROOT = Path(__file__).resolve().parent.parent
STANDIN = ROOT / "tests/standin"
CLONE_NEWNS = 0x00020000
SETTLED = 60.0  # seconds within which a stand-in has started on a very busy machine


def private_run_directory() -> bool:
    """A /run/vllm-keeper that no keeper of this machine sees, for this process and its children."""
    runfile.DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(runfile.DIRECTORY)]
    return all(
        subprocess.run(command, check=False, capture_output=True).returncode == 0
        for command in (["mount", "--make-rprivate", "/"], mount)
    )


class Instance:
    """One stand-in and its runner."""

    def __init__(self, site: Site, name: str, watch: Mapping[str, object], canary: Mapping[str, object]) -> None:
        self.site, self.name, self.port = site, name, rig.free_port()
        self.config = site.folder / f"{name}.yaml"
        self.config.write_text(f"model: {site.folder}\nport: {self.port}\nhost: 127.0.0.1\nshutdown-timeout: 10\n")
        settings = {
            "name": name, "manager": "supervisor", "control": [str(STANDIN / "supervisorctl")],
            "base_url": f"http://127.0.0.1:{self.port}", "config_file": str(self.config), "start_timeout": SETTLED,
            "log_file": str(site.folder / f"{name}.log"), "drain_timeout": 10, "watch": dict(watch),
            # So many failures in a row are what is measured: the gate is not to hold up any start.
            "canary": dict(canary), "gate": {"back_off": [0], "window": 1, "budget": 100, "jitter": 0},
        }  # fmt: skip
        (site.etc / f"{name}.json").write_text(json.dumps(settings))
        self.runner: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *self.site.keeper, "run", self.name, "--forever", "--delay", "0",
            "--log", str(self.site.folder / f"{self.name}.log"),
            "--", str(STANDIN / "vllm"), "serve", "--config", str(self.config),
        ]  # fmt: skip
        self.runner = subprocess.Popen(command, env=self.site.environment, stdout=self.site.log, stderr=self.site.log)

    @property
    def api(self) -> int | None:
        """Its pid, while it runs and is ready."""
        run = runfile.living(self.name)
        return run.pid if run is not None and run.phase == "running" else None

    @property
    def newest(self) -> int | None:
        """The pid of the API that was started last, ready or not."""
        run = runfile.living(self.name)
        return None if run is None or run.pid is None or not rig.title(run.pid) else run.pid

    def serving(self) -> int:
        """Waits until it answers a completion; the API's pid."""
        rig.until(lambda: self.api is not None and self.ask().status == 200, SETTLED, 0.05)
        found = self.api
        if found is None:
            raise RuntimeError(f"{self.name}: it has gone again; see {self.site.folder}/{self.name}.log")
        return found

    def ask(self, tokens: int = 1, within: float = 10) -> rig.Answer:
        return rig.ask(self.port, "/v1/completions", within, {"prompt": "Hello", "max_tokens": tokens})

    def close(self) -> None:
        if self.runner is None:
            return
        known = processes.everyone()
        pids = processes.descendants(self.runner.pid, known)
        processes.end(known[pid] for pid in pids if pid in known)
        self.runner.wait()


class Load:
    """So many users who always have a request under way."""

    def __init__(self, instance: Instance, users: int, tokens: int) -> None:
        self.instance, self.tokens, self.stop = instance, tokens, threading.Event()
        self.threads = [threading.Thread(target=self._use, daemon=True) for _ in range(users)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _use(self) -> None:
        while not self.stop.is_set():
            if self.instance.ask(self.tokens, 30).status != 200:
                time.sleep(0.05)  # nobody listens: a user who tries again


class Site:
    def __init__(
        self,
        instances: int,
        steps: float = 0.02,
        watch: Mapping[str, object] | None = None,
        canary: Mapping[str, object] | None = None,
    ) -> None:
        if os.geteuid() != 0:
            raise SystemExit(f"{runfile.DIRECTORY}: only root may write there: run this as root")
        self.folder = Path(tempfile.mkdtemp(prefix="keeper-bench-"))
        self.etc, self.state = self.folder / "etc", self.folder / "var"
        self.etc.mkdir()
        self.log = (self.folder / "keeper.log").open("ab")
        self.keeper = [
            sys.executable, "-m", "vllm_keeper", "--config-dir", str(self.etc), "--state-dir", str(self.state)
        ]  # fmt: skip
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT / "roles/health/files"), "STANDIN_START_SECONDS": "0",
            "STANDIN_STEP_SECONDS": str(steps), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        self.instances = [
            Instance(self, f"bench-{os.getpid()}-{number}", watch or {}, canary or {}) for number in range(instances)
        ]
        self.watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Site:
        # Also when it is ended politely, nothing of it stays.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
        try:
            for instance in self.instances:
                instance.start()
            for instance in self.instances:
                instance.serving()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def watch(self) -> None:
        self.watcher = subprocess.Popen([*self.keeper, "watch"], env=self.environment, stdout=self.log, stderr=self.log)

    def watched(self) -> bool:
        return self.watcher is not None and self.watcher.poll() is None

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if self.watcher is not None:
            self.watcher.terminate()
            self.watcher.wait()
        for instance in self.instances:
            with contextlib.suppress(OSError):
                instance.close()
                runfile.forget(instance.name)
        self.log.close()
        if kind is None:
            shutil.rmtree(self.folder)
        else:
            print(f"logs are kept in {self.folder}", file=sys.stderr)

    def longest_step(self) -> float:
        """Seconds that processes were idle in a step of recent work: what the watcher learned of these servers."""
        books = [evidence.load(self.state, instance.name) for instance in self.instances]
        return max((book.steps.longest.idle for book in books), default=0.0)


class Death:
    """Waits for a process's end by the kernel's own word, so that no polling is in the figure."""

    def __init__(self, pid: int) -> None:
        self.handle = os.pidfd_open(pid)

    def wait(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        os.close(self.handle)


def send(number: int, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def lenient_end(api: int) -> None:
    """As `systemctl restart` ends a unit: SIGTERM, and SIGCONT for what is stopped."""
    send(signal.SIGTERM, api)
    send(signal.SIGCONT, api)
