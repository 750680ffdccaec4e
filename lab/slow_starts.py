# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make slow`: ten starts of real vLLM that are slow for good reasons, none of which the keeper may end.

    python -m lab.slow_starts [--host gpu1] [--kind download] [--record tests/unit/keeper/recorded/starts]

Each start is held up for HELD seconds, longer than `start_stall_after` (set to LIMIT here), before vLLM itself begins:
by a hook in its environment, so that it is the server's own first process that waits. Others are slow from end to end,
by their neighbours, a small share of a CPU, or cold caches. Then it must serve, with the process that it began with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab import faults, vital_signs

HELD = 45.0
LIMIT = 20.0
WITHIN = 900.0
SETTINGS = "/etc/vllm-keeper/{name}.json"
FOLDER = "/srv/slow"
# Runs before anything else of the server's environment, and only in its first process.
HOOK = f"import os; os.path.exists('{FOLDER}/hook.py') and exec(open('{FOLDER}/hook.py').read())"
PROGRAM = """
import subprocess, sys, time, fcntl, os, socket
words = open("/proc/self/cmdline", "rb").read().split(b"\\0")
if b"serve" in words:
    kind, end = open("{folder}/kind").read().split(), time.monotonic() + {held}
    if "download" in kind:
        link = socket.create_connection(("127.0.0.1", 8099))
        while link.recv(65536):
            pass
    if "pipe" in kind:
        with open("{folder}/pipe", "rb", buffering=0) as file:
            while file.read(4096):
                pass
    if "compile" in kind:
        subprocess.run([sys.executable, "-S", "-c", "import time\\nwhile time.monotonic() < " + str(end) + ": pass"])
    if "lock" in kind:
        while time.monotonic() < end + 30:
            with open("{folder}/flashinfer/sampling.lock", "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    pass
            time.sleep(0.05)
"""
SERVER = """
import socket, time
link = socket.create_server(("127.0.0.1", 8099))
peer = link.accept()[0]
end = time.monotonic() + {held}
while time.monotonic() < end:
    peer.sendall(bytes(100_000))
    time.sleep(0.1)
"""
WRITER = """
import time
with open("{folder}/pipe", "wb", buffering=0) as file:
    end = time.monotonic() + {held}
    while time.monotonic() < end:
        file.write(bytes(4096))
        time.sleep(0.2)
"""
HOLDER = """
import fcntl, time
file = open("{folder}/flashinfer/sampling.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
time.sleep({held})
"""
BURN = "while :; do :; done"
# What holds each of the ten up.
KINDS = {
    "download": "a download at 1 MB/s",
    "download-load": "the same, with ten neighbours that burn every core",
    "pipe": "reads of 20 kB/s, of which each waits",
    "compile": "a compiler, as a child",
    "compile-load": "the same, with ten neighbours that burn every core",
    "lock": "a lock that another process has, which compiles",
    "load": "ten neighbours that burn every core",
    "cold": "cold caches: every page comes from the disk",
    "cold-load": "the same, with ten neighbours that burn every core",
    "quota": "a fifth of a core",
}


def background(subject: faults.Subject, program: str, user: str = "root") -> None:
    """A program of our own on the host, which ends by itself or with `clear`."""
    subject.on(f"cat > {FOLDER}/helper.py <<'EOF'\n{program.format(folder=FOLDER, held=HELD)}\nEOF")
    words = f"setsid runuser -u {user} -- python3 {FOLDER}/helper.py"
    subject.on(f"{words} </dev/null >/dev/null 2>&1 & echo $! >> {FOLDER}/pids; sleep 0.5")


def clear(subject: faults.Subject) -> None:
    """Take away all that held it up."""
    subject.on(
        f"for pid in $(cat {FOLDER}/pids 2>/dev/null); do kill -KILL -- -$pid $pid 2>/dev/null; done; "
        f"rm -f {FOLDER}/kind {FOLDER}/hook.py {FOLDER}/pids; "
        f"systemctl set-property --runtime {subject.name}.service CPUQuota= 2>/dev/null; true"
    )


