# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values from an inventory, read strictly and explained when they are wrong (private to this collection).

A reader takes any object and returns plain data, or raises Wrong, whose text says what the value is, why it will not
do and what to write instead. Who calls it adds the place. Pure, standard library only.
"""

from __future__ import annotations

import math
import re
import typing as t
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

Reader = t.Callable[[object], t.Any]

LONGEST_SHOWN = 60
# int() of an endless text is slow, and Python itself refuses it from 4300 digits on.
LONGEST_NUMBER = 18


class InputError(ValueError):
    """Input that cannot be used; `problems` holds one line for each reason, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Wrong(ValueError):
    """One value that will not do."""


class Undefined:
    """Stands for a value whose template could not be resolved; `why` is Ansible's own reason."""

    def __init__(self, why: str) -> None:
        self.why = why


def plain(value: object) -> object:
    """A deep copy of builtin types alone: Ansible's tagged and lazy types are their subclasses."""
    # The base class's method, because a subclass may keep its own type when asked politely.
    for base, copy in ((bool, bool), (str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if isinstance(value, base):
            return t.cast("t.Callable[[object], object]", copy)(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def kind(value: object) -> str:
    """What a value is, in the words of YAML."""
    for types, name in (
        ((type(None),), "null"),
        ((bool,), "a boolean"),
        ((str,), "a string"),
        ((int, float), "a number"),
        ((Mapping,), "a dictionary"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, types):
            return name
    return f"a value of type {type(value).__name__}"


def show(value: object) -> str:
    """A value for a message: on one line, short. Never call it with what may be secret."""
    if isinstance(value, Undefined):
        return "undefined"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**LONGEST_NUMBER:
        return "a number of more than 18 digits"
    text = repr(value) if isinstance(value, (str, bool, int, float)) else kind(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def defined(value: object) -> object:
    """The value, unless its template could not be resolved."""
    if isinstance(value, Undefined):
        raise Wrong(f"cannot be resolved ({value.why}): define it, open its vault, or leave the key out")
    return value


def unknown(key: object, known: t.Iterable[str]) -> str:
    """Why a key is refused, with the one that was probably meant."""
    close = meant(key, known)
    return f"unknown key, did you mean {close[0]}?" if close else f"unknown key: there are {', '.join(known)}"


def meant(key: object, known: t.Iterable[str]) -> list[str]:
    """The known key that an unknown one was probably meant to be, if there is one."""
    return get_close_matches(key.replace("-", "_").lower(), list(known), n=1) if isinstance(key, str) else []


def path_of(place: str, key: object) -> str:
    """The place of a key below `place`."""
    return f"{place}.{key}" if isinstance(key, str) and re.fullmatch(r"[\w.-]{1,60}", key) else f"{place}[{show(key)}]"


def integer(least: int, most: int, what: str, example: int) -> Reader:
    """Whole numbers from `least` to `most`; also as text, which is what a template or -e gives."""
    fix = f"write a whole number from {least} to {most}, such as {example}"

    def read(value: object) -> int:
        value = defined(value)
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
            number = int(value)
        if number is None:
            raise Wrong(f"{show(value)} is {kind(value)}, not {what}: {fix}")
        if not least <= number <= most:
            raise Wrong(f"{show(value)} is out of range for {what}: {fix}")
        return number

    return read


def fraction(what: str, example: float) -> Reader:
    """Numbers above 0 and up to 1."""
    fix = f"write a number above 0 and up to 1, such as {example}"

    def read(value: object) -> float:
        value = defined(value)
        number: float | None = None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value) if abs(value) < 10**LONGEST_NUMBER else math.inf
        elif isinstance(value, str) and re.fullmatch(r"\s*[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})\s*", value):
            number = float(value)
        if number is None:
            raise Wrong(f"{show(value)} is {kind(value)}, not {what}: {fix}")
        if not 0 < number <= 1:  # also false for nan
            raise Wrong(f"{show(value)} is out of range for {what}: {fix}")
        return number

    return read


def boolean(value: object) -> bool:
    """true or false and nothing that looks like them: 'no' is a true string in many languages."""
    value = defined(value)
    if not isinstance(value, bool):
        raise Wrong(f"{show(value)} is {kind(value)}, not a boolean: write true or false without quotes")
    return value


def choice(*options: str) -> Reader:
    """One of a few words."""

    def read(value: object) -> str:
        value = defined(value)
        if isinstance(value, str) and value in options:
            return value
        raise Wrong(f"{show(value)} is not one of the choices: write {' or '.join(options)}")

    return read


def printable(text: str) -> bool:
    """Whether a text can stand on one line of a file: no control character, no half of a surrogate pair."""
    breaks = "\u2028\u2029"
    return encodes(text) and not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in breaks for char in text)


def encodes(text: str) -> bool:
    """Whether a text can be written to a file at all."""
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in text)


SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(what: str, example: str, least: int, *, unlimited: bool = False) -> Reader:
    """Sizes as systemd, supervisor and Docker all read them: bytes, or a whole number and one of K, M, G, T."""
    or_unlimited = " or infinity" if unlimited else ""
    fix = f"write a whole number and K, M, G or T (each 1024 of the last), such as {example}{or_unlimited}"

    def read(value: object) -> str:
        value = defined(value)
        if unlimited and value == "infinity":
            return "infinity"
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18 else value
        found = re.fullmatch(r"([0-9]{1,18})([kKmMgGtT]?)", text) if isinstance(text, str) else None
        if not found:
            raise Wrong(f"{show(value)} is not {what}: {fix}")
        if int(found[1]) * SIZE_UNITS[found[2].upper()] < least:
            raise Wrong(f"{show(value)} is too small for {what}: {fix}")
        return found[1] + found[2].upper()

    return read
