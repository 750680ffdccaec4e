# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bench.gpu makes of what it reads: log lines, estimates, results. What it starts, an integration test tries."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.gpu import __main__ as program
from bench.gpu import ask, estimates, log_lines, parts, place, results, starts, summary, users

GIB = 2**30
RECORDED = Path(__file__).parent / "plugins/module_utils/recorded/gpu/vllm_memory.json"
# As vLLM 0.32 wrote them on an H100; the seconds are those of a start with everything cold.
LOG = [
    (20.0, "(APIServer pid=10) INFO 11-28 09:00:20 [api_server.py:1] vLLM API server version 0.32.0"),
    (44.0, "(EngineCore pid=11) INFO 11-28 09:00:44 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config:"),
    (46.0, "(EngineCore pid=11) INFO [model_runner.py:1] Starting to load model /m..."),
    (50.0, "(EngineCore pid=11) INFO [model_runner.py:425] Model loading took 16.63 GiB memory and 3.912345 seconds"),
    (52.0, "(EngineCore pid=11) INFO [encoder_runner.py:132] Encoder cache will be initialized with a budget of 16384"
           " tokens, and profiled with 1 image items of the maximum feature size."),
    (97.0, "(EngineCore pid=11) INFO [monitor.py:20] torch.compile took 44.95 s in total"),
    (100.0, "(EngineCore pid=11) INFO [core.py:565] Building JIT module sampling; this can take several minutes on"
            " first use."),
    (100.2, "(EngineCore pid=11) INFO [x.py:1] another thread's word"),
    (220.0, "(EngineCore pid=11) INFO [gpu_worker.py:759] Available KV cache memory: 54.25 GiB"),
    (220.1, "(EngineCore pid=11) INFO [kv_cache_utils.py:1] GPU KV cache size: 395,008 tokens"),
    (238.0, "(EngineCore pid=11) INFO [model_runner.py:1128] Graph capturing finished in 18 secs, took 0.45 GiB"),
    (239.0, "(EngineCore pid=11) INFO [gpu_worker.py:1034] Free memory on device (78.67/79.18 GiB) on startup. Desired"
            " GPU memory utilization is (0.95, 75.22 GiB). Actual usage is 17.61 GiB for consumed memory (weights +"
            " non-torch), 3.36 GiB for peak activation, and 0.45 GiB for CUDAGraph memory. Replace"
            " gpu_memory_utilization config with `--kv-cache-memory=57` (53.6 GiB) to fit into requested memory"),
    (239.5, "(EngineCore pid=11) INFO [core.py:396] init engine (profile, create kv cache, warmup model) took 189.40 s"
            " (compilation: 44.95 s)"),
    (250.0, "(APIServer pid=10) INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:8000"),
]  # fmt: skip
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory": 81079 << 20, "capability": [9, 0]}


def said() -> dict[str, float]:
    return log_lines.figures(text for _at, text in LOG)


def test_a_start_is_told_by_its_parts_which_add_up_to_the_whole() -> None:
    found = log_lines.phases(LOG, served=250.4)
    assert [one["phase"] for one in found] == [*(name for name, _pattern in log_lines.MARKS), "/health 200"]
    assert sum(one["seconds"] for one in found) == pytest.approx(250.4, abs=0.01)
    assert {one["phase"]: one["seconds"] for one in found}["torch.compile"] == 45.0
    # Not the next line: the next that came when the compiler was done.
    assert log_lines.compiled(LOG) == [{"module": "sampling", "at": 100.0, "seconds": 120.0}]


def test_vllms_figures_are_those_of_the_recorded_run() -> None:
    run = json.loads(RECORDED.read_text())["runs"][0]
    told = estimates.estimate("", run["model"], run["options"], H100)
    entry = estimates.entry(said(), told, H100, {**run["options"], "load-format": "dummy"}, at=run["at"])
    for key in ("card", "options", "vllm_said", "estimate"):
        assert entry[key] == run[key], key
    real = log_lines.real(said(), told["weights"])
    assert parts.ratios(told, real)["cache_of_a_token"] == pytest.approx(1, abs=0.001)
    assert real["total"] / GIB == pytest.approx(17.61 + 3.36)
    assert said()["cache_tokens"] == 395008
    assert said()["engine_seconds"] == 189.4


