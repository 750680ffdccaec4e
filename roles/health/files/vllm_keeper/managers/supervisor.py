# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Supervisor: one program an instance, called as the instance; the program is `vllm-keeper run`.

Every order names its program: `supervisorctl update` without a name would restart whatever else has changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from vllm_keeper import runfile
from vllm_keeper.managers.base import ASK, Completed, ManagerError
from vllm_keeper.managers.supervised import POLL, Known, Supervised

UNIT = "supervisor.service"
CONFIG = "/etc/supervisor/supervisord.conf"  # of the distribution's package
UP = ("RUNNING", "STARTING", "BACKOFF", "STOPPING")
DONE = Completed(0, "", "")
DOWN, ABSENT = "supervisord does not run", "absent"
STOP_SLACK = 120.0  # beyond drain_timeout; supervisor's own SIGKILL comes before
SLICE, LATE = 10.0, 124  # seconds of looking at once; the code of a wait that was over before anything was seen
# Ordered and left to itself, as systemd does a job: whoever ordered it need not live to see the end of the drain.
BY_ITSELF = 'name=$1; shift; { "$@" stop $name; "$@" update $name; "$@" start $name; } >/dev/null 2>&1 </dev/null &'


class Supervisor(Supervised):
    programs = Path("/etc/supervisor/conf.d")
    socket = Path("/run/supervisor.sock")
    booted = Path("/run/systemd/system")  # there where systemd runs

    def known(self) -> Known:
        text = self._program()
        starts = text is not None and autostarts(text) and self._daemon_enabled()
        state, said = read_status(self._control("status", self.instance.name), self.instance.name)
        return interpret_status(state, said, text is not None, starts)

    def start(self, wait: float = 0) -> Completed:
        ended, end = self.ended(), time.monotonic() + wait
        done = self._bring_up(max(wait, ASK))
        while done.code == 0 and wait:
            # A slice at a time: a runner that ends at once, because the keeper is broken, never says anything.
            done = self.await_ready(min(SLICE, max(0.0, end - time.monotonic())), ended)
            if done.code != LATE or time.monotonic() >= end:
                return done
            alive = runfile.living(self.instance.name, self.run_directory, self.proc) is not None
            done = DONE if alive else self._ends_at_once()
        return done

    def stop(self, wait: float = 0) -> Completed:
        end = time.monotonic() + wait
        done = self._control("stop", self.instance.name, within=wait or ASK)
        run = runfile.living(self.instance.name, self.run_directory, self.proc)
        if run is not None and self._state() not in UP:
            # A runner whose supervisord is gone, or that was started by hand.
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.runner, signal.SIGTERM)
        if not wait:
            return done
        gone = self.await_gone(max(POLL, end - time.monotonic()))
        return gone if gone.code else self._settled(max(POLL, end - time.monotonic()))

    def restart(self, wait: float = 0) -> Completed:
        if wait:
            end = time.monotonic() + wait
            self.stop(min(wait, self.instance.drain_timeout + STOP_SLACK))
            return self.start(max(POLL, end - time.monotonic()))
        ready = self._ready_to_order()
        if ready.code:
            return ready
        return self._run(["setsid", "sh", "-c", BY_ITSELF, "sh", self.instance.name, *self._command()], ASK)

    def remove(self) -> Completed:
        """Out of supervisord's memory: a program whose file is gone would otherwise stay until somebody updates all."""
        return self._control("remove", self.instance.name)

    def enable(self, on: bool) -> Completed:
        text = self._program()
        starts = text is not None and autostarts(text)
        if starts != on:
            said = "true" if starts else "false"
            return Completed(
                1, "", f"{self._file()} says autostart={said}: site.yml changes it, by service_enabled; or park it"
            )
        if not on or not self.booted.is_dir():
            return DONE
        return self._run(["systemctl", "enable", UNIT], ASK)

    def files(self) -> list[str]:
        return [str(self._file())]

    def notice(self) -> str:
        try:
            mode = self.socket.stat().st_mode & 0o777
        except OSError:
            return ""
        if not mode & 0o077:
            return ""
        return f"{self.socket} has mode {mode:04o}: whoever may write to it runs commands as root; set chmod=0700"

    def _file(self) -> Path:
        return self.programs / f"{self.instance.name}.conf"

    def _program(self) -> str | None:
        try:
            return self._file().read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def _daemon_enabled(self) -> bool:
        if not self.booted.is_dir():
            return True  # nobody can tell
        return self._run(["systemctl", "is-enabled", UNIT], ASK).out.strip() in ("enabled", "enabled-runtime")

    def _bring_up(self, within: float) -> Completed:
        """What its file says is what supervisord runs, and it is started; of this program alone."""
        ready = self._ready_to_order()
        if ready.code:
            return ready
        updated = self._control("update", self.instance.name, within=within)
        if updated.code:
            return Completed(updated.code, updated.out, updated.err or updated.out)
        settled = self._settled(within)
        if settled.code:
            return settled
        done = self._control("start", self.instance.name)
        if "ERROR" in done.out and "already started" not in done.out:
            return Completed(1, done.out, f"supervisorctl start: {done.out.strip()}; see {self.instance.log_file}")
        return DONE if done.out else done

    def _ends_at_once(self) -> Completed:
        state = self._state()
        if state in ("RUNNING", "STARTING", "STOPPING"):
            return DONE
        return Completed(
            1, "", f"supervisor says {state}: the keeper's runner ends at once; see {self.instance.log_file}"
        )

    def _ready_to_order(self) -> Completed:
        """supervisord runs, and can read its files."""
        if self._state() == DOWN:
            started = self._start_daemon()
            if started.code:
                return started
        done = self._control("reread")
        # "ERROR: CANT_REREAD: ...", of any program's file.
        return Completed(1, "", f"supervisorctl reread: {self.why(done)}") if done.code or "ERROR" in done.out else DONE

    def _start_daemon(self) -> Completed:
        if self.booted.is_dir():
            done = self._run(["systemctl", "start", UNIT], ASK)
        else:
            control = self._command()
            daemon = str(Path(control[0]).with_name("supervisord")) if "/" in control[0] else "supervisord"
            done = self._run([daemon, *(control[1:] or ["-c", CONFIG])], ASK)
        if done.code:
            return Completed(done.code, "", f"{DOWN} and cannot be started: {self.why(done)}")
        end = time.monotonic() + ASK
        while self._state() == DOWN:
            if time.monotonic() >= end:
                return Completed(124, "", f"{DOWN}: it was started and does not answer after {ASK:g} s")
            time.sleep(POLL)
        return DONE

    def _settled(self, within: float) -> Completed:
        """Not between running and stopped: an order to start would be lost there."""
        end = time.monotonic() + within
        while self._state() == "STOPPING":
            if time.monotonic() >= end:
                return Completed(124, "", f"still stopping after {within:g} s")
            time.sleep(POLL)
        return DONE

    def _state(self) -> str:
        """supervisor's word for the program's state, or DOWN, or ABSENT."""
        try:
            return read_status(self._control("status", self.instance.name), self.instance.name)[0]
        except ManagerError:
            return DOWN  # no supervisorctl: its unit, or what is missing of it, tells more

    def _command(self) -> list[str]:
        return list(self.instance.control or ("supervisorctl",))

    def _control(self, *words: str, within: float = ASK) -> Completed:
        return self._run([*self._command(), *words], within)