def hold_up(subject: faults.Subject, kind: str, owner: str) -> None:
    """Prepare what makes the next start slow."""
    subject.on(f"mkdir -p {FOLDER}/flashinfer && printf '%s' '{kind.replace('-', ' ')}' > {FOLDER}/kind")
    subject.on(f"rm -f {FOLDER}/pipe && mkfifo {FOLDER}/pipe && chown -R {owner}: {FOLDER} && : > {FOLDER}/pids")
    subject.on(f"cat > {FOLDER}/hook.py <<'EOF'\n{PROGRAM.format(folder=FOLDER, held=HELD)}\nEOF")
    if "download" in kind:
        background(subject, SERVER)
    if "pipe" in kind:
        background(subject, WRITER)
    if "lock" in kind:
        background(subject, HOLDER, owner)
    if "load" in kind:
        for _neighbour in range(10):
            subject.on(f"setsid sh -c '{BURN}' </dev/null >/dev/null 2>&1 & echo $! >> {FOLDER}/pids")
    if "cold" in kind:
        subject.on("sync; echo 3 > /proc/sys/vm/drop_caches")
    if "quota" in kind:
        subject.on(f"systemctl set-property --runtime {subject.name}.service CPUQuota=20%")


def limit(subject: faults.Subject, seconds: float | None) -> None:
    """Set `start_stall_after` in the keeper's settings; None takes it away."""
    path = SETTINGS.format(name=subject.name)
    settings = json.loads(subject.on(f"cat {path}"))
    settings["watch"].pop("start_stall_after", None)
    if seconds is not None:
        settings["watch"]["start_stall_after"] = seconds
    subject.on(f"cat > {path} <<'EOF'\n{json.dumps(settings, indent=2)}\nEOF")


def slow_start(subject: faults.Subject, kind: str, owner: str, record: Path | None) -> float:
    """Seconds until it served; RuntimeError if it was ended."""
    known = len(json.loads(subject.keeper("explain", "--json", "-n", "20", subject.name))["incidents"])
    with ExitStack() as stack:
        stack.callback(clear, subject)
        hold_up(subject, kind, owner)
        began, _before = faults.ordered_start(subject)
        pid = subject.pids("api")[0]
        looks: list[list[object]] = []
        if record is not None:
            looks = vital_signs.looks(subject, pid, HELD + 30)
        while not subject.answers():
            found = subject.pids("api")
            if found != [pid]:
                raise RuntimeError(f"it was ended: {found} in place of {pid}")
            if time.monotonic() - began > WITHIN:
                raise RuntimeError("it never served")
            time.sleep(1)
        took = time.monotonic() - began
    incidents = json.loads(subject.keeper("explain", "--json", "-n", "20", subject.name))["incidents"]
    if len(incidents) != known:
        raise RuntimeError(f"the keeper acted: {incidents[0]['reason']}")
    if record is not None:
        vital_signs.write(record / f"slow-{kind}.json", KINDS[kind], looks)
    return took


def run(subject: faults.Subject, kinds: Sequence[str], record: Path | None = None) -> int:
    """How many were ended."""
    owner = subject.on(f"stat -c %U /proc/{subject.pid_of('api')[0]}").strip()
    # The environment's own file, so that it goes with it; shared with nothing else.
    site = subject.on("ls -d /opt/vllm/current/lib/python3*/site-packages").strip()
    bad = 0
    with ExitStack() as stack:
        subject.on(f'mkdir -p {FOLDER} && rm -f {site}/lab_slow.pth && echo "{HOOK}" > {site}/lab_slow.pth')
        stack.callback(subject.on, f"rm -rf {site}/lab_slow.pth {FOLDER}")
        limit(subject, LIMIT)
        stack.callback(limit, subject, None)
        for kind in kinds:
            try:
                took = slow_start(subject, kind, owner, record)
                print(f"{time.strftime('%H:%M:%S')} {kind} ({KINDS[kind]}): served after {took:.0f} s", flush=True)
            except (TimeoutError, RuntimeError) as error:
                bad += 1
                print(f"{time.strftime('%H:%M:%S')} {kind} FAILED: {error}", flush=True)
                clear(subject)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="gpu1")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--record", type=Path, help="a folder for recordings")
    options = parser.parse_args()
    bad = run(faults.Subject(options.host, "systemd"), options.kind or list(KINDS), options.record)
    print(f"==== {bad} slow starts were ended ====" if bad else "==== no slow start was ended ====")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
