# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper beside the source guide's recipe: the same faults in the same moment, with real vLLM, behind one HAProxy.

    python -m lab.rivals [--samples 5] [--fault stop_engine] [--keep] [--only-write]

gpu1 runs what site.yml left. gpu2 runs the guide's unit, its check_vllm.sh (bench/recipe) and its cron line, and no
keeper. A client of each asks it one short question after the other, past the balancer. Seconds are counted from the
fault: until the process that was hurt is gone, until HAProxy sends no more requests there, until a completion is
answered again.

The recipe's cron comes every five minutes. Once the keeper's side serves again, the recipe's script is run once by
hand: when even that finds nothing wrong, no cron run ever will, and the sample is cut short and censored at 600 s.
Where it does find something, the wait for cron is not slept but put in the place of ours: 150 s, its mean. So that no
run of it comes in between by chance, the cron daemon of gpu2 is stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lab import client

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "rivals.json"
PAGE = ROOT / "docs" / "rivals.md"
KEEPER, RECIPE, BALANCER = "gpu1", "gpu2", "lb1"
CENSORED, CRON_MEAN = 600.0, 150.0
LIMIT = 420.0
# The guide's health check; a sample ends when it has passed again, so that one waits for fewer of them.
HEALTH_CHECK = {"interval": 30, "timeout": 5, "unhealthy_threshold": 2, "healthy_threshold": 2}
TIMEOUT = 5.0  # of the client: what takes longer is lost
PAUSE = 0.5

UNIT = """\
[Unit]
Description=vLLM, as in the source guide
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
User=vllm
EnvironmentFile=/etc/vllm/qwen3vl.env
{environment}
ExecStart=/opt/vllm/current/bin/vllm serve --config /etc/vllm/qwen3vl.yaml
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
"""

# In the host: does the harm, then tells when the hurt process is gone and when a new API process is there.
HURT = r"""
import json, os, signal, sys, time
name, number, within = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
marks = {"api": "/vllm serve", "engine": "VLLM::EngineCore", "worker": "VLLM::Worker", "keeper": "watch --listen"}
HEADROOM = 64 << 20
def hog(pid):
    # A neighbour in the unit's control group wants more memory than there is: the kernel kills the largest, vLLM's.
    for line in open(f"/proc/{pid}/cgroup"):
        number, names, path = line.strip().split(":", 2)
        if "memory" in names.split(","):
            group = "/sys/fs/cgroup/memory" + path
            used, limit = group + "/memory.usage_in_bytes", group + "/memory.limit_in_bytes"
            break
        if number == "0":
            group = "/sys/fs/cgroup" + path
            used, limit = group + "/memory.current", group + "/memory.max"
    if not group.endswith(".service"):
        sys.exit(f"{group}: no control group of a unit's own")
    before = open(limit).read().strip()
    before = "-1" if before.isdigit() and int(before) > 1 << 60 else before
    child = os.fork()
    if not child:
        try:
            open("/proc/self/oom_score_adj", "w").write("-1000")  # it is not the neighbour who is killed
        except OSError:
            pass
        open(group + "/cgroup.procs", "w").write(str(os.getpid()))
        open(limit, "w").write(str(int(open(used).read()) + HEADROOM))
        held = []
        while len(held) < 8192:
            held.append(b"x" * (1 << 20))
        os._exit(0)
    def over():
        try:
            os.kill(child, signal.SIGKILL)
            open(limit, "w").write(before)
        except OSError:
            pass  # the group has gone, and its limit with it
    return over
def find(mark):
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\0", b" ").decode()
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if (words.startswith(mark) or ("python" in words[:80] and mark in words)) and state[0] not in "ZX":
            if "multiprocessing" not in words:
                found[int(pid)] = state[19]
    return found
def alive(pid, born):
    return find_one(pid) == born
def find_one(pid):
    try:
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state[0] in "ZX" else state[19]
apis = find(marks["api" if name != "keeper" else name])  # whose place a new process takes
hurt = find(marks[name]) if name in marks else {**apis, **find(marks["engine"]), **find(marks["worker"])}
if not hurt or not apis:
    sys.exit(f"no {name} or no api: {hurt} {apis}")
many = any if name != "hog" else all  # of the hurt must be left, or it has happened
began = time.monotonic()
over = hog(next(iter(apis))) if name == "hog" else lambda: None
for pid in hurt if number else ():
    os.kill(pid, number)
print(json.dumps({"began": began}), flush=True)
gone = None
while time.monotonic() - began < within:
    if gone is None and not many(alive(pid, born) for pid, born in hurt.items()):
        gone = time.monotonic()
        over()
        print(json.dumps({"gone": gone}), flush=True)
    new = set(find(marks["api"])) - set(apis) if gone or not any(alive(p, b) for p, b in apis.items()) else None
    if new:
        print(json.dumps({"new": time.monotonic()}), flush=True)
        break
    time.sleep(0.02 if gone else 0.05)
"""

