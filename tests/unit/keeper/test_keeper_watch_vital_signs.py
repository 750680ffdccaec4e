# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a start's processes did since the look before, seen of real processes, and of a /proc that tells less."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_keeper.watch import vital_signs
from vllm_keeper.watch.vital_signs import Signs, VitalSigns, lock_of_another, received

# Does one thing for each line that it is told, then says so.
CHILD = """
import os, socket, subprocess, sys, time
link = socket.create_server(("127.0.0.1", 0))
print(link.getsockname()[1], flush=True)
peer = None
for line in sys.stdin:
    word = line.strip()
    if word == "burn":
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    elif word == "read":
        open("/dev/zero", "rb").read(100_000)
    elif word == "write":
        open("/dev/null", "wb").write(b"x" * 5000)
    elif word == "accept":
        peer = link.accept()[0]
    elif word == "receive":
        peer.recv(1 << 20)
    elif word == "child":
        kid = subprocess.Popen(["sleep", "60"])
    elif word == "compile":
        subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"])
    elif word == "lock":
        kept = open(sys.argv[1], "w")
    print(word, flush=True)
"""


class Child:
    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-c", CHILD, str(folder / "torch-sampling.lock")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self.process.pid
        self.port = int(self.said())

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.said().strip() == word

    def end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(tmp_path)
    yield made
    made.end()


def at_rest(child: Child) -> None:
    """A process that has said its word is a moment later where it waits for the next one."""
    end = time.monotonic() + 20
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] != "S":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_idle_process_gives_no_sign(child: Child) -> None:
    signs = VitalSigns()
    first = signs.look(child.pid)
    at_rest(child)
    signs.look(child.pid)

    assert first.changed, "what was never seen before is news"
    assert signs.look(child.pid) == Signs(False, False, False, 0.0, 0, 0, 0, 0, 0.0, {}, None)


@pytest.mark.parametrize(
    ("word", "moved"),
    [
        ("burn", lambda seen: seen.cpu >= 0.25),
        ("compile", lambda seen: seen.cpu >= 0.25),
        ("read", lambda seen: seen.read >= 100_000),
        ("write", lambda seen: seen.written >= 5000),
        ("child", lambda seen: seen.changed),
    ],
)
def test_what_a_process_does_shows_once(child: Child, word: str, moved: Callable[[Signs], bool]) -> None:
    signs = VitalSigns()
    signs.look(child.pid)
    child.do(word)
    at_rest(child)
    seen = signs.look(child.pid)
    after = signs.look(child.pid)

    assert moved(seen), seen
    assert (after.changed, after.cpu, after.read, after.written) == (False, 0, 0, 0)


def test_bytes_count_when_they_arrive_not_when_they_are_read(child: Child) -> None:
    signs = VitalSigns()
    with socket.create_connection(("127.0.0.1", child.port)) as link:
        child.do("accept")
        signs.look(child.pid)
        link.sendall(b"x" * 30_000)
        time.sleep(0.05)
        seen = signs.look(child.pid)
        child.do("receive")

        assert seen.received == 30_000
        assert signs.look(child.pid).received == 0


def test_a_stopped_process_is_named(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    end = time.monotonic() + 20
    while not (found := VitalSigns().look(child.pid).stopped):
        assert time.monotonic() < end
    assert list(found) == [child.pid]
    assert "python" in found[child.pid]


def test_a_process_that_is_only_slowed_down_by_stops_is_not_held(tmp_path: Path) -> None:
    """cpulimit sends SIGSTOP and SIGCONT in turn, and most looks see it stopped."""
    proc = made_up(tmp_path)
    stat = proc / "42/stat"
    signs = VitalSigns(proc)
    stat.write_text(stat.read_text().replace(" S ", " T "))
    signs.look(42)
    stat.write_text(stat.read_text().replace(" 10 5 ", " 11 5 "))

    assert signs.look(42).stopped == {}
    assert signs.look(42).stopped == {42: "vllm serve"}


def test_what_a_server_calls_itself_cannot_begin_a_line_of_ours(tmp_path: Path) -> None:
    proc = made_up(tmp_path)
    (proc / "42/cmdline").write_bytes(b"vllm\nvllm-keeper watch: q: dead\x1b[2J\x1e\0serve\0")
    (proc / "42/stat").write_text((proc / "42/stat").read_text().replace(" S ", " T "))
    (proc / "7/fd").mkdir(parents=True)
    os.symlink(b"/tmp/a\nvllm-keeper watch: q: dead\x1b[2J\xff.lock", proc / "7/fd/3")
    seen = VitalSigns(proc).look(42, locks=True)

    assert seen.stopped == {42: "vllm?vllm-keeper watch: q: dead?[2J? serve"}
    assert seen.lock == "/tmp/a?vllm-keeper watch: q: dead?[2J?.lock"


def test_a_lock_counts_while_a_process_of_somebody_else_has_it_open(child: Child, tmp_path: Path) -> None:
    proc = tmp_path / "proc"  # of these two alone
    proc.mkdir()
    for pid in (os.getpid(), child.pid):
        (proc / str(pid)).symlink_to(f"/proc/{pid}")
    assert lock_of_another(proc, [os.getpid()]) == ""
    child.do("lock")

    assert lock_of_another(proc, [os.getpid()]) == str(tmp_path / "torch-sampling.lock")
    assert lock_of_another(proc, [os.getpid(), child.pid]) == "", "its own"


@pytest.mark.parametrize(
    ("file", "waited_for"),
    [
        ("/home/vllm/.cache/flashinfer/0.7.0/90a/cached_ops/sampling.lock", True),
        ("/tmp/torchinductor_vllm/locks/abc.lock", True),
        ("/home/vllm/.cache/torch_extensions/py312/thing/lock", True),
        ("/data/.cache/huggingface/hub/.locks/models--a--b/0123.lock", True),
        ("/tmp/0f3a-model.lock", True),
        ("/run/vllm-keeper/qwen3vl.lock", False),
        ("/home/vllm/.cache/uv/.lock", False),
        ("/var/lib/apt/lists/lock", False),
        ("/tmp/vllm/log.txt", False),
    ],
)
def test_which_files_are_locks_that_a_start_may_wait_for(tmp_path: Path, file: str, waited_for: bool) -> None:
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "42").mkdir()
    (tmp_path / "7/fd/3").symlink_to(file)

    assert lock_of_another(tmp_path, [42]) == (file if waited_for else "")


