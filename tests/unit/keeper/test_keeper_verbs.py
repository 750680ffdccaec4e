# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs, whole, with a manager that only remembers what it was told and a clock that only moves when told."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import exits, processes
from vllm_keeper import state as st
from vllm_keeper.config import GateSettings
from vllm_keeper.context import Context
from vllm_keeper.managers import systemd
from vllm_keeper.managers.base import Completed, ManagerError
from vllm_keeper.verbs import check, ending, gate, operate, ready, status

from tests.unit.keeper import support
from tests.unit.keeper.support import FakeClock, clock_of, context_for, manager_of


def ready_start(context: Context, pid: int = 4711) -> None:
    now = context.clock.now()
    context.update(lambda state, _now: state.starts.append(st.Start(now, True, pid=pid, ready_at=now)))


def go(context: Context) -> int:
    return gate.gate(context, dice=lambda: 0.0, kill=False)


# --- check --------------------------------------------------------------------------------------------------


def test_a_healthy_server_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        assert check.check(context) == exits.OK
    assert manager_of(context).calls == []
    assert "q: healthy: GET /health: 200" in capsys.readouterr().out
    assert context.state().starts[-1].ready_at is not None


def test_a_dead_server_is_restarted_after_three_tries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with support.serving(support.status_503) as server:
        context = context_for(tmp_path, port=server.port)
        ready_start(context)
        assert check.check(context) == exits.BAD
        assert len(server.requests) == 3 and clock_of(context).slept == 10
    assert manager_of(context).calls == ["restart"]
    said = capsys.readouterr().out
    assert "status 503 (engine is dead) (3 tries, 5 s apart); restart ordered" in said
    intent = context.state().intent
    assert intent is not None and intent.kind == "repair"


def test_a_hung_server_is_killed_first(tmp_path: Path) -> None:
    with support.serving(support.hanging) as server:
        context = context_for(tmp_path, port=server.port)
        context.instance = replace(context.instance, check=replace(context.instance.check, tries=2, timeout=0.2))
        ready_start(context)
        manager = manager_of(context)

        def die(verb: str) -> None:
            if verb == "kill":
                manager.seen = replace(support.RUNNING, phase=d.HELD, main_pid=None)

        manager.on_call = die
        assert check.check(context) == exits.BAD
        assert manager.calls == ["kill", "restart"]


def test_a_restart_that_cannot_be_ordered_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path, port=support.free_port())
    manager_of(context).answers["restart"] = Completed(1, "", "Access denied")
    assert check.check(context) == exits.WORSE
    assert "could not be ordered: Access denied" in capsys.readouterr().out


def test_a_stop_during_the_tries_wins(tmp_path: Path) -> None:
    context = context_for(tmp_path, port=support.free_port())
    ready_start(context)

    def stop() -> None:
        context.update(lambda state, now: setattr(state, "stopped", st.Stopped(now, st.PURPOSE)))
        manager_of(context).seen = support.STOPPED

    clock_of(context).on_sleep = stop
    assert check.check(context) == exits.OK
    assert manager_of(context).calls == []


def test_a_replaced_process_is_given_its_time(tmp_path: Path) -> None:
    context = context_for(tmp_path, port=support.free_port())
    ready_start(context)
    fresh = replace(support.RUNNING, main_pid=4712, process_age=1.0)
    clock_of(context).on_sleep = lambda: setattr(manager_of(context), "seen", fresh)
    assert check.check(context) == exits.OK
    assert manager_of(context).calls == []


def test_what_should_run_and_does_not_is_started(tmp_path: Path) -> None:
    context = context_for(tmp_path, support.STOPPED)
    assert check.check(context) == exits.BAD
    assert manager_of(context).calls == ["start"]


def test_stopped_by_a_shutdown_is_started_after_the_next_boot_only(tmp_path: Path) -> None:
    context = context_for(tmp_path, support.STOPPED)
    context.update(lambda state, now: setattr(state, "stopped", st.Stopped(now, st.SHUTDOWN)))
    assert check.check(context) == exits.OK
    clock_of(context).boot_id, clock_of(context).at = "boot-2", 60.0
    assert check.check(context) == exits.BAD


def test_a_model_that_came_back_is_started(tmp_path: Path) -> None:
    model = tmp_path / "model"
    context = context_for(tmp_path, support.STOPPED, model_path=str(model))
    assert go(context) == exits.PARKED
    assert check.check(context) == exits.OK
    model.mkdir()
    assert check.check(context) == exits.BAD
    assert manager_of(context).calls == ["start"]
    assert go(context) == exits.OK


def test_checks_do_not_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path, support.STOPPED)
    with context.store.lock("check"):
        assert check.check(context) == exits.OK
    assert "another check is running" in capsys.readouterr().out
    assert manager_of(context).calls == []


