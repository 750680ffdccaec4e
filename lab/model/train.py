#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""train.py OUT --recipe ID --seconds N: train the tiny Qwen3-VL until it names colours right. CPU, offline.

Runs in the lab's vLLM environment. Training goes in rounds: at full speed until the answers on fresh batches are
right, then ever smaller steps, then an examination on pictures never seen. It ends with the first round that
passes, so a fast machine is done soon and a slow one takes the time it needs, up to the limit.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
# beside the model's parts, the pictures that tests and demo ask about
sys.path.append(str(Path(__file__).resolve().parent.parent))

import checkpoint
import numpy
import pictures
import questions
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

BATCH = 24
SPEED = 2e-3
WARM_UP = 50
SETTLE = 200
# of the last fifty batches, before the steps get smaller
READY = 0.93
EXAMINED = 480
PASSED = 0.99
WITHOUT_PICTURE = 0.06


def photograph(rng: random.Random, width: int, height: int) -> tuple[Image.Image, str]:
    """A drawing as a camera would give it: some noise, some light from the side, now and then a JPEG."""
    drawing = pictures.draw(rng, width, height)
    noise, slope = rng.choice((0, 0, 4, 10)), rng.choice((0, 0, 0.06))
    data = numpy.frombuffer(drawing.pixels, numpy.uint8).reshape(height, width, 3)
    if noise or slope:
        light = 1 + numpy.linspace(-slope, slope, width, dtype=numpy.float32)[None, :, None]
        grain = numpy.random.default_rng(rng.getrandbits(32)).standard_normal(data.shape, dtype=numpy.float32)
        data = (data * light + noise * grain).clip(0, 255).astype(numpy.uint8)
    image = Image.fromarray(data)
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(50, 95))
        image = Image.open(buffer).convert("RGB")
    return image, drawing.colour


class Batches(torch.utils.data.IterableDataset):
    """Every batch goes through the checkpoint's own processor: template, resizing, picture tokens."""

    def __init__(self, out: Path, seed: int, blind: float = WITHOUT_PICTURE) -> None:
        self.out, self.seed, self.blind = out, seed, blind

    def __iter__(self) -> Iterator[dict[str, Any]]:
        torch.set_num_threads(1)
        processor = AutoProcessor.from_pretrained(self.out)
        rng = random.Random(f"training {self.seed}")
        while True:
            yield self.batch(processor, rng)

    def batch(self, processor: Any, rng: random.Random) -> dict[str, Any]:
        # one size for a batch keeps it cheap, and small ones come more often
        width, height = (round(2 ** rng.uniform(5.5, 7.5)) for _ in range(2))
        texts, answers, images, facts = [], [], [], []
        for _ in range(BATCH):
            if rng.random() < self.blind:
                messages, answer = questions.without_picture(rng)
            else:
                messages = questions.with_picture(rng)
                image, answer = photograph(rng, width, height)
                images.append(image)
                facts.append(pictures.COLOURS.index(answer))
            prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            texts.append(prompt + answer + "<|im_end|>")
            answers.append(answer)
        made = dict(
            processor(text=texts, images=images or None, padding=True, padding_side="right", return_tensors="pt")
        )
        labels = made["input_ids"].clone().fill_(-100)
        ends = made["attention_mask"].sum(1)
        for row, answer in enumerate(answers):
            # the loss counts the answer and its end, not the question
            length = len(processor.tokenizer(answer, add_special_tokens=False).input_ids) + 1
            span = slice(ends[row] - length, ends[row])
            labels[row, span] = made["input_ids"][row, span]
        return {**made, "labels": labels, "facts": torch.tensor(facts, dtype=torch.long)}


