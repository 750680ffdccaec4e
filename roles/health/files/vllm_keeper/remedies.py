# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the rungs of the ladder: what is really done to the host before a start.

`before_start` is what the gate calls, after decide_gate and before it applies the decision: it asks the ladder, takes
the rung, remembers it, and gives back the decision that holds then. It may take minutes, so no lock is held meanwhile,
and it may be asked again each second of a back-off. `clear` and `reset_gpu` need a dead server, which at the gate it
is. Nothing here raises: a remedy that fails is said and counted, and the next rung has its turn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_keeper import decision as d
from vllm_keeper import ladder, repair
from vllm_keeper import state as st
from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.clock import duration
from vllm_keeper.context import Context
from vllm_keeper.ledger import Ledger, LedgerError
from vllm_keeper.managers import Runner, run
from vllm_keeper.repair import CLEAR, HEAVY, NONE, PARK, REBOOT, REPLACE, RESET_GPU, RESTART, Repair, Settings

STEP = 1.0
ASK = 20.0
RESET = 120.0  # a reset takes seconds; on a GPU that is in a bad way it may take a minute
SYSTEMD = Path("/run/systemd/system")


def _clear_leftovers(context: Context) -> None:
    # The gate calls this module: importing it at once would be a circle.
    from vllm_keeper.verbs import gate

    gate.clear_leftovers(context)


@dataclass(frozen=True)
class Tools:
    """What the remedies work with on this host. MEMORY: what still holds the instance's GPU memory, "" for nothing."""

    settings: Settings
    ledger: Ledger
    gpus: tuple[str, ...] = ()  # UUIDs of the instance's GPUs, as nvidia-smi has them
    memory: Callable[[], str] = lambda: ""
    let_go: Callable[[], None] = lambda: None  # closes our own handles of the GPU, which would forbid a reset
    aws: Aws | None = None
    neighbours: Callable[[], int] = lambda: 0  # other instances of this host that serve now
    runner: Runner = run
    systemd: Path = SYSTEMD
    clear_leftovers: Callable[[Context], None] = _clear_leftovers

    def possible(self) -> frozenset[str]:
        """The rungs that this host has at all."""
        has = {
            RESET_GPU: bool(self.gpus) and shutil.which("nvidia-smi") is not None,
            REBOOT: self.systemd.is_dir(),
            REPLACE: self.aws is not None and self.aws.installed(),
        }
        return frozenset((repair.RESTART, CLEAR, *(rung for rung, there in has.items() if there)))


@dataclass(frozen=True)
class Outcome:
    ok: bool
    said: str


def before_start(
    context: Context,
    decision: d.GateDecision,
    state: st.State,
    known: d.GateFacts,
    tools: Tools,
    *,
    calls_for: str = "",
) -> d.GateDecision:
    """The gate's decision after the ladder had its turn. CALLS_FOR: the remedy of a fault that is known, or ""."""
    facts = ladder.facts_of(
        state,
        context.instance.gate,
        known,
        decision,
        instance=context.instance.name,
        calls_for=calls_for,
        possible=tools.possible(),
    )
    # Asking the neighbours costs requests: only where they matter.
    if not facts.parked and tools.settings.spare_neighbours and (tools.settings.reboot or tools.settings.replace):
        facts = replace(facts, neighbours=tools.neighbours())
    for _rung in HEAVY:
        step, entry = _choose(context, tools, facts)
        result = _take(context, decision, step, entry, tools)
        if result is not None:
            return result
        facts = replace(facts, now=context.clock.now())
    return decision


def _choose(context: Context, tools: Tools, facts: ladder.Facts) -> tuple[ladder.Step, Repair | None]:
    """The next step; one of an opt-in rung is in the ledger before anything is done."""
    settings, chosen = tools.settings, [ladder.Step(NONE, "")]
    entries: list[Repair] = []

    def choose(history: list[Repair]) -> None:
        step = ladder.decide(history, settings, facts)
        chosen[0] = step
        if step.rung in HEAVY and step.wait <= 0 and not settings.dry_run:
            cause = context.log.clean(step.reason)
            entries.append(Repair(facts.now, step.rung, cause, instance=context.instance.name))
            history.append(entries[0])

    if not (settings.reset_gpu or settings.reboot or settings.replace):
        return ladder.decide([], settings, facts), None
    try:
        tools.ledger.update(facts.now, choose)
    except LedgerError as error:
        context.log.warning(f"no GPU reset, reboot or replacement, which must be remembered: {error}")
        nothing = replace(settings, reset_gpu=False, reboot=False, replace=False)
        return ladder.decide([], nothing, facts), None
    return chosen[0], entries[0] if entries else None