def test_a_check_without_a_place_for_its_state_says_so_and_repairs_nothing_blindly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(tmp_path)
    (tmp_path / "file").write_text("")
    context.store = st.Store(tmp_path / "file", "q", context.log.warning)
    assert check.check(context) == exits.WORSE
    assert "cannot be read" in capsys.readouterr().out


def test_quiet_prints_only_what_is_not_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with support.serving(support.healthy) as server:
        assert check.check(context_for(tmp_path, port=server.port), quiet=True) == exits.OK
    assert capsys.readouterr().out == ""
    check.check(context_for(tmp_path, support.STOPPED), quiet=True)
    assert "start ordered" in capsys.readouterr().out


# --- gate, stopping, stopped ------------------------------------------------------------------------------------


def end(context: Context, **environment: str) -> None:
    given = {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1", **environment}
    if given.get("MAINPID"):
        ending.stopping(context, given)
    ending.stopped(context, given)


def test_a_crash_loop_waits_longer_and_longer_and_is_parked(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    manager_of(context).lines = ["x q[1]: torch.OutOfMemoryError: CUDA out of memory"]
    clock, waits = clock_of(context), []
    for _ in range(20):
        clock.slept = 0
        code = go(context)
        if code == exits.PARKED:
            break
        waits.append(round(clock.slept))
        clock.pass_(60)
        end(context)
    assert waits == [0, 0, 10, 30, 60, 120, 300, 300, 300, 300]
    parked = context.state().parked
    assert parked is not None and parked.cause == "budget" and "out of memory" in parked.reason
    assert go(context) == exits.PARKED
    (tmp_path / "q.yaml").write_text("gpu_memory_utilization: 0.8")
    assert go(context) == exits.OK
    assert context.state().parked is None


def test_a_bad_argument_is_parked_at_once_with_vllms_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path)
    manager_of(context).lines = ["t h vllm[7]: vllm serve: error: unrecognized arguments: --bogus", "t h systemd[1]: x"]
    assert go(context) == exits.OK
    end(context, EXIT_STATUS="2")
    assert go(context) == exits.PARKED
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err
    assert "vllm-keeper resume q" in status.render(status.status(context))


def test_stop_and_start_again_does_not_wait(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    for _ in range(5):
        go(context)
        end(context)
    manager_of(context).pending = "stop"
    go(context)
    end(context, MAINPID="4711", SERVICE_RESULT="success", EXIT_STATUS="0")
    assert context.state().stopped is not None
    manager_of(context).pending = "start"
    clock_of(context).slept = 0
    assert go(context) == exits.OK and clock_of(context).slept == 0
    assert context.state().stopped is None


def test_an_engines_death_is_a_failure_though_the_exit_status_is_0(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    go(context)
    ending.stopping(context, {"SERVICE_RESULT": "success"})
    ending.stopped(context, {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"})
    assert context.state().starts[-1].end == st.FAILED
    assert context.state().stopped is None


def test_resume_ends_a_back_off_within_a_second(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    for _ in range(6):
        go(context)
        end(context)
    clock = clock_of(context)
    clock.slept = 0

    def resume() -> None:
        if clock.slept >= 5:
            clock.on_sleep = lambda: None
            operate.resume(context)

    clock.on_sleep = resume
    assert go(context) == exits.OK
    assert 5 <= clock.slept <= 6


def test_park_ends_a_back_off_too(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    for _ in range(6):
        go(context)
        end(context)
    clock = clock_of(context)

    def park() -> None:
        clock.on_sleep = lambda: None
        operate.park(context, "disk swap")

    clock.on_sleep = park
    assert go(context) == exits.PARKED


@pytest.mark.parametrize(("job", "kind"), [("stop", "stopped"), ("restart", "planned"), ("start", "neither")])
def test_a_stop_during_the_back_off(tmp_path: Path, job: str, kind: str) -> None:
    context = context_for(tmp_path)
    for _ in range(6):
        go(context)
        end(context)
    manager_of(context).pending = job

    def terminated() -> None:
        clock_of(context).on_sleep = lambda: None
        raise gate._CalledOffError

    clock_of(context).on_sleep = terminated
    assert go(context) == exits.OK
    state = context.state()
    assert (state.stopped is not None) == (kind == "stopped")
    assert (state.intent is not None) == (kind == "planned")
    assert state.waiting is None and len(state.starts) == 6


@pytest.mark.parametrize("kind", ["restart", "repair", "revive"])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("by", ["gate", "stopped"])
def test_a_stop_by_somebody_during_the_back_off_of_an_ordered_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tells: bool, by: str
) -> None:
    """Where a restart has a job of its own, a stop is a wish; elsewhere it may be the first half of that restart."""
    context = context_for(tmp_path)
    monkeypatch.setattr(manager_of(context), "TELLS_RESTARTS", tells, raising=False)
    manager_of(context).pending = "stop"
    context.update(lambda state, now: setattr(state, "intent", st.Intent(kind, now)))
    assert (gate.called_off(context) if by == "gate" else ending.stopped(context, {})) == exits.OK
    state = context.state()

    assert (state.stopped is not None, state.intent is None) == (tells, tells)


def test_systemd_tells_a_restart_from_a_stop() -> None:
    assert systemd.Systemd.TELLS_RESTARTS
    assert systemd.parse_jobs("1 q.service restart running\n", "q.service") == "restart"


def test_the_gate_opens_when_it_cannot_remember(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path)
    (tmp_path / "file").write_text("")
    context.store = st.Store(tmp_path / "file", "q", context.log.warning)
    assert go(context) == exits.OK
    assert "starting without back-off" in capsys.readouterr().err


def test_a_systemd_that_does_not_answer_is_no_changed_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_for(tmp_path)
    go(context)
    end(context, EXIT_STATUS="2")
    assert go(context) == exits.PARKED

    def deaf() -> tuple[list[str], list[str]]:
        raise ManagerError("Failed to connect to bus")

    monkeypatch.setattr(context.manager, "definition", deaf)
    assert go(context) == exits.PARKED


def test_the_gate_ends_a_leftover_and_not_its_caller(tmp_path: Path) -> None:
    config = tmp_path / "q.yaml"
    config.write_text("")
    command = [sys.executable, "-c", "import time; time.sleep(60)", "serve", "--config", str(config)]
    # An orphan: the process that started it has ended, as after a kill -9.
    code = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    made = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    orphan = processes.read(int(made.stdout))
    assert orphan is not None
    context = context_for(tmp_path, replace(support.RUNNING, group=""))
    context.clock = RealSleep()
    try:
        if orphan.parent != 1:
            pytest.skip("this machine has another reaper than process 1")
        assert gate.gate(context, dice=lambda: 0.0) == exits.OK
        assert not processes.alive(orphan)
    finally:
        processes.end([orphan])


class RealSleep(FakeClock):
    def sleep(self, seconds: float) -> None:
        threading.Event().wait(seconds)
        super().sleep(seconds)


# --- wait-ready -------------------------------------------------------------------------------------------------


@pytest.fixture
def main() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as one:
        yield one
        one.kill()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own server stands for the main process's."""
    monkeypatch.setattr(processes, "foreign_listener", lambda *arguments: None)


class Ticking(FakeClock):
    """Time passes ten times as fast as it does, so that deadlines are met soon."""

    def monotonic(self) -> float:
        import time

        return time.monotonic() * 10


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(("kind", "asked"), [("completion", 3), ("health", 1)])
def test_ready_when_a_completion_was_answered(
    tmp_path: Path, main: subprocess.Popen[bytes], kind: str, asked: int
) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port, ready_check=kind)
        go(context)
        assert ready.wait_ready(context, main.pid) == exits.OK
        assert len(server.requests) == asked
    start = context.state().starts[-1]
    assert start.pid == main.pid and start.ready_at is not None


@pytest.mark.usefixtures("ours")
def test_health_alone_is_not_ready(tmp_path: Path, main: subprocess.Popen[bytes]) -> None:
    def behave(link: socket.socket, path: str) -> None:
        if path == "/v1/completions":
            link.sendall(support.answer(500, b'{"error": {"message": "engine is dead"}}'))
        else:
            support.healthy(link, path)

    with support.serving(behave) as server:
        context = context_for(tmp_path, port=server.port, start_timeout=10)
        context.clock = Ticking()
        go(context)
        assert ready.wait_ready(context, main.pid) == exits.BAD
    note = context.state().starts[-1].note
    assert "not ready within start_timeout (10 s)" in note and "engine is dead" in note


@pytest.mark.usefixtures("ours")
def test_a_definite_refusal_is_not_waited_out(tmp_path: Path, main: subprocess.Popen[bytes]) -> None:
    def behave(link: socket.socket, path: str) -> None:
        if path == "/v1/completions":
            link.sendall(support.answer(400, b'{"error": {"message": "no completions here"}}'))
        else:
            support.healthy(link, path)

    with support.serving(behave) as server:
        context = context_for(tmp_path, port=server.port)
        assert ready.wait_ready(context, main.pid) == exits.BAD
    note = context.state().starts[-1].note
    assert "no completions here" in note and "ready_check: health" in note


def test_a_main_process_that_dies_ends_the_wait(tmp_path: Path, main: subprocess.Popen[bytes]) -> None:
    context = context_for(tmp_path, port=support.free_port())
    threading.Timer(0.4, main.kill).start()
    assert ready.wait_ready(context, main.pid) == exits.BAD


def test_a_main_process_that_is_gone_already(tmp_path: Path, main: subprocess.Popen[bytes]) -> None:
    main.kill()
    main.wait()
    assert ready.wait_ready(context_for(tmp_path, port=support.free_port()), main.pid) == exits.BAD


def test_somebody_elses_server_on_the_port_is_not_ours(
    tmp_path: Path, main: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        context.clock = Ticking()
        assert ready.wait_ready(context, main.pid) == exits.BAD
    assert f"port {server.port} is taken by another program" in capsys.readouterr().err
    assert context.state().starts[-1].ready_at is None


def test_told_to_stop_ends_the_wait_without_blame(tmp_path: Path, main: subprocess.Popen[bytes]) -> None:
    import os
    import signal

    context = context_for(tmp_path, port=support.free_port())
    threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert ready.wait_ready(context, main.pid) == exits.OK
    assert context.state().starts[-1].note == ""


# --- what people ask for ----------------------------------------------------------------------------------------


def test_start_prints_why_it_failed_and_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path, support.STOPPED)
    context.log.hide(["sk-secret-key"])
    manager = manager_of(context)
    manager.answers["start"] = Completed(1, "", "Job for q.service failed.")
    manager.lines = ["t h vllm[7]: ValueError: bad key sk-secret-key"]

    def fail(_verb: str) -> None:
        go(context)
        end(context)

    manager.on_call = fail
    assert operate.start(context) == exits.BAD
    said = capsys.readouterr().out
    assert "start failed: exited with status 1; ValueError: bad key ***" in said
    assert "sk-secret-key" not in said
    assert "sk-secret-key" not in (tmp_path / "var" / "q.json").read_text()


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_an_order_that_failed_is_not_under_way_any_more(tmp_path: Path, verb: str) -> None:
    context = context_for(tmp_path, support.STOPPED)
    manager_of(context).answers[verb] = Completed(1, "", "parked: of a runner that has seen nothing yet")
    assert getattr(operate, verb)(context) == exits.BAD
    assert context.state().intent is None


def test_start_of_what_is_parked_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_for(tmp_path, support.STOPPED)
    operate.park(context, "disk swap")
    assert operate.start(context) == exits.PARKED
    assert operate.restart(context) == exits.PARKED
    assert manager_of(context).calls == []
    assert "disk swap. To let it start: vllm-keeper resume q" in capsys.readouterr().out


def test_a_gate_that_parks_is_told_by_start(tmp_path: Path) -> None:
    context = context_for(tmp_path, support.STOPPED, model_path=str(tmp_path / "none"))
    gated: list[int] = []
    manager_of(context).on_call = lambda _verb: gated.append(go(context))
    assert operate.start(context) == exits.PARKED


@pytest.mark.parametrize("verb", [operate.stop, operate.kill])
def test_what_was_stopped_stays_stopped(tmp_path: Path, verb: Any) -> None:
    context = context_for(tmp_path)
    manager = manager_of(context)
    manager.on_call = lambda called: setattr(manager, "seen", support.STOPPED) if called == "stop" else None
    assert verb(context) == exits.OK
    assert check.check(context) == exits.OK
    assert "start" not in manager.calls
    assert status.status(context)["verdict"] == "stopped"


def test_resume_starts_what_was_parked_but_not_what_was_stopped(tmp_path: Path) -> None:
    context = context_for(tmp_path, support.STOPPED)
    operate.park(context, "x")
    assert operate.resume(context) == exits.OK
    assert manager_of(context).calls == ["start"]
    operate.stop(context)
    operate.park(context, "x")
    assert operate.resume(context) == exits.OK
    assert manager_of(context).calls == ["start", "stop"]


def test_a_forgotten_order_does_not_blind_the_check(tmp_path: Path) -> None:
    context = context_for(tmp_path, support.STOPPED)
    context.update(lambda state, now: setattr(state, "intent", st.Intent("start", now)))
    assert check.check(context) == exits.OK
    clock_of(context).pass_(601)
    assert check.check(context) == exits.BAD


def test_status_of_a_healthy_server(tmp_path: Path) -> None:
    with support.serving(support.healthy) as server:
        context = context_for(tmp_path, port=server.port)
        ready_start(context)
        clock_of(context).pass_(95)
        facts = status.status(context)
    assert (facts["verdict"], facts["healthy"], facts["for_seconds"]) == ("healthy", True, 95)
    assert "q: healthy for 1 min 35 s" in status.render(facts)


def test_status_of_a_held_start_says_until_when(tmp_path: Path) -> None:
    context = context_for(tmp_path, replace(support.STOPPED, phase=d.HELD), gate=GateSettings(back_off=(60.0,)))
    go(context)
    end(context)
    seen: list[str] = []
    clock_of(context).on_sleep = lambda: seen.append(status.render(status.status(context)))
    go(context)
    assert "back-off after 1 failures in a row: the start goes ahead in 59 s" in seen[0]
