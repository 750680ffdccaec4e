# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a server that was started by hand, so that nothing starts it again (private to this collection).

It runs on the host. First what could start it again is held (a script by SIGSTOP, a unit by systemd, a container by its
restart policy), then the API alone is asked to end, so that it finishes its streams; then all that is left
of it is killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_container, _adopt_launch, _adopt_look
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_found import ANY, Found
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Process
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done, Runner
from ansible_collections.steadfast.vllm.plugins.module_utils._models import as_user

ASIDE = "/var/lib/steadfast/adopted"
# What vLLM needs to end after its streams have, and a unit or container after it.
SLACK = 30
# A loop in a shell has started its server again by then.
WATCH = 3.0
# What an engine needs to remove a container that has ended.
REMOVAL = 30
STEP = 0.2
OWN_UNITS = ("/etc/systemd/system/", "/usr/local/lib/systemd/system/")


class Problem(Exception):
    """What went wrong, for the reader."""


class Stopper:
    """Ends one server."""

    def __init__(self, one: Found, drain: int, run: Runner, sleep: Callable[[float], None] = time.sleep) -> None:
        self.one = one
        self.drain = drain
        self.run = run
        self.sleep = sleep
        self.did: list[str] = []
        self.back: list[str] = []
        self.left: list[str] = []
        self.parts: dict[int, Process] = {}

    def stop(self) -> None:
        """All of it. Afterwards nothing of the server runs, or Problem says what still does."""
        kind = self.one.launch.kind
        self._remember()
        {"unit": self._unit, "user-unit": self._unit, "container": self._container}.get(kind, self._by_hand)()
        self._end_rest()
        self._watch()

    # -- started by hand ----------------------------------------------------------------------------------------------

    def _by_hand(self) -> None:
        """nohup, terminal, tmux, screen."""
        launch = self.one.launch
        wrappers = [process for process in map(_adopt_look.process, launch.wrappers) if process]
        pane = _adopt_look.process(launch.pane) if launch.pane and launch.pane != self.one.server.pid else None
        held = [*wrappers, *([pane] if pane else [])]
        for process in held:  # a loop in a script must not start it again
            _signal(process, signal.SIGSTOP)
        try:
            self._ask()
            self._end_rest()
            for process in wrappers:
                if _signal(process, signal.SIGKILL):
                    self.did.append(f"ended {_adopt_launch.program(process)} (pid {process.pid}), which had started it")
            if pane:
                self._close(pane)
        finally:
            for process in held:
                _signal(process, signal.SIGCONT)
        command = " ".join(_adopt_launch.program(process) for process in wrappers[-1:]) or "the command shown above"
        self.back.append(f"cd {self.one.directory} and run {command} as {_adopt_look.user(self.one.server.uid)[0]}")

    def _close(self, pane: Process) -> None:
        """The window's shell, unless its person has something else running in it."""
        known = _adopt_look.everyone()
        below = _adopt_launch.descendants(pane.pid, known) - {pane.pid}
        # tmux lets nothing in its windows be held, so that a loop typed there has started the server again.
        again = [server.pid for server, _command in _adopt_look.servers(known) if server.argv == self.one.server.argv]
        anew = {part for pid in again if pid in below for part in _adopt_launch.descendants(pid, known)}
        others = [known[pid] for pid in sorted(below - anew)]
        kind = self.one.launch.kind
        if others:
            names = ", ".join(f"{_adopt_launch.program(process)} (pid {process.pid})" for process in others[:3])
            self.left.append(f"the {kind} window of pid {pane.pid} stays open: {names} still runs in it")
            return
        # A held shell gets it when it goes on.
        if _signal(pane, signal.SIGHUP):
            _signal(pane, signal.SIGCONT)
            self.did.append(f"closed its {kind} window (pid {pane.pid})")
            if anew or not self._wait([pane], 5):
                _signal(pane, signal.SIGKILL)
            self.parts.update({pid: known[pid] for pid in anew})

    # -- systemd ------------------------------------------------------------------------------------------------------

    def _systemctl(self) -> tuple[list[str], dict[str, str] | None]:
        launch = self.one.launch
        if launch.kind == "unit":
            return ["systemctl"], None
        account = _adopt_look.account(launch.uid)
        if account is None:
            raise Problem(f"uid {launch.uid}, whose systemd runs {launch.name}, is in no user database")
        runtime = f"/run/user/{launch.uid}"
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": account.pw_dir,
            "XDG_RUNTIME_DIR": runtime,
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
        }
        return [*as_user(account), shutil.which("systemctl") or "/usr/bin/systemctl", "--user"], environment

    def _unit(self) -> None:
        unit = self.one.launch.name
        told = self._systemd("show", "--property=FragmentPath,UnitFileState,Transient", unit)
        about = dict(line.partition("=")[::2] for line in told.output.splitlines())
        fragment = about.get("FragmentPath", "")
        if about.get("UnitFileState") in ("enabled", "enabled-runtime", "linked", "linked-runtime"):
            done = self._systemd("disable", unit)
            if done.status:
                raise Problem(f"systemctl disable {unit}: {done.errors.strip()[-300:]}")
            self.did.append(f"disabled {unit}")
            self.back.append(f"{self._said} enable {unit}")
        # systemd's own stop signals every process of the unit; the API alone is to end first. Restart= would start it
        # again at once, so a drop-in of this boot says no until the unit is stopped.
        folder = self._runtime_folder() / f"{unit}.d"
        self._files(f"mkdir -p {shlex.quote(str(folder))} && printf '[Service]\\nRestart=no\\n' >{_dropin(folder)}")
        self._systemd("daemon-reload")
        self._ask()
        self._systemd("stop", unit, limit=self.drain + SLACK + 90)
        self.did.append(f"stopped {unit}")
        self._files(f"rm -f {_dropin(folder)}; rmdir {shlex.quote(str(folder))} 2>/dev/null || true")
        if about.get("Transient") == "yes" or not fragment:
            self.left.append(f"{unit} was made for one run and has no file: nothing starts it again")
        else:
            self._aside(unit, fragment)
        self._systemd("daemon-reload")
        self._systemd("reset-failed", unit)

    @property
    def _said(self) -> str:
        return "systemctl" if self.one.launch.kind == "unit" else "systemctl --user"

    def _systemd(self, *words: str, limit: float = 60) -> Done:
        command, environment = self._systemctl()
        return self.run([*command, *words], environment=environment, timeout=limit)

    def _runtime_folder(self) -> Path:
        launch = self.one.launch
        return Path("/run/systemd/system" if launch.kind == "unit" else f"/run/user/{launch.uid}/systemd/user")

    def _files(self, script: str) -> None:
        """What is in a user's folders is that user's to change, never root's."""
        account = _adopt_look.account(self.one.launch.uid) if self.one.launch.kind == "user-unit" else None
        done = self.run([*(as_user(account) if account else ()), "/bin/sh", "-c", script], folder="/", timeout=60)
        if done.status:
            raise Problem(f"{script}: {done.errors.strip()[-300:]}")

    def _aside(self, unit: str, fragment: str) -> None:
        """The unit's file goes where systemd does not look: left in place, somebody would start it by habit."""
        if self.one.launch.kind == "user-unit":
            kept = f"{fragment}.adopted"
        elif fragment.startswith(OWN_UNITS):
            Path(ASIDE).mkdir(parents=True, exist_ok=True, mode=0o700)
            kept = f"{ASIDE}/{unit}"
        else:
            self.left.append(f"{fragment} stays, since a package brought it; {unit} is disabled")
            self.back.append(f"{self._said} start {unit}")
            return
        script = "; ".join(
            f"if test -e {shlex.quote(fragment + end)}; then rm -rf {shlex.quote(kept + end)} && "
            f"mv {shlex.quote(fragment + end)} {shlex.quote(kept + end)}; fi"
            for end in ("", ".d")
        )
        self._files(script)
        self.did.append(f"moved {fragment} to {kept}")
        self.back.append(f"mv {kept} {fragment}; {self._said} daemon-reload; {self._said} start {unit}")

    # -- containers ---------------------------------------------------------------------------------------------------

    def _container(self) -> None:
        runtime, identity = self.one.launch.runtime, self.one.launch.name
        told = self.one.container
        name = _adopt_container.name(told) or identity[:12]
        scripts = [process for process in map(_adopt_look.process, self.one.outside) if process]
        for process in scripts:  # a loop around docker run must not start the next one
            _signal(process, signal.SIGSTOP)
        try:
            self._end_container(runtime, identity, name)
            for process in scripts:
                if _signal(process, signal.SIGKILL):
                    self.did.append(f"ended {_adopt_launch.program(process)} (pid {process.pid}), which had started it")
        finally:
            for process in scripts:
                _signal(process, signal.SIGCONT)
        if not _adopt_container.removed_with_its_end(told):
            self.left.append(f"container {name} is stopped and stays; {runtime} rm {name} removes it")
            self.back.append(f"{runtime} start {name}")
        else:
            image = (told.get("Config") or {}).get("Image")
            self.did.append(f"{runtime} removed container {name}, which was started with --rm")
            self.back.append(f"{runtime} run {image} with the options that it was started with")

    def _end_container(self, runtime: str, identity: str, name: str) -> None:
        """Neither its restart policy nor the next start of the engine starts it again."""
        policy = _adopt_container.restart_policy(self.one.container)
        settled = not policy
        if policy:
            settled = self.run([runtime, "update", "--restart=no", identity], timeout=60).status == 0
            if settled:
                self.did.append(f"set the restart policy of container {name} from {policy} to no")
                self.back.append(f"{runtime} update --restart={policy} {name}")
        if settled:
            self._ask()
        else:
            # An older podman cannot change it. Its own stop holds until the host boots.
            self.left.append(
                f"container {name} still has the restart policy {policy}, which this {runtime} cannot change: "
                f"{runtime} rm {name}, or it may start at the next boot"
            )
        stopped = self.run([runtime, "stop", "--time", str(self.drain + SLACK), identity],
                           timeout=self.drain + SLACK + 60)  # fmt: skip
        if stopped.status == 0:
            self.did.append(f"stopped container {name}")
        elif not self._removed(runtime, identity):
            raise Problem(f"{runtime} stop {name}: {stopped.errors.strip()[-300:]}")

    def _removed(self, runtime: str, identity: str) -> bool:
        """Whether there is no such container any more: one with --rm goes by itself, soon after its end."""
        end = time.monotonic() + (REMOVAL if _adopt_container.removed_with_its_end(self.one.container) else 0)
        while _adopt_look.container(runtime, identity, self._plain) is not None:
            if time.monotonic() >= end:
                return False
            self.sleep(STEP)
        return True

    def _plain(self, argv: Sequence[str]) -> tuple[int, str, str]:
        done = self.run(argv, timeout=30)
        return done.status, done.output, done.errors

    # -- processes ----------------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """All that belongs to the server now: an engine whose API is gone has no parent that would tell."""
        known = _adopt_look.everyone()
        here = known.get(self.one.server.pid)
        if here and here.born == self.one.server.born:
            for pid in _adopt_launch.descendants(here.pid, known):
                self.parts[pid] = known[pid]

    def _ask(self) -> None:
        """SIGTERM to the API alone: it takes no more requests and ends its streams and its engine."""
        server = self.one.server
        self._remember()
        cut = self._await_quiet()
        if not _signal(server, signal.SIGTERM):
            return
        begin = time.monotonic()
        if self._wait([server], self.drain + SLACK):
            drained = f"was never without requests for {self.drain} s: {cut} cut off; it" if cut else "drained and"
            self.did.append(f"pid {server.pid} {drained} ended in {time.monotonic() - begin:.1f} s")
        else:
            self.did.append(f"pid {server.pid} had not ended {self.drain + SLACK} s after SIGTERM: killed")

    def _await_quiet(self) -> int:
        """How many requests SIGTERM cuts off. Without --shutdown-timeout vLLM ends them all at once: it gets the signal
        in a moment in which it has none, if there is one."""
        entry = self.one.plan.entry
        if "drain_timeout" in entry:
            return 0
        end = time.monotonic() + self.drain
        while count := _adopt_look.requests(str(entry.get("host", ANY)), entry["port"]):
            if time.monotonic() >= end:
                return count
            self._remember()
            self.sleep(STEP)
        return 0

    def _end_rest(self) -> None:
        rest = [process for process in self.parts.values() if _alive(process)]
        for process in rest:
            _signal(process, signal.SIGKILL)
        if rest:
            self._wait(rest, 10)
            names = ", ".join(f"{_adopt_launch.program(process)} ({process.pid})" for process in rest)
            self.did.append(f"killed what was left of it: {names}")

    def _wait(self, processes: Iterable[Process], seconds: float) -> bool:
        """Whether all ended in time. Children that come meanwhile are remembered."""
        waited = list(processes)
        end = time.monotonic() + seconds
        while any(_alive(process) for process in waited):
            if time.monotonic() >= end:
                return False
            self._remember()
            self.sleep(STEP)
        return True

    def _watch(self) -> None:
        """Nothing of it runs, and nobody starts it again."""
        alive = [process for process in self.parts.values() if _alive(process)]
        if alive:
            raise Problem(f"still there after SIGKILL: pids {', '.join(str(process.pid) for process in alive)}")
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            again = self._again()
            if again:
                raise Problem(
                    f"it was started again as pid {again.pid} by {_above(again)}: end that, then run this again"
                )
            self.sleep(STEP)

    def _again(self) -> Process | None:
        """The same command line, younger than the stop."""
        for server, _command in _adopt_look.servers(_adopt_look.everyone()):
            if server.argv == self.one.server.argv and server.born > self.one.server.born:
                return server
        return None


def _dropin(folder: Path) -> str:
    return shlex.quote(f"{folder}/99-steadfast-adopting.conf")


def _above(process: Process) -> str:
    chain = _adopt_launch.ancestors(process.pid, _adopt_look.everyone())
    return f"{_adopt_launch.program(chain[0])} (pid {chain[0].pid})" if chain else "nobody that can be seen"


def _alive(process: Process) -> bool:
    now = _adopt_look.process(process.pid)
    return now is not None and now.born == process.born


def _signal(process: Process, number: int) -> bool:
    """Whether the process was there to get it."""
    if not _alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def told(stopper: Stopper) -> Sequence[str]:
    return [*stopper.did, *(f"left: {line}" for line in stopper.left)]