# In the balancer: tells each change of each server's state, by HAProxy's runtime API.
STATES = r"""
import json, socket, sys, time
before = {}
while True:
    link = socket.socket(socket.AF_UNIX)
    link.connect("/run/haproxy/admin.sock")
    link.sendall(b"show stat\n")
    text = b""
    while part := link.recv(65536):
        text += part
    lines = text.decode().splitlines()
    head = lines[0].lstrip("# ").split(",")
    for line in lines[1:]:
        row = dict(zip(head, line.split(",")))
        if row.get("svname") in sys.argv[1:]:
            usable = row["status"].startswith("UP") and row["weight"] != "0"
            if before.get(row["svname"]) != usable:
                before[row["svname"]] = usable
                print(json.dumps({"server": row["svname"], "usable": usable, "at": time.monotonic()}), flush=True)
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Fault:
    text: str
    process: str = ""
    signal: int = 9
    loaded: bool = False
    before: str = ""  # a command on the keeper's host
    around: tuple[str, str] = ("", "")  # commands on both, before the fault and once all serve again
    ours: bool = False  # the recipe has nothing that could have it


FAKE = "/srv/fake"
KMSG = f"{FAKE}/kmsg"
XID = "4,1,1,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=4711, name=VLLM::EngineCor, MMU Fault: ENGINE GRAPHICS"
GPU = {"uuid": "GPU-0", "name": "Fake H100", "bus": "00000000:3B:00.0", "recovery_action": 0, "processes": []}
JOURNAL = "/var/log/journal"
FULL = (
    f"mkdir -p {JOURNAL} && mount -t tmpfs -o size=8m,mode=755 tmpfs {JOURNAL} && systemctl restart systemd-journald; "
    f"dd if=/dev/zero of={JOURNAL}/fill bs=64k 2>/dev/null || true",
    f"rm -f {JOURNAL}/fill; umount -l {JOURNAL}; systemctl restart systemd-journald",
)

FAULTS = {
    "kill_api": Fault("SIGKILL of the API", "api"),
    "kill_engine": Fault("SIGKILL of the EngineCore", "engine"),
    "stop_engine": Fault("SIGSTOP of the EngineCore, idle", "engine", 19),
    "stop_engine_loaded": Fault("SIGSTOP of the EngineCore, under load", "engine", 19, loaded=True),
    "stop_worker": Fault("SIGSTOP of the worker", "worker", 19),
    "stop_api": Fault("SIGSTOP of the API", "api", 19),
    "gpu_fault": Fault(
        "Xid 31 (a fake NVML and kernel log), and the EngineCore stands still",
        "engine",
        19,
        before=f"cat >> {KMSG} <<'E'\n{XID}\nE",
    ),
    "memory_hog": Fault("a neighbour takes the unit's memory: the kernel kills", "hog", 0),
    "disk_full": Fault("SIGKILL of the API while the disk of the logs is full", "api", around=FULL),
    "keeper_alone": Fault("SIGKILL of the keeper alone", "keeper", ours=True),
    "keeper_killed": Fault("SIGKILL of the keeper, then of the API", "api", before="pkill -KILL -f '[w]atch --listen'"),
    "keeper_stopped": Fault(
        "SIGSTOP of the keeper and of the EngineCore", "engine", 19, before="pkill -STOP -f '[w]atch --listen'"
    ),
}


@dataclass
class Side:
    """What one host did in one sample; seconds from the fault, None where it did not happen in time."""

    gone: float | None = None
    out: float | None = None
    new: float | None = None
    again: float | None = None
    asked: int = 0
    lost: int = 0
    note: str = ""
    checked: float | None = None  # when the recipe's script was run by hand
    began: float | None = None  # when the harm was done, on the clock that all containers share

    def seconds(self, name: str) -> float | None:
        """Of `gone`, `out`, `new` or `again`, as they would be had cron run the script."""
        value: float | None = getattr(self, name)
        # HAProxy's own checks go on below the script, which changes something only with its restart at the end.
        first = self.gone if name == "out" else self.checked
        if value is None or self.checked is None or first is None or value < first:
            return value
        return value - self.checked + CRON_MEAN if self.note == "cron" else None  # what our own hand did is not its

    @property
    def failed(self) -> int:
        """Requests lost until it served again: at the same pace for as long as we did not look."""
        if self.note == "cut":
            return round(CENSORED / PAUSE)
        if self.note == "cron" and self.checked is not None:
            return self.lost + round((CRON_MEAN - self.checked) / PAUSE)
        return self.lost


@dataclass
class Client:
    """Asks one question after the other, at its own pace whatever becomes of them."""

    url: str
    model: str
    results: list[tuple[float, float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.pool = ThreadPoolExecutor(max_workers=24)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.wait(PAUSE):
            self.pool.submit(self._ask)

    def _ask(self) -> None:
        began = time.monotonic()
        good = client.answers(self.url, self.model, TIMEOUT)
        self.results.append((began, time.monotonic(), good))

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(wait=True)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def playbook(*words: str, variables: dict[str, Any] | None = None) -> None:
    # The settings that are shipped and the guide's, not those that spare the lab's cores and time.
    given = json.dumps(
        {"vllm_target_groups": [], "health_canary": {}, "vllm_health_check": HEALTH_CHECK, **(variables or {})}
    )
    command = ["ansible-playbook", "-i", "inventories/lab", "--limit", "gpu1,gpu2,lb1,localhost", "-e", given, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def put(host: str, path: str, text: str) -> None:
    """Write a file of a host; one that is there keeps its mode."""
    write = ["podman", "exec", "-i", client.container(host), "sh", "-c", f"cat > {path}"]
    subprocess.run(write, input=text, text=True, check=True)


def recipe(host: str) -> None:
    """Put the guide's unit, script and cron line in the place of ours."""
    shown = client.on(host, "systemctl", "show", "qwen3vl", "-p", "Environment", "--value").strip()
    unit = UNIT.format(environment=f"Environment={shown}" if shown else "")
    script = (ROOT / "bench/recipe/check_vllm.sh").read_text()
    client.on(host, "sh", "-c", "systemctl disable --now vllm-keeper qwen3vl; rm -f /etc/cron.d/vllm-keeper")
    for path, text, mode in (
        ("/etc/systemd/system/qwen3vl.service", unit, "644"),
        ("/usr/local/bin/check_vllm.sh", script, "755"),
        ("/etc/cron.d/check_vllm", "*/5 * * * * root /usr/local/bin/check_vllm.sh\n", "644"),
    ):
        put(host, path, text)
        client.on(host, "chmod", mode, path)
    client.on(host, "sh", "-c", "systemctl stop cron; systemctl daemon-reload && systemctl enable --now qwen3vl")


