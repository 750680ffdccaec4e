# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One instance under the watcher: a real process, a scripted API, a manager that only remembers, a made-up clock."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import processes
from vllm_keeper import state as st
from vllm_keeper.clock import Moment
from vllm_keeper.config import Instance
from vllm_keeper.managers.base import Completed, ManagerError, Observed
from vllm_keeper.probe import Answer
from vllm_keeper.signals import GpuFault
from vllm_keeper.watch import board as boards
from vllm_keeper.watch import evidence, notice
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.fleet import FleetSettings
from vllm_keeper.watch.settings import CanarySettings, WatchSettings
from vllm_keeper.watch.steps import TIME, Bucket, Step, Steps
from vllm_keeper.watch.watcher import DRY, PROMPT, REPAIR_PAUSE, START_AFTER, Watcher

from tests.unit.keeper import support
from tests.unit.keeper.support import FakeClock, FakeManager, clock_of

WITHIN = 20.0  # real seconds, for what takes milliseconds
# What a hang may take to be found: a canary's turn, the limit, and some looks.
FOUND = WatchSettings().canary.every + WatchSettings().stall_after + 2.0
# An API that waits, and below it an engine that does; the API stays when its engine has gone.
SCRIPT = "(exec -a VLLM::EngineCore sleep 60) & echo $!; while :; do wait; read -r _; done"


class Reviver(FakeManager):
    REVIVES = True

    def revive(self) -> Completed:
        return self._do("revive")


class FakeGpus:
    """In HostSignals' place: reports what it is told to."""

    def __init__(self, *reported: GpuFault) -> None:
        self.reported = list(reported)

    def faults(self, *_asked: object) -> list[GpuFault]:
        return self.reported


