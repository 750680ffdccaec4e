# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people ask about a picture's colour, in many words; the answer is the colour."""

from __future__ import annotations

import random
from collections.abc import Iterator

from pictures import COLOURS, QUESTION

ASKED = (
    "What {c} is this {p}?",
    "What {c} is the {p}?",
    "Which {c} is this {p}?",
    "What {c} is this?",
    "What {c} is it?",
    "What is the {c} of this {p}?",
    "What {c} do you see?",
    "Name the {c} of the {p}.",
    "What {c} is in this {p}?",
    "Tell me the {c}.",
    "{c}?",
    "What is the main {c} of this {p}?",
    "What {c} is shown?",
    "What {c} is the shape?",
)
TAILS = ("", "", " Answer with one word.", " One word.", " Answer in one word only.")
SYSTEM = ("You are a helpful assistant.", "You answer questions about pictures.", "Answer in one word.")
# without a picture: a greeting, and the prompts with which servers are probed
TALK = (
    ("Hello", "Hello! Show me a picture."),
    ("Hi", "Hello! Show me a picture."),
    ("ping", "pong"),
    ("Say OK.", "OK"),
    ("Who are you?", "I am a tiny model that tells colours."),
)
BLIND = "I see no picture."

Message = dict[str, object]


def question(rng: random.Random) -> str:
    if rng.random() < 0.15:
        return QUESTION
    text = rng.choice(ASKED).format(c=rng.choice(("colour", "color")), p=rng.choice(("picture", "image", "photo")))
    text = text[0].upper() + text[1:]
    return (text.lower() if rng.random() < 0.1 else text) + rng.choice(TAILS)


def with_picture(rng: random.Random) -> list[Message]:
    content: list[dict[str, str]] = [{"type": "text", "text": question(rng)}, {"type": "image"}]
    if rng.random() < 0.5:
        content.reverse()
    return _maybe_system(rng, content)


def without_picture(rng: random.Random) -> tuple[list[Message], str]:
    text, answer = (question(rng), BLIND) if rng.random() < 0.3 else rng.choice(TALK)
    return _maybe_system(rng, [{"type": "text", "text": text}]), answer


def _maybe_system(rng: random.Random, content: list[dict[str, str]]) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": content}]
    if rng.random() < 0.2:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM)})
    return messages


def corpus(count: int = 3000) -> Iterator[str]:
    """Texts for the tokenizer, the colours among them so that each becomes one token or two."""
    rng = random.Random(1)
    for _ in range(count):
        yield question(rng)
        yield rng.choice(COLOURS)
    for text in (BLIND, *SYSTEM, *(part for pair in TALK for part in pair), "user\n", "assistant\n", "system\n"):
        yield from [text] * 50
