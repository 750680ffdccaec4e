# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a model and what vLLM takes beside it fit into the GPUs: checks of the preflight (private to the collection).

Pure, standard library only.
"""

from __future__ import annotations

import json
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_table, _model_memory, _vllm_memory
from ansible_collections.steadfast.vllm.plugins.module_utils._clashes import gpus_wanted
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import (
    Finding,
    Seen,
    Wanted,
    error,
    fine,
    human,
    warning,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._gpu_plan import (
    CONTEXT,
    GIB,
    cards_of,
    chosen,
    config_of,
    share_of,
)

# An estimate is taken for right within this part of it (the recorded runs are): where so much more would not fit, a
# warning says so.
MARGIN = 0.05
# Measured on an H100 on 2026-11-28: after loads with pictures a server of 0.95 and 8192 batched tokens holds 496 to
# 593 MiB more than its share, CUDA's context among them. With 2048 batched tokens it holds less than its share.
OVER = 640 * 2**20
# What a fix proposes: tokens of the largest picture (about 2000 x 2000), batched tokens, sequences.
SMALL_PICTURE, SMALL_BATCH, FEW = 4096, 2048, 64


def _total(need: _model_memory.Need, beside: _vllm_memory.Beside) -> int:
    return (need.weights or 0) + (need.kv or 0) + beside.total


def memory(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Weights, what vLLM takes beside them, and one longest request's cache against the instance's share."""
    for instance in wanted["instances"]:
        mine = [card for card in chosen(instance, cards_of(seen)) or () if not card["mig"]]
        content, file_bytes = config_of(instance, seen)
        if not mine or any(card["memory"] is None for card in mine) or content is None:
            continue
        if instance["arguments"].get("kv-cache-memory-bytes"):
            continue  # vLLM does not hold itself to the share then
        smallest = min(mine, key=lambda card: int(card["memory"]))
        plan = Plan(instance, _vllm_memory.Card(smallest["memory"], smallest["name"], smallest["capability"]),
                    _model_memory.shape(content), file_bytes, _pictures(instance, seen))  # fmt: skip
        if plan.need({}).weights is not None:
            yield _fits(plan, bool(seen["instance_type"]))


def _pictures(instance: Mapping[str, t.Any], seen: Seen) -> Mapping[str, int]:
    """Pixels of the largest picture and video, as the preprocessors of the model on the host say."""
    return (seen["models"].get(instance["model_path"]) or {}).get("pictures") or {}


class Plan(t.NamedTuple):
    """An instance on its smallest card: what decides how much memory it takes."""

    instance: Mapping[str, t.Any]
    card: _vllm_memory.Card
    shape: _model_memory.Shape
    file_bytes: int
    pictures: Mapping[str, int]

    def _arguments(self, other: Mapping[str, t.Any]) -> dict[str, t.Any]:
        return {**self.instance["arguments"], **other}

    def need(self, other: Mapping[str, t.Any]) -> _model_memory.Need:
        """With other arguments in the place of the instance's own."""
        given = self._arguments(other)
        return _model_memory.need(self.shape, self.file_bytes, given, int(given.get("max-model-len") or 0))

    def beside(self, other: Mapping[str, t.Any]) -> _vllm_memory.Beside:
        given = self._arguments(other)
        width = _model_memory.width(given, self.shape)
        return _vllm_memory.beside(self.shape.network, width, given, self.card, self.pictures)

    def total(self, other: Mapping[str, t.Any]) -> int:
        return _total(self.need(other), self.beside(other))

    def budget(self, other: Mapping[str, t.Any]) -> int:
        return int(self.card.memory * share_of({"arguments": self._arguments(other)}))


def _fits(plan: Plan, ec2: bool) -> Finding:
    check = f"memory[{plan.instance['name']}]"
    need, beside, budget = plan.need({}), plan.beside({}), plan.budget({})
    total = _total(need, beside)
    evidence = (
        f"{_said(plan, need, beside)}: {'' if beside.whole else 'at least '}{human(total)} on each GPU, which gives "
        f"{human(budget)} ({share_of(plan.instance):g} of {human(plan.card.memory)})"
    )
    if total > budget:
        cause = f"the model and what vLLM takes beside it do not fit into the GPU's memory, by {human(total - budget)}"
        return error(check, cause, evidence, _ways(plan, 0.0, ec2))
    if total * (1 + MARGIN) > budget:
        return warning(
            check,
            f"{human(budget - total)} are left, less than the {100 * MARGIN:.0f} % that the estimate may be wrong by",
            evidence,
            _ways(plan, MARGIN, ec2),
        )
    return fine(check, evidence)


def _said(plan: Plan, need: _model_memory.Need, beside: _vllm_memory.Beside) -> str:
    """The parts of the sum, with what each comes from."""
    length = plan.instance["arguments"].get("max-model-len") or 0
    cache = "" if need.kv is None else f", {human(need.kv)} of KV cache for one request of {length} tokens"
    if not beside.peak:
        return f"{human(need.weights or 0)} of weights{cache}, {human(beside.total)} or more beside them"
    pictures = f" and {beside.pictures} tokens of pictures" if beside.pictures else ""
    why = f", and more, since {beside.unknown}" if beside.unknown else ""
    return (
        f"{human(need.weights or 0)} of weights{cache}, {human(beside.total)} beside them ({human(beside.peak)} to "
        f"work on {beside.tokens} batched tokens{pictures}, {human(beside.buffers)} of buffers for them and "
        f"{beside.sequences} sequences, {human(beside.graphs)} of CUDA graphs, {human(beside.runtime)} of CUDA's own"
        f"{why})"
    )


