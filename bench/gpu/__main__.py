# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure vLLM on one GPU under the keeper: starts, memory against the preflight, hangs, load, what watching costs.

    python3 -m bench.gpu --plan
    python3 -m bench.gpu                                   all parts, with vLLM from /opt/vllm/current
    python3 -m bench.gpu start hangs --leave               some, in this order; the server goes on running
    python3 -m bench.gpu soak throughput --out DIR         with the server that an earlier call left
    python3 -m bench.gpu --standin                         try it without a GPU, with a stand-in for vLLM

As root, from a checkout, with any Python from 3.9 on; Ansible is not needed. Nothing of vLLM or of the keeper may run
on this GPU meanwhile. Each result goes to --out at once; a part that fails or takes too long takes none of the others
along. Without --model a folder of Qwen3-VL-8B-Instruct's shape is made, without weights: vLLM takes random ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu import parts, readings, summary
from bench.gpu.place import ROOT, Options, Place, Run, free_port, refusal
from bench.gpu.results import Results

# (expected seconds, seconds at most), on an H100 with sixteen cores; the rest follows from options.
START, WARM_START = 300, 130
DEFAULT_RUNS = (
    '{"gpu-memory-utilization": 0.95, "max-num-batched-tokens": 8192}',
    '{"gpu-memory-utilization": 0.95, "max-num-batched-tokens": 2048}',
    '{"gpu-memory-utilization": 0.264, "max-num-batched-tokens": 2048}',
    '{"gpu-memory-utilization": 0.264, "max-num-batched-tokens": 2048, '
    '"limit-mm-per-prompt": {"image": 0, "video": 0}}',
)
WORK = Path("/var/lib/vllm-gpu-bench")
SERVED = "Qwen/Qwen3-VL-8B-Instruct"
CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE")
ORDER = ("start", "hangs", "record", "throughput", "soak", "memory")
FAILED, REFUSED = 1, 2


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts.PARTS)} (default: {' '.join(ORDER)})")
    add("--plan", action="store_true", help="list the parts and how long each takes, and do nothing")
    add("--out", type=Path, default=Path("gpu-bench"), help="folder of the results (default: %(default)s)")
    add("--work", type=Path, default=WORK, help="folder meanwhile (default: %(default)s)")
    add("--leave", action="store_true", help="leave the server running, for the next call")
    add("--end", action="store_true", help="only end what an earlier call has left")
    add("--seconds", type=float, default=0, help="for all parts together; 0: no limit")
    add("--standin", action="store_true", help="the tests' stand-in for vLLM, without a GPU")
    add("--vllm", default="/opt/vllm/current/bin/vllm", help="command of vLLM (default: %(default)s)")
    add("--python", default="", help="vLLM's Python, which NVML is asked with (default: beside --vllm)")
    add("--keeper-python", default=sys.executable, help="for the keeper (default: this one)")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="for the server; may be repeated")
    add("--model", default="", help="a folder or a name on the hub")
    add("--served", default=SERVED, help="its name (default: %(default)s)")
    add("--load-format", default="", help="dummy: random weights (default for the folder that is made here)")
    add("--options", type=json.loads, default={"max-model-len": 1024}, help="of vllm serve, for all runs, as JSON")
    add("--run", action="append", type=json.loads, metavar="JSON", help="options of one run; may be repeated")
    add("--port", type=int, default=8000)
    add("--cache", type=Path, help="folder for the caches of all compilers")
    add("--cold", action="store_true", help="empty that folder first")
    add("--start-limit", type=float, default=540, help="seconds for a start (default: %(default)g)")
    add("--hangs", default="remembers=2,idle=9,loaded=9,kernel=3,api=3", help="how many of each (default: %(default)s)")
    add("--soak-seconds", type=float, default=540)
    add("--turn", type=float, default=25, help="seconds of one kind of load in soak")
    add("--load", type=float, default=15, help="seconds of each load in memory")
    add("--rounds", type=int, default=8, help="of throughput")
    add("--window", type=float, default=9, help="seconds of each half of a round")
    add("--compare", metavar="NAME=VALUE,VALUE", help="for the part compare: a variable of the environment")
    given = parser.parse_args(words)
    unknown = [part for part in given.parts if part not in parts.PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; known are {', '.join(parts.PARTS)}")
    given.parts = given.parts or [*ORDER, *(["compare"] if given.compare else [])]
    given.run = given.run or [json.loads(run) for run in DEFAULT_RUNS]
    try:
        given.hangs = {name: int(count) for name, count in (one.split("=") for one in given.hangs.split(","))}
        if set(given.hangs) - set(parts.FAULTS):
            raise ValueError(f"known are {', '.join(parts.FAULTS)}")
    except ValueError as error:
        parser.error(f"--hangs: {error}")
    if any("=" not in pair for pair in given.env) or (given.compare and "=" not in given.compare):
        parser.error("--env and --compare take NAME=VALUE")
    return given


def plan(given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """{part: (expected seconds, seconds at most)}"""
    hangs = sum(given.hangs.values())
    runs = len(given.run)
    halves = 2 * given.rounds * (given.window + 1.2)
    start = given.start_limit + 60
    return {
        "start": (START, start),
        "hangs": (9.0 * hangs + 12, 45.0 * hangs + 60),
        "record": (40, 120),
        "throughput": (halves + 15, 1.5 * halves + 60),
        "soak": (given.soak_seconds + 60, 1.3 * given.soak_seconds + 120),
        "memory": (60 + (runs - 1) * (WARM_START + 60), runs * (start + 150)),
        "compare": (2 * (WARM_START + halves / 2 + 30), 2 * (start + halves + 150)),
    }


def compare(given: argparse.Namespace) -> tuple[str, list[str]] | None:
    if not given.compare:
        return None
    name, _equals, values = given.compare.partition("=")
    return name, values.split(",")


def environment(given: argparse.Namespace) -> dict[str, str]:
    """Of the server, as the roles have it; what is given wins."""
    found = {
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(given.start_limit)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }  # fmt: skip
    if not given.model or given.model.startswith("/"):
        found["HF_HUB_OFFLINE"] = "1"
    if given.cache or given.cold:
        folder = (given.cache or given.work / "cache").resolve()
        if given.cold:
            shutil.rmtree(folder, ignore_errors=True)
        for name in CACHES:
            (folder / name.lower()).mkdir(parents=True, exist_ok=True)
            found[name] = str(folder / name.lower())
    if given.standin:
        found |= {"STANDIN_START_SECONDS": "2", "STANDIN_STEP_SECONDS": "0.05", "STANDIN_ONE_GPU": "1"}
    return found | dict(pair.split("=", 1) for pair in given.env)


def model(given: argparse.Namespace, python: str, server: dict[str, str]) -> str:
    """The folder or name that is served: the given one, or one that is made here."""
    if given.model:
        return str(Path(given.model).resolve()) if given.model.startswith((".", "/")) else given.model
    folder = given.work / "model"
    if given.standin:
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    if not (folder / "preprocessor_config.json").exists():
        paths = [str(ROOT), server.get("PYTHONPATH", "")]
        done = subprocess.run(
            [python, "-m", "bench.gpu.model", str(folder)], check=False, capture_output=True, text=True, timeout=300,
            env={**os.environ, **server, "PYTHONPATH": ":".join(filter(None, paths))},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"no model could be made: {done.stderr[-800:]}")
    return str(folder)


def machine(python: str, server: dict[str, str], memory: readings.Memory, standin: bool) -> dict[str, Any]:
    """What the figures were measured on."""

    def said(*command: str) -> str:
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, **server}
            )  # fmt: skip
            return (done.stdout or done.stderr).strip()[-200:]
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"

    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("PRETTY_NAME="):
            found["system"] = line.partition("=")[2].strip('"')
    if standin:
        return {**found, "standin": True}
    versions = (
        "import importlib.metadata as m\n"
        "for name in ('vllm', 'torch', 'triton', 'flashinfer-python', 'transformers', 'nvidia-cuda-nvcc'):\n"
        "    try: print(name, m.version(name), end='; ')\n"
        "    except m.PackageNotFoundError: print(name, 'absent', end='; ')"
    )
    seen = memory.seen()
    return {
        **found, "python": said(python, "-V"), "packages": said(python, "-c", versions),
        "gpu": f"{seen.get('name', '?')}, {seen.get('total_mib', '?')} MiB, {seen.get('problem', '')}".rstrip(", "),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": shutil.which("nvcc") or "not on PATH", "/usr/local/cuda": Path("/usr/local/cuda").exists(),
    }  # fmt: skip


