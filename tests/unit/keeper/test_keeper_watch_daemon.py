# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident process: instances that come, go and change; its port, its heartbeat, and what systemd is told."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import config, exits
from vllm_keeper import state as st
from vllm_keeper.clock import Clock
from vllm_keeper.context import Context
from vllm_keeper.log import Log
from vllm_keeper.probe import Server
from vllm_keeper.watch import board as boards
from vllm_keeper.watch import daemon as daemons
from vllm_keeper.watch.daemon import Daemon
from vllm_keeper.watch.watcher import Watcher

from tests.unit.keeper import support
from tests.unit.keeper.support import FakeManager

WITHIN = 20.0
OFF = replace(support.STOPPED, enabled=False)  # whatever is decided, nothing is to be done


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


class Spoken(Log):
    def __init__(self, folder: Path) -> None:
        super().__init__("watch", journal=str(folder / "no-journal"))
        self.lines: list[str] = []

    def _say(self, level: str, text: str) -> None:
        self.lines.append(f"{level}: {self.clean(text)}")


class Rig:
    """A daemon in a thread of the test's own, over folders of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.run, self.folder = folder / "etc", folder / "run", folder
        self.etc.mkdir()
        self.log = Spoken(folder)
        self.made: list[str] = []
        self.daemon: Daemon | None = None
        self.thread: threading.Thread | None = None
        self.code: list[int] = []

    def configure(self, name: str, **changes: Any) -> None:
        data = {"name": name, "base_url": "http://127.0.0.1:1", "watch": {"interval": 0.05, "doubt_interval": 0.05}}
        text = json.dumps({**data, **changes})
        # In one step, as the role writes it.
        (self.folder / "new").write_text(text)
        (self.folder / "new").replace(self.etc / f"{name}.json")

    def make(self, name: str) -> Context:
        self.made.append(name)
        instance = config.load(self.etc, name)
        store = st.Store(self.folder / "var", name, self.log.warning)
        return Context(instance, store, FakeManager(instance, OFF), Server(instance.base_url), self.log, Clock())

    def start(self, listen: tuple[str, int] | None = None, **environment: str) -> Daemon:
        self.daemon = Daemon(self.etc, self.make, self.log, listen, environment, self.run)
        self.thread = threading.Thread(target=lambda: self.code.append(self.daemon.run() if self.daemon else -1))
        self.thread.start()
        return self.daemon

    def shown(self) -> dict[str, str]:
        assert self.daemon is not None
        return {name: one.verdict for name, one in self.daemon.board.all().items()}

    def watcher(self, name: str) -> Watcher:
        """Of this name now; one that changes is not there for a moment."""
        assert self.daemon is not None
        running, end = self.daemon._running.get(name), time.monotonic() + WITHIN
        while running is None:
            assert time.monotonic() < end, f"{name} is not watched"
            time.sleep(0.01)
            running = self.daemon._running.get(name)
        return running.watcher

    def told(self, text: str) -> int:
        return sum(text in line for line in self.log.lines)

    def stop(self) -> None:
        if self.daemon is not None and self.thread is not None:
            self.daemon.stop.set()
            self.thread.join(WITHIN)
            assert not self.thread.is_alive()
            self.daemon = None


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(daemons, "TICK", 0.02)
    monkeypatch.setattr(daemons, "HEARTBEAT", 0.05)
    monkeypatch.setattr(daemons, "FAREWELL", 0.0)
    # They belong to the main thread, which is the test's.
    monkeypatch.setattr(signal, "signal", lambda _number, _handler: None)
    made = Rig(tmp_path)
    yield made
    made.stop()


# --- instances ------------------------------------------------------------------------------------------------


def test_instances_are_watched_as_they_come_and_no_longer_when_they_go(rig: Rig) -> None:
    rig.configure("a")
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    rig.configure("b")
    until(lambda: rig.shown() == {"a": "stopped", "b": "stopped"})
    gone = rig.watcher("a")
    (rig.etc / "a.json").unlink()
    until(lambda: rig.shown() == {"b": "stopped"})
    assert rig.told("a: not configured any more, not watched any more") == 1
    beat = gone.beat
    time.sleep(0.2)
    assert gone.beat == beat, "its thread has ended"
    rig.configure("a")
    until(lambda: rig.shown() == {"a": "stopped", "b": "stopped"})


def test_top_shows_whose_thread_takes_what(rig: Rig) -> None:
    rig.configure("a-name-that-is-longer")
    rig.start()
    assert rig.watcher("a-name-that-is-longer")
    until(lambda: "a-name-that-is-" in {one.read_text().strip() for one in Path("/proc/self/task").glob("*/comm")})


def test_what_is_unchanged_is_watched_on_with_all_that_is_known_of_it(rig: Rig) -> None:
    rig.configure("a")
    rig.configure("b")
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped", "b": "stopped"})
    a, b = rig.watcher("a"), rig.watcher("b")
    rig.configure("b", watch={"dry_run": True})
    until(lambda: rig.watcher("b") is not b)
    assert rig.watcher("b").settings.dry_run
    assert rig.watcher("a") is a
    assert rig.made.count("a") == 1


def test_a_changed_key_is_a_change_too(rig: Rig) -> None:
    secrets = rig.folder / "a.env"
    secrets.write_text("VLLM_API_KEY=one-key\n")
    rig.configure("a", env_file=str(secrets))
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    first = rig.watcher("a")
    secrets.write_text("VLLM_API_KEY=another-key\n")
    until(lambda: rig.watcher("a") is not first)
    second = rig.watcher("a")
    secrets.unlink()
    until(lambda: rig.watcher("a") is not second)


def test_a_typo_is_told_once_and_leaves_no_server_alone(rig: Rig) -> None:
    rig.configure("a")
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    watcher = rig.watcher("a")
    rig.configure("a", wacth={})
    until(lambda: rig.told("a.json: wacth: unknown key, did you mean watch?; watched on as before"))
    time.sleep(0.2)
    assert rig.told("wacth") == 1
    assert rig.watcher("a") is watcher
    beat = watcher.beat
    until(lambda: watcher.beat > beat)
    (rig.etc / "a.json").write_text("{")
    until(lambda: rig.told("is not JSON"))
    assert rig.watcher("a") is watcher
    rig.configure("a", watch={"dry_run": True})
    until(lambda: rig.watcher("a").settings.dry_run)


def test_one_that_was_never_right_keeps_no_other_from_being_watched(rig: Rig) -> None:
    rig.configure("a", base_url="https://127.0.0.1")
    rig.configure("b")
    rig.start()
    until(lambda: rig.shown() == {"b": "stopped"})
    time.sleep(0.2)
    assert rig.told("a.json: base_url: 'https://127.0.0.1' must look like") == 1
    assert rig.told("watched on as before") == 0
    rig.configure("a")
    until(lambda: "a" in rig.shown())


def test_where_watching_is_switched_off_nobody_watches(rig: Rig) -> None:
    rig.configure("a")
    rig.configure("b", watch={"enabled": False})
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    rig.configure("a", watch={"enabled": False})
    until(lambda: rig.shown() == {})
    rig.configure("b")
    until(lambda: rig.shown() == {"b": "stopped"})


def test_a_host_without_instances_is_watched_all_the_same(rig: Rig) -> None:
    rig.etc.rmdir()
    daemon = rig.start()
    until(lambda: boards.read(rig.run) == {})
    assert daemon._status() == "no instance to watch"
    rig.etc.mkdir()
    rig.configure("a")
    until(lambda: rig.shown() == {"a": "stopped"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watcher_that_fell_over_is_put_up_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.configure("a")
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    first = rig.watcher("a")
    step = Watcher.step

    def fall(watcher: Watcher) -> float:
        if watcher is first:
            raise ZeroDivisionError("a fault of our own")
        return step(watcher)

    monkeypatch.setattr(Watcher, "step", fall)
    until(lambda: rig.watcher("a") is not first)
    until(lambda: rig.shown() == {"a": "stopped"})


# --- its end --------------------------------------------------------------------------------------------------


def test_it_ends_in_order_and_its_view_with_it(rig: Rig) -> None:
    rig.configure("a")
    rig.start()
    until(lambda: boards.of("a", rig.run) is not None)
    before = threading.active_count()
    rig.stop()
    assert rig.code == [exits.OK]
    assert list(rig.run.iterdir()) == []
    assert threading.active_count() <= before - 2  # itself and its watcher


def ask(port: int) -> str:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as link:
        link.sendall(b"agent a\n")
        return link.makefile().read()
    return "nobody"


def test_its_last_word_leaves_the_server_to_its_health_check(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "FAREWELL", 2.0)
    rig.configure("a")
    port = support.free_port()
    rig.make("a").update(lambda state, now: setattr(state, "parked", st.Parked(now, "operator", "x")))
    daemon = rig.start(("127.0.0.1", port))
    until(lambda: ask(port) == "down #parked\n")
    daemon.stop.set()
    until(lambda: ask(port) == "up 100%\n")
    rig.stop()
    assert ask(port) == "nobody"


# --- what it tells --------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_what_to_do_and_watching_goes_on(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rig.configure("a")
        rig.start(("127.0.0.1", port))
        until(lambda: rig.shown() == {"a": "stopped"})
    (line,) = [line for line in rig.log.lines if "listened" in line]
    assert line.startswith(f"error: port {port} at 127.0.0.1 cannot be listened on (Address already in use)")
    assert "free the port or set health_port" in line


def test_the_view_is_written_again_and_again(rig: Rig) -> None:
    rig.configure("a")
    rig.start()
    until(lambda: boards.of("a", rig.run) is not None)
    first = boards.of("a", rig.run)
    assert first is not None
    until(lambda: (now := boards.of("a", rig.run)) is not None and now.looked > first.looked)


def test_news_is_written_at_once_and_nothing_while_there_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "HEARTBEAT", 1000.0)
    rig.configure("a")
    rig.start()
    until(lambda: (shown := boards.of("a", rig.run)) is not None and shown.verdict == "stopped")
    before = (rig.run / boards.FILE).stat().st_mtime_ns  # its inode may be had again by the one after the next
    time.sleep(0.3)
    assert (rig.run / boards.FILE).stat().st_mtime_ns == before
    rig.configure("b")
    until(lambda: (shown := boards.of("b", rig.run)) is not None and shown.verdict == "stopped")


def test_a_view_that_cannot_be_written_is_told_once_and_watching_goes_on(rig: Rig) -> None:
    rig.run.write_text("a file")
    rig.configure("a")
    rig.start()
    until(lambda: rig.shown() == {"a": "stopped"})
    until(lambda: rig.told("cannot be written"))
    time.sleep(0.3)
    assert rig.told(f"{rig.run} cannot be written") == 1
    rig.run.unlink()
    until(lambda: boards.of("a", rig.run) is not None)


class Notified:
    """systemd's end of $NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.link.bind(name)
        self.link.settimeout(WITHIN)
        self.said: list[str] = []

    def until(self, word: str) -> str:
        while True:
            self.said.append(self.link.recv(4096).decode())
            if word in self.said[-1]:
                return self.said[-1]


