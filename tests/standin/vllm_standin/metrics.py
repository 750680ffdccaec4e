# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`/metrics` as vLLM 0.32 shows it: its families, labels and buckets, and prometheus_client's way to write numbers."""

from __future__ import annotations

import bisect
import gc
import os
import platform
import resource
import threading
import time
from collections.abc import Sequence

LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
CHOICES = (1, 2, 5, 10, 20)
HTTP_FINE = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60,
)  # fmt: skip
HTTP_COARSE = (0.1, 0.5, 1)
REASONS = ("stop", "length", "abort", "error", "repetition")
HEAD = 2  # lines before the samples of a family
UNCOUNTED = {"/metrics", "/health", "/load", "/ping", "/version", "/server_info"}


def number(value: float) -> str:
    """prometheus_client writes large numbers with an exponent: 1.234567e+06."""
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+0{dot - 1}"
    return "+Inf" if text == "inf" else text


def labels(**given: object) -> str:
    """In the order of their names, as prometheus_client writes them."""
    escape = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    inner = ",".join(f'{name}="{str(value).translate(escape)}"' for name, value in sorted(given.items()))
    return f"{{{inner}}}" if inner else ""


def tokens_up_to(longest: int) -> list[int]:
    """1, 2, 5, 10, ... as vLLM makes the buckets of token counts."""
    return [n for power in range(12) for n in (10**power, 2 * 10**power, 5 * 10**power) if n <= longest]


def _name(line: str) -> str:
    return line.partition(" ")[0].partition("{")[0]


class Family:
    """One name with its samples, by label text."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name, self.kind, self.text = name, kind, text
        self.values: dict[str, float] = {}
        self.born: dict[str, float] = {}

    def add(self, label: str, amount: float = 1) -> None:
        if label not in self.values:
            self.born[label] = time.time()
        self.values[label] = self.values.get(label, 0.0) + amount

    def set(self, label: str, value: float) -> None:
        self.values[label] = value

    def lines(self) -> list[str]:
        found = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} {self.kind}"]
        found += [f"{self.name}{label} {number(value)}" for label, value in self.values.items()]
        if self.kind == "counter" and self.born:
            found += self.created(self.name[: -len("_total")])
        return found

    def created(self, name: str) -> list[str]:
        found = [f"# HELP {name}_created {self.text}", f"# TYPE {name}_created gauge"]
        return found + [f"{name}_created{label} {number(born)}" for label, born in self.born.items()]


class Series:
    def __init__(self, size: int) -> None:
        self.counts, self.sum = [0] * size, 0.0


class Histogram(Family):
    """Also a summary, which is a histogram without buckets."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        super().__init__(name, "histogram" if buckets else "summary", text)
        self.bounds = [float(bound) for bound in buckets]
        self.series: dict[str, tuple[list[str], Series]] = {}

    def declare(self, **given: object) -> str:
        label = labels(**given)
        if label not in self.series:
            bounds = [labels(**given, le=number(bound)) for bound in [*self.bounds, float("inf")]]
            self.series[label] = bounds, Series(len(bounds))
            self.born[label] = time.time()
        return label

    def observe(self, label: str, value: float) -> None:
        series = self.series[label][1]
        series.counts[bisect.bisect_left(self.bounds, value)] += 1
        series.sum += value

    def lines(self) -> list[str]:
        found = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} {self.kind}"]
        for label, (bounds, series) in self.series.items():
            total = 0
            for bound, count in zip(bounds, series.counts):
                total += count
                if self.bounds:
                    found.append(f"{self.name}_bucket{bound} {number(total)}")
            found.append(f"{self.name}_count{label} {number(total)}")
            found.append(f"{self.name}_sum{label} {number(series.sum)}")
        return found + self.created(self.name)


