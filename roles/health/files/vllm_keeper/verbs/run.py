# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`run`: what a systemd unit does around a start, as one foreground process, for managers that know no hooks.

gate, the server, wait-ready beside it, stopping, stopped: the same verbs in the same order. SIGTERM reaches the API
alone, which lets streams finish; whatever is left when the API has ended is killed, since an engine that outlives its
API holds the GPU's memory for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_keeper import config, exits, processes, runfile
from vllm_keeper import decision as d
from vllm_keeper import state as st
from vllm_keeper.accounts import Account
from vllm_keeper.clock import Moment
from vllm_keeper.context import Context
from vllm_keeper.log import MARK
from vllm_keeper.logfile import LogFile, tee
from vllm_keeper.verbs import ending, gate, ready

STOP_MARGIN = 30.0  # beyond drain_timeout, as the unit's TimeoutStopSec has it
PARKED_POLL = 1.0
LOOK = 1.0  # how long a lost signal could go unnoticed
SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FOR_EVER = float("inf")
SHELL_NOT_FOUND = 127
HUNG_UP = "hang-up"


@dataclass(frozen=True)
class Wanted:
    """command: what to run. account: as whom. limits: {"files": n, "memlock": bytes or -1}; oom_score_adjust.

    forever: start again after each end, where nobody else does. apart: in a process group of its own, so that what a
    terminal sends (Ctrl-C, hang-up) comes to the runner alone. delay: seconds from a start to the next at least.
    """

    command: Sequence[str]
    account: Account
    limits: Mapping[str, int] = field(default_factory=dict)
    oom_score_adjust: int | None = None
    forever: bool = False
    apart: bool = False
    delay: float = 10.0
    log: LogFile | None = None


class RunError(Exception):
    """Nothing was started, and why."""


def run(context: Context, wanted: Wanted, environment: Mapping[str, str], again: Callable[[], Context]) -> int:
    """AGAIN: the context anew, from its configuration as it is then; ConfigError where that is wrong."""
    other = runfile.living(context.instance.name)
    if other is not None and not runfile.abandoned(other):
        raise _refusal(context, other)
    if not wanted.apart:
        # The first process of a group, so that a manager that kills the group kills all of it. Where a terminal is
        # listened to, its own group has to stay.
        with contextlib.suppress(PermissionError):  # a session's leader is one already
            os.setpgid(0, 0)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Waited for one by one: no handler that could come at a bad moment. Children unblock them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    runner = _Runner(context, wanted, environment, again)
    if other is not None and not runner.take_over(other):
        return exits.OK
    # Two that begin at the same moment: the file of neither was there to be seen.
    try:
        alone = runfile.claim(context.instance.name)
    except OSError as error:
        context.log.warning(f"a second runner is not kept out ({error})")
        alone = True
    if not alone:
        raise _refusal(context, runfile.living(context.instance.name))
    return runner.run()


def _refusal(context: Context, other: runfile.Run | None) -> RunError:
    who = f", by pid {other.runner}" if other is not None else ""
    return RunError(f"it is run already{who}; to see it: vllm-keeper status {context.instance.name}")


