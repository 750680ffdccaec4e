"""Run the checks and say which ran:   python scripts/run_tests.py all|lint|unit|sanity|integration|molecule...

Fast ones first; a failure does not keep the later ones from being heard. Ends with one line in pytest's form that
counts every test of every group, and with status 1 if any failed. `all` leaves out the scenarios of molecule whose
tests another scenario runs too, and those that take both cores for long; `molecule` runs each by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".cache" / "junit"
SCENARIOS_AT_ONCE = 3
# They build NVIDIA's kernel modules three times, which keeps both cores busy for minutes each.
LONG = ("nvidia_driver",)
# Alone, each keeps one core busy: most of lint is ansible-lint's one process, and most of sanity is ansible-test's.
SIDE_BY_SIDE = ("lint", "sanity")
# Files of integration tests that take a minute or more, the longest first: what begins last decides when all are done.
LONG_FILES = (
    "managed_files", "supervisor", "alb_modules", "adopt", "keeper_sessions", "keeper_run", "locked_environment",
    "load_balancer_behaviour", "uv_tool", "vllm_models", "production_lock",
)  # fmt: skip
TELLING = threading.Lock()
COLLECTION = ".collections/ansible_collections/steadfast/vllm"


@dataclass
class Outcome:
    """Names of the tests of one group by what became of them."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, name: str, ok: bool) -> None:
        (self.passed if ok else self.failed).append(name)

    def extend(self, other: Outcome) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def shell_scripts() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    names = [ROOT / name for name in listing.split("\0") if name]
    files = [name for name in names if name.is_file() and not name.is_symlink() and name.suffix in ("", ".sh")]
    return [str(name.relative_to(ROOT)) for name in files if re.match(rb"#!.*\b(ba)?sh\b", name.read_bytes()[:40])]


def linters() -> dict[str, list[str]]:
    """The slow ones first: they decide how long all of them take."""
    return {
        "ansible-lint": ["ansible-lint", "--strict", "-q"],
        "mypy": [
            "mypy",
            f"{COLLECTION}/plugins",
            "roles/health/files/vllm_keeper",
            "roles/health/files/vllm_keeper_aws",
            "scripts",
        ],
        "yamllint": ["yamllint", "--strict", "."],
        "shellcheck": ["shellcheck", "--external-sources", *shell_scripts()],
        "changelog": ["antsibull-changelog", "lint"],
        "ruff-check": ["ruff", "check", "."],
        "ruff-format": ["ruff", "format", "--check", "."],
    }


def lint() -> Outcome:
    def run(command: list[str]) -> tuple[int, str, float]:
        begin = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - begin

    outcome = Outcome()
    commands = linters()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        runs = {name: pool.submit(run, command) for name, command in commands.items()}
        for name, waiting in runs.items():
            status, said, took = waiting.result()
            outcome.add(f"lint::{name}", status == 0)
            print(f"lint::{name} {'FAILED' if status else 'PASSED'} ({took:.1f} s)", flush=True)
            if status:
                print(f"$ {shlex.join(commands[name])}\n{said.rstrip()}", flush=True)
    return outcome


def read_junit(file: Path) -> Outcome:
    outcome = Outcome()
    for case in ET.parse(file).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed.append(name)
        elif case.find("skipped") is not None:
            outcome.skipped.append(name)
        else:
            outcome.passed.append(name)
    return outcome