class Metrics:
    """Those of one engine. What the engine told last is what is shown, for as long as it tells nothing new."""

    def __init__(self, model: str, longest: int) -> None:
        self.lock = threading.Lock()
        self.families: list[Family] = []
        self.engine = {"model_name": model, "engine": 0}
        self.label = labels(**self.engine)
        self.began = time.time()
        self._gauges()
        self._counters(model)
        self._histograms(longest)
        self._http()

    def _gauges(self) -> None:
        self.running = self._family("num_requests_running", "gauge", "Number of requests in model execution batches.")
        self.waiting = self._family("num_requests_waiting", "gauge", "Number of requests waiting to be processed.")
        self.by_reason = self._family(
            "num_requests_waiting_by_reason", "gauge",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
            "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). "
            "Sum of all reasons equals vllm:num_requests_waiting.", reason=("capacity", "deferred"),
        )  # fmt: skip
        asleep = self._family(
            "engine_sleep_state", "gauge",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
            sleep_state=("awake", "weights_offloaded", "discard_all"),
        )  # fmt: skip
        asleep.set(labels(**self.engine, sleep_state="awake"), 1)
        self.cache = self._family("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.")

    def _counters(self, model: str) -> None:
        def counter(name: str, text: str, **more: Sequence[str]) -> Family:
            return self._family(f"{name}_total", "counter", text, **more)

        def external(what: str) -> str:
            return (
                f"External prefix cache {what} from KV connector cross-instance cache sharing, in terms of number of "
            )

        counter("prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.")
        counter("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.")
        counter("external_prefix_cache_queries", external("queries") + "queried tokens.")
        counter("external_prefix_cache_hits", external("hits") + "cached tokens.")
        self.pictures = counter("mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.")
        counter("mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.")
        counter("num_preemptions", "Cumulative number of preemption from the engine.")
        self.prompts = counter("prompt_tokens", "Number of prefill tokens processed.")
        self.sources = counter(
            "prompt_tokens_by_source", "Number of prompt tokens by source.",
            source=("local_compute", "local_cache_hit", "external_kv_transfer"),
        )  # fmt: skip
        counter("prompt_tokens_cached", "Number of cached prompt tokens (local + external).")
        counter(
            "prompt_tokens_cached_by_source",
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to "
            "DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; "
            "sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
            source=("device", "host", "p2p", "disk", "external_unspecified"),
        )
        self.generated = counter("generation_tokens", "Number of generation tokens processed.")
        self.success = counter("request_success", "Count of successfully processed requests.", finished_reason=REASONS)
        rejected = Family(
            "vllm:admission_rejections_total", "counter",
            "Number of admission attempts rejected by a queue limit, by reason.",
        )  # fmt: skip
        for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
            rejected.add(labels(model_name=model, reason=reason), 0)
        self.families.append(rejected)

    def _histograms(self, longest: int) -> None:
        lengths = tokens_up_to(longest)
        self.request_prompt = self._histogram("request_prompt_tokens", "Number of prefill tokens processed.", lengths)
        self.request_generated = self._histogram(
            "request_generation_tokens", "Number of generation tokens processed.", lengths
        )
        self.step = self._histogram(
            "iteration_tokens_total", "Histogram of number of tokens per engine_step.", STEP_TOKENS
        )
        self.most = self._histogram(
            "request_max_num_generation_tokens", "Histogram of maximum number of requested generation tokens.", lengths
        )
        self.choices = self._histogram("request_params_n", "Histogram of the n request parameter.", CHOICES)
        self.asked = self._histogram(
            "request_params_max_tokens", "Histogram of the max_tokens request parameter.", lengths
        )
        self.first = self._histogram(
            "time_to_first_token_seconds", "Histogram of time to first token in seconds.", FIRST_TOKEN
        )
        self.between = self._histogram(
            "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", BETWEEN_TOKENS
        )
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.", BETWEEN_TOKENS,
        )  # fmt: skip
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", LATENCY
        )
        phases = {"queue": "WAITING", "inference": "RUNNING", "prefill": "PREFILL", "decode": "DECODE"}
        self.phases = {
            name: self._histogram(
                f"request_{name}_time_seconds", f"Histogram of time spent in {phase} phase for request.", LATENCY
            )
            for name, phase in phases.items()
        }
        self.preempted = self._histogram(
            "request_num_preemptions", "Histogram of the number of times a request was preempted.", PREEMPTIONS
        )
        self.computed = self._histogram(
            "request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).", lengths,
        )  # fmt: skip
        about = Family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
        about.set(
            labels(
                block_size=16, cache_dtype="auto", enable_prefix_caching=True, engine=0, gpu_memory_utilization=0.95,
                is_attention_free=False, kv_cache_memory_bytes=None, num_gpu_blocks=4096, swap_space=4,
                prefix_caching_hash_algo="sha256", sliding_window=None, user_specified_block_size=False,
            ),
            1,
        )  # fmt: skip
        self.families.append(about)

    def _http(self) -> None:
        self.requests = Family(
            "http_requests_total", "counter", "Total number of requests by method, status and handler."
        )
        self.received = Histogram(
            "http_request_size_bytes",
            "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. "
            "No percentile calculated. ", (),
        )  # fmt: skip
        self.sent = Histogram(
            "http_response_size_bytes",
            "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. "
            "No percentile calculated. ", (),
        )  # fmt: skip
        self.fine = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
            HTTP_FINE,
        )
        self.fine.declare()
        self.coarse = Histogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ",
            HTTP_COARSE,
        )
        self.families += [self.requests, self.received, self.sent, self.fine, self.coarse]

    def _family(self, name: str, kind: str, text: str, **more: Sequence[str]) -> Family:
        made = Family(f"vllm:{name}", kind, text)
        extra = [{key: value} for key, values in more.items() for value in values] or [{}]
        for one in extra:
            label = labels(**self.engine, **one)
            if kind == "counter":
                made.add(label, 0)
            else:
                made.set(label, 0)
        self.families.append(made)
        return made

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(f"vllm:{name}", text, buckets)
        made.declare(**self.engine)
        self.families.append(made)
        return made

    def stepped(self, running: int, waiting: int, prompts: int, generated: int, cache: float) -> None:
        """What the engine told after a step."""
        with self.lock:
            self.running.set(self.label, running)
            self.waiting.set(self.label, waiting)
            self.by_reason.set(labels(**self.engine, reason="capacity"), waiting)
            self.cache.set(self.label, cache)
            if prompts or generated:
                self.prompts.add(self.label, prompts)
                self.sources.add(labels(**self.engine, source="local_compute"), prompts)
                self.generated.add(self.label, generated)
                self.step.observe(self.label, prompts + generated)

    def token(self, since: float, is_first: bool) -> None:
        with self.lock:
            (self.first if is_first else self.between).observe(self.label, since)

    def seen(self, pictures: int) -> None:
        with self.lock:
            self.pictures.add(self.label, pictures)

    def finished(
        self, reason: str, prompt: int, made: int, asked: int, whole: float, times: Sequence[float] = (0, 0, 0)
    ) -> None:
        """One request; TIMES: seconds in the queue, until the first token, from there to the last."""
        queue, prefill, decode = times
        with self.lock:
            self.success.add(labels(**self.engine, finished_reason=reason))
            for family, value in (
                (self.whole, whole), (self.phases["queue"], queue), (self.phases["prefill"], prefill),
                (self.phases["inference"], prefill + decode), (self.phases["decode"], decode), (self.preempted, 0),
                (self.computed, prompt), (self.request_prompt, prompt), (self.request_generated, made),
                (self.per_token, decode / max(1, made - 1)), (self.asked, asked), (self.most, made), (self.choices, 1),
            ):  # fmt: skip
                family.observe(self.label, value)

    def http(self, handler: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        if handler in UNCOUNTED:
            return
        with self.lock:
            self.requests.add(labels(handler=handler, method=method, status=f"{status // 100}xx"))
            self.received.observe(self.received.declare(handler=handler), received)
            self.sent.observe(self.sent.declare(handler=handler), sent)
            self.fine.observe("", seconds)
            self.coarse.observe(self.coarse.declare(handler=handler, method=method), seconds)

    def render(self, names: Sequence[str] | None = None) -> bytes:
        """All of it, or only the samples of these names, with the heads of their families."""
        with self.lock:
            if names is None:
                lines = self._process()
                for family in self.families:
                    lines += family.lines()
            else:
                lines = []
                for family in self.families:
                    # Only those that can have such a sample are rendered.
                    if any(name.startswith(family.name) for name in names):
                        found = family.lines()
                        samples = [line for line in found[HEAD:] if _name(line) in names]
                        lines += [*found[:HEAD], *samples] if samples else []
        return "".join(f"{line}\n" for line in lines).encode()

    def _process(self) -> list[str]:
        """prometheus_client's own families."""
        collected = Family("python_gc_objects_collected_total", "counter", "Objects collected during gc")
        uncollectable = Family(
            "python_gc_objects_uncollectable_total", "counter", "Uncollectable objects found during GC"
        )
        collections = Family("python_gc_collections_total", "counter", "Number of times this generation was collected")
        for generation, stats in enumerate(gc.get_stats()):
            label = labels(generation=generation)
            collected.set(label, stats["collected"])
            uncollectable.set(label, stats["uncollectable"])
            collections.set(label, stats["collections"])
        about = Family("python_info", "gauge", "Python platform information")
        major, minor, patch = platform.python_version_tuple()
        about.set(
            labels(
                implementation=platform.python_implementation(), major=major, minor=minor, patchlevel=patch,
                version=platform.python_version(),
            ),
            1,
        )  # fmt: skip
        own = resource.getrusage(resource.RUSAGE_SELF)
        page = resource.getpagesize()
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual, resident = file.read().split()[:2]
        found = [*collected.lines(), *uncollectable.lines(), *collections.lines(), *about.lines()]
        for name, kind, text, value in (
            ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", int(virtual) * page),
            ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", int(resident) * page),
            ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", self.began),
            (
                "cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.",
                own.ru_utime + own.ru_stime,
            ),
            ("open_fds", "gauge", "Number of open file descriptors.", len(os.listdir("/proc/self/fd"))),
            (
                "max_fds", "gauge", "Maximum number of open file descriptors.",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ),
        ):  # fmt: skip
            family = Family(f"process_{name}", kind, text)
            family.set("", value)
            found += family.lines()
        return found