class _Runner:
    def __init__(
        self, context: Context, wanted: Wanted, environment: Mapping[str, str], again: Callable[[], Context]
    ) -> None:
        self.context, self.wanted, self.environment, self.again = context, wanted, environment, again
        self.begun = float("-inf")  # the last start
        self.stop = False  # we are to end
        self.asked = False  # because somebody wants it, and not because the terminal went away
        self.heard = True  # the manager reads what we say
        self.done: dict[int, int] = {}  # pid -> wait status of children that ended
        self.writer = 0
        if wanted.log is not None:
            self.writer = tee(wanted.log)
            context.log.mark = MARK.decode()
        before = runfile.read(context.instance.name)
        me = processes.read(os.getpid())
        born = me.born if me else 0
        self.file = runfile.Run(os.getpid(), born, d.HELD, parent=os.getppid(), writer=self.writer)
        self.file = replace(self.file, ended=0 if before is None else before.ended)

    def take_over(self, other: runfile.Run) -> bool:
        """The place of a runner whose manager was killed: drained, then ended. False when it was called off."""
        self.context.log.notice(f"the manager of runner {other.runner} is gone: that run is drained and ended first")

        def intend(state: st.State, now: Moment) -> None:
            state.intent = st.Intent("restart", now)

        def forgo(state: st.State, _now: Moment) -> None:
            if state.intent is not None and state.intent.kind == "restart":
                state.intent = None

        self.context.try_update(intend)
        _signal(other.runner, signal.SIGTERM)

        def gone() -> bool:
            now = processes.read(other.runner)
            return now is None or now.born != other.born or now.zombie

        self._wait(lambda: self.stop or gone(), self.context.instance.drain_timeout + 2 * STOP_MARGIN)
        if self.stop:
            # Nothing is started again: the end of that run is what was wished.
            self.context.try_update(forgo)
            return False
        if not gone():
            self.context.log.warning(f"runner {other.runner} did not end in time: killed")
            known = processes.everyone()
            processes.end(known[pid] for pid in processes.descendants(other.runner, known) if pid in known)
        last = runfile.read(self.context.instance.name)
        self.file = replace(self.file, ended=self.file.ended if last is None else last.ended)
        return True

    def run(self) -> int:
        while True:
            code = self._once()
            if self.stop or not self.wanted.forever:
                return code
            self._say(phase=d.HELD, detail="to be started again")
            # Only one that ends as soon as it begins has to be slowed down.
            self._wait(lambda: self.stop, self.wanted.delay - (time.monotonic() - self.begun))
            if self.stop:
                return self._called_off()

    def _once(self) -> int:
        if not self._gate():
            return self._called_off()
        self.begun = time.monotonic()
        api = self._start()
        process = processes.read(api)
        born = process.born if process is not None else 0
        self._remember(api, born)
        self._say(phase=d.STARTING, detail="starting", pid=api, pid_born=born)
        result = self._serve(api)
        status = self.done.pop(api)
        self._end_leftovers()
        code, words = _told(status)
        # Also asked for when it ended by itself, as systemd does.
        environment = {"SERVICE_RESULT": result or _result(status), "EXIT_CODE": code, "EXIT_STATUS": words}
        if not self.stop:
            self._asked(environment)
        self._hook(lambda: ending.stopped(self.context, environment))
        self.file = replace(self.file, ended=self.file.ended + 1)
        self._say(phase=d.STOPPED if self.stop else d.FAILED, detail=f"ended: {code} {words}", pid=None)
        if self.stop:
            return exits.OK
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def _called_off(self) -> int:
        """Told to end while nothing runs."""
        self._say(phase=d.STOPPING, detail="stopping")
        self._hook(lambda: ending.stopped(self.context, {}))
        self._say(phase=d.STOPPED, detail="stopped before it was started")
        return exits.OK

    def _gate(self) -> bool:
        """Held as long as it takes; False when it was called off."""
        while not self.stop:
            self._renew()
            self._say(phase=d.HELD, detail="held by the gate")
            code = self._hook(lambda: gate.gate(self.context))
            if self.stop:
                return False
            if code != exits.PARKED:
                return True
            parked = self.context.parked(self.context.state())
            self._say(phase=d.HELD, detail=f"parked: {parked.reason}" if parked else "parked")
            while self.context.parked(self.context.state()) is not None and not self.stop:
                self._wait(lambda: self.stop, PARKED_POLL)
                self._renew()
        return False

    def _renew(self) -> None:
        """What was wrong may be mended in the configuration itself, and this process outlives many a start."""
        with contextlib.suppress(config.ConfigError):  # as it was, then
            self.context = self.again()

    def _serve(self, api: int) -> str:
        """Until the API has ended; returns systemd's word for why it was ended, "" when it ended by itself."""
        result = ""
        waiter = self._fork(lambda: ready.wait_ready(self.context, api))
        waiting = True
        deadline: float | None = None
        while api not in self.done:
            self._wait(lambda: api in self.done or self.stop or waiter in self.done, LOOK)
            if waiter in self.done:
                late, waiting = self.done.pop(waiter) != 0, False
                if api in self.done:
                    continue
                if late and not self.stop:
                    result = result or "exit-code"
                    deadline = self._terminate(api)
                elif not self.stop:
                    self._say(phase=d.RUNNING, detail="running")
            if self.stop and deadline is None:
                self._say(phase=d.STOPPING, detail="stopping")
                if not self.asked:
                    # As after a failure, the next check starts it: a session that was lost is nobody's wish.
                    result = result or HUNG_UP
                    self._note("its terminal was closed")
                self._asked({"MAINPID": str(api), "SERVICE_RESULT": result or "success"})
                deadline = self._terminate(api)
            if deadline is not None and time.monotonic() >= deadline:
                self.context.log.warning("it did not end in time: killed")
                result = "timeout"
                _signal(api, signal.SIGKILL)
                deadline = time.monotonic() + STOP_MARGIN
        if waiting:
            _signal(waiter, signal.SIGTERM)
            self._wait(lambda: waiter in self.done, STOP_MARGIN)
            self.done.pop(waiter, None)
        return result

    def _asked(self, environment: Mapping[str, str]) -> None:
        self._hook(lambda: ending.stopping(self.context, environment))

    def _terminate(self, api: int) -> float:
        _signal(api, signal.SIGTERM)
        return time.monotonic() + self.context.instance.drain_timeout + STOP_MARGIN

    def _start(self) -> int:
        """The API's pid. What keeps it from being run is told by the child itself, as exit status 127."""
        # From now on it may be in the middle of a line, a progress bar for one, whenever we say something.
        self.context.log.shared = True
        environment = self._child_environment()  # by us: the account of the server cannot read its secrets' file
        pid = os.fork()
        if pid:
            if self.wanted.apart:  # here too: what is remembered of it must not depend on who is first
                with contextlib.suppress(OSError):
                    os.setpgid(pid, pid)
            return pid
        try:
            _become(self.wanted)
            os.execvpe(self.wanted.command[0], list(self.wanted.command), environment)
        except (OSError, ValueError) as error:
            os.write(2, f"vllm-keeper run: {self.wanted.command[0]}: {error}\n".encode())
        finally:
            os._exit(SHELL_NOT_FOUND)

    def _child_environment(self) -> dict[str, str]:
        account, secrets = self.wanted.account, config.read_env_file(self.context.instance.env_file)
        return {**self.environment, **secrets, "HOME": account.home, "USER": account.name, "LOGNAME": account.name}

    def _fork(self, work: Callable[[], int]) -> int:
        """A verb in a process of its own, which may handle signals as it likes."""
        pid = os.fork()
        if pid:
            return pid
        code = exits.INTERNAL
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = work()
        except Exception as error:
            self.context.log.error(f"{error}; the service goes on without its keeper")
            code = exits.OK
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _hook(self, work: Callable[[], int]) -> int:
        may_be_called_off = not self.stop
        pid = self._fork(work)
        self._wait(lambda: pid in self.done or (self.stop and may_be_called_off), FOR_EVER)
        if pid not in self.done:
            # A back-off that is called off; the gate writes down why.
            self._say(phase=d.STOPPING, detail="stopping")
            _signal(pid, signal.SIGTERM)
            self._wait(lambda: pid in self.done, FOR_EVER)
        status = self.done.pop(pid)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else exits.OK

    def _wait(self, enough: Callable[[], bool], within: float) -> None:
        end = time.monotonic() + within
        while True:
            self._reap()
            self._keep_words()
            left = end - time.monotonic()
            if enough() or left <= 0:
                return
            told = signal.sigtimedwait(SIGNALS, min(left, LOOK))
            if told is not None and told.si_signo != signal.SIGCHLD:
                self.stop = True
                self.asked = self.asked or told.si_signo != signal.SIGHUP

    def _keep_words(self) -> None:
        """Once the manager is gone, nobody reads what we say: into the log's end with it, since a dead pipe kills."""
        if self.heard and self.wanted.log is None and os.getppid() != self.file.parent:
            self.heard = False
            try:
                log = os.open(self.context.instance.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except OSError:
                log = os.open(os.devnull, os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.done[pid] = status

    def _end_leftovers(self) -> None:
        """Every process below us: the API's engines and workers are ours since it has gone."""
        end = time.monotonic() + STOP_MARGIN
        me = os.getpid()
        keep = {me, self.writer}
        while True:
            known = processes.everyone()
            left = [known[pid] for pid in processes.descendants(me, known) - keep if pid in known]
            if not left:
                return
            processes.end(left)
            if time.monotonic() >= end:
                names = ", ".join(f"{process.pid} ({process.title})" for process in left)
                self.context.log.error(f"processes that SIGKILL does not end: {names}")
                return
            self._wait(lambda: False, 0.05)
            self.done = {pid: status for pid, status in self.done.items() if pid not in {p.pid for p in left}}

    def _remember(self, api: int, born: int) -> None:
        process = processes.read(api)

        def change(state: st.State, _now: Moment) -> None:
            start = state.open_start()
            if start is not None and process is not None:
                start.processes = (process.group, process.session, born)

        self.context.try_update(change)

    def _note(self, why: str) -> None:
        def change(state: st.State, _now: Moment) -> None:
            start = state.open_start()
            if start is not None:
                start.note = start.note or why

        self.context.try_update(change)

    def _say(self, **changes: Any) -> None:
        self.file = replace(self.file, asked=self.asked, **changes)
        try:
            runfile.write(self.context.instance.name, self.file)
        except OSError as error:
            self.context.log.warning(
                f"{runfile.DIRECTORY} cannot be written ({error}): the manager's view is all there is"
            )


def _become(wanted: Wanted) -> None:
    """In the child, between fork and exec: limits, then the account, then what setuid would undo."""
    if wanted.apart:
        os.setpgid(0, 0)
    for name, value in wanted.limits.items():
        kind = {"files": resource.RLIMIT_NOFILE, "memlock": resource.RLIMIT_MEMLOCK}[name]
        resource.setrlimit(kind, (value, value))
    if wanted.oom_score_adjust is not None:
        Path("/proc/self/oom_score_adj").write_text(str(wanted.oom_score_adjust), encoding="ascii")
    account = wanted.account
    if os.geteuid() == 0:
        os.setgroups(account.groups)
        os.setgid(account.gid)
        os.setuid(account.uid)
    os.umask(0o077)
    # A runner that is killed takes the API with it; the next gate ends the engines.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(account.home)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _told(status: int) -> tuple[str, str]:
    """(EXIT_CODE, EXIT_STATUS) as systemd says them."""
    if os.WIFEXITED(status):
        return "exited", str(os.WEXITSTATUS(status))
    return "killed", signal.Signals(os.WTERMSIG(status)).name[3:]


def _result(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "signal"
    return "exit-code" if os.WEXITSTATUS(status) else "success"


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    # Linux only, as all of this; where libc cannot be had, orphans are ended by the next gate.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