def longest_first(folder: str) -> list[str]:
    """The files of tests, those that LONG_FILES knows in its order before the others; the folder if it has none."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONG_FILES)}
    files = sorted((ROOT / folder).glob("test_*.py"), key=lambda file: (ranks.get(file.name, len(ranks)), file.name))
    return [str(file.relative_to(ROOT)) for file in files] or [folder]


def pytest(group: str) -> Outcome:
    report = RESULTS / f"{group}.xml"
    command = [sys.executable, "-m", "pytest", "-v", "-ra", f"--junitxml={report}", "--dist", "loadfile"]
    if group == "integration":
        # They mostly wait for processes to come and go. xdist would begin with the files that have the most tests.
        command += ["-n", str((os.cpu_count() or 1) * 2), "--no-loadscope-reorder", *longest_first("tests/integration")]
    else:
        command += ["-n", str(os.cpu_count() or 1), f"tests/{group}"]
    status = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode
    outcome = read_junit(report) if report.exists() else Outcome()
    if status and not outcome.failed:
        outcome.failed.append(f"{group}::pytest (exit status {status})")
    return outcome


def sanity() -> Outcome:
    outcome = Outcome()
    ran: list[str] = []
    failed: set[str] = set()
    listing = False
    command = [sys.executable, "scripts/sanity.py"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout or ():
            print(line, end="", flush=True)
            if found := re.match(r'Running sanity test "([^"]+)"(?: on Python ([\d.]+))?', line):
                ran.append(found[1] + (f" --python {found[2]}" if found[2] else ""))
            elif line.startswith("FATAL: The "):
                listing = True
            elif listing and line.strip():
                failed.add(line.strip())
    for name in ran:
        outcome.add(f"sanity::{name}", name not in failed)
    outcome.failed += [f"sanity::{name}" for name in sorted(failed.difference(ran))]
    if not ran or (run.returncode and not outcome.failed):
        outcome.failed.append(f"sanity::ansible-test (exit status {run.returncode})")
    return outcome


def scenario(name: str) -> Outcome:
    """One scenario: its own sequence is one test; the pytest run inside it tells its own."""
    outcome = Outcome()
    report, log = RESULTS / f"molecule-{name}.xml", RESULTS / f"molecule-{name}.log"
    # Borders cut each line at 80 columns where there is no terminal.
    quiet = {"MOLECULE_COMMAND_BORDERS": "false"}
    environment = {**os.environ, **quiet, "PYTEST_ADDOPTS": f"-v {shlex.quote(f'--junitxml={report}')}"}
    with TELLING:
        print(f"molecule::{name} ... tail -f {log.relative_to(ROOT)}", flush=True)
    began = time.monotonic()
    command = ["molecule", "test", "--scenario-name", name]
    with log.open("w") as file:
        status = subprocess.run(
            command, cwd=ROOT, env=environment, check=False, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        ).returncode
    outcome.add(f"molecule::{name}", status == 0)
    if report.exists():
        outcome.extend(read_junit(report))
    with TELLING:
        print(log.read_text(), flush=True)
        words = "FAILED" if status else "PASSED"
        print(f"molecule::{name} {words} in {time.monotonic() - began:.1f} s", flush=True)
    return outcome


def tests_of(name: str) -> set[Path]:
    """The files of tests of a scenario; those that are links, as what they lead to."""
    return {file.resolve() for file in ROOT.glob(f"molecule/{name}/tests/test_*.py")}


def run_elsewhere(name: str, names: list[str]) -> bool:
    """Whether another scenario runs every test of this one, by links to its files."""
    mine = tests_of(name)
    own = all(ROOT / "molecule" / name in file.parents for file in mine)
    return bool(mine) and own and any(mine < tests_of(other) for other in names if other != name)


def molecule(whole: bool = True) -> Outcome:
    """Three scenarios at a time, each in a lab of its own: most of each is waiting. The longest, `default`, first.

    Not WHOLE: without those that another one includes, and without LONG. A host and its starts of vLLM are what a
    scenario costs.
    """
    names = sorted(
        (file.parent.name for file in ROOT.glob("molecule/*/molecule.yml")),
        key=lambda n: (n != "default", n != "switch", n),
    )
    outcome = Outcome()
    if not whole:
        within = [name for name in names if run_elsewhere(name, names)]
        long = [name for name in names if name in LONG]
        names = [name for name in names if name not in within + long]
        for left_out, why in ((within, "within other scenarios; by themselves"), (long, "too long for here")):
            if left_out:
                print(f"molecule: {', '.join(left_out)}: {why}: make molecule", flush=True)
    if not names:
        outcome.failed.append("molecule:: no scenario found in molecule/*/molecule.yml")
    with ThreadPoolExecutor(SCENARIOS_AT_ONCE) as pool:
        for found in pool.map(scenario, names):
            outcome.extend(found)
    return outcome


GROUPS: dict[str, Callable[[], Outcome]] = {
    "lint": lint,
    "sanity": sanity,
    "unit": lambda: pytest("unit"),
    "integration": lambda: pytest("integration"),
    "molecule": molecule,
}


def wanted(arguments: list[str]) -> dict[str, Callable[[], Outcome]]:
    unknown = set(arguments) - {"all", *GROUPS}
    if unknown or not arguments:
        sys.exit(f"unknown group {', '.join(sorted(unknown)) or '(none given)'}: take all, {', '.join(GROUPS)}")
    chosen = {name: run for name, run in GROUPS.items() if name in arguments or "all" in arguments}
    if "molecule" not in arguments and "all" in arguments:
        chosen["molecule"] = lambda: molecule(whole=False)
    return chosen


@contextlib.contextmanager
def lab_in_the_background() -> Iterator[None]:
    """Makes the lab's images, lock and model while the other groups run, which leave a core idle half of the time.

    What it has not finished, or could not do, the first scenario finishes, or tells. It may train for longer than in
    the foreground, since it gives way to the tests.
    """
    log = RESULTS / "lab.log"
    environment = {"STEADFAST_LAB_TRAINING_SECONDS": "900", **os.environ}
    command = ["nice", "-n", "19", sys.executable, "lab/lab.py", "prepare"]
    with log.open("w") as file:
        making = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield
    finally:
        making.terminate()
        making.wait()


def timed(name: str, run: Callable[[], Outcome]) -> tuple[Outcome, str]:
    """What became of a group, and its line of the table."""
    print(f"==> {name}", flush=True)
    started = time.monotonic()
    outcome = run()
    counts = f"{len(outcome.passed):5} passed {len(outcome.failed):4} failed {len(outcome.skipped):4} skipped"
    took = time.monotonic() - started
    print(f"==> {name}: {counts.strip()} in {took:.1f} s", flush=True)
    return outcome, f"{name:<12} {counts} {took:7.1f} s"


def main(arguments: list[str]) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in RESULTS.glob("*.xml"):
        old.unlink()
    begin = time.monotonic()
    total = Outcome()
    table: list[str] = []
    groups = wanted(arguments)
    with lab_in_the_background() if "all" in arguments else contextlib.nullcontext():
        with ThreadPoolExecutor(len(SIDE_BY_SIDE)) as pool:
            together = {name: pool.submit(timed, name, run) for name, run in groups.items() if name in SIDE_BY_SIDE}
            told = [job.result() for job in together.values()]
        told += [timed(name, run) for name, run in groups.items() if name not in together]
    for outcome, line in told:
        total.extend(outcome)
        table.append(line)
    print("\n".join(["", *table]))
    for name in total.failed:
        print(f"FAILED {name}")
    if total.failed:
        print("To go on: mend what stands above, then run its group alone: make " + ", ".join(GROUPS))
    parts = [(len(total.failed), "failed"), (len(total.passed), "passed"), (len(total.skipped), "skipped")]
    line = ", ".join(f"{count} {word}" for count, word in parts if count or word == "passed")
    print(f"==== {line} in {time.monotonic() - begin:.2f}s ====")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
