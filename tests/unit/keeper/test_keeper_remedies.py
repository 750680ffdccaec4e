# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rungs as they are taken: in order, remembered first, never against others, and told only in a dry run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import decision as d
from vllm_keeper import ladder, ledger, remedies, repair
from vllm_keeper import state as st
from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.aws_settings import Settings as AwsSettings
from vllm_keeper.aws_settings import read as read_aws
from vllm_keeper.clock import Moment
from vllm_keeper.config import Reader
from vllm_keeper.context import Context
from vllm_keeper.ledger import Ledger, LedgerError
from vllm_keeper.managers.base import Completed
from vllm_keeper.remedies import Tools
from vllm_keeper.repair import HEAVY, REBOOT, REPLACE, RESET_GPU, Repair, Settings

from tests.unit.keeper.support import DONE, clock_of, context_for

GPU = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-99999999-2222-3333-4444-555555555555"
SPENT = d.GateDecision(d.PARK, "the budget of 10 is spent", cause="budget")
GO = d.GateDecision(d.GO, "restart after a failure (3 in a row)")
OPEN = Settings(reset_gpu=True, reboot=True, replace=True)


@dataclass
class Commands:
    """Remembers what was run, and answers as told by the beginning of the command."""

    answers: dict[str, Completed] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    on_run: Callable[[str], None] = lambda line: None

    def __call__(self, command: Sequence[str], _within: float) -> Completed:
        line = " ".join(command)
        self.ran.append(line)
        self.on_run(line)
        return next((self.answers[begin] for begin in self.answers if line.startswith(begin)), DONE)

    def changing(self) -> list[str]:
        return [line for line in self.ran if "is-active" not in line and "--query" not in line]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "proc").mkdir()
    return replace(context_for(tmp_path), proc=tmp_path / "proc")


@pytest.fixture
def commands() -> Commands:
    return Commands()


def tools_for(tmp_path: Path, commands: Commands, settings: Settings = OPEN, **more: Any) -> Tools:
    (tmp_path / "systemd").mkdir(exist_ok=True)
    python = tmp_path / "python"
    python.touch()
    aws = Aws(AwsSettings(group="g", python=str(python), deadline=7), "q", 8000, commands)
    known: dict[str, Any] = {
        "gpus": (GPU,),
        "aws": aws,
        "runner": commands,
        "systemd": tmp_path / "systemd",
        "clear_leftovers": lambda _context: commands.ran.append("clear leftovers"),
    }
    return Tools(settings, Ledger(tmp_path / "var", lambda text: None), **{**known, **more})


def history(tools: Tools) -> list[tuple[str, str]]:
    now = Moment(0, 0, "b")
    return [(one.rung, one.outcome) for one in tools.ledger.read(now)]


def state_of(context: Context, failures: int) -> tuple[st.State, d.GateFacts]:
    """A server that has served, then failed that often."""
    clock, state = clock_of(context), st.State()
    for number in range(failures):
        start = st.Start(clock.now(), planned=False, config="c", end=st.FAILED)
        start.ready_at = clock.now() if number == 0 else None
        clock.pass_(5)
        start.ended_at = clock.now()
        state.starts.append(start)
    return state, d.GateFacts(now=clock.now(), config="c")


def visit(
    context: Context, tools: Tools, decision: d.GateDecision, failures: int = 10, calls_for: str = ""
) -> d.GateDecision:
    state, known = state_of(context, failures)
    return remedies.before_start(context, decision, state, known, tools, calls_for=calls_for)


@pytest.fixture(autouse=True)
def _nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/false\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


# --- before a start -----------------------------------------------------------------------------------------