def hidden(given: argparse.Namespace) -> dict[str, str]:
    """What of this machine does not belong into results."""
    found = {str(given.work.resolve()): "WORK", str(ROOT): "CHECKOUT", socket.gethostname(): "HOST"}
    if given.model.startswith("/"):
        found[given.model.rstrip("/")] = "MODEL"
    for pair in given.env:
        name, _equals, value = pair.partition("=")
        if name == "PYTHONPATH":
            found |= dict.fromkeys(value.split(":"), "SITE")
    if given.python:
        found[str(Path(given.python).parent.parent)] = "ENVIRONMENT"
    found[os.path.expanduser("~")] = "HOME"
    # What is as short as that, or a word of ours, stands for more than this machine.
    return {name: word for name, word in found.items() if len(name) > 3 and name not in ("localhost", "vllm")}


def measure(bench: parts.Bench, given: argparse.Namespace) -> int:
    """Each part, within its time. The number of those that were not done."""
    limits, until, missed = plan(given), time.monotonic() + (given.seconds or 1e9), 0
    for name in given.parts:
        left = until - time.monotonic()
        bench.results.say(f"--- {name}: about {limits[name][0]:.0f} s, {min(left, limits[name][1]):.0f} at most")
        begun = time.monotonic()
        try:
            if left < 5:
                raise parts.Late("no time is left")
            with parts.within(min(left, limits[name][1])):
                parts.PARTS[name](bench)
        except (Exception, parts.Late) as error:
            missed += 1
            bench.results.keep(f"not done: {name}", f"{type(error).__name__}: {error}")
        bench.results.say(f"--- {name}: {time.monotonic() - begun:.0f} s")
        found = bench.results.all()
        bench.results.file("summary.md", summary.text(found, given.standin))
    return missed