def autostarts(text: str) -> bool:
    """Whether a program's file says that it starts with supervisord; so it is where it says nothing."""
    found = re.search(r"^\s*autostart\s*[=:]\s*(\S+)", text, re.MULTILINE)
    return found is None or found[1].lower() in ("true", "yes", "on", "1")


def read_status(done: Completed, name: str) -> tuple[str, str]:
    """(state, what is said of it) from `supervisorctl status NAME`. Raises ManagerError for what it cannot read."""
    said = done.out.strip()
    words = said.split()
    if said.endswith(("no such file", "refused connection")):
        return DOWN, DOWN
    if len(words) < 2 or words[0].rstrip(":") != name:
        raise ManagerError(f"supervisorctl status {name}: {(done.err.strip() or said) or f'exit code {done.code}'}")
    if words[1] == "ERROR":
        return ABSENT, f"supervisor has no program {name}"
    return words[1], " ".join(words[1:])


def interpret_status(state: str, said: str, defined: bool, enabled: bool) -> Known:
    """Pure: supervisor's word, and whether the program has a file, as what is known."""
    if state == DOWN:
        # A runner may still serve. Where none does, check starts the program, and the daemon with it.
        return Known(defined, False, said, enabled, failed=True)
    if state == ABSENT:
        return Known(defined, False, "not read by supervisor yet" if defined else said, enabled)
    return Known(True, state in UP, said, enabled, failed=state in ("FATAL", "EXITED"))