def _take(
    context: Context, decision: d.GateDecision, step: ladder.Step, entry: Repair | None, tools: Tools
) -> d.GateDecision | None:
    """What holds after STEP; None when the next rung is to be asked for."""
    if step.wait > 0:
        return d.GateDecision(d.WAIT, f"{step.rung}: {step.reason}" if step.rung != NONE else step.reason, step.wait)
    if step.rung == PARK:
        return replace(decision, reason=step.reason)
    real = step.rung in HEAVY and not tools.settings.dry_run
    if step.rung in (NONE, RESTART) or (decision.action == d.WAIT and not real):
        return decision  # clearing belongs right before the start, after the back-off
    outcome = perform(context, step.rung, step.reason, tools)
    if entry is not None:
        _settle(context, tools, entry, outcome)
    if real and not outcome.ok:
        return None
    return _after(decision, step, outcome, real)


def _after(decision: d.GateDecision, step: ladder.Step, outcome: Outcome, real: bool) -> d.GateDecision:
    if step.rung == REBOOT and real:
        # It goes down in a moment: nothing is to start, and nothing to be parked, in between.
        return d.GateDecision(d.WAIT, "the host is about to reboot", ladder.REBOOT_TAKES)
    if step.rung == REPLACE and real:
        return replace(decision, reason=f"{decision.reason}; {outcome.said}")
    if decision.action != d.PARK:
        return decision
    # The ladder clears before a start that the gate would not allow only where a repair has earned it one.
    if step.rung == CLEAR:
        return d.GateDecision(d.GO, step.reason)
    return d.GateDecision(d.GO, "one start after the GPU reset") if real else decision


def _settle(context: Context, tools: Tools, entry: Repair, outcome: Outcome) -> None:
    try:
        tools.ledger.settle(entry, repair.DONE if outcome.ok else repair.FAILED, context.clock.now())
    except LedgerError as error:
        context.log.warning(f"what became of {entry.rung} cannot be remembered: {error}")


def perform(context: Context, rung: str, cause: str, tools: Tools) -> Outcome:
    """Takes RUNG, or says what it would do. The server is dead, and does not start meanwhile."""
    remedies: dict[str, tuple[str, Callable[[], Outcome]]] = {
        CLEAR: ("clear what earlier runs left and wait for free GPU memory", lambda: clear(context, tools)),
        RESET_GPU: (f"reset GPU {', '.join(tools.gpus)}", lambda: reset_gpu(context, tools)),
        REBOOT: ("reboot this host", lambda: reboot(cause, tools)),
        REPLACE: ("have the Auto Scaling Group replace this host", lambda: replace_host(tools)),
    }
    what, remedy = remedies[rung]
    if tools.settings.dry_run:
        context.log.notice(f"dry run: would {what}: {cause}")
        return Outcome(True, f"dry run: would {what}")
    if rung in HEAVY:
        context.log.warning(f"about to {what}: {cause}")
    outcome = remedy()
    if outcome.ok:
        context.log.notice(f"{rung}: {outcome.said}")
    else:
        context.log.error(f"{rung} failed: {outcome.said}")
    return outcome


def clear(context: Context, tools: Tools) -> Outcome:
    tools.clear_leftovers(context)
    held = _until_nothing(context, tools.memory, tools.settings.memory_wait)
    if held:
        return Outcome(False, f"GPU memory is not free after {duration(tools.settings.memory_wait)}: {held}")
    return Outcome(True, "no leftovers, and the GPU memory is free")


def _until_nothing(context: Context, look: Callable[[], str], within: float) -> str:
    """What LOOK still sees at the end; "" as soon as it sees nothing."""
    end = context.clock.monotonic() + within
    while True:
        seen = look()
        if not seen or context.clock.monotonic() >= end:
            return seen
        context.clock.sleep(STEP)


# --- reset_gpu ----------------------------------------------------------------------------------------------