def make(given: argparse.Namespace, results: Results) -> parts.Bench:
    vllm = [sys.executable, str(ROOT / "tests/standin/vllm")] if given.standin else shlex.split(given.vllm)
    python = "" if given.standin else given.python or str(Path(vllm[0]).with_name("python"))
    server = environment(given)
    folder = model(given, python, server)
    words = dict(given.options)
    if given.load_format or not given.model:
        words["load-format"] = given.load_format or "dummy"
    options = Options(
        given.work.resolve(), vllm, folder, given.served, free_port() if given.standin else given.port, python,
        given.keeper_python, server, words, given.start_limit, given.standin,
    )  # fmt: skip
    memory = readings.Memory(python)
    told = machine(python, server, memory, given.standin)
    results.keep("machine", told)
    runs = [Run(run) for run in given.run]
    return parts.Bench(
        Place(options), memory, results, runs, given.start_limit, given.served, given.hangs, given.soak_seconds,
        given.turn, given.rounds, given.window, compare(given), 16 if given.standin else 1,
        load_seconds=given.load, versions=str(told.get("packages", "stand-in")),
    )  # fmt: skip


def ended(given: argparse.Namespace) -> int:
    options = Options(given.work.resolve(), [], "", "", given.port, "", sys.executable, {}, {}, 0)
    Place(options).end()
    return 0


def main() -> int:
    given = arguments()
    if given.plan:
        for name in given.parts:
            expected, most = plan(given)[name]
            print(f"{name:12} about {expected:5.0f} s, {most:5.0f} at most")
        return 0
    if given.standin and given.work == WORK:
        given.work = Path(tempfile.mkdtemp(prefix="gpu-bench-"))
    given.work.mkdir(parents=True, exist_ok=True)
    if given.end:
        return ended(given)
    # Whoever ends this program ends it in order.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    results = Results(given.out.resolve(), hidden(given))
    bench = make(given, results)
    problem = refusal(bench.place)
    if problem:
        results.keep("refused", problem)
        return REFUSED
    if given.standin:
        results.say("a stand-in for vLLM, no GPU: these figures say nothing about vLLM")
    try:
        return FAILED if measure(bench, given) else 0
    finally:
        if not given.leave:
            bench.place.end(10)
        with contextlib.suppress(Exception):
            bench.memory.close()


if __name__ == "__main__":
    sys.exit(main())