@given(st.lists(st.sampled_from([text for _at, text in LOG]), max_size=8))
def test_what_was_not_said_is_absent_and_nothing_fails(lines: list[str]) -> None:
    found = log_lines.figures(lines)
    assert set(found) <= set(log_lines.FIGURES)
    assert all(value > 0 for value in found.values())
    log_lines.real(found, None)


def test_what_is_kept_names_no_machine(tmp_path: Path) -> None:
    kept = results.Results(tmp_path, {"/srv/secret": "WORK", "/srv/secret/model": "MODEL", "gpu-host-17": "HOST"})
    kept.keep("one", {"path": "/srv/secret/model/config.json", "gpu": "GPU-0a1b2c3d-0000-1111-2222-333344445555"})
    kept.row("rows.jsonl", ["gpu-host-17", "00000000:3B:00.0"])
    text = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "MODEL/config.json" in text
    for secret in ("/srv/secret", "gpu-host-17", "0a1b2c3d", "3B:00"):
        assert secret not in text


def test_a_result_that_was_cut_off_takes_no_other_along(tmp_path: Path) -> None:
    kept = results.Results(tmp_path, {})
    kept.keep("soak", {"seconds": 5.0, "turns": 1, "incidents": 0})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"what": "soak", "val')
    assert kept.all() == [("soak", {"seconds": 5.0, "turns": 1, "incidents": 0})]
    assert "0 false verdicts" in summary.text(kept.all(), standin=True)


def test_a_row_makes_the_folder_of_its_file(tmp_path: Path) -> None:
    kept = results.Results(tmp_path / "out", {})
    kept.row("recorded/hangs.jsonl", {"fault": "loaded"})
    kept.row("recorded/hangs.jsonl", {"fault": "idle"})
    assert (tmp_path / "out/recorded/hangs.jsonl").read_text() == '{"fault": "loaded"}\n{"fault": "idle"}\n'


# The end of a start without pictures that took the graph of one with pictures, as vLLM 0.32 wrote it.
DIED = [
    "(EngineCore pid=17) ERROR 11-28 12:51:44 [core.py:1510] EngineCore failed to start.",
    "(EngineCore pid=17) ERROR 11-28 12:51:44 [core.py:1510] Traceback (most recent call last):",
    "(EngineCore pid=17) ERROR 11-28 12:51:44 [core.py:1510]     raise ValueError(",
    "(EngineCore pid=17) ERROR 11-28 12:51:44 [core.py:1510] AttributeError: 'NoneType' object has no attribute 'size'",
    "AttributeError: 'NoneType' object has no attribute 'size'",
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (DIED, "AttributeError: 'NoneType' object has no attribute 'size'"),
        ([*DIED[:3], DIED[3].replace("AttributeError", "torch.OutOfMemoryError"), *DIED[3:]],
         "torch.OutOfMemoryError: 'NoneType' object has no attribute 'size'"),
        (DIED[4:], "AttributeError: 'NoneType' object has no attribute 'size'"),
        (DIED[5:], DIED[6]),
        (["OSError: /no/such/model is no model"], "OSError: /no/such/model is no model"),
        (["vllm serve: error: unrecognized arguments: --x"], "error: unrecognized arguments: --x"),
        ([text for _at, text in LOG], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_a_failed_start_is_told_by_what_the_engine_died_of(lines: list[str], cause: str) -> None:
    assert log_lines.cause(lines) == cause


@given(st.permutations(DIED[4:]), st.integers(0, 3))
def test_the_engines_own_word_comes_before_all_others(others: list[str], at: int) -> None:
    assert (
        log_lines.cause([*others[:at], *DIED[:4], *others[at:]])
        == "AttributeError: 'NoneType' object has no attribute 'size'"
    )


def test_what_did_not_serve_is_in_the_summary_with_its_cause() -> None:
    found = [("start 2: not serving", {"run": "without pictures", "cause": "ValueError: no memory", "last": []})]
    assert "NOT SERVING: without pictures: ValueError: no memory" in summary.text(found, standin=False)


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "limit-mm-per-prompt": st.dictionaries(st.sampled_from(["image", "video"]), st.integers(0, 2)),
        "language-model-only": st.booleans(),
        "max-num-batched-tokens": st.sampled_from([2048, 8192]),
    },
)


@given(LIMITS, LIMITS)
def test_runs_share_a_cache_only_if_vllm_tells_their_graphs_apart(
    one: dict[str, object], two: dict[str, object]
) -> None:
    def left_out(words: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in words.items() if name in place.NOT_IN_ITS_NAME}

    roots = [place.cache_root(words, "/cache") for words in (one, two)]
    assert (roots[0] == roots[1]) == (left_out(one) == left_out(two))
    assert all((root == "/cache") == (not left_out(words)) for root, words in zip(roots, (one, two)))
    assert all(Path(root).is_relative_to("/cache") for root in roots)