class Api:
    """vLLM's endpoints, as far as they are asked."""

    def __init__(self) -> None:
        self.health, self.moved, self.running, self.waiting, self.step = 200, 0, 0, 0, 0
        self.completion: tuple[int, bytes] | None = (200, b"{}")  # None: hangs
        self.silent = False
        self.fleet = b""
        self.over = threading.Event()
        self.server = support.RawServer(self._behave, stays=True)

    def _behave(self, link: socket.socket, path: str) -> None:
        if self.silent:
            self.over.wait(WITHIN)
        elif path == "/health":
            link.sendall(support.answer(self.health))
        elif path.startswith("/metrics"):
            self.moved += self.step
            lines = [
                f'vllm:generation_tokens_total{{engine="0"}} {self.moved}',
                f'vllm:iteration_tokens_total_count{{engine="0"}} {self.moved}',
                f'vllm:num_requests_running{{engine="0"}} {self.running}',
                f'vllm:num_requests_waiting{{engine="0"}} {self.waiting}',
            ]
            link.sendall(support.chunked(200, "".join(f"{line}\n" for line in lines).encode()))
        elif path == "/v1/models":
            link.sendall(support.answer(200, b'{"data": [{"id": "m"}]}'))
        elif path == "/fleet":
            link.sendall(support.answer(200, self.fleet))
        elif self.completion is None:
            self.over.wait(WITHIN)
        else:
            status, body = self.completion
            if status == 200:
                self.moved += 1
            link.sendall(support.answer(status, body))

    def close(self) -> None:
        self.over.set()
        self.server.close()


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, Api()
        self.children: list[subprocess.Popen[bytes]] = []
        self.context = support.context_for(folder, support.STOPPED, self.api.server.port)
        self.context.log.hide(["sk-secret-key"])
        self.clock: FakeClock = clock_of(self.context)
        self.board = Board(self.clock.monotonic)
        self.engine = 0
        self.manager: FakeManager = support.manager_of(self.context)
        self.manager.on_call = self._obey
        self.watcher: Watcher | None = None
        self.rest: Iterator[float] = iter(())

    def serve(self) -> None:
        """A new process, which has been ready."""
        child = subprocess.Popen(
            ["bash", "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.children.append(child)
        assert child.stdout is not None
        self.engine = int(child.stdout.readline())
        real(lambda: Path(f"/proc/{self.engine}/cmdline").read_bytes().startswith(b"VLLM::EngineCore"))
        self.manager.seen = Observed(d.RUNNING, "active (running)", True, child.pid, 1000.0, "")
        now = self.clock.now()

        def begin(state: st.State, _now: Moment) -> None:
            d.close_lost(state, now)
            state.intent = None
            state.starts.append(st.Start(now, True, pid=child.pid, ready_at=now))

        self.context.update(begin)

    @property
    def pid(self) -> int:
        return self.children[-1].pid

    def _obey(self, verb: str) -> None:
        if verb == "kill":
            self.kill()
            self.manager.seen = Observed(d.HELD, "activating (auto-restart)", True, None, None, "")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.children[-1].wait()

    def kill_engine(self) -> None:
        os.kill(self.engine, signal.SIGKILL)
        real(lambda: not Path(f"/proc/{self.engine}").exists())

    def settle(self, **changes: Any) -> None:
        """Settings of the watcher; `fleet` is the instance's."""
        instance: Instance = self.context.instance
        if "fleet" in changes:
            instance = replace(instance, fleet=changes.pop("fleet"))
        canary = CanarySettings(picture="never", enabled=changes.pop("canary", True))
        watch = WatchSettings(canary=canary, **changes)
        self.context.instance = self.manager.instance = replace(instance, watch=watch)

    def watch(self) -> Watcher:
        if self.watcher is None:
            self.watcher = Watcher(self.context, self.board, clock=self.clock.monotonic, wall=lambda: self.clock.wall)
            poll = self.watcher.family.poll
            self.watcher.family.poll = lambda _seconds, events: poll(0, events)
        return self.watcher

    def go(self, seconds: float, until: Callable[[], object] = lambda: False) -> float:
        """Looks, for so many seconds of the made-up clock or until something holds; the seconds that passed."""
        begun, watcher = self.clock.at, self.watch()
        while self.clock.at - begun < seconds and not until():
            answered = watcher.canary.news.done
            # As in Watcher.run. What has happened by now, has in the wait that it has begun.
            pause = next(self.rest, None)
            if pause is None:
                self.rest = watcher.rest(watcher.step())
                pause = next(self.rest)
            news = watcher.canary.news
            # One that was sent in this look may have been answered within it.
            if self.api.completion is not None and (news.since is not None or news.done != answered):
                real(lambda: watcher.canary.news.since is None)
                pause = 0.01  # its answer wakes the watcher
            self.clock.pass_(pause)
        return self.clock.at - begun

    def verdicts(self, seconds: float) -> set[str]:
        """What is shown after each of the looks of so many seconds."""
        found, end = set(), self.clock.at + seconds
        while self.clock.at < end:
            self.go(0.001)
            found.add(self.shown.verdict)
        return found

    @property
    def shown(self) -> Any:
        return self.board.all()["q"]

    @property
    def incidents(self) -> list[evidence.Incident]:
        """As the next watcher would find them."""
        return evidence.load(self.folder / "var", "q").incidents

    def close(self) -> None:
        self.api.close()
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        if self.watcher is not None:
            self.watcher.close()


def halt(pid: int) -> None:
    """Stop a process. It takes a CPU to do so, and until it has had one it is runnable."""
    os.kill(pid, signal.SIGSTOP)
    real(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T")


def real(holds: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.002)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path)
    monkeypatch.setattr(boards, "now", made.clock.monotonic)
    made.settle()
    yield made
    made.close()


def told(rig: Rig) -> str:
    return " ".join(f"{one.verdict} {one.reason} {one.outcome} {one.looks}" for one in rig.incidents)


# --- what is left alone ---------------------------------------------------------------------------------------


def test_an_idle_server_gets_a_canary_each_second_and_nothing_else(rig: Rig) -> None:
    rig.settle(timeout=10.0)  # real seconds, in which a machine may stand still
    rig.serve()
    rig.go(20)
    assert (rig.shown.verdict, rig.shown.ready, rig.shown.pid) == ("healthy", True, rig.pid)
    assert 19 <= rig.shown.canaries["ok"] <= 21
    assert (rig.manager.calls, rig.incidents) == ([], [])


@pytest.mark.parametrize("early", [0.01, 0.04, 0.3, 0.9])
def test_a_look_shortly_before_a_canary_is_due_does_not_put_it_off(rig: Rig, early: float) -> None:
    rig.serve()
    rig.go(3, until=lambda: rig.watch().canary.sent.get("ok"))
    assert rig.watch().step() == pytest.approx(1, abs=0.02), "sees that it was answered"
    rig.clock.pass_(1 - early)
    assert rig.watch().step() <= max(0.05, early) + 0.02


def test_a_server_that_visibly_progresses_gets_no_canary(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running, rig.api.waiting = 1, 8, 100
    rig.go(20)
    assert (rig.shown.verdict, rig.shown.ready) == ("busy", True)
    assert (rig.shown.running, rig.shown.waiting) == (8, 100)
    assert rig.shown.canaries == {}
    assert not any("completions" in request for request in rig.api.server.requests)


def test_while_a_server_visibly_progresses_a_look_is_one_question(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(3)
    seen = len(rig.api.server.requests)
    rig.go(150)
    asked = rig.api.server.requests[seen:]
    assert len([request for request in asked if "/metrics" in request]) in (150, 151, 152)
    assert len([request for request in asked if "/health" in request]) in (1, 2), "and a whole look now and then"


def test_a_queue_that_comes_and_goes_is_told_at_the_next_look(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(3)
    seen = len(rig.api.server.requests)
    for running, waiting, verdict in ((16, 0, "healthy"), (16, 24, "busy"), (12, 9, "busy"), (3, 0, "healthy")):
        rig.api.running, rig.api.waiting = running, waiting
        rig.go(1.1)
        shown = rig.shown
        assert (shown.running, shown.waiting, shown.verdict) == (running, waiting, verdict)
        assert shown.reason == f"{running} requests run" + (f", {waiting} wait" if waiting else "")
    assert not any("/health" in request for request in rig.api.server.requests[seen:]), "which takes no whole look"


def test_what_a_glance_saw_is_as_fresh_as_a_whole_look(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(3)
    whole = len([request for request in rig.api.server.requests if "/health" in request])
    for _second in range(30):
        rig.go(1)
        assert rig.clock.at - rig.shown.looked == pytest.approx(1.0, abs=0.05)
        assert rig.clock.at - rig.watch().beat == pytest.approx(1.0, abs=0.05)
    assert len([request for request in rig.api.server.requests if "/health" in request]) == whole
    assert rig.shown.verdict == "healthy"


@pytest.mark.parametrize("after", [0.0, 1.0, 2.0, 4.0, 8.0, 110.0, 112.0, 113.0])
def test_a_hang_under_load_is_found_as_soon_whatever_was_seen_last(rig: Rig, after: float) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(8.2 + after)
    rig.api.step = 0
    halt(rig.engine)
    last = f"counters 0:{2 * rig.api.moved}, 8 run, 0 wait"
    took = rig.go(20, until=lambda: "kill" in rig.manager.calls)
    assert took <= WatchSettings().interval + WatchSettings().stall_after + 0.6, took
    assert any(one.endswith(last) and " healthy, " in one for one in rig.incidents[0].looks), (
        "also where it was a glance"
    )


class FakeEjector:
    """In Ejector's place: out, until it has been asked to come back so many times."""

    def __init__(self, tries: int) -> None:
        self.tries = tries

    @property
    def out(self) -> bool:
        return self.tries > 0

    def come_back(self) -> None:
        self.tries -= self.out


def test_a_busy_server_that_is_not_back_in_its_target_groups_is_not_left_out(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    watcher = rig.watch()
    watcher.ejector = out = FakeEjector(tries=9)  # type: ignore[assignment]
    rig.go(20, until=lambda: not out.out)
    assert not out.out, "tried at each look"
    seen = len(rig.api.server.requests)
    rig.go(20)
    assert not any("/health" in request for request in rig.api.server.requests[seen + 3 :]), "and left alone since"


@pytest.mark.parametrize("wish", ["drain", "stop"])
def test_a_wish_is_seen_at_the_next_look_at_a_busy_server_too(rig: Rig, wish: str) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(8)

    def change(state: st.State, now: Moment) -> None:
        if wish == "drain":
            state.drained = st.Drained(now, "by somebody")
        else:
            state.intent = st.Intent("stop", now)

    rig.context.update(change)
    rig.go(1.1)
    assert not rig.shown.ready


def test_a_keeper_that_was_there_before_its_directory_heeds_it_too(rig: Rig) -> None:
    directory = rig.context.store.directory
    assert not directory.exists()
    rig.watch().step()
    assert rig.watch().family.notice is None
    test_a_wish_is_seen_at_the_next_look_at_a_busy_server_too(rig, "drain")
    assert rig.watch().family.notice is not None


@pytest.mark.parametrize("wish", ["drain", "stop"])
def test_where_the_kernel_tells_nothing_of_files_a_wish_is_seen_as_well(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.setattr(notice.Notice, "__init__", refuse)
    test_a_wish_is_seen_at_the_next_look_at_a_busy_server_too(rig, wish)
    assert rig.watch().family.notice is None


def refuse(_self: notice.Notice, _directory: Path) -> None:
    raise OSError(24, "no inotify is left")


def test_a_wish_ends_the_wait_for_the_next_look(rig: Rig) -> None:
    rig.serve()
    rig.api.step, rig.api.running = 1, 8
    rig.go(3)
    rig.watch().family.wait(0.01)

    def drain(state: st.State, now: Moment) -> None:
        state.drained = st.Drained(now, "by somebody")

    wish = threading.Timer(0.1, rig.context.update, (drain,))
    wish.start()
    begun = time.monotonic()
    rig.watch().family.wait(WITHIN)
    assert time.monotonic() - begun < WITHIN / 2
    wish.join()
    rig.watch().step()
    assert not rig.shown.ready


def test_looks_at_a_server_that_is_well_do_not_ask_its_manager(rig: Rig) -> None:
    rig.serve()
    rig.go(1)
    asked: list[float] = []
    observe = rig.manager.observe

    def count() -> Observed:
        asked.append(rig.clock.at)
        return observe()

    rig.manager.observe = count  # type: ignore[method-assign]
    rig.go(1250)
    assert 2 <= len(asked) <= 3, "now and then"


@pytest.mark.parametrize("engine", [True, False], ids=["with an engine", "with none that is known"])
def test_nor_do_they_read_all_processes_of_the_host(rig: Rig, monkeypatch: pytest.MonkeyPatch, engine: bool) -> None:
    rig.serve()
    if not engine:
        rig.kill_engine()
    read: list[float] = []
    kin = processes.kin

    def count(pid: int, proc: Path = processes.PROC) -> dict[int, processes.Process]:
        read.append(rig.clock.at)
        return kin(pid, proc)

    monkeypatch.setattr(processes, "kin", count)
    rig.go(29)
    assert rig.shown.verdict == "healthy"
    assert 1 <= len(read) <= (1 if engine else 6)


def test_a_server_that_loads_is_left_alone_whatever_it_answers(rig: Rig) -> None:
    rig.serve()
    rig.context.update(lambda state, _now: setattr(state.starts[-1], "ready_at", None))
    rig.manager.seen = replace(rig.manager.seen, process_age=1.0)
    rig.api.health, rig.api.completion = 503, None
    rig.go(60)
    assert (rig.shown.verdict, rig.shown.ready, rig.manager.calls) == ("starting", False, [])


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda state, now: setattr(state, "parked", st.Parked(now, "operator", "by hand")), "parked"),
        (lambda state, now: setattr(state, "intent", st.Intent("stop", now)), "draining"),
        (lambda state, now: setattr(state, "intent", st.Intent("restart", now)), "starting"),
    ],
)
def test_a_wish_is_seen_at_the_next_look_and_keeps_hands_off(
    rig: Rig, change: Callable[[st.State, Moment], None], verdict: str
) -> None:
    rig.serve()
    rig.go(2)
    rig.context.update(change)
    rig.api.health, rig.api.completion = 503, None
    rig.go(1.5)
    assert rig.shown.verdict == verdict
    rig.go(30)
    assert rig.manager.calls == []


def test_a_drained_server_runs_on_and_says_whose_wish_it_was(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.context.update(lambda state, now: setattr(state, "drained", st.Drained(now, "new GPU")))
    rig.go(1.5)
    assert (rig.shown.verdict, rig.shown.drained, rig.shown.ready) == ("healthy", "new GPU", False)
    assert rig.manager.calls == []


# --- hung -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0, 5], ids=["idle", "loaded"])
def test_a_hung_server_is_killed_and_started_and_all_of_it_is_written_down(
    rig: Rig, load: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.serve()
    rig.go(5)
    rig.api.completion, rig.api.running = None, load
    seen: list[str] = []
    obey = rig.manager.on_call

    def see(verb: str) -> None:
        seen.append(f"{verb} while {rig.shown.verdict}")
        obey(verb)

    rig.manager.on_call = see
    pid = rig.pid
    spent = rig.go(60, lambda: rig.manager.calls)
    assert spent <= FOUND
    # Out of the balancer before it is touched; killed, not asked.
    assert seen == ["kill while hung", "restart while hung"]
    intent = rig.context.state().intent
    assert intent is not None
    assert (intent.kind, intent.reason[:6]) == ("repair", "hung: ")
    (incident,) = rig.incidents
    assert (incident.verdict, incident.action, incident.pid) == ("hung", d.KILL, pid)
    assert incident.outcome == "killed, restart ordered"
    assert incident.seconds >= WatchSettings().stall_after
    assert incident.served_again is None
    assert "healthy" in incident.looks[0]
    assert ("canary under way" if load == 0 else "5 run") in incident.looks[-1]
    assert "hung: " in capsys.readouterr().err

    rig.api.completion, rig.api.running = (200, b"{}"), 0
    rig.go(3)
    assert rig.shown.verdict == "starting"
    assert len(rig.manager.calls) == 2
    rig.serve()
    rig.go(5)
    assert (rig.shown.verdict, rig.shown.pid) == ("healthy", rig.pid)
    (incident,) = rig.incidents
    assert incident.served_again is not None
    assert 2 <= incident.served_again <= 12
    assert rig.shown.repairs == {"hung": 1}
    assert rig.shown.detection[0] == rig.shown.recovery[0] == 1
    assert rig.shown.recovery[1] == incident.served_again


@pytest.mark.parametrize("urgent", [True, False])
def test_a_hang_is_told_with_what_the_gpu_reported_and_found_no_later(rig: Rig, urgent: bool) -> None:
    rig.serve()
    gpus = FakeGpus()
    rig.watch().gpus = gpus  # type: ignore[assignment]
    rig.api.step, rig.api.running = 1, 5
    rig.go(5)
    assert (rig.shown.verdict, rig.incidents) == ("healthy", [])
    gpus.reported.append(GpuFault("GPU-0", "xid_31", "Xid 31 on GPU-0: MMU Fault", "restart_application", urgent))
    rig.go(70)
    assert (rig.shown.verdict, rig.incidents) == ("healthy", []), "who makes progress does not feel it"
    rig.api.step = 0
    assert rig.go(60, lambda: rig.manager.calls) <= FOUND
    (incident,) = rig.incidents
    assert incident.verdict == "hung"
    assert incident.reason.startswith("5 requests run and 0 wait and no progress for ")
    assert incident.reason.endswith("; Xid 31 on GPU-0: MMU Fault")


def test_a_long_doubt_lists_the_processes_of_the_host_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where twelve instances did so each second, none was found in time."""
    rig.settle(stall_after=8.0, patience=20.0)
    rig.serve()
    rig.api.step, rig.api.running = 1, 5
    rig.go(5)
    listed: list[int] = []
    kin = processes.kin

    def counted(pid: int, proc: Path = processes.PROC) -> dict[int, processes.Process]:
        listed.append(pid)
        return kin(pid, proc)

    monkeypatch.setattr(processes, "kin", counted)
    rig.api.step = 0
    rig.go(6)
    assert (rig.shown.verdict, rig.incidents) == ("busy", [])
    assert len(listed) == 1, "at its beginning, whatever was known before"
    rig.api.step = 1
    rig.go(3)
    rig.api.step = 0
    rig.go(3)
    assert len(listed) == 2, "and again when there is another"


def test_one_whose_processes_want_a_cpu_gets_patience(rig: Rig) -> None:
    rig.settle(patience=10.0)
    rig.serve()
    rig.go(2)
    rig.api.completion = None
    # Runnable all the time: it waits for the CPU that this test uses, or has it.
    spinner = subprocess.Popen(["bash", "-c", "exec -a VLLM::EngineCore bash -c 'while :; do :; done'"])
    try:
        mine = rig.manager.seen.main_pid
        kin = processes.kin

        def adopted(pid: int, proc: Path = processes.PROC) -> dict[int, processes.Process]:
            known, spins = kin(pid, proc), processes.read(spinner.pid)
            return known if spins is None else {**known, spins.pid: replace(spins, parent=mine or 0)}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "kin", adopted)
            rig.watch()._kin_at = float("-inf")
            spent = rig.go(60, lambda: rig.manager.calls)
    finally:
        spinner.kill()
        spinner.wait()
    assert 10 <= spent <= 15
    assert "though its processes are active" in rig.incidents[0].reason


def silence(rig: Rig) -> list[float]:
    """Nothing is answered any more; the seconds that each question is given, which pass on the made-up clock."""
    watcher, given = rig.watch(), []
    server = watcher._server
    get, close = server.get, server.close

    def wait(path: str, within: float) -> Answer:
        given.append(within)
        rig.clock.pass_(within)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "close", close)
            return get(path, 0.01)

    def give_up() -> None:
        """A glance was not answered either."""
        rig.clock.pass_(PROMPT)
        close()

    server.get, server.close = wait, give_up  # type: ignore[method-assign]
    rig.api.silent, rig.api.completion = True, None
    return given


@pytest.mark.parametrize("busy", [True, False])
def test_a_stopped_api_is_out_after_a_second_and_hung_after_the_limit(rig: Rig, busy: bool) -> None:
    rig.serve()
    rig.api.step, rig.api.running = int(busy), 8 * busy
    rig.go(3)
    settings = rig.watch().settings
    silence(rig)
    halt(rig.pid)
    assert rig.shown.ready
    out = rig.go(60, lambda: not rig.shown.ready)
    assert (rig.shown.verdict, rig.shown.why, rig.manager.calls) == ("busy", "mute", []), "out before it is judged"
    assert out <= 1.4
    assert settings.stall_after <= out + rig.go(60, lambda: rig.manager.calls) <= settings.stall_after + 0.4
    assert rig.manager.calls == ["kill", "restart"]
    assert "the API has not used a CPU" in rig.incidents[0].reason


def test_an_api_that_is_slow_but_busy_is_given_its_time_for_each_answer(rig: Rig) -> None:
    rig.serve()
    rig.go(3)
    given = silence(rig)
    rig.watch()._api.look = lambda _pids, _at: True  # type: ignore[method-assign]
    rig.go(10)
    assert (rig.manager.calls, rig.shown.verdict, rig.shown.ready) == ([], "busy", True)
    assert set(given[5:]) == {rig.watch().settings.timeout}, "once it could have been judged"


def test_an_engine_that_waits_for_a_compiler_is_given_its_patience(rig: Rig) -> None:
    """Its processes come one after the other, and none of them was there when they were listed."""
    rig.serve()
    rig.go(3)
    rig.api.completion = None
    watcher = rig.watch()
    rig.go(10, lambda: watcher.memory.waits and watcher._workers._at is not None)
    refresh = watcher.family.refresh
    compiler = subprocess.Popen(["sh", "-c", "while :; do :; done"])

    def listed() -> None:
        refresh()
        if compiler.poll() is None:
            watcher.family.workers.append(compiler.pid)

    watcher.family.refresh = listed  # type: ignore[method-assign]
    try:
        rig.go(watcher.settings.patience - 5)
        assert (rig.manager.calls, rig.shown.verdict) == ([], "busy")
    finally:
        compiler.kill()
        compiler.wait()
    assert rig.go(60, lambda: rig.manager.calls) <= watcher.settings.stall_after + 0.4


def test_the_steps_that_the_watcher_before_saw_hold(rig: Rig) -> None:
    since = rig.clock.wall - 60.0
    before = Steps((Bucket(since, 90.0, Step(6.0, 5.0)),))
    evidence.save(rig.folder / "var", "q", evidence.Book(before))
    rig.serve()
    rig.go(2)
    rig.api.completion = None
    spent = rig.go(60, lambda: rig.manager.calls)
    assert 15 <= spent <= 15 + FOUND
    assert "3 times the 5 s that a step of recent work was idle" in rig.incidents[0].reason
    (kept,) = evidence.load(rig.folder / "var", "q").steps.buckets
    assert (kept.longest, kept.since) == (Step(6.0, 5.0), pytest.approx(since, abs=1))


def test_steps_of_more_than_a_day_ago_do_not(rig: Rig) -> None:
    evidence.save(rig.folder / "var", "q", evidence.Book(Steps((Bucket(rig.clock.wall - TIME, 90.0, Step(6.0, 5.0)),))))
    rig.serve()
    rig.go(2)
    rig.api.completion = None
    assert rig.go(60, lambda: rig.manager.calls) <= FOUND
    assert "(limit 1.5 s)" in rig.incidents[0].reason


def test_what_happened_meanwhile_is_seen_before_anything_is_done(rig: Rig) -> None:
    """The manager was asked a while ago; it is asked again before a kill."""
    rig.serve()
    rig.go(2)
    rig.api.completion = None
    rig.manager.seen = replace(rig.manager.seen, phase=d.STOPPING, detail="deactivating (stop-sigterm)")
    rig.go(20)
    assert (rig.manager.calls, rig.incidents) == ([], [])
    assert rig.shown.verdict == "draining"


def test_in_a_dry_run_all_is_told_and_nothing_is_touched(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.settle(dry_run=True)
    rig.serve()
    rig.go(2)
    before = rig.context.store.path.read_text()
    rig.api.completion = None
    rig.go(30, lambda: rig.shown.verdict == "hung")
    seen = rig.verdicts(15)
    assert seen == {"hung"}, "and stays out of the balancer"
    assert rig.manager.calls == []
    assert rig.context.store.path.read_text() == before
    (incident,) = rig.incidents
    assert (incident.verdict, incident.outcome, incident.dry_run) == ("hung", DRY, True)
    assert (rig.shown.verdict, rig.shown.dry_run, rig.shown.ready) == ("hung", True, False)
    assert capsys.readouterr().err.count(DRY) == 1
    assert os.waitpid(rig.pid, os.WNOHANG) == (0, 0), "it lives"


def test_a_repair_that_could_not_be_ordered_is_tried_again_but_not_at_once(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.manager.on_call = lambda _verb: None  # nothing comes of it
    rig.manager.answers = {"kill": Completed(1, "", "no cgroup"), "restart": Completed(1, "", "Access denied")}
    rig.api.completion = None
    rig.go(60, lambda: rig.manager.calls)
    assert rig.manager.calls == ["kill", "restart"]
    first = rig.clock.at
    spent = rig.go(60, lambda: len(rig.manager.calls) > 2)
    assert spent >= REPAIR_PAUSE - 1
    assert rig.clock.at - first < 4 * REPAIR_PAUSE
    assert rig.incidents[0].outcome == "the restart could not be ordered: Access denied"


def test_while_cron_s_check_repairs_the_watcher_does_not(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.api.completion = None
    with rig.context.store.lock("check") as held:
        assert held
        rig.go(10)
        assert (rig.manager.calls, rig.incidents) == ([], [])
    rig.go(2)
    assert rig.manager.calls == ["kill", "restart"]
    assert len(rig.incidents) == 1


def test_three_canaries_that_fail_are_dead_and_never_show_a_secret(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.serve()
    rig.go(2)
    rig.api.completion = (500, b'{"error": {"message": "no such key sk-secret-key"}}')
    spent = rig.go(60, lambda: rig.manager.calls)
    assert 2 <= spent <= 10
    assert rig.incidents[0].verdict == "dead"
    assert "3 canaries in a row failed: POST /v1/completions: status 500 (no such key ***)" in told(rig)
    everything = told(rig) + str(rig.board.all()) + "".join(capsys.readouterr())
    everything += "".join(path.read_text() for path in (rig.folder / "var").iterdir())
    assert "sk-secret-key" not in everything


def test_a_canary_that_is_refused_never_counts_against_a_server(rig: Rig) -> None:
    rig.serve()
    rig.api.completion = (401, b"")
    rig.go(30)
    assert (rig.shown.verdict, rig.manager.calls) == ("healthy", [])
    assert rig.shown.canaries == {"status": 1}


# --- the fleet ------------------------------------------------------------------------------------------------


def test_a_hung_server_waits_while_others_are_out_and_not_longer(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.settle(fleet=FleetSettings(url=f"http://127.0.0.1:{rig.api.server.port}/fleet"))
    rig.serve()
    rig.go(2)
    rig.api.fleet = b"up=2 total=4\nasker=gpu3\nout=gpu2\nout=gpu3\n"
    rig.api.completion = None
    rig.go(30, lambda: rig.shown.verdict == "hung")
    assert rig.verdicts(15) == {"hung"}, "out of the balancer all the same"
    assert (rig.manager.calls, rig.incidents) == ([], [])
    assert "not repaired while others of the group are out: 2 of 4 serve, out are gpu2, gpu3" in rig.shown.reason
    assert "not repaired while" in capsys.readouterr().err
    rig.api.fleet = b"up=3 total=4\nasker=gpu3\nout=gpu3\n"
    rig.go(5)
    assert rig.manager.calls == ["kill", "restart"]


def test_a_dead_server_waits_for_nobody(rig: Rig) -> None:
    rig.settle(fleet=FleetSettings(url=f"http://127.0.0.1:{rig.api.server.port}/fleet"))
    rig.serve()
    rig.go(2)
    rig.api.fleet = b"up=2 total=4\nasker=gpu3\nout=gpu1\nout=gpu2\n"
    rig.api.health = 503
    rig.kill_engine()
    assert rig.go(60, lambda: rig.manager.calls) <= 3
    assert rig.manager.calls == ["kill", "restart"]


# --- dead -----------------------------------------------------------------------------------------------------


def test_an_engine_that_ended_is_not_waited_for_once_health_says_so(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    engine = rig.engine
    rig.api.health, rig.api.completion = 503, None
    rig.kill_engine()
    assert rig.go(60, lambda: rig.manager.calls) <= 1.5
    assert rig.manager.calls == ["kill", "restart"]
    (incident,) = rig.incidents
    assert (incident.verdict, incident.pid) == ("dead", rig.pid)
    assert f"its engine process {engine} ended while the API still runs" in incident.reason


def test_an_engine_that_is_not_missed_is_given_up(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.kill_engine()
    rig.go(6)
    assert (rig.manager.calls, rig.incidents) == ([], [])
    assert rig.shown.verdict == "healthy"


def test_one_bad_answer_of_health_is_no_reason_and_two_are(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.watch()._health_at = float("-inf")
    rig.api.health = 503
    rig.watch().step()
    assert (rig.shown.verdict, rig.manager.calls) == ("busy", [])
    rig.clock.pass_(0.2)
    rig.watch().step()
    assert rig.manager.calls == ["kill", "restart"]
    assert "status 503" in rig.incidents[0].reason


def test_a_server_that_does_not_run_is_started_after_a_while_and_not_before(rig: Rig) -> None:
    """Who has just installed it, or ended it, is about to start it."""
    rig.go(START_AFTER - 1)
    assert (rig.shown.verdict, rig.manager.calls) == ("dead", [])
    spent = rig.go(30, lambda: rig.manager.calls)
    assert spent <= 4
    assert rig.manager.calls == ["start"]
    assert rig.incidents[0].outcome == "start ordered"


def test_one_that_ran_in_between_is_given_its_time_again(rig: Rig) -> None:
    rig.go(START_AFTER - 2)
    rig.serve()
    rig.go(3)
    rig.context.update(lambda state, now: setattr(state.starts[-1], "end", st.FAILED))
    rig.manager.seen = support.STOPPED
    rig.kill()
    rig.go(START_AFTER - 1)
    assert rig.manager.calls == []
    rig.go(5)
    assert rig.manager.calls == ["start"]


def test_a_start_that_comes_to_nothing_is_ordered_again_but_not_at_once(rig: Rig) -> None:
    rig.go(START_AFTER + 5)
    assert rig.manager.calls == ["start"]
    rig.go(START_AFTER + 5)
    assert rig.manager.calls == ["start", "start"]


@pytest.mark.parametrize("why", ["stopped", "not enabled"])
def test_what_nobody_wants_to_run_is_not_started(rig: Rig, why: str) -> None:
    if why == "stopped":
        rig.context.update(lambda state, now: setattr(state, "stopped", st.Stopped(now, st.PURPOSE)))
    else:
        rig.manager.seen = replace(support.STOPPED, enabled=False)
    rig.go(120)
    assert (rig.shown.verdict, rig.manager.calls) == ("stopped", [])


# --- an API that ends by itself -------------------------------------------------------------------------------


@pytest.fixture
def reviving(rig: Rig) -> Rig:
    manager = Reviver(rig.context.instance, support.STOPPED)
    manager.on_call = rig._obey
    rig.context.manager = rig.manager = manager
    rig.serve()
    rig.go(2)
    return rig


def test_an_api_that_ended_by_itself_is_started_at_once(reviving: Rig) -> None:
    pid = reviving.pid
    reviving.kill()
    reviving.watch().step()
    assert reviving.manager.calls == ["revive"]
    intent = reviving.context.state().intent
    assert intent is not None
    assert (intent.kind, intent.reason) == ("revive", f"its API process {pid} ended by itself")
    (incident,) = reviving.incidents
    assert (incident.verdict, incident.action, incident.pid) == ("dead", "start at once", pid)
    assert incident.outcome.startswith("start ordered within ")
    assert incident.looks
    assert (reviving.shown.verdict, reviving.shown.repairs) == ("starting", {"dead": 1})
    # Once: what its manager says meanwhile is no second end.
    reviving.go(3)
    assert reviving.manager.calls == ["revive"]
    reviving.serve()
    reviving.go(5)
    assert reviving.shown.verdict == "healthy"
    assert reviving.incidents[0].served_again is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda state, now: setattr(state, "stopped", st.Stopped(now, st.PURPOSE)),
        lambda state, now: setattr(state, "parked", st.Parked(now, "operator", "by hand")),
        lambda state, now: setattr(state, "intent", st.Intent("stop", now)),
        lambda state, now: setattr(state, "intent", st.Intent("restart", now)),
        lambda state, now: setattr(state, "intent", st.Intent("repair", now)),
    ],
    ids=["stopped", "parked", "stop", "restart", "repair"],
)
def test_an_end_that_somebody_wished_revives_nobody(reviving: Rig, change: Callable[[st.State, Moment], None]) -> None:
    reviving.context.update(change)
    reviving.kill()
    reviving.watch().step()
    assert (reviving.manager.calls, reviving.incidents) == ([], [])


def test_a_host_that_goes_down_revives_nobody(reviving: Rig) -> None:
    reviving.manager.going_down = True
    reviving.kill()
    reviving.watch().step()
    assert (reviving.manager.calls, reviving.incidents) == ([], [])


def test_where_no_hook_tells_of_a_stop_nobody_is_revived(reviving: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reviver, "HOOKED", False)
    reviving.kill()
    reviving.watch().step()
    assert (reviving.manager.calls, reviving.incidents) == ([], [])


def test_an_order_that_failed_is_told(reviving: Rig) -> None:
    reviving.manager.answers["revive"] = Completed(1, "", "Access denied")
    reviving.kill()
    reviving.watch().step()
    assert reviving.incidents[0].outcome == "Access denied"


def test_what_its_manager_starts_itself_is_left_to_it(rig: Rig) -> None:
    rig.serve()
    rig.go(2)
    rig.kill()
    rig.watch().step()
    assert rig.manager.calls == []
    assert rig.incidents[0].outcome == "left to its manager"
    assert rig.context.state().intent is None


PAUSING = Observed(d.HELD, "activating (auto-restart)", True, None, None, "", pausing=True)


@pytest.fixture
def returning(rig: Rig) -> Rig:
    """A keeper that comes back to a server that was killed with it: what ran after its end has written that down."""
    rig.context.manager = rig.manager = Reviver(rig.context.instance, support.STOPPED)
    rig.serve()
    rig.kill()
    rig.manager.seen = PAUSING

    def end(state: st.State, now: Moment) -> None:
        last = state.starts[-1]
        last.ended_at, last.end, last.reason = now, st.FAILED, "killed by SIGKILL"

    rig.context.update(end)
    return rig


def test_what_ended_with_the_keeper_is_started_at_its_first_look(returning: Rig) -> None:
    returning.watch().step()
    assert returning.manager.calls == ["revive"]
    intent = returning.context.state().intent
    assert intent is not None
    assert intent.kind == "revive"
    (incident,) = returning.incidents
    assert (incident.verdict, incident.action, incident.pid) == ("dead", "start at once", returning.pid)
    assert incident.reason == f"its API process {returning.pid} ended by itself while nobody watched"
    assert returning.shown.verdict == "starting"
    returning.go(12)
    assert returning.manager.calls == ["revive"], "once"


def test_an_end_that_is_not_over_at_the_first_look_is_waited_for(returning: Rig) -> None:
    returning.manager.seen = replace(PAUSING, phase=d.STOPPING, detail="deactivating (stop-post)", pausing=False)
    returning.watch().step()
    assert returning.manager.calls == []
    returning.manager.seen = PAUSING
    returning.go(6)
    assert returning.manager.calls == ["revive"]


@pytest.mark.parametrize(
    "change",
    [
        lambda state, now: setattr(state.starts[-1], "ready_at", None),
        lambda state, now: setattr(state.starts[-1], "end", st.PURPOSE),
        lambda state, now: setattr(state.starts[-1], "end", ""),
        lambda state, now: state.starts.clear(),
        lambda state, now: setattr(state, "stopped", st.Stopped(now, st.PURPOSE)),
        lambda state, now: setattr(state, "parked", st.Parked(now, "operator", "by hand")),
        lambda state, now: setattr(state, "intent", st.Intent("revive", now)),
    ],
    ids=["never ready", "stopped", "not ended", "never started", "wished", "parked", "revived already"],
)
def test_what_else_is_held_at_the_first_look_is_left_to_its_manager(
    returning: Rig, change: Callable[[st.State, Moment], None]
) -> None:
    returning.context.update(change)
    returning.go(12)
    assert (returning.manager.calls, returning.incidents) == ([], [])


def test_what_the_gate_holds_is_not_hurried(returning: Rig) -> None:
    returning.manager.seen = replace(PAUSING, detail="activating (start-pre)", pausing=False)
    returning.go(12)
    assert (returning.manager.calls, returning.incidents) == ([], [])


def test_who_has_seen_it_run_leaves_a_later_pause_alone(returning: Rig) -> None:
    """It saw the end itself, and has done what there was to do."""
    returning.serve()
    returning.go(3)
    returning.kill()
    returning.manager.seen = PAUSING
    returning.go(12)
    assert returning.manager.calls == ["revive"]
    assert len(returning.incidents) == 1
    assert "while nobody watched" not in returning.incidents[0].reason


def test_in_a_dry_run_nobody_is_revived(reviving: Rig) -> None:
    reviving.watch().settings = replace(reviving.watch().settings, dry_run=True)
    before = reviving.context.store.path.read_text()
    reviving.kill()
    reviving.watch().step()
    assert reviving.manager.calls == []
    assert reviving.context.store.path.read_text() == before
    assert (reviving.incidents[0].outcome, reviving.incidents[0].dry_run) == (DRY, True)


# --- the loop -------------------------------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_unknown_told_once_and_looked_at_again(
    rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "now", time.monotonic)
    rig.board = Board()
    rig.serve()
    rig.settle(interval=0.05, doubt_interval=0.05)
    observe, stop = rig.manager.observe, threading.Event()

    def refuse() -> Observed:
        raise ManagerError("systemctl show q.service: sk-secret-key: Connection refused")

    rig.manager.observe = refuse  # type: ignore[method-assign]
    watcher = Watcher(rig.context, rig.board)
    thread = threading.Thread(target=watcher.run, args=(stop,))
    thread.start()
    try:
        real(lambda: rig.board.all().get("q") is not None and rig.shown.verdict == "unknown")
        looked = rig.shown.looked
        real(lambda: rig.shown.looked > looked)
        assert rig.shown.reason == "systemctl show q.service: ***: Connection refused"
        rig.manager.observe = observe  # type: ignore[method-assign]
        real(lambda: rig.shown.verdict == "healthy")
        beat = watcher.beat
        real(lambda: watcher.beat > beat)
    finally:
        stop.set()
        watcher.family.wake()
        thread.join(WITHIN)
        assert not thread.is_alive()
        watcher.close()
    assert rig.manager.calls == []
    said = capsys.readouterr().err
    assert said.count("cannot be looked at") == 1
    assert "sk-secret-key" not in said


def test_evidence_that_cannot_be_kept_keeps_no_repair_from_being_done(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.serve()
    rig.go(2)
    (rig.folder / "var" / "q.watch").mkdir()
    rig.api.completion = None
    rig.go(60, lambda: rig.manager.calls)
    assert rig.manager.calls == ["kill", "restart"]
    assert "what was seen cannot be kept" in capsys.readouterr().err


# --- a start that stands still --------------------------------------------------------------------------------

STALL = WatchSettings().start_stall_after


def loads(rig: Rig) -> None:
    """Its process has begun a moment ago, and nobody answers yet."""
    rig.serve()
    rig.api.silent = True
    rig.manager.seen = replace(rig.manager.seen, phase=d.STARTING, detail="activating (start-post)", process_age=3.0)
    rig.context.update(lambda state, _now: setattr(state.starts[-1], "ready_at", None))
    for pid in (rig.pid, rig.engine):
        real(lambda pid=pid: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S")


def killed(rig: Rig) -> bool:
    return "kill" in rig.manager.calls


def test_a_start_that_stands_still_is_killed_and_started_again(rig: Rig) -> None:
    loads(rig)
    seconds = rig.go(STALL + 30, until=lambda: killed(rig))
    assert STALL < seconds < STALL + 10
    assert rig.manager.calls == ["kill", "restart"]
    (incident,) = rig.incidents
    assert (incident.verdict, incident.action, incident.outcome) == ("hung", d.KILL, "killed, restart ordered")
    assert "its start stands still: for 6" in incident.reason
    assert "starting, no progress for" in told(rig)
    intent = rig.context.state().intent
    assert intent is not None
    # So that it counts against the budget, with its reason.
    assert (intent.kind, intent.reason.startswith("hung: its start stands still")) == ("repair", True)


@pytest.mark.parametrize("part", ["api", "engine"])
def test_a_start_with_a_stopped_process_is_not_waited_for_so_long(rig: Rig, part: str) -> None:
    loads(rig)
    rig.go(5)
    halt(rig.pid if part == "api" else rig.engine)
    assert 5 < rig.go(STALL, until=lambda: killed(rig)) < 9
    assert "stopped by a signal for" in rig.incidents[0].reason


def test_a_start_that_moves_now_and_then_has_its_whole_time(rig: Rig) -> None:
    loads(rig)
    signs = rig.watch()._vital_signs
    look = signs.look
    for _stretch in range(5):
        rig.go(STALL - 15)
        assert "nothing of it has moved for" in rig.shown.reason
        signs.look = lambda *asked: replace(look(*asked), read=1e6)  # type: ignore[method-assign]
        rig.go(0.5)
        assert "nothing of it has moved for" not in rig.shown.reason
        signs.look = look  # type: ignore[method-assign]
    assert (rig.manager.calls, rig.incidents) == ([], [])


def test_a_server_that_answers_is_let_be_also_where_nobody_wrote_down_that_it_is_ready(rig: Rig) -> None:
    loads(rig)
    rig.api.silent = False
    rig.go(STALL + 60)
    assert (rig.manager.calls, rig.incidents) == ([], [])


def test_the_next_watcher_counts_anew_and_kills_it_all_the_same(rig: Rig) -> None:
    loads(rig)
    rig.go(STALL - 10)
    rig.watch().close()
    rig.watcher, rig.rest = None, iter(())
    assert STALL < rig.go(STALL + 30, until=lambda: killed(rig)) < STALL + 10


def test_a_dry_run_only_tells_of_it(rig: Rig) -> None:
    rig.settle(dry_run=True)
    loads(rig)
    rig.go(STALL + 30)
    assert (rig.manager.calls, [one.outcome for one in rig.incidents]) == ([], [DRY])


def test_a_start_that_stands_still_waits_for_nobody_of_its_fleet(rig: Rig) -> None:
    rig.settle(fleet=FleetSettings(url=f"{rig.context.instance.base_url}/fleet", limit=1))
    rig.api.fleet = b'{"servers": [{"name": "a", "state": "down"}, {"name": "b", "state": "up"}]}'
    loads(rig)
    assert rig.go(STALL + 30, until=lambda: killed(rig)) < STALL + 10


@pytest.mark.parametrize("when", ["stopped", "ready"])
def test_what_happens_in_the_last_moment_counts(rig: Rig, when: str) -> None:
    loads(rig)
    watcher = rig.watch()
    act = watcher._act

    def meanwhile(*judged: Any) -> float:
        if when == "ready":
            rig.api.silent, now = False, rig.clock.now()
            rig.context.update(lambda state, _now: setattr(state.starts[-1], "ready_at", now))
        else:
            rig.context.update(lambda state, now: setattr(state, "intent", st.Intent("stop", now)))
        return act(*judged)

    watcher._act = meanwhile  # type: ignore[method-assign]
    rig.go(STALL + 5)
    assert (rig.manager.calls, rig.incidents) == ([], [])
