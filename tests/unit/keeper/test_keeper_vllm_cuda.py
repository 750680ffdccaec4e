# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper makes of a real server on CUDA (recorded/vllm-cuda), and that the stand-in shows the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from vllm_keeper import errors, processes
from vllm_keeper.watch import counters
from vllm_keeper.watch.family import ENGINE, OURS, Family

from bench.gpu import log_lines
from tests.standin.vllm_standin.metrics import Metrics

RECORDED = Path(__file__).parent / "recorded/vllm-cuda"
LOADED, AFTER, QUESTION = (
    (RECORDED / f"{name}.txt").read_bytes() for name in ("metrics-loaded", "metrics", "question")
)
MOMENTS: dict[str, list[dict[str, Any]]] = json.loads((RECORDED / "processes.json").read_text())
CONFIG = "WORK/gpu-bench.yaml"
# Of CUDA alone, and read by nobody here.
NOT_IN_THE_STAND_IN = {f"estimated_{what}_per_gpu_total" for what in ("flops", "read_bytes", "write_bytes")}


# /metrics.


@pytest.mark.parametrize(("text", "running"), [(LOADED, 256.0), (AFTER, 15.0), (QUESTION, 15.0)])
def test_its_one_engine_is_read(text: bytes, running: float) -> None:
    found = counters.parse(text)
    assert found is not None
    assert list(found.engines) == ["0"]
    assert (found.running, found.waiting) == counters.requests(b"\n" + text) == (running, 0.0)
    assert not counters.queued(text)
    # Steps, prompts, generated tokens, finished requests.
    assert len(found.engines["0"].moved) == 4
    assert min(found.engines["0"].moved) > 0


def test_the_short_question_says_what_the_long_one_does() -> None:
    assert counters.parse(QUESTION) == counters.parse(AFTER)


def test_it_went_on_between_two_answers_and_not_within_one() -> None:
    assert counters.goes_on(LOADED, AFTER)
    assert not counters.goes_on(AFTER, AFTER)
    before, after = counters.parse(LOADED), counters.parse(AFTER)
    assert before is not None and after is not None
    assert all(one < other for one, other in zip(before.engines["0"].moved, after.engines["0"].moved))


@pytest.mark.parametrize("end", [at for at, byte in enumerate(QUESTION) if byte == ord("\n")])
def test_an_answer_that_lacks_lines_is_never_progress(end: int) -> None:
    """Only whole answers are compared (Watcher.rest): half a number would be another one."""
    assert not counters.goes_on(QUESTION, QUESTION[: end + 1])


# Processes.


def proc(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """As much of /proc as Family reads."""
    for row in rows:
        home = folder / str(row["pid"])
        home.mkdir(parents=True)
        words = [row["pid"], f"({row['comm']})", row["state"], row["parent"], row["group"], row["session"]]
        (home / "stat").write_text(" ".join(map(str, [*words, *[0] * 15, row["pid"], 0, 0])))
        # vLLM's own title is one word, with whatever blanks.
        title = row["title"]
        (home / "cmdline").write_text(title if title.startswith(OURS) else title.replace(" ", "\0"))
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_engine_and_the_apis_own_are_told_apart(moment: str, tmp_path: Path) -> None:
    """One GPU: the engine has no worker below it, and beside it the API has a resource_tracker."""
    rows = MOMENTS[moment]
    main, tracker, engine = (row["pid"] for row in rows)
    family = Family(proc(tmp_path, rows))
    try:
        family.main = processes.read(main, tmp_path)
        family.refresh()
        assert list(family.engines) == family.workers == [engine]
        assert family.others == [main, tracker]
        assert family.engines[engine].title == ENGINE
        assert family.lost() == 0
    finally:
        family.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_is_known_by_its_configuration_and_so_are_the_orphans_of_a_killed_api(moment: str, tmp_path: Path) -> None:
    everyone = processes.everyone(proc(tmp_path, MOMENTS[moment]))
    serving = [pid for pid, one in everyone.items() if processes.serves(one.command, CONFIG)]
    assert serving == [MOMENTS[moment][0]["pid"]]
    assert processes.descendants(serving[0], everyone) == set(everyone)


def test_the_memory_of_the_gpu_is_the_engines() -> None:
    seen = json.loads((RECORDED / "gpu.json").read_text())
    (engine,) = [row["pid"] for row in MOMENTS["loaded"] if row["title"].startswith(ENGINE)]
    assert list(seen["processes_mib"]) == [str(engine)]
    nobodys = seen["used_mib"] - seen["processes_mib"][str(engine)]
    assert 0 <= nobodys < 64


# Its log.


def test_a_start_that_came_to_serve_shows_no_error_and_all_its_parts() -> None:
    lines = [(float(at), str(text)) for at, text in json.loads((RECORDED / "start-log.json").read_text())]
    texts = [text for _at, text in lines]
    assert errors.pick(texts, 5) == []
    assert log_lines.cause(texts) == ""
    parts = {one["phase"]: one["seconds"] for one in log_lines.phases(lines, served=208.88)}
    assert sum(parts.values()) == pytest.approx(208.88, abs=0.05)
    assert parts["torch.compile"] == 59.47
    assert parts["imports of the engine"] == 48.93
    assert log_lines.figures(texts)["cache_tokens"] == 395008


# The stand-in.


def families(text: bytes) -> dict[str, tuple[str, str]]:
    """{name: (kind, what it says of itself)} of vLLM's, but for those that tell when another was made."""
    lines = [
        line.split(" ", 3) for line in text.decode().splitlines() if line.startswith(("# HELP vllm", "# TYPE vllm"))
    ]
    told = {kind: {name[5:]: text for _hash, what, name, text in lines if what == kind} for kind in ("HELP", "TYPE")}
    return {name: (kind, told["HELP"][name]) for name, kind in told["TYPE"].items() if not name.endswith("_created")}


def samples(text: bytes, family: str) -> list[str]:
    """Of one family, in their order: names and labels, whatever the model is called."""
    lines = [line.rpartition(" ")[0] for line in text.decode().splitlines() if line.startswith(f"vllm:{family}")]
    named = [re.sub(r'model_name="[^"]*"', 'model_name="M"', line) for line in lines]
    return [line for line in named if re.match(rf"vllm:{family}(_bucket|_count|_sum)?(\{{|$)", line)]


STAND_IN = Metrics("qwen", 1024).render()
SHARED = sorted(set(families(LOADED)) - NOT_IN_THE_STAND_IN - {"cache_config_info"})


def test_the_stand_in_has_the_families_that_cuda_has() -> None:
    real = families(LOADED)
    assert set(real) >= NOT_IN_THE_STAND_IN
    assert {name: told for name, told in real.items() if name not in NOT_IN_THE_STAND_IN} == families(STAND_IN)


@pytest.mark.parametrize("family", SHARED)
def test_their_samples_have_the_same_names_and_labels(family: str) -> None:
    real, ours = samples(LOADED, family), samples(STAND_IN, family)
    assert real
    if not any("_bucket" in line for line in real):  # those are not kept, but of one family
        ours = [line for line in ours if "_bucket" not in line]
    assert real == ours


@pytest.mark.parametrize("name", counters.NAMES)
def test_what_the_keeper_reads_is_among_them(name: str) -> None:
    assert name.removesuffix("_count") in SHARED
    assert re.search(rf"^vllm:{name}\{{".encode(), STAND_IN, re.MULTILINE)