def reset_gpu(context: Context, tools: Tools) -> Outcome:
    """Only once nothing uses these GPUs: what belongs to others is named, and never ended."""
    slices = [gpu for gpu in tools.gpus if not gpu.startswith("GPU-")]
    if slices or not tools.gpus:
        return Outcome(False, f"{', '.join(slices) or 'no GPU'}: only whole GPUs can be reset, by their UUID (GPU-...)")
    tools.clear_leftovers(context)
    used = _until_nothing(context, lambda: _users(tools), tools.settings.reset_wait)
    if used:
        return Outcome(False, f"still used after {duration(tools.settings.reset_wait)}: {used}")
    tools.let_go()
    stopped, trouble = _stand_aside(tools, context.proc)
    try:
        if trouble:
            return Outcome(False, trouble)
        for gpu in tools.gpus:
            with _undisturbed():
                done = tools.runner(["nvidia-smi", "--gpu-reset", "-i", gpu], RESET)
            if done.code:
                said = " ".join((done.err.strip() or done.out.strip() or f"exit code {done.code}").split())[:300]
                holders = _holders(context.proc)
                return Outcome(False, f"{gpu}: {said}" + (f"; open in {holders}" if holders else ""))
    finally:
        for unit in reversed(stopped):
            back = tools.runner(["systemctl", "start", unit], ASK)
            if back.code:
                context.log.error(f"{unit} was stopped for a GPU reset and does not start again: {back.err.strip()}")
    return Outcome(True, f"reset {', '.join(tools.gpus)}")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM waits, for us and for what we run: a manager that calls the start off must not cut a reset in half."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _users(tools: Tools) -> str:
    """Processes that compute on these GPUs; what cannot be told counts as used."""
    query = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader"]
    done = tools.runner(query, ASK)
    if done.code:
        return f"unknown, nvidia-smi: {(done.err.strip() or done.out.strip() or f'exit code {done.code}')[:200]}"
    found = []
    for line in done.out.splitlines():
        words = [word.strip() for word in line.split(",", 2)]
        if words[0] in tools.gpus:
            found.append(f"pid {words[1]} ({words[2][:80]})" if len(words) > 2 else line.strip())
    return ", ".join(found)


def _stand_aside(tools: Tools, proc: Path) -> tuple[list[str], str]:
    """Stops the units that keep a GPU open; those that were stopped, and what went wrong."""
    stopped: list[str] = []
    for unit in tools.settings.reset_stops:
        if _runs_us(unit, proc):
            continue  # its end would be ours, in the middle of the reset; `let_go` has closed what we had open
        if tools.runner(["systemctl", "is-active", "--quiet", unit], ASK).code:
            continue  # it does not run, or there is no systemd
        done = tools.runner(["systemctl", "stop", unit], ASK)
        # Even if it failed: a stop that took too long may still come through.
        stopped.append(unit)
        if done.code:
            return stopped, f"{unit} holds the GPU and does not stop: {done.err.strip() or done.code}"
    return stopped, ""


def _runs_us(unit: str, proc: Path) -> bool:
    """Whether we are a process of UNIT: the watcher starts what its manager does not."""
    name = unit if "." in unit else f"{unit}.service"
    try:
        groups = (proc / "self" / "cgroup").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return any(name in group.rpartition(":")[2].split("/") for group in groups)


def _holders(proc: Path) -> str:
    """Processes that have a GPU's device open: monitors that nvidia-smi does not list, and which forbid a reset."""
    found: list[str] = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            links = [str(handle.readlink()) for handle in (folder / "fd").iterdir()]
            if any(link.startswith("/dev/nvidia") and link[11:].isdigit() for link in links):
                found.append(f"pid {folder.name} ({(folder / 'comm').read_text(encoding='utf-8').strip()})")
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile
    return ", ".join(sorted(found))


# --- reboot and replace -------------------------------------------------------------------------------------


def reboot(cause: str, tools: Tools) -> Outcome:
    """Orderly: everything on the host is stopped as at any other reboot. The ledger knows of it already."""
    message = f"--message=vllm-keeper: {' '.join(cause.split())[:200]}"
    done = tools.runner(["systemctl", "reboot", message], ASK)
    if done.code:
        # Before systemd 254 that option does not exist for this verb.
        done = tools.runner(["systemctl", "reboot"], ASK)
    if done.code:
        return Outcome(False, done.err.strip() or f"systemctl reboot: exit code {done.code}")
    return Outcome(True, "ordered")


def replace_host(tools: Tools) -> Outcome:
    if tools.aws is None:
        return Outcome(False, "AWS is not configured: set health_aws and run site.yml")
    try:
        answer = tools.aws.unhealthy()
    except AwsError as error:
        return Outcome(False, str(error))
    where = f"{answer.get('instance')} in {answer.get('group')}"
    if not answer.get("effective"):
        return Outcome(
            False, f"{where}: within the group's grace period, which takes no note; set respect_grace: false"
        )
    return Outcome(True, f"{where} is marked unhealthy, and will be replaced")