@pytest.mark.parametrize(
    ("words", "environment", "root"),
    [
        ({}, {}, None),
        ({}, {"VLLM_CACHE_ROOT": "/c"}, "/c"),
        ({"limit-mm-per-prompt": {"image": 0}}, {"VLLM_CACHE_ROOT": "/c"}, "/c/of-"),
        ({"language-model-only": True}, {}, "WORK/vllm-cache/of-"),
    ],
)
def test_the_server_gets_that_cache(
    words: dict[str, object], environment: dict[str, str], root: str | None, tmp_path: Path
) -> None:
    options = place.Options(tmp_path, [], "/model", "m", 8000, "", "python3", environment, {}, 10)
    place.Place(options).configure(place.Run(words))
    lines = (tmp_path / "environment").read_text().splitlines()
    told = [line.partition("=")[2].strip("'") for line in lines if line.startswith("VLLM_CACHE_ROOT=")]
    if root is None:
        assert told == []
    else:
        (only,) = told
        assert only.replace(str(tmp_path), "WORK").startswith(root)
        assert ("of-" in only) == bool(words)


def test_a_start_that_failed_keeps_its_files_when_the_next_one_begins(tmp_path: Path) -> None:
    names: list[str] = []

    def fails(*given: object) -> dict[str, object]:
        names.append(str(given[-1]))
        raise starts.NotServing("no")

    runs = [place.Run({"max-model-len": number}) for number in (1, 2, 3)]
    bench = mock.Mock(spec=parts.Bench, runs=runs, started={}, failed=set(), place=mock.Mock(), start_limit=1.0)
    bench.memory, bench.results = mock.Mock(), mock.Mock()
    bench.place.serves.return_value = False
    with mock.patch.object(starts, "start", fails):
        for run in runs:
            with pytest.raises(starts.NotServing):
                parts.Bench.serve(bench, run)
    assert names == ["start", "start 2", "start 3"]


@given(st.integers(1, 200), st.integers(0, 1000))
def test_a_picture_is_a_png_of_its_size(side: int, seed: int) -> None:
    data = b64decode(ask.picture(side, seed).partition(",")[2])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data[16:24] == side.to_bytes(4, "big") * 2
    body = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    assert len(zlib.decompress(body)) == side * (3 * side + 1)


@settings(max_examples=40)
@given(st.sampled_from(users.KINDS), st.randoms(use_true_random=False))
def test_requests_of_each_kind(kind: str, dice: random.Random) -> None:
    with mock.patch.object(users, "SIDE", 64), mock.patch.object(users, "HUGE", 64):
        what, path, body = users.request(kind, "m", dice)
    content = json.loads(body)
    assert content["model"] == "m"
    assert ("messages" in content) == (path == "/v1/chat/completions") == (what in ("picture", "huge"))
    assert ("top_k" in content) == (kind == "sampled")


class Echo(BaseHTTPRequestHandler):
    """Answers by length, in chunks, or by closing, as its path says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if self.path == "/full" else 200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")
        elif self.path == "/close":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"abc")
        else:
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"abc")

    def log_message(self, *_words: object) -> None:
        pass


def test_a_user_takes_answers_of_every_kind_on_one_connection() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def ask_all() -> list[int]:
        link = users.Link(server.server_address[1])
        return [await link.post(path, b"{}") for path in ("/one", "/chunks", "/full", "/close", "/one", "/chunks")]

    try:
        assert asyncio.run(asyncio.wait_for(ask_all(), 10)) == [200, 200, 503, 200, 200, 200]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("part", list(parts.PARTS))
def test_each_part_has_a_limit_above_what_it_is_expected_to_take(part: str) -> None:
    expected, most = program.plan(program.arguments([part, "--compare", "A=0,1"]))[part]
    assert 0 < expected < most


@pytest.mark.parametrize("words", [["unknown"], ["--hangs", "idle"], ["--hangs", "odd=1"], ["--env", "NAME"]])
def test_what_it_does_not_know_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        program.arguments(words)


def test_a_part_that_takes_too_long_is_ended() -> None:
    with pytest.raises(parts.Late), parts.within(0.05):
        threading.Event().wait(10)
