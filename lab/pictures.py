# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated pictures whose colour is known, with nothing but the standard library.

`picture(7)` is always the same picture. The tiny model was trained on pictures of the same kind from other seeds.

    from pictures import picture
    p = picture(7)
    p.colour, p.png, p.data_url, p.question
"""

from __future__ import annotations

import base64
import colorsys
import math
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

RGB = tuple[int, int, int]
Span = tuple[float, float]
# boxes of hue (degrees), saturation and value; the gaps between them, where people disagree, are left out on purpose
BOXES: dict[str, list[tuple[Span, Span, Span]]] = {
    "red": [((-8, 8), (0.85, 1), (0.72, 1)), ((-4, 4), (0.95, 1), (0.55, 0.72))],
    "orange": [((24, 39), (0.8, 1), (0.88, 1))],
    "yellow": [((50, 63), (0.6, 1), (0.82, 1))],
    "green": [((85, 150), (0.5, 1), (0.3, 1))],
    "blue": [((205, 245), (0.6, 1), (0.4, 1))],
    "purple": [((265, 300), (0.5, 1), (0.35, 0.7)), ((265, 285), (0.5, 1), (0.7, 0.95))],
    "pink": [((325, 352), (0.22, 0.5), (0.92, 1)), ((320, 338), (0.5, 0.75), (0.92, 1))],
    "brown": [((16, 32), (0.6, 0.95), (0.3, 0.6))],
    "black": [((0, 360), (0, 1), (0, 0.1))],
    "white": [((0, 360), (0, 0.04), (0.95, 1))],
    "gray": [((0, 360), (0, 0.07), (0.35, 0.72))],
}
COLOURS = tuple(BOXES)
BACKGROUNDS = ("white", "black", "gray")
SHAPES = ("plain", "circle", "square", "triangle")
QUESTION = "What colour is this picture? Answer with one word."


@dataclass(frozen=True)
class Drawing:
    """Rows of red, green, blue bytes, and what is to be seen on them."""

    width: int
    height: int
    colour: str
    shape: str
    pixels: bytes


@dataclass(frozen=True)
class Picture:
    """A picture to ask about, and the answer."""

    colour: str
    shape: str
    png: bytes
    question: str = QUESTION

    @property
    def data_url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def messages(self) -> list[dict[str, object]]:
        """The body's `messages` for /v1/chat/completions."""
        content = [
            {"type": "image_url", "image_url": {"url": self.data_url}},
            {"type": "text", "text": self.question},
        ]
        return [{"role": "user", "content": content}]


def shade(rng: random.Random, colour: str) -> RGB:
    hue, saturation, value = (rng.uniform(*span) for span in rng.choice(BOXES[colour]))
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _polygon_span(corners: list[Span], y: float) -> Span:
    """Where the line at Y lies inside a convex polygon."""
    crossings = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        if min(y0, y1) <= y < max(y0, y1):
            crossings.append(x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return (min(crossings), max(crossings)) if crossings else (0.0, 0.0)


def _corners(rng: random.Random, count: int, x: float, y: float, radius: float) -> list[Span]:
    turn = math.radians((45 if count == 4 else -90) + rng.uniform(-10, 10))
    angles = [turn + 2 * math.pi * index / count for index in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def draw(rng: random.Random, width: int, height: int, colour: str | None = None, shape: str | None = None) -> Drawing:
    """A plain picture, or a shape of one colour before a background that has none.

    What is black, white or gray itself fills the whole picture: a black circle on white has two right answers.
    """
    colour = colour or rng.choice(COLOURS)
    shape = "plain" if colour in BACKGROUNDS else shape or rng.choice(SHAPES)
    front = bytes(shade(rng, colour))
    if shape == "plain":
        return Drawing(width, height, colour, shape, front * (width * height))
    back = bytes(shade(rng, rng.choice(BACKGROUNDS)))
    radius = min(width, height) * rng.uniform(0.28, 0.48)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    corners = [] if shape == "circle" else _corners(rng, 4 if shape == "square" else 3, x, y, radius)
    rows = []
    for row in range(height):
        line = row + 0.5
        if shape == "circle":
            half = math.sqrt(max(0.0, radius**2 - (line - y) ** 2))
            span = (x - half, x + half) if half else (0.0, 0.0)
        else:
            span = _polygon_span(corners, line)
        first, last = (min(width, max(0, round(edge))) for edge in span)
        rows.append(back * first + front * (last - first) + back * (width - last))
    return Drawing(width, height, colour, shape, b"".join(rows))


def png(drawing: Drawing) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = 3 * drawing.width
    # each row begins with its filter; none is right for plain areas
    rows = b"".join(b"\0" + drawing.pixels[start : start + stride] for start in range(0, len(drawing.pixels), stride))
    header = struct.pack(">IIBBBBB", drawing.width, drawing.height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b"")


def picture(seed: int, colour: str | None = None, shape: str | None = None) -> Picture:
    """The picture of this number; colour and shape may be chosen."""
    rng = random.Random(f"picture {seed}")
    drawing = draw(rng, rng.randint(64, 320), rng.randint(64, 320), colour, shape)
    return Picture(drawing.colour, drawing.shape, png(drawing))


def pictures(count: int, seed: int = 0) -> Iterator[Picture]:
    """COUNT pictures, each of another colour as long as there are others."""
    order = list(COLOURS)
    random.Random(f"order {seed}").shuffle(order)
    for index in range(count):
        yield picture(seed * 100_000 + index, order[index % len(order)])


def right(expected: str, answer: str) -> bool:
    """Whether an answer names the expected colour and no other."""
    words = answer.lower().replace("grey", "gray").replace(".", " ").replace(",", " ").split()
    return [word for word in words if word in COLOURS] == [expected]