def test_by_default_the_gates_word_holds_and_nothing_is_remembered(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    tools = tools_for(tmp_path, commands, Settings())
    assert visit(context, tools, GO, failures=1) == GO
    parked = visit(context, tools, SPENT)
    assert (parked.action, parked.cause) == (d.PARK, "budget")
    assert "the budget of 10 is spent; beyond that: reset_gpu is not opted in" in parked.reason
    assert commands.ran == [] and not (tmp_path / "var").exists()


def test_clearing_comes_right_before_the_start(context: Context, commands: Commands, tmp_path: Path) -> None:
    tools = tools_for(tmp_path, commands, Settings())
    waiting = d.GateDecision(d.WAIT, "back-off", wait=10)
    assert visit(context, tools, waiting, failures=4) == waiting and commands.ran == []
    assert visit(context, tools, GO, failures=4) == GO and commands.ran == ["clear leftovers"]


def test_the_whole_ladder_in_place_of_parking(context: Context, commands: Commands, tmp_path: Path) -> None:
    tools = tools_for(tmp_path, commands)
    commands.answers["nvidia-smi --query"] = DONE
    went = visit(context, tools, SPENT)
    assert (went.action, went.reason, went.planned) == (d.GO, "one start after the GPU reset", False)
    assert history(tools) == [(RESET_GPU, repair.DONE)]

    clock_of(context).pass_(30)
    held = visit(context, tools, SPENT)
    assert (held.action, held.wait) == (d.WAIT, ladder.REBOOT_TAKES)
    assert history(tools) == [(RESET_GPU, repair.DONE), (REBOOT, repair.DONE)]
    assert commands.ran[-1].startswith("systemctl reboot")
    again = visit(context, tools, SPENT)
    assert again.action == d.WAIT and "about to reboot" in again.reason
    assert len(history(tools)) == 2

    state, known = state_of(context, 10)
    clock = clock_of(context)
    clock.boot_id, clock.at = "boot-2", 500.0
    known = replace(known, now=clock.now())
    went = remedies.before_start(context, SPENT, state, known, tools)
    assert (went.action, went.reason) == (d.GO, "one start after the reboot")
    commands.answers[str(tmp_path / "python")] = Completed(
        0, json.dumps({"ok": True, "effective": True, "instance": "i-1", "group": "g"}), ""
    )
    parked = visit(context, tools, SPENT)
    assert (parked.action, parked.cause) == (d.PARK, "budget")
    assert "i-1 in g is marked unhealthy" in parked.reason
    assert history(tools)[-1] == (REPLACE, repair.DONE)
    clock.pass_(400)
    assert visit(context, tools, SPENT).action == d.PARK
    assert len(history(tools)) == 3


def test_a_reset_during_a_back_off_happens_once(context: Context, commands: Commands, tmp_path: Path) -> None:
    """The gate asks again each second; only a start can show that the reset did not help."""
    tools = tools_for(tmp_path, commands)
    state, known = state_of(context, 9)
    waiting = d.GateDecision(d.WAIT, "back-off", wait=100)
    for _second in range(60):
        assert remedies.before_start(context, waiting, state, known, tools) == waiting
        clock_of(context).pass_(1)
        known = replace(known, now=context.clock.now())
    assert history(tools) == [(RESET_GPU, repair.DONE)]


def test_a_rung_that_fails_counts_and_the_next_has_its_turn(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    tools = tools_for(tmp_path, commands, replace(OPEN, back_off=(0.0,)))
    commands.answers["nvidia-smi --gpu-reset"] = Completed(3, "", "GPU is in use")
    assert visit(context, tools, SPENT).action == d.WAIT
    assert history(tools) == [(RESET_GPU, repair.FAILED), (REBOOT, repair.DONE)]


def test_a_failed_reboot_does_not_hold_the_start_back(context: Context, commands: Commands, tmp_path: Path) -> None:
    tools = tools_for(tmp_path, commands, replace(OPEN, reset_gpu=False, replace=False))
    commands.answers["systemctl reboot"] = Completed(1, "", "Interactive authentication required.")
    assert visit(context, tools, SPENT).action == d.PARK
    assert history(tools) == [(REBOOT, repair.FAILED)]


def test_the_reboot_is_remembered_before_it_is_ordered(context: Context, commands: Commands, tmp_path: Path) -> None:
    tools = tools_for(tmp_path, commands, replace(OPEN, reset_gpu=False))
    seen: list[list[tuple[str, str]]] = []
    commands.on_run = lambda line: seen.append(history(tools)) if "reboot" in line else None
    visit(context, tools, SPENT)
    assert seen == [[(REBOOT, repair.BEGUN)]]


def test_what_cannot_be_remembered_is_not_done(
    context: Context, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tools_for(tmp_path, commands)
    (tmp_path / "var").write_text("no folder")
    assert visit(context, tools, SPENT).action == d.PARK
    assert commands.changing() == []
    assert "must be remembered" in capsys.readouterr().err


def test_a_torn_ledger_is_taken_for_a_full_one(context: Context, commands: Commands, tmp_path: Path) -> None:
    said: list[str] = []
    tools = replace(tools_for(tmp_path, commands), ledger=Ledger(tmp_path / "var", said.append))
    (tmp_path / "var").mkdir()
    tools.ledger.path.write_text('{"version": 1, "repairs": [')
    assert visit(context, tools, SPENT).action == d.WAIT  # a reboot may just have been ordered, too
    assert commands.changing() == [] and "is torn" in said[0]
    clock_of(context).pass_(ladder.REBOOT_TAKES + 1)
    assert visit(context, tools, SPENT).action == d.PARK
    assert len(said) == 1, "it was written anew, so that its windows can end"
    assert {rung for rung, _outcome in history(tools)} == set(HEAVY)


@pytest.mark.parametrize("rung", ["", "reset_gpu", "reboot", "replace"])
def test_a_dry_run_only_tells(
    context: Context, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str], rung: str
) -> None:
    tools = tools_for(tmp_path, commands, replace(OPEN, dry_run=True))
    assert visit(context, tools, SPENT, calls_for=rung) == SPENT
    assert visit(context, tools, GO, failures=4, calls_for=rung) == GO
    assert commands.ran == [] and history(tools) == []
    assert capsys.readouterr().err.count("dry run: would ") == 2


def test_neighbours_are_asked_only_where_they_matter(context: Context, commands: Commands, tmp_path: Path) -> None:
    asked: list[int] = []

    def neighbours() -> int:
        asked.append(1)
        return 1

    only_reset = replace(OPEN, reboot=False, replace=False)
    visit(context, tools_for(tmp_path, commands, only_reset, neighbours=neighbours), SPENT)
    assert asked == []
    tools = tools_for(tmp_path, commands, replace(OPEN, reset_gpu=False), neighbours=neighbours)
    assert visit(context, tools, SPENT).action == d.PARK
    assert asked == [1] and not any("reboot" in line for line in commands.ran)


def test_the_host_says_what_is_possible(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tools_for(tmp_path, commands)
    plain = {"restart", "clear"}
    assert tools.possible() == plain | set(HEAVY)
    assert tools_for(tmp_path, commands, gpus=(), aws=None).possible() == plain | {REBOOT}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert replace(tools, systemd=tmp_path / "no-systemd").possible() == plain | {REPLACE}
    (tmp_path / "python").unlink()
    assert tools.possible() == plain | {REBOOT}


# --- clear --------------------------------------------------------------------------------------------------


def test_clear_waits_until_the_memory_is_free(context: Context, commands: Commands, tmp_path: Path) -> None:
    left = ["31 GiB held by nobody", "31 GiB held by nobody", ""]
    tools = tools_for(tmp_path, commands, memory=lambda: left.pop(0))
    assert remedies.clear(context, tools).ok
    assert left == [] and clock_of(context).slept == 2 * remedies.STEP


def test_clear_waits_for_a_bounded_time_and_says_what_is_held(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    tools = tools_for(tmp_path, commands, memory=lambda: "31 GiB held by pid 7")
    outcome = remedies.clear(context, tools)
    assert not outcome.ok and outcome.said == "GPU memory is not free after 1 min: 31 GiB held by pid 7"
    assert clock_of(context).slept == pytest.approx(60)


# --- reset_gpu ----------------------------------------------------------------------------------------------


def test_the_reset_comes_after_all_who_hold_the_gpu_and_they_come_back(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    commands.answers["systemctl is-active --quiet nvidia-dcgm"] = Completed(3, "", "")
    settings = replace(OPEN, reset_stops=("nvidia-dcgm", "nvidia-persistenced"))
    let_go: list[int] = []
    tools = tools_for(
        tmp_path, commands, settings, gpus=(GPU, OTHER), let_go=lambda: let_go.append(len(commands.changing()))
    )
    assert remedies.reset_gpu(context, tools).ok
    assert commands.changing() == [
        "clear leftovers",
        "systemctl stop nvidia-persistenced",
        f"nvidia-smi --gpu-reset -i {GPU}",
        f"nvidia-smi --gpu-reset -i {OTHER}",
        "systemctl start nvidia-persistenced",
    ]
    assert let_go == [1]


@pytest.mark.parametrize("unit", ["vllm-keeper", "vllm-keeper.service"])
def test_the_unit_that_we_run_in_is_never_stopped(
    context: Context, commands: Commands, tmp_path: Path, unit: str
) -> None:
    (context.proc / "self").mkdir()
    group = context.proc / "self" / "cgroup"
    tools = tools_for(tmp_path, commands, replace(OPEN, reset_stops=(unit,)))
    group.write_text("1:name=systemd:/system.slice/vllm-keeper.service\n0::/system.slice/vllm-keeper.service/sub\n")
    assert remedies.reset_gpu(context, tools).ok
    assert commands.changing() == ["clear leftovers", f"nvidia-smi --gpu-reset -i {GPU}"]
    group.write_text("0::/system.slice/qwen3vl.service\n")
    assert remedies.reset_gpu(context, tools).ok
    assert f"systemctl stop {unit}" in commands.changing() and commands.ran[-1] == f"systemctl start {unit}"


def test_a_reset_is_not_cut_in_half(context: Context, commands: Commands, tmp_path: Path) -> None:
    """The real command inherits the mask; the signal comes through once it has ended."""
    caught: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: caught.append(f"after {commands.ran[-1][:22]}"))
    try:
        masked: list[bool] = []

        def terminated(line: str) -> None:
            if "gpu-reset" in line:
                signal.raise_signal(signal.SIGTERM)
                masked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
                assert caught == []

        commands.on_run = terminated
        assert remedies.reset_gpu(context, tools_for(tmp_path, commands)).ok
    finally:
        signal.signal(signal.SIGTERM, before)
    assert masked == [True] and caught == ["after nvidia-smi --gpu-reset"]


def test_a_gpu_that_somebody_computes_on_is_not_reset(context: Context, commands: Commands, tmp_path: Path) -> None:
    commands.answers["nvidia-smi --query"] = Completed(0, f"{GPU}, 4242, /usr/bin/train\n{OTHER}, 7, x\n", "")
    outcome = remedies.reset_gpu(context, tools_for(tmp_path, commands))
    assert not outcome.ok and outcome.said == "still used after 30 s: pid 4242 (/usr/bin/train)"
    assert commands.changing() == ["clear leftovers"]


def test_others_on_other_gpus_do_not_matter(context: Context, commands: Commands, tmp_path: Path) -> None:
    commands.answers["nvidia-smi --query"] = Completed(0, f"{OTHER}, 4242, /usr/bin/train\n", "")
    assert remedies.reset_gpu(context, tools_for(tmp_path, commands)).ok


def test_a_gpu_of_which_nothing_is_known_counts_as_used(context: Context, commands: Commands, tmp_path: Path) -> None:
    commands.answers["nvidia-smi --query"] = Completed(9, "", "NVIDIA-SMI has failed")
    outcome = remedies.reset_gpu(context, tools_for(tmp_path, commands))
    assert not outcome.ok and "NVIDIA-SMI has failed" in outcome.said
    assert commands.changing() == ["clear leftovers"]


def test_a_refused_reset_names_who_has_the_device_open_and_starts_what_was_stopped(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    for pid, target in (("77", "/dev/nvidia0"), ("78", "/dev/nvidiactl"), ("79", "/dev/null")):
        (context.proc / pid / "fd").mkdir(parents=True)
        (context.proc / pid / "fd" / "3").symlink_to(target)
        (context.proc / pid / "comm").write_text(f"monitor{pid}\n")
    commands.answers["nvidia-smi --gpu-reset"] = Completed(3, "GPU is currently in use\nby another process.\n", "")
    outcome = remedies.reset_gpu(context, tools_for(tmp_path, commands))
    assert not outcome.ok
    assert outcome.said == f"{GPU}: GPU is currently in use by another process.; open in pid 77 (monitor77)"
    assert commands.ran[-1] == "systemctl start nvidia-persistenced"


def test_a_unit_that_does_not_stand_aside_forbids_the_reset_and_is_started(
    context: Context, commands: Commands, tmp_path: Path
) -> None:
    commands.answers["systemctl stop"] = Completed(1, "", "Job timed out")
    outcome = remedies.reset_gpu(context, tools_for(tmp_path, commands))
    assert not outcome.ok and "nvidia-persistenced holds the GPU and does not stop: Job timed out" in outcome.said
    assert not any("gpu-reset" in line for line in commands.ran)
    assert commands.ran[-1] == "systemctl start nvidia-persistenced"


@pytest.mark.parametrize("gpus", [(), ("MIG-1",), (GPU, "MIG-1")])
def test_only_whole_gpus_are_reset(context: Context, commands: Commands, tmp_path: Path, gpus: tuple[str, ...]) -> None:
    outcome = remedies.reset_gpu(context, tools_for(tmp_path, commands, gpus=gpus))
    assert not outcome.ok and "only whole GPUs" in outcome.said
    assert commands.ran == []


# --- reboot and replace -------------------------------------------------------------------------------------


def test_a_reboot_without_a_message_where_systemd_knows_none(commands: Commands, tmp_path: Path) -> None:
    commands.answers["systemctl reboot --message"] = Completed(1, "", "unrecognized option")
    assert remedies.reboot("two\nlines", tools_for(tmp_path, commands)).ok
    assert commands.ran == ["systemctl reboot --message=vllm-keeper: two lines", "systemctl reboot"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"ok": True, "effective": False, "instance": "i-1", "group": "g"}, "set respect_grace: false"),
        ({"ok": False, "error": "autoscaling:SetInstanceHealth is not allowed"}, "SetInstanceHealth is not allowed"),
    ],
)
def test_a_replacement_that_does_not_come_is_a_failure(
    commands: Commands, tmp_path: Path, answer: dict[str, object], words: str
) -> None:
    commands.answers[str(tmp_path / "python")] = Completed(0 if answer["ok"] else 1, json.dumps(answer), "")
    outcome = remedies.replace_host(tools_for(tmp_path, commands))
    assert not outcome.ok and words in outcome.said
    assert "without" not in remedies.replace_host(tools_for(tmp_path, commands, aws=None)).said


# --- the way to the tool for AWS ----------------------------------------------------------------------------


def aws_for(tmp_path: Path, commands: Commands, **settings: Any) -> Aws:
    (tmp_path / "python").touch()
    commands.answers[str(tmp_path / "python")] = Completed(0, 'noise\n{"ok": true}\n', "")
    given = AwsSettings(python=str(tmp_path / "python"), **settings)
    return Aws(given, "q", 8000, commands, memory=tmp_path / "aws", tool=Path("/tool"))


def test_the_tool_is_asked_in_its_own_environment(commands: Commands, tmp_path: Path) -> None:
    aws = aws_for(tmp_path, commands, target_groups=("a", "b"), region="eu-west-1", instance_id="i-1", deadline=20)
    assert aws.deregister(wait=60) == {"ok": True}
    assert commands.ran == [
        f"{tmp_path}/python -I -X pycache_prefix=/var/cache/vllm-keeper /tool deregister --port 8000 --keep 1"
        f" --remember {tmp_path}/aws/q.json --target-group a --target-group b --deadline 80 --wait 60"
        " --region eu-west-1 --instance-id i-1"
    ]
    aws.unhealthy(dry_run=True)
    assert commands.ran[-1].endswith("/tool unhealthy --deadline 20 --region eu-west-1 --instance-id i-1 --dry-run")


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Completed(124, "", "no end within 35 s"), "no end within 35 s"),
        (Completed(1, "", "Traceback\nImportError: boto3"), "ImportError: boto3"),
        (Completed(1, "[]", ""), "gave no answer"),
        (Completed(1, '{"ok": false, "error": "denied"}', ""), "release: denied"),
    ],
)
def test_a_tool_that_fails_is_an_error_and_no_more(
    commands: Commands, tmp_path: Path, done: Completed, words: str
) -> None:
    aws = aws_for(tmp_path, commands)
    commands.answers[str(tmp_path / "python")] = done
    with pytest.raises(AwsError, match=words):
        aws.release()


