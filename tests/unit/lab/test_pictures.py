# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated pictures: always the same, readable, and of the colour they say."""

from __future__ import annotations

import base64
import struct
import zlib

import pictures
import pytest


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and pixels of a PNG, read with nothing of what wrote it."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(png):
        size = struct.unpack(">I", png[place : place + 4])[0]
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        assert zlib.crc32(kind + data) == struct.unpack(">I", png[place + 8 + size : place + 12 + size])[0]
        chunks[kind] = data
        place += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[row * (3 * width + 1) + 1 : (row + 1) * (3 * width + 1)] for row in range(height)]
    return width, height, [row[at : at + 3] for row in rows for at in range(0, 3 * width, 3)]


def test_a_number_is_always_the_same_picture() -> None:
    assert pictures.picture(7) == pictures.picture(7)
    assert pictures.picture(7).png != pictures.picture(8).png


@pytest.mark.parametrize("shape", pictures.SHAPES)
@pytest.mark.parametrize("colour", pictures.COLOURS)
def test_the_colour_is_there_and_nothing_else_has_one(colour: str, shape: str) -> None:
    picture = pictures.picture(1, colour, shape)
    width, height, found = pixels(picture.png)
    assert (picture.colour, len(found)) == (colour, width * height)
    if picture.shape == "plain":
        assert len(set(found)) == 1
        return
    assert shape == picture.shape
    assert len(set(found)) == 2
    grey, coloured = sorted(set(found), key=lambda rgb: max(rgb) - min(rgb))
    assert max(grey) - min(grey) < 26 < max(coloured) - min(coloured)
    assert 0.05 < found.count(coloured) / len(found) < 0.95


def test_many_pictures_show_every_colour_and_are_never_the_same() -> None:
    shown = list(pictures.pictures(22, seed=3))
    assert {picture.colour for picture in shown} == set(pictures.COLOURS)
    assert len({picture.png for picture in shown}) == 22


def test_messages_carry_the_picture_and_the_question() -> None:
    picture = pictures.picture(2)
    content = picture.messages[0]["content"]
    assert isinstance(content, list)
    url = content[0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == picture.png
    assert content[1]["text"] == pictures.QUESTION


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("red", True), ("Red.", True), ("It is red, I think", True), ("blue", False), ("red or blue", False), ("", False)],
)
def test_right(answer: str, expected: bool) -> None:
    assert pictures.right("red", answer) is expected


def test_grey_is_gray() -> None:
    assert pictures.right("gray", "Grey")