def fake_gpu(host: str) -> None:
    """Give the keeper a GPU that does not exist, and a kernel's log that is a file: faults of both can be told it."""
    path = f"/etc/vllm-keeper/{client.instance()['name']}.json"
    settings = json.loads(client.on(host, "cat", path))
    settings["gpu"] |= {
        "enabled": True, "python": "/usr/bin/python3", "library": f"{FAKE}/fake_pynvml.py", "kernel_log": KMSG
    }  # fmt: skip
    client.on(host, "mkdir", "-p", FAKE)
    for file, text in (
        (f"{FAKE}/fake_pynvml.py", (ROOT / "tests/fakes/fake_pynvml.py").read_text()),
        (f"{FAKE}/fake_pynvml.json", json.dumps({"driver": "580.159.04", "gpus": [GPU]})),
        (KMSG, ""),
        (path, json.dumps(settings, indent=1)),
    ):
        put(host, file, text)
    client.on(host, "systemctl", "restart", "vllm-keeper")


def lines_of(host: str, script: str, *words: str) -> subprocess.Popen[str]:
    command = ["podman", "exec", client.container(host), "python3", "-c", script, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def hurt(host: str, fault: Fault, side: Side, start: threading.Barrier) -> None:
    """Do the harm, and tell SIDE what became of it."""
    start.wait()
    if fault.ours and host == RECIPE:
        side.began = time.monotonic()
        return
    told: dict[str, float] = {}
    process = lines_of(host, HURT, fault.process, str(fault.signal), str(LIMIT))
    for line in process.stdout or ():
        told.update(json.loads(line))
        side.began = told["began"]
        side.gone = told["gone"] - told["began"] if "gone" in told else None
        side.new = told["new"] - told["began"] if "new" in told else None
        if side.note == "cut" and "new" not in told:
            process.kill()
            break
    process.wait()
    if "began" not in told:
        raise RuntimeError(f"{host}: {process.stderr.read() if process.stderr else ''}")


def sample(name: str) -> dict[str, Any]:
    """One fault on both at once."""
    fault, lab = FAULTS[name], client.Lab.read()
    sides = {KEEPER: Side(), RECIPE: Side()}
    for host in sides:
        client.wait_until(partial(client.answers, lab.direct(host), lab.model), LIMIT, f"{host} serves")
    # Each is a first fault: one soon after others would meet the back-off that they earned.
    client.on(KEEPER, "vllm-keeper", "resume", client.instance()["name"])
    states = lines_of(BALANCER, STATES, *sides)
    changes: list[dict[str, Any]] = []

    def note() -> None:
        for line in states.stdout or ():
            changes.append(json.loads(line))

    def balanced() -> bool:
        usable = {one["server"]: one["usable"] for one in list(changes)}
        return all(usable.get(host) for host in sides)

    threading.Thread(target=note, daemon=True).start()
    client.wait_until(balanced, LIMIT, "HAProxy sends requests to both")
    clients = {host: Client(lab.direct(host), lab.model) for host in sides} if name != "stop_engine" else {}
    loads = [Client(lab.direct(host), lab.model) for host in sides for _number in range(3)] if fault.loaded else []
    time.sleep(8)
    for host in sides if fault.around[0] else ():
        client.on(host, "sh", "-c", fault.around[0])
    if fault.before:
        client.on(KEEPER, "sh", "-c", fault.before)
    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=hurt, args=(host, fault, sides[host], barrier)) for host in sides]
    for thread in threads:
        thread.start()
    time.sleep(3)
    if not clients:  # the hang of an idle server: nobody asked until then
        clients = {host: Client(lab.direct(host), lab.model) for host in sides}
    checked = _finish(sides, clients, lab)
    for host in sides if fault.around[1] else ():
        client.on(host, "sh", "-c", fault.around[1], check=False)
    for one in (*clients.values(), *loads):
        one.close()
    for thread in threads:
        thread.join(60)
    states.kill()
    for host, side in sides.items():
        at = side.began
        if at is None:
            raise RuntimeError(f"{host}: no harm was done")
        side.checked = checked - at if checked is not None and host == RECIPE else None
        side.out = next(
            (c["at"] - at for c in changes if c["server"] == host and not c["usable"] and c["at"] > at), None
        )
        after = [(first, last, good) for first, last, good in clients[host].results if first >= at]
        good_again = [
            last for first, last, good in sorted(after) if good and side.new is not None and last > at + side.new
        ]
        side.again = good_again[0] - at if good_again else None
        end = good_again[0] if good_again else float("inf")
        within = [good for first, _last, good in after if first <= end]
        side.asked, side.lost = len(within), within.count(False)
    return {"check": HEALTH_CHECK["interval"], **{host: asdict(side) for host, side in sides.items()}}