def test_a_tool_that_is_missing_is_said_with_the_remedy(commands: Commands, tmp_path: Path) -> None:
    aws = aws_for(tmp_path, commands)
    (tmp_path / "python").unlink()
    with pytest.raises(AwsError, match="is missing; set health_aws"):
        aws.fleet()
    assert commands.ran == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ""),
        ({"target_groups": ["a"], "limit": 2, "respect_grace": False, "deadline": 5}, ""),
        ({"target_groups": "a"}, "aws.target_groups: 'a' must be a list"),
        ({"group": "--endpoint-url"}, "aws.group: '--endpoint-url' must not begin with a dash"),
        ({"limit": 0}, "aws.limit: 0 must be between 1 and 1000"),
        ({"regoin": "x"}, "aws.regoin: unknown key, did you mean region?"),
    ],
)
def test_settings_for_aws_are_read_or_refused(given: dict[str, object], words: str) -> None:
    problems: list[str] = []
    reader = Reader(given, "aws.", problems)
    settings = read_aws(reader)
    reader.refuse_unknown()
    if words:
        assert len(problems) == 1 and problems[0].startswith(words)
    else:
        assert problems == []
        assert settings.limit == given.get("limit", 1) and settings.respect_grace is given.get("respect_grace", True)


# --- the ledger ---------------------------------------------------------------------------------------------