class Trainer:
    def __init__(self, model: Qwen3VLForConditionalGeneration, out: Path) -> None:
        self.model, self.out = model, out
        # thrown away afterwards: it names the colour from the mean picture token, so that seeing is learnt sooner
        self.helper = torch.nn.Linear(checkpoint.HIDDEN, len(pictures.COLOURS))
        self.seen: list[Any] = []
        model.model.visual.register_forward_hook(lambda module, given, result: self.seen.append(result))
        weights = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1] + list(self.helper.parameters())
        groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=SPEED, betas=(0.9, 0.98))
        loader = torch.utils.data.DataLoader(Batches(out, 1), batch_size=None, num_workers=1, prefetch_factor=8)
        self.batches = iter(loader)
        self.steps = 0

    def step(self, speed: float, help_: float) -> tuple[float, float]:
        """One batch; its loss, and the share of its rows answered right in every token."""
        for group in self.optimizer.param_groups:
            group["lr"] = speed
        batch = next(self.batches)
        labels, facts = batch.pop("labels"), batch.pop("facts")
        self.seen.clear()
        logits = self.model(**batch, use_cache=False).logits
        wanted = labels[:, 1:]
        counted = wanted != -100
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][counted], wanted[counted])
        total = loss
        if help_ and len(facts):
            tokens = (batch["image_grid_thw"].prod(1) // 4).tolist()
            result = self.seen[0].pooler_output
            result = torch.cat(list(result)) if isinstance(result, (list, tuple)) else result
            means = torch.stack([part.mean(0) for part in result.split(tokens)])
            total = loss + help_ * torch.nn.functional.cross_entropy(self.helper(means), facts)
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return loss.item(), _all_right(logits, labels).float().mean().item()

    @torch.no_grad()
    def examine(self) -> float:
        """The share of unseen pictures whose colour is named right, token for token, as greedy decoding would."""
        self.model.eval()
        processor, rng = AutoProcessor.from_pretrained(self.out), random.Random("examination")
        source, right = Batches(self.out, 2, blind=0), 0
        rounds = -(-EXAMINED // BATCH)
        for _ in range(rounds):
            batch = source.batch(processor, rng)
            labels, _ = batch.pop("labels"), batch.pop("facts")
            right += int(_all_right(self.model(**batch, use_cache=False).logits, labels).sum())
        self.model.train()
        return right / (rounds * BATCH)


def _all_right(logits: Any, labels: Any) -> Any:
    wanted = labels[:, 1:]
    return ((logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)).all(1)


def quick_patches(model: Qwen3VLForConditionalGeneration) -> None:
    """The patch embedding's convolution is as wide as its stride: a matrix product, much faster as one on a CPU."""
    embed = model.model.visual.patch_embed
    embed.forward = lambda x: torch.nn.functional.linear(
        x.view(x.shape[0], -1), embed.proj.weight.flatten(1), embed.proj.bias
    )


def teach(trainer: Trainer, seconds: float) -> float:
    """Rounds until the examination is passed or the time is over; the accuracy reached."""
    began, accuracy, pace = time.monotonic(), 0.0, SPEED
    while True:
        recent: list[float] = []
        while True:
            speed = pace * min(1.0, (trainer.steps + 1) / WARM_UP)
            loss, share = trainer.step(speed, 1.0 if trainer.steps < 600 else 0.2)
            recent = [*recent[-49:], share]
            spent = time.monotonic() - began
            mean = sum(recent) / len(recent)
            if trainer.steps % 50 == 0:
                print(f"step {trainer.steps}: loss {loss:.4f}, right {mean:.3f}, {spent:.0f} s", flush=True)
            if (len(recent) == 50 and mean >= READY) or spent > 0.85 * seconds:
                break
        for index in range(SETTLE):
            trainer.step(pace * (1 - index / SETTLE) + 1e-5, 0.1)
            if time.monotonic() - began > seconds:
                break
        accuracy = trainer.examine()
        spent = time.monotonic() - began
        print(f"step {trainer.steps}: {accuracy:.3f} of unseen pictures right after {spent:.0f} s", flush=True)
        if accuracy >= PASSED or spent > 0.85 * seconds:
            return accuracy
        pace = max(pace / 2, SPEED / 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    began = time.monotonic()
    model = checkpoint.make(given.out)
    quick_patches(model)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    trainer = Trainer(model, given.out)
    accuracy = teach(trainer, given.seconds)
    model.eval().save_pretrained(given.out)
    facts = {
        "recipe": given.recipe,
        "trained": accuracy >= PASSED,
        "accuracy": round(accuracy, 4),
        "asked": -(-EXAMINED // BATCH) * BATCH,
        "steps": trainer.steps,
        "seconds": round(time.monotonic() - began, 1),
        "budget": int(given.seconds),
    }
    (given.out / "lab-model.json").write_text(json.dumps(facts, indent=2) + "\n")
    for path in given.out.iterdir():
        path.chmod(0o644)
    print(json.dumps(facts), flush=True)
    # the loader's worker would be waited for
    os._exit(0)


main()