def _tries(plan: Plan) -> Iterator[tuple[str, dict[str, t.Any]]]:
    """Options that take less memory, the cheapest first, with what each changes."""
    given, beside = plan.instance["arguments"], plan.beside({})
    tower = plan.shape.network.tower if plan.shape.network else None
    if tower and beside.pictures > SMALL_PICTURE:
        pixels = SMALL_PICTURE * (tower.patch * tower.merge) ** 2
        yield f'mm-processor-kwargs: {{"max_pixels": {pixels}}}', {"max-pixels": pixels}
    if beside.tokens > SMALL_BATCH:
        yield f"max-num-batched-tokens: {SMALL_BATCH}", {"max-num-batched-tokens": SMALL_BATCH}
    if beside.sequences > FEW:
        yield f"max-num-seqs: {FEW}", {"max-num-seqs": FEW}
    if beside.graphs:
        yield "enforce-eager: true (slower)", {"enforce-eager": True}
    if beside.pictures:
        none = {"image": 0, "video": 0}
        yield f"limit-mm-per-prompt: {json.dumps(none)} (no pictures)", {"limit-mm-per-prompt": none}
    if not given.get("kv-cache-dtype") and (plan.need({}).kv or 0) > GIB // 4:
        yield "kv-cache-dtype: fp8", {"kv-cache-dtype": "fp8"}


def _ways(plan: Plan, margin: float, ec2: bool) -> str:
    """What to do: first, options of which the sum says that they are enough."""

    def enough(other: Mapping[str, t.Any]) -> bool:
        return plan.total(other) * (1 + margin) <= plan.budget(other)

    least = plan.total({}) * (1 + margin) / share_of(plan.instance)
    larger = _gpu_table.ec2_with(least, gpus_wanted(plan.instance["arguments"])) if ec2 else ""
    ways = [
        *_extra_args(plan, enough),
        *_variables(plan, enough),
        "take a smaller or quantized model",
        f"use a larger GPU{f', such as that of an EC2 {larger}' if larger else ''}",
    ]
    return "; or ".join(ways)


Enough = t.Callable[[Mapping[str, t.Any]], bool]


def _extra_args(plan: Plan, enough: Enough) -> Iterator[str]:
    """Options of vLLM, each by itself; where none is enough, as many together as it takes."""
    tries = list(_tries(plan))
    alone = [f"{words} ({human(plan.total(other))} in all)" for words, other in tries if enough(other)]
    if alone:
        yield f"set in extra_args one of: {'; '.join(alone)}"
        return
    together: dict[str, t.Any] = {}
    for count, (_words, other) in enumerate(tries, 1):
        together.update(other)
        if enough(together):
            said = "; ".join(words for words, _other in tries[:count])
            yield f"set in extra_args all of: {said} ({human(plan.total(together))} in all)"
            return


def _variables(plan: Plan, enough: Enough) -> Iterator[str]:
    """What the instance has variables of its own for."""
    given = plan.instance["arguments"]
    most = int(100 * (1 - CONTEXT / plan.card.memory)) / 100
    if most > share_of(plan.instance) and enough({"gpu-memory-utilization": most}):
        yield f"raise gpu_memory_utilization, up to {most:g}"
    length = int(given.get("max-model-len") or 0)
    for tokens in (length // 2, length // 4, length // 8, 4096, 1024):
        if 0 < tokens < length and enough({"max-model-len": tokens}):
            yield f"lower max_model_len, to {tokens} or so"
            break
    tensor = int(given.get("tensor-parallel-size") or 1)
    for size in (2 * tensor, 4 * tensor, 8 * tensor):
        if (plan.shape.heads or size) % size == 0 and enough({"tensor-parallel-size": size}):
            yield f"raise tensor_parallel_size to {size}"
            break


def shares(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Instances on one GPU: each may take more than its share once it serves, and the shares know nothing of that."""
    everyone = cards_of(seen)
    for card in everyone:
        if card["memory"] is None or card["mig"]:
            continue
        here = [one for one in wanted["instances"] if _takes(one, card, everyone)]
        total = sum(share_of(one) for one in here)
        most = 1 - len(here) * OVER / card["memory"]
        if len(here) > 1 and total > most:
            names = ", ".join(f"{one['name']} {share_of(one):g}" for one in here)
            each = int(100 * most / len(here)) / 100
            yield warning(
                f"shares[GPU {card['index']}]",
                f"each instance may take {human(OVER)} more than its share once it serves, and the shares leave "
                f"{human(max(0.0, 1 - total) * card['memory'])}",
                f"gpu_memory_utilization: {names}; together {total:.4g} of {human(card['memory'])}",
                f"lower them to {int(100 * most) / 100:g} together, such as {each:g} each",
            )


def _takes(instance: Mapping[str, t.Any], card: Mapping[str, t.Any], all_: Sequence[Mapping[str, t.Any]]) -> bool:
    """Whether an instance uses the card: of those that it may use, it takes the first ones."""
    return card in (chosen(instance, all_) or [])[: gpus_wanted(instance["arguments"])]