@pytest.fixture(params=["path", "abstract"])
def notified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Notified, str]]:
    path = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path.name}-{time.monotonic_ns()}"
    made = Notified(path.replace("@", "\0", 1) if path.startswith("@") else path)
    yield made, path
    made.link.close()


def test_systemd_is_told_that_it_is_ready_what_it_sees_that_it_lives_and_that_it_ends(
    rig: Rig, notified: tuple[Notified, str]
) -> None:
    systemd, path = notified
    rig.configure("a")
    rig.configure("b")
    rig.start(NOTIFY_SOCKET=path)
    assert systemd.until("=") == "READY=1"
    told = systemd.until("a stopped, b stopped")
    assert told.splitlines() == ["STATUS=a stopped, b stopped", "WATCHDOG=1"]
    systemd.until("WATCHDOG=1")  # and again
    rig.stop()
    assert systemd.until("STOPPING") == "STOPPING=1"


def test_who_does_not_look_any_more_is_not_said_to_live(
    rig: Rig, notified: tuple[Notified, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One instance is enough: systemd kills and starts the watcher, and with it what hung."""
    systemd, path = notified
    rig.configure("a")
    rig.configure("b")
    rig.start(NOTIFY_SOCKET=path)
    systemd.until("WATCHDOG=1")
    until(lambda: "b" in rig.shown())
    stuck = rig.watcher("b")
    monkeypatch.setattr(stuck, "clock", lambda: stuck.beat + daemons.STUCK + 1)
    until(lambda: "WATCHDOG" not in systemd.until("STATUS="))
    assert all("WATCHDOG" not in systemd.until("STATUS=") for _ in range(5))


def test_a_systemd_that_does_not_listen_is_no_trouble(rig: Rig) -> None:
    rig.configure("a")
    rig.start(NOTIFY_SOCKET=str(rig.folder / "nobody"))
    until(lambda: rig.shown() == {"a": "stopped"})


def test_the_hosts_signals_are_taken_for_orders(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    rig.configure("a", wacth={})
    daemon = rig.start()
    until(lambda: rig.told("wacth") == 1)
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    until(lambda: rig.told("wacth") == 2)  # read again, though nothing has changed
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    until(lambda: rig.code == [exits.OK])
    assert daemon.stop.is_set()
    assert handlers[signal.SIGINT]
