# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tmux and screen: one detached session an instance, in which `start_server.sh` runs `vllm-keeper run --forever`.

Each instance has a server process of its own behind a private socket: nobody's own tmux or screen is touched, and what
ends one instance's ends no other. Where systemd runs, that server lives in a transient unit, because what is left in
the control group of a login session or of cron dies with it.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_keeper import decision as d
from vllm_keeper import processes, runfile
from vllm_keeper.managers.base import ASK, Completed, ManagerError
from vllm_keeper.managers.supervised import POLL, Known, Supervised

KEEPER = "/usr/local/bin/vllm-keeper"
BEGIN = 30.0  # at most, from the session to its first word in /run: a Python that starts on a busy host
APPEARS = 5.0  # by then a session is there, or will never be
SLACK = 60.0  # for the runner's own killing, beyond the drain
DONE = Completed(0, "", "")
# What tmux says where it does not run.
ABSENT = ("no server running", "error connecting", "server exited", "lost server")


class Session(Supervised):
    program: str
    leave: str  # the keys that leave it running
    # A session does not come back when the host boots, nor when its program died: the next check brings it back.
    STARTS_ON_BOOT = False
    scripts = Path("/etc/vllm")
    booted = Path("/run/systemd/system")  # there where systemd runs

    @abc.abstractmethod
    def open(self) -> list[str]:
        """The command that makes the session, detached, and runs the script in it."""

    @abc.abstractmethod
    def exists(self) -> bool:
        """Whether the session is there. Raises ManagerError when nobody can tell."""

    @abc.abstractmethod
    def close(self) -> Completed:
        """Ends the session, whatever runs in it."""

    @property
    def script(self) -> Path:
        return self.scripts / self.program / self.instance.name / "start_server.sh"

    @property
    def disabled(self) -> Path:
        return self.script.with_name("disabled")

    @property
    def unit(self) -> str:
        return f"vllm-session-{self.instance.name}.service"

    def known(self) -> Known:
        if not self.script.exists():
            return Known(False, False, f"{self.script} does not exist", enabled=False)
        enabled = not self.disabled.exists()
        there = self.exists()
        run = self._runner()
        if run is None:
            # A session without a runner is one that somebody's program in it keeps, or that has just begun.
            young = there and self._begins()
            return Known(True, young, f"{self.program} session without a runner" if there else "no session", enabled)
        where = f"session {self.instance.name}" if there else f"outside of {self.program}, pid {run.runner}"
        return Known(True, True, where, enabled)

    def start(self, wait: float = 0) -> Completed:
        ended = self.ended()
        run = self._runner()
        if run is not None and run.phase == d.STOPPING:
            gone = self.await_gone(self.instance.drain_timeout + SLACK)
            if gone.code:
                return gone
            run = None
        if run is None:
            done = self._open()
            if done.code:
                return done
        return self.await_ready(wait, ended) if wait else DONE

    def stop(self, wait: float = 0) -> Completed:
        run = self._runner()
        if run is None:
            return self._close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.runner, signal.SIGTERM)
        if not wait:
            return DONE
        gone = self.await_gone(wait)
        return gone if gone.code else self._close()

    def restart(self, wait: float = 0) -> Completed:
        if wait:
            end = time.monotonic() + wait
            stopped = self.stop(min(wait, self.instance.drain_timeout + SLACK))
            return stopped if stopped.code else self.start(max(POLL, end - time.monotonic()))
        if self._runner() is None:
            return self.start()
        # Ordered and left to itself, as systemd does a job: who ordered it need not live to see the end of the drain.
        return self._aside([KEEPER, "renew", self.instance.name])

    def enable(self, on: bool) -> Completed:
        try:
            if on:
                self.disabled.unlink(missing_ok=True)
            else:
                self.disabled.touch(mode=0o644)
        except OSError as error:
            return Completed(1, "", f"{self.disabled}: {error.strerror or error}")
        return DONE

    def remove(self) -> Completed:
        self.disabled.unlink(missing_ok=True)
        done = self._close()
        self.forget()
        return done

    @abc.abstractmethod
    def forget(self) -> None:
        """What the program leaves where its socket was."""

    def files(self) -> list[str]:
        return [str(self.script)]

    def notice(self) -> str:
        return (
            f"a {self.program} session is for development and not highly available: whoever closes it, and whatever "
            f"ends {self.program}, ends the server until it is started anew; use systemd for a service"
        )

    def hang_up(self, asked: bool) -> bool:
        run, me = self._runner(), processes.read(os.getpid(), self.proc)
        runner = processes.read(run.runner, self.proc) if run is not None else None
        if run is not None and runner is not None and me is not None and runner.groups == me.groups:
            # Where nobody asked, the session is gone, and the runner knows that by SIGHUP.
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.runner, signal.SIGTERM if asked else signal.SIGHUP)
            self.await_gone(self.instance.drain_timeout + SLACK)
        return True

    def look_again(self) -> Completed:
        return self._aside([KEEPER, "check", "--quiet", self.instance.name])

    def _runner(self) -> runfile.Run | None:
        return runfile.living(self.instance.name, self.run_directory, self.proc)

    def _begins(self) -> bool:
        """Whether the session is so young that its runner may not have said anything yet."""
        for process in processes.everyone(self.proc).values():
            if str(self.script) in process.command:
                up = time.clock_gettime(time.CLOCK_BOOTTIME)
                if up - process.born / os.sysconf("SC_CLK_TCK") < BEGIN:
                    return True
        return False

    def _open(self) -> Completed:
        """A new session. One that has just begun is taken; one in which nothing of ours runs is closed."""
        if not self.script.exists():
            return Completed(1, "", f"{self.script} does not exist; run site.yml")
        with self._ordering():
            return self._open_alone()

    def _open_alone(self) -> Completed:
        if self._runner() is None and not (self.exists() and self._begins()):
            self._end()
            done = self._run([*self._unit(self.unit), *self.open()], ASK)
            if "already" in done.err and not self.exists():
                # Something that was started by hand in the session is still there, and keeps the old unit.
                spare = self.unit.replace(".service", f"-{os.getpid()}.service")
                done = self._run([*self._unit(spare), *self.open()], ASK)
            # Two starts at once: the second finds what the first has made.
            if done.code and not self.exists():
                return Completed(done.code, done.out, f"{self.program}: {self.why(done)}")
        return self._await_runner()

    def _await_runner(self) -> Completed:
        begun = time.monotonic()
        while self._runner() is None:
            spent = time.monotonic() - begun
            # screen lets go of its caller before its socket is there.
            if spent >= ASK or (spent >= APPEARS and not self.exists()):
                return Completed(1, "", f"the session ended at once; run {self.script} by hand to see why")
            time.sleep(POLL)
        return DONE

    @contextlib.contextmanager
    def _ordering(self) -> Iterator[None]:
        """Of two orders at once, one makes or ends the session, and the other finds it so."""
        self.run_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.run_directory / f"{self.instance.name}.order").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _close(self) -> Completed:
        """The session goes, unless somebody has begun a new one meanwhile."""
        with self._ordering():
            return DONE if self._runner() is not None else self._end()

    def _end(self) -> Completed:
        """The session, and the unit around it, which ends what is left of it."""
        with contextlib.suppress(ManagerError):  # it does not answer: the unit's end is its end too
            if self.exists():
                self.close()
        if self.booted.is_dir():
            self._run(["systemctl", "stop", self.unit], self.instance.drain_timeout + SLACK)
        try:
            return Completed(1, "", f"the {self.program} session cannot be closed") if self.exists() else DONE
        except ManagerError as error:
            return Completed(1, "", str(error))

    def _unit(self, unit: str) -> list[str]:
        """What goes before a command so that it is run in that unit."""
        if not self.booted.is_dir():
            return []
        name, limit = self.instance.name, self.instance.drain_timeout + 2 * SLACK
        properties = (
            "Type=forking",
            # The runner ends the server, and what is left of it; a session that is gone must not keep it from that.
            "KillMode=process",
            f"TimeoutStopSec={limit:g}",
            f"ExecStop={KEEPER} hang-up {name}",
            f"ExecStopPost={KEEPER} hang-up {name}",
            # So that a host that goes down lets it finish its streams while there is a network.
            "After=network-online.target",
        )
        words = ["systemd-run", "--quiet", "--collect", f"--unit={unit}"]
        return [
            *words, f"--description=vLLM {name} in {self.program}", *(f"--property={one}" for one in properties), "--",
        ]  # fmt: skip

    def _aside(self, command: Sequence[str]) -> Completed:
        if self.booted.is_dir():
            return self._run(["systemd-run", "--quiet", "--collect", "--", *command], ASK)
        return self._run(["setsid", "--fork", "sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *command], ASK)


class Tmux(Session):
    program = "tmux"
    leave = "Ctrl-b d"

    def open(self) -> list[str]:
        # Without a window's size, a detached one has 80 columns, and every traceback is broken.
        size = ("-x", "220", "-y", "50")
        return [*self._tmux(), "new-session", "-d", "-s", self.instance.name, *size, str(self.script)]

    def exists(self) -> bool:
        # Asked for one session, a tmux that has just lost its last one answers with an error; its list is empty.
        done = self._run([*self._tmux(), "list-sessions", "-F", "#{session_name}"], ASK)
        said = (done.err + done.out).strip()
        if done.code == 127:
            raise ManagerError(f"{said}; run site.yml, which installs it")
        if done.code and not any(words in said for words in ABSENT):
            raise ManagerError(f"tmux: {said or f'exit code {done.code}'}")
        return done.code == 0 and self.instance.name in done.out.splitlines()

    def close(self) -> Completed:
        return self._run([*self._tmux(), "kill-server"], ASK)

    def attach(self) -> list[str]:
        return [*self._tmux(), "attach-session", "-t", f"={self.instance.name}"]

    def forget(self) -> None:
        self.socket.unlink(missing_ok=True)

    @property
    def socket(self) -> Path:
        return self.run_directory / f"{self.instance.name}.tmux"

    def _tmux(self) -> list[str]:
        # -f: nobody's own settings. -u: all letters, whatever the locale of cron.
        return [*(self.instance.control or ("tmux",)), "-u", "-f", "/dev/null", "-S", str(self.socket)]


class Screen(Session):
    program = "screen"
    leave = "Ctrl-a d"

    def open(self) -> list[str]:
        # -h: lines that can be scrolled back to.
        return [*self._screen(), "-dmS", self.instance.name, "-h", "5000", str(self.script)]

    def exists(self) -> bool:
        # Its socket is called PID.NAME, and stays when it is killed. Asked itself, it takes one question at a time.
        found = [path.name.partition(".")[0] for path in self.folder.glob(f"*.{self.instance.name}")]
        known = [processes.read(int(pid), self.proc) for pid in found if pid.isdigit()]
        return any(process is not None and self.instance.name in process.command for process in known)

    def _end(self) -> Completed:
        done = super()._end()
        self._run([*self._screen(), "-wipe"], ASK)  # what a killed one leaves
        return done

    def close(self) -> Completed:
        return self._run([*self._screen(), "-S", self.instance.name, "-X", "quit"], ASK)

    def attach(self) -> list[str]:
        return [*self._screen(), "-x", self.instance.name]

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @property
    def folder(self) -> Path:
        # screen takes the beginning of a name for the whole, so each instance has a folder of its own for its socket.
        return self.run_directory / f"{self.instance.name}.screen"

    def _screen(self) -> list[str]:
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = self.instance.control or ("screen",)
        return ["env", f"SCREENDIR={self.folder}", *command, "-U", "-c", "/dev/null"]