def made_up(folder: Path) -> Path:
    """A /proc with one process, 42, of our network, that shows all that is looked at."""
    one = folder / "42"
    (one / "task/42").mkdir(parents=True)
    (one / "fd").mkdir()
    (one / "ns").mkdir()
    (folder / "self/ns").mkdir(parents=True)
    for who in (one, folder / "self"):
        (who / "ns/net").symlink_to("net:[1]")
        (who / "ns/pid").symlink_to("pid:[1]")
    fields = ["S", "1", *["42"] * 3, "0", "0", "0", "0", "0", "0", "10", "5", "0", "0", *["0"] * 4, "99"]
    text = f"42 (vllm) {' '.join(fields)}"
    for file in (one / "stat", one / "task/42/stat"):
        file.write_text(text)
    (one / "cmdline").write_bytes(b"vllm\0serve\0")
    (one / "io").write_text("rchar: 10\nwchar: 20\nread_bytes: 1\nwrite_bytes: 2\n")
    return folder


def test_a_process_that_shows_everything_leaves_nothing_unknown(tmp_path: Path) -> None:
    assert None not in vars(VitalSigns(made_up(tmp_path)).look(42, locks=True)).values()


@pytest.mark.parametrize(
    ("spoil", "unknown"),
    [
        (lambda one: (one / "io").unlink(), {"read", "written"}),
        (lambda one: (one / "io").write_text("rchar: many\n"), {"read", "written"}),
        (lambda one: (one / "ns/net").unlink(), {"received"}),
        (lambda one: (one / "fd/3").symlink_to("/dev/nvidia0"), {"gpu"}),
        (lambda one: [shutil.rmtree(one / "fd"), (one / "fd").write_text("")], {"received", "gpu"}),
    ],
    ids=["no io", "another io", "no network", "a GPU that nobody reads", "files of others"],
)
def test_what_cannot_be_read_is_unknown_and_not_zero(
    tmp_path: Path, spoil: Callable[[Path], object], unknown: set[str]
) -> None:
    proc = made_up(tmp_path)
    spoil(proc / "42")
    seen = vars(VitalSigns(proc).look(42, locks=True))

    assert {name for name, value in seen.items() if value is None} == unknown


@pytest.mark.parametrize("gone", [True, False], ids=["ended", "its first thread ended"])
def test_of_a_process_that_cannot_be_seen_nothing_is_known(tmp_path: Path, gone: bool) -> None:
    proc = made_up(tmp_path)
    signs = VitalSigns(proc)
    signs.look(42)
    if gone:
        shutil.rmtree(proc / "42")
    else:
        (proc / "42/stat").write_text((proc / "42/stat").read_text().replace(" S ", " Z "))

    assert signs.look(42) == Signs()


@pytest.mark.parametrize(("told", "known"), [(0, True), (-2, False)])
def test_a_list_of_sockets_that_the_kernel_could_not_make_is_not_an_empty_one(told: int, known: bool) -> None:
    """So it says that it has no tcp_diag: ENOENT in the message that ends the list."""
    done = struct.pack("=IHHIIi", 20, vital_signs.DONE, 2, 1, 0, told)
    if known:
        assert not vital_signs._take(done, {})
    else:
        with pytest.raises(ValueError, match="no list"):
            vital_signs._take(done, {})


def test_without_sock_diag_it_is_not_known_what_was_received(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    assert VitalSigns().look(child.pid).received == 0
    monkeypatch.setattr(vital_signs, "NETLINK_SOCK_DIAG", 31)
    assert received() is None
    assert VitalSigns().look(child.pid).received is None


def test_a_container_has_a_network_of_its_own_and_all_that_it_receives_counts(tmp_path: Path) -> None:
    proc = made_up(tmp_path)
    one = proc / "42"
    (one / "ns/net").unlink()
    (one / "ns/net").symlink_to("net:[2]")
    (one / "net").mkdir()
    head = "Inter-|   Receive\n face |bytes    packets\n"
    (one / "net/dev").write_text(f"{head}    lo: 100 1 0\n  eth0: 1000 1 0\n")
    signs = VitalSigns(proc)
    signs.look(42)
    (one / "net/dev").write_text(f"{head}    lo: 150 1 0\n  eth0: 3000 1 0\n")

    assert signs.look(42).received == 2050
    (one / "net/dev").unlink()
    assert signs.look(42).received is None


def test_memory_of_a_gpu_counts_when_it_changes(tmp_path: Path) -> None:
    proc, held = made_up(tmp_path), [100]
    (proc / "42/fd/3").symlink_to("/dev/nvidia0")
    signs = VitalSigns(proc, lambda: held[0])

    assert signs.look(42).gpu == 100
    assert signs.look(42).gpu == 0
    held[0] = 350
    assert signs.look(42).gpu == 250
