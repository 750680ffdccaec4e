# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bench.gpu with the stand-in for vLLM: each part finds what it is for, and leaves nothing running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
QUICK = (
    "--hangs", "remembers=1,idle=1,loaded=1,kernel=1,api=1", "--load", "2", "--soak-seconds", "8", "--turn", "3",
    "--rounds", "1", "--window", "2", "--start-limit", "60", "--run", '{"max-num-batched-tokens": 2048}',
)  # fmt: skip


def test_all_parts_at_a_stand_in(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    command = [sys.executable, "-m", "bench.gpu", "--standin", "--out", str(out), "--work", str(work), *QUICK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    rows = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    found = {row["what"]: row["value"] for row in rows}
    assert found["start"]["first_completion_status"] == found["start"]["first_picture_status"] == 200
    assert found["start"]["watched"]["incidents"] == []
    for kind in ("remembers", "idle", "loaded", "kernel", "api"):
        assert found[f"hangs {kind}"]["found"] == 1, found[f"hang {kind} 1"]
        assert found[f"hang {kind} 1"]["verdict"] == "hung"
    assert found["soak"]["turns"] >= 2
    assert found["soak"]["incidents"] == found["throughput"]["incidents"] == 0
    samples = [json.loads(line) for line in (out / "recorded/hangs.jsonl").read_text().splitlines()]
    stopped = [row for sample in samples[0]["samples"] for row in sample["processes"] if "T" in row["threads"]]
    assert {row["state"] for row in stopped} == {"T"}
    assert "vllm:num_requests_running" in (out / "recorded/metrics.txt").read_text()
    text = (out / "summary.md").read_text()
    assert "stand-in" in text
    assert "NOT DONE" not in text
    left = [line.split()[1] for line in (work / "sessions").read_text().splitlines()]
    assert left
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists() and _session(pid) == pid]


def test_a_server_that_cannot_start_is_said_and_costs_no_more_than_its_start(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "bench.gpu", "start", "hangs", "--standin", "--out", str(tmp_path / "out"), "--work",
        str(tmp_path / "work"), "--start-limit", "40", "--run", '{"no-such-option": 1}',
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    text = (tmp_path / "out/summary.md").read_text()
    assert text.count("NOT DONE") == 2, text
    assert text.count("error: unrecognized arguments: --no-such-option") == 2, (
        text
    )  # the start, and why it was not done
    assert "unrecognized arguments" in (tmp_path / "out/start-server.log").read_text()


def _session(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[3]
    except OSError:
        return ""