def _finish(sides: dict[str, Side], clients: dict[str, Client], lab: client.Lab) -> float | None:
    """Until both serve again, or it is certain that one will not; when the recipe's script was run by hand."""

    def serves(host: str) -> bool:
        # Who was asked before the fault says nothing, and who hangs has not said anything yet.
        at = sides[host].began
        recent = [good for first, _last, good in sorted(clients[host].results) if at is not None and first > at][-3:]
        return len(recent) == 3 and all(recent)

    end = time.monotonic() + LIMIT
    while time.monotonic() < end and not serves(KEEPER):
        time.sleep(1)
    if not serves(KEEPER):
        sides[KEEPER].note = "did not come back"
    settle = time.monotonic() + 90
    # Where nothing has ended until now, its unit has nothing to start.
    while sides[RECIPE].gone is not None and time.monotonic() < settle and not serves(RECIPE):
        time.sleep(1)
    if serves(RECIPE):
        return None
    checked = time.monotonic()
    found = client.on(RECIPE, "sh", "-c", "/usr/local/bin/check_vllm.sh http://127.0.0.1:8000/health true; echo $?")
    if found.strip().endswith("0"):
        sides[RECIPE].note = "cut"
        # For the next sample; the recipe itself never would.
        client.on(RECIPE, "sh", "-c", "systemctl kill -s KILL qwen3vl; systemctl restart qwen3vl", timeout=180)
        return checked
    sides[RECIPE].note = "cron"
    client.on(RECIPE, "systemctl", "restart", "qwen3vl", timeout=300)
    client.wait_until(lambda: serves(RECIPE), LIMIT, "the recipe's host serves")
    return checked


