# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what the processes of a start do, second by second: the recordings that the keeper's tests replay.

    python -m lab.vital_signs --host gpu1 --seconds 60 --out slow-plain.json
    python -m lab.vital_signs --host gpu1 --stop engine --at 9 --seconds 90 --out stopped-engine.json

It restarts the server, waits for its first process, and looks at it as the keeper does. With --stop it stops one of the
processes (SIGSTOP) so many seconds into the start; the keeper should be told not to act (`dry_run`).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

from lab import client, faults

# Runs on the host, with the keeper's own code: one line of JSON a look.
PROGRAM = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from dataclasses import astuple
from vllm_keeper.watch.vital_signs import VitalSigns
pid, seconds, signs = int(sys.argv[2]), float(sys.argv[3]), VitalSigns()
begun = last = time.monotonic()
signs.look(pid)
while time.monotonic() - begun < seconds:
    time.sleep(max(0.0, 1.0 - (time.monotonic() - last)))
    now = time.monotonic()
    print(json.dumps([round(now - last, 3), *astuple(signs.look(pid, True))]), flush=True)
    last = now
"""
KEEPER = "/opt/vllm-keeper/lib"
BEGINS = 60.0


def record(subject: faults.Subject, seconds: float, stop: str = "", at: float = 0.0) -> list[list[object]]:
    """One row a look: seconds since the look before, then the fields of Signs."""
    before = subject.processes()
    # What was stopped for an earlier recording would be waited for.
    subject.on(f"kill -KILL {' '.join(map(str, before))} || true")
    subject.keeper("resume", subject.name)
    subject.keeper("restart", "--no-wait", subject.name)

    def api() -> list[str]:
        return [pid for pid in subject.pids("api") if int(pid) not in before]

    client.wait_until(lambda: bool(api()), BEGINS, "a new process", 0.1)
    begun, pid = time.monotonic(), api()[0]
    if stop:
        threading.Thread(target=halt, args=(subject, stop, begun + at), daemon=True).start()
    found = looks(subject, pid, seconds)
    print(f"{subject.host}: {time.monotonic() - begun:.0f} s, answers: {subject.answers()}", file=sys.stderr)
    return found


def looks(subject: faults.Subject, pid: str, seconds: float) -> list[list[object]]:
    """What this process and those below it do, for so long."""
    words = ["python3", "-c", PROGRAM, KEEPER, pid, str(seconds)]
    said = client.on(subject.host, *words, timeout=seconds + 60)
    return [json.loads(line) for line in said.splitlines()]


def write(file: Path, what: str, seen: list[list[object]]) -> None:
    """A recording, one look a line."""
    rows = ",\n".join(json.dumps(row) for row in seen)
    file.write_text(f'{{"what": {json.dumps(what)}, "looks": [\n{rows}\n]}}\n')


def halt(subject: faults.Subject, what: str, when: float) -> None:
    """Stop a process of the start then, or as soon as there is one."""
    time.sleep(max(0.0, when - time.monotonic()))
    client.wait_until(lambda: bool(subject.pids(what)), BEGINS, f"its {what}", 0.1)
    subject.signal("STOP", what)
    print(f"{subject.host}: {what} stopped", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="gpu1")
    parser.add_argument("--manager", default="systemd")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stop", choices=["api", "engine", "worker"], default="")
    parser.add_argument("--at", type=float, default=9, help="seconds into the start")
    parser.add_argument("--what", default="", help="what it is a recording of, for who reads it")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    seen = record(faults.Subject(options.host, options.manager), options.seconds, options.stop, options.at)
    write(options.out, options.what, seen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