def test_a_ledger_survives_and_tells_what_became_of_a_repair(tmp_path: Path) -> None:
    book = Ledger(tmp_path, pytest.fail)
    now = Moment(1.5, 2.5, "b")
    one, two = Repair(now, REBOOT, "why", instance="q"), Repair(now, RESET_GPU, "why", instance="q")
    book.update(now, lambda repairs: repairs.extend([one, two]))
    book.settle(two, repair.DONE, now)
    again = Ledger(tmp_path, pytest.fail)
    assert again.read(now) == [one, replace(two, outcome=repair.DONE)]
    assert oct(book.path.stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "repairs": []}',
        '{"version": 1}',
        '{"version": 1, "repairs": [{"at": 1}]}',
        ledger.encode([Repair(Moment(1, 1, "b"), REBOOT, "x")]).replace('"reboot"', "1"),
        "\x00" * 100,
    ],
)
def test_no_torn_ledger_is_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    book = Ledger(tmp_path, said.append)
    book.path.write_text(text)
    assert {one.rung for one in book.read(Moment(0, 0, "b"))} == set(HEAVY)
    assert len(said) == 1 and "Remove the file" in said[0]


def test_a_missing_ledger_is_empty_and_reading_makes_no_file(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "new", pytest.fail)
    assert book.read(Moment(0, 0, "b")) == [] and not book.directory.exists()
    book.update(Moment(0, 0, "b"), lambda repairs: None)
    assert not book.path.exists()


def test_a_ledger_that_another_keeper_holds_is_waited_for_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_WAIT", 0.1)
    book, now = Ledger(tmp_path, pytest.fail), Moment(0, 0, "b")

    def inside(_repairs: list[Repair]) -> None:
        with pytest.raises(LedgerError, match="another vllm-keeper holds its lock"):
            Ledger(tmp_path, pytest.fail).update(now, lambda repairs: None)

    book.update(now, inside)