def shown(values: list[float | None], censored: bool = False) -> str:
    if censored:
        return f"> {CENSORED:.0f} s"
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    return f"{statistics.median(known):.1f} s" + ("" if len(known) == len(values) else f" ({len(known)}/{len(values)})")


def page(results: dict[str, list[dict[str, Any]]]) -> str:
    """docs/rivals.md."""
    lines = [
        "# The keeper beside the source guide's recipe",
        "",
        "<!-- Written by `python -m lab.rivals`. Do not edit: run it again. -->",
        "",
        "The same fault at the same moment on two lab hosts with real vLLM (the tiny Qwen3-VL on CPU, nothing on a",
        "GPU) behind one HAProxy: one with the keeper, one with the source guide's unit, script and cron line.",
        "Medians, seconds from the fault. *gone*: the process that was hurt was ended. *out*: HAProxy sends it nothing",
        "more. *again*: a completion was answered by a new process (vLLM's own start is in it, 20 to 40 s by machine).",
        f"*lost*: requests of a client that asks every {PAUSE} s and gives each {TIMEOUT:g} s, until then.",
        "",
        f"*> {CENSORED:.0f} s*: once the keeper's side served again, the recipe's script was run by hand and found",
        "nothing wrong; so no cron run would, and the sample was cut short. Its requests were lost at the same pace",
        f"all the while; *lost* is what {CENSORED:.0f} s make of it. Where the script finds it, the mean wait for cron",
        f"({CRON_MEAN:.0f} s) stands in the place of ours.",
        "",
        "*sooner*, *fewer*: how many times sooner the hurt process was gone, and fewer requests were lost, with the",
        "keeper. Where the process died of the fault itself there is nothing to be sooner with. *balanced*: the same",
        "of users behind the balancer, who lose what it sends there until *out*; here both hosts were asked past it.",
        "",
        f"HAProxy's own check is the guide's: every {HEALTH_CHECK['interval']} s, {HEALTH_CHECK['timeout']} s for an "
        f"answer, out after {HEALTH_CHECK['unhealthy_threshold']} failures.",
        "",
        "| fault | samples | keeper: gone | out | again | lost | recipe: gone | out | again | lost "
        "| sooner | fewer | balanced |",
        f"| --- |{' ---: |' * 12}",
    ]
    for name, samples in results.items():
        if any(one["check"] != HEALTH_CHECK["interval"] for one in samples):
            continue  # of a time when HAProxy asked in another way: to be measured anew
        cells = [f"{FAULTS[name].text} (`{name}`)", str(len(samples))]
        gone, lost, until = [], [], []
        for host in (KEEPER, RECIPE):
            sides = [Side(**one[host]) for one in samples]
            cut = any(side.note == "cut" for side in sides)
            times = [CENSORED if side.note == "cut" else side.seconds("gone") for side in sides]
            gone.append(statistics.median(LIMIT if value is None else value for value in times))
            # One that served again before it was taken out harmed nobody any more.
            ends = [CENSORED if side.note == "cut" else side.again or LIMIT for side in sides]
            until.append(statistics.median(min(side.out or end, end) for side, end in zip(sides, ends)))
            lost.append(statistics.median(side.failed for side in sides))
            cells += [
                shown([side.seconds("gone") for side in sides], cut),
                shown([side.seconds("out") for side in sides]),
                shown([side.seconds("again") for side in sides], cut),
                f"{lost[-1]:.0f}",
            ]
        if FAULTS[name].ours:
            cells[-4:] = ["has none"] * 4 + ["", "", ""]
        else:
            cells.append("" if FAULTS[name].signal != signal.SIGSTOP else f"{gone[1] / gone[0]:.0f}x")
            cells.append(f"{lost[1] / max(1, lost[0]):.1f}x")
            cells.append(f"{until[1] / until[0]:.0f}x")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--keep", action="store_true", help="leave the hosts")
    parser.add_argument("--only-write", action="store_true", help="run nothing, write the page")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed: list[str] = []
    if not options.only_write:
        os.environ.setdefault("STEADFAST_LAB", "rivals")
        os.environ.setdefault("STEADFAST_LAB_NETWORK", "10.87.66")
        os.environ.setdefault("STEADFAST_LAB_HOSTS", "gpu1,gpu2,lb1")
        steps: list[tuple[str, Callable[[], None]]] = [
            ("hosts", lambda: playbook("lab/create.yml")),
            ("site.yml", lambda: playbook("site.yml")),
            ("the recipe on gpu2", lambda: recipe(RECIPE)),
            ("a fake GPU for the keeper on gpu1", lambda: fake_gpu(KEEPER)),
        ]
        try:
            for text, step in steps:
                say(text)
                step()
            for name in options.fault or list(FAULTS):
                for number in range(options.samples):
                    try:
                        seen = sample(name)
                    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
                        failed.append(f"{name} {number + 1}")
                        say(f"{name} {number + 1}/{options.samples}: not measured: {error}")
                        continue
                    alike = [one for one in results.get(name, []) if one["check"] == seen["check"]]
                    results[name] = [*alike, seen]
                    say(f"{name} {number + 1}/{options.samples}: {json.dumps(seen)}")
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        finally:
            if not options.keep:
                playbook("lab/destroy.yml")
    PAGE.write_text(page(results))
    say(f"written: {PAGE.relative_to(ROOT)}{f'; not measured: {failed}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
