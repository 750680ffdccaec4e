# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make faults`: every fault under every process manager, with real vLLM, and the table of it.

Each manager has a lab host of its own, made for it and removed after it:
    python -m lab.conformance                                      all of it, hours on two cores
    python -m lab.conformance --manager tmux --fault kill_api      one of them
    python -m lab.conformance --write                              and docs/faults.md from all results that are there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

from lab import faults

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "faults"  # kept, so that one fault can be measured again without losing the others
PAGE = ROOT / "docs" / "faults.md"
# manager: host, scenario whose inventory chooses it, last number of the network
MANAGERS = {
    "systemd": ("gpu1", "", 61),
    "supervisor": ("gpu1", "supervisor", 62),
    "compose": ("docker1", "compose", 63),
    "tmux": ("gpu1", "tmux", 64),
    "screen": ("gpu1", "tmux", 65),
}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def playbook(manager: str, *words: str) -> None:
    """Run a playbook on the manager's lab; RuntimeError with its last lines."""
    host, scenario, _number = MANAGERS[manager]
    inventories = ["-i", "inventories/lab", *(["-i", f"molecule/{scenario}/inventory"] if scenario else [])]
    # The canary that is shipped, not the lab's.
    variables = json.dumps({"service_manager": manager, "vllm_target_groups": [], "health_canary": {}})
    command = ["ansible-playbook", *inventories, "--limit", f"{host},localhost", "-e", variables, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def suite(manager: str, chosen: list[str], keep: bool) -> int:
    """All chosen faults under one manager; the number that were not survived."""
    host, _scenario, number = MANAGERS[manager]
    os.environ.update(
        STEADFAST_LAB=f"faults-{manager}", STEADFAST_LAB_NETWORK=f"10.87.{number}", STEADFAST_LAB_HOSTS=host
    )
    file = RESULTS / f"{manager}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    bad = 0
    say(f"{manager}: a host and site.yml")
    try:
        playbook(manager, "lab/create.yml")
        playbook(manager, "site.yml")
        subject = faults.Subject(host, manager)
        if not subject.sees_colours():
            raise RuntimeError("a picture was answered wrongly")
        for fault in chosen:
            if (manager, fault) in faults.BY_NATURE:
                continue
            say(f"{manager}: {fault} ...")
            began = time.monotonic()
            try:
                seen = faults.suffer(subject, fault)
                shown = "never away" if seen.seconds is None else f"serving again after {seen.seconds:.0f} s"
                results[fault] = {"seconds": seen.seconds, "note": seen.note, "load": round(os.getloadavg()[1])}
                say(f"{manager}: {fault} PASSED {shown} {seen.note}")
            except Exception as error:
                bad += 1
                results[fault] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
                say(f"{manager}: {fault} FAILED after {time.monotonic() - began:.0f} s: {error}")
                traceback.print_exc()
                subject.keeper("resume", subject.name, check=False)
                subject.keeper("restart", subject.name, check=False)
            RESULTS.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    finally:
        if not keep:
            playbook(manager, "lab/destroy.yml")
    return bad


def cell(manager: str, fault: str, result: dict[str, object] | None) -> str:
    """One field of the table."""
    if (manager, fault) in faults.BY_NATURE:
        return "by nature"
    if result is None:
        return "not run"
    if "failed" in result:
        return "**not survived**"
    seconds = result["seconds"]
    return "never away" if seconds is None else f"{float(str(seconds)):.0f} s"


def load(results: dict[str, dict[str, object]]) -> str:
    """Of the machine while they were measured: from - to."""
    seen = sorted(int(str(one["load"])) for one in results.values() if "load" in one)
    return f"{seen[0]}-{seen[-1]}" if seen else "unknown"


def page() -> str:
    """docs/faults.md: fault x manager, with seconds to serving again."""
    files = {manager: RESULTS / f"{manager}.json" for manager in MANAGERS}
    found = {manager: json.loads(file.read_text()) if file.exists() else {} for manager, file in files.items()}
    lines = [
        "# Faults and managers",
        "",
        "<!-- Written by `make faults`. Do not edit: run it again. -->",
        "",
        "What each process manager survives, with real vLLM (the lab's tiny Qwen3-VL on CPU), in seconds until a",
        "completion was answered again. Nearly all of them are vLLM's own start, which is the least in a column: the",
        "keeper's part is what is beyond. Nothing ran on a GPU. *by nature*: the manager cannot have this fault, or",
        "cannot be saved from it; the reason stands below.",
        "Starts take longer on a machine that does other things: here it had two cores, and this load while they ran:",
        f"{'; '.join(f'{manager} {load(results)}' for manager, results in found.items())}.",
        "*not run*: nobody has yet; `python -m lab.conformance --manager M --fault F --write` does.",
        "",
        f"| fault | {' | '.join(found)} |",
        f"| --- |{' ---: |' * len(found)}",
    ]
    for name, function in faults.FAULTS.items():
        first = str(function.__doc__).split(":")[0].rstrip(".")
        lines.append(
            f"| `{name}`: {first} | {' | '.join(cell(manager, name, found[manager].get(name)) for manager in found)} |"
        )
    lines += ["", "## Notes", ""]
    for manager, results in found.items():
        for name in faults.FAULTS:
            note = (results.get(name) or {}).get("note") or faults.BY_NATURE.get((manager, name))
            failed = (results.get(name) or {}).get("failed")
            if note or failed:
                lines.append(f"- {manager}, `{name}`: {failed or note}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manager", action="append", choices=list(MANAGERS))
    parser.add_argument("--fault", action="append", choices=list(faults.FAULTS))
    parser.add_argument("--keep", action="store_true", help="leave the hosts")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--only-write", action="store_true", help="run nothing, write the page")
    options = parser.parse_args()
    bad = 0
    for manager in () if options.only_write else options.manager or list(MANAGERS):
        bad += suite(manager, options.fault or list(faults.FAULTS), options.keep)
    if options.write or options.only_write:
        PAGE.write_text(page())
        say(f"written: {PAGE.relative_to(ROOT)}")
    if not options.only_write:
        say(f"==== {bad} faults not survived ====" if bad else "==== all survived ====")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
