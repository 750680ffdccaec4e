# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of a running vLLM, read as vLLM reads it (private to this collection). Pure, standard library only.

Names and forms are those of vLLM 0.32's parser (_adopt_options.py); an option that is not known there is taken as it
stands.
"""

from __future__ import annotations

import json
import os.path
import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_options

MODULES = re.compile(r"vllm\.entrypoints\.(openai|launchers)(\.[a-z_]+)*\.?(api_server)")
SCRIPTS = re.compile(r"(^|/)vllm/entrypoints/(openai|launchers)/([a-z_]+/)*api_server\.py$")
PYTHON = re.compile(r"python[0-9.]*")
# Python's options without a value may stand together, also before one with a value: -um, -Xdev.
PYTHON_OPTION = re.compile(r"-[bBdEhiIOPqRsSuvVx]*([cmWX])(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A server's command: `vllm serve` or its module, and what follows."""

    serve: bool  # False: python -m vllm.entrypoints.openai.api_server, which takes no model without --model
    arguments: tuple[str, ...]


def command_of(argv: Sequence[str]) -> Command | None:
    """The server that a process is, or None. A shell or uv that started one is not it."""
    words = list(argv)
    first = os.path.basename(_at(words, 0))
    if first == "vllm":
        return _serve(words[1:])
    return _python(words) if PYTHON.fullmatch(first) else None


def _python(words: list[str]) -> Command | None:
    """Past the interpreter's own options, its module or script."""
    index = 1
    while index < len(words) and words[index].startswith("-"):
        option = PYTHON_OPTION.fullmatch(words[index])
        if option and option[1] == "c":
            return None
        if option and option[1] == "m":
            name, rest = (option[2], words[index + 1 :]) if option[2] else (_at(words, index + 1), words[index + 2 :])
            return _module(name, rest)
        index += 2 if option and not option[2] else 1
    script, rest = _at(words, index), words[index + 1 :]
    if SCRIPTS.search(script):
        return Command(False, tuple(rest))
    return _serve(rest) if os.path.basename(script) == "vllm" else None


def _at(words: Sequence[str], index: int) -> str:
    return words[index] if index < len(words) else ""


def _module(name: str, rest: list[str]) -> Command | None:
    if MODULES.fullmatch(name):
        return Command(False, tuple(rest))
    return _serve(rest) if name in ("vllm", "vllm.entrypoints.cli.main") else None


def _serve(rest: Sequence[str]) -> Command | None:
    return Command(True, tuple(rest[1:])) if rest and rest[0] == "serve" else None


@dataclass
class Options:
    """What a command line says. `given` holds options by their long name with dashes."""

    model: str | None = None
    given: dict[str, t.Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def config_file(command: Command) -> str | None:
    """The file that vLLM reads options from: only as a word of its own, --config=FILE it passes over."""
    words = command.arguments
    return next((value for name, value in zip(words, words[1:]) if name == "--config"), None)


def options(command: Command, config: Mapping[str, t.Any] | None = None) -> Options:
    """Options and model of a command line, over those of its configuration file."""
    said = Options()
    nested: dict[str, dict[str, t.Any]] = {}
    for name, value in _configured(config or {}):
        _put(said, nested, name, value)
    loose = list(_walk(command.arguments, said, nested))
    said.given.update(nested)  # vLLM appends what it gathered from --x.y, so it wins over --x
    tag = said.given.pop("model-tag", None)
    model = said.given.pop("model", None)
    first = loose[0] if command.serve and loose else None
    said.model = next((str(item) for item in (model, first, tag) if item is not None), None)
    if command.serve and command.arguments and not _is_option(command.arguments[0]):
        said.model = str(model) if _says_model(command.arguments) else command.arguments[0]
    for word in loose[1:] if command.serve else loose:
        said.problems.append(f"argument {_short(word)}: not an option and not the model, so it is not understood")
    if any(word.startswith("--config=") for word in command.arguments):
        said.notes.append("--config=FILE is passed over by vLLM (it reads --config FILE), and so it is here")
    said.given.pop("config", None)
    return said


def _says_model(arguments: Iterable[str]) -> bool:
    return any(word == "--model" or word.startswith("--model=") for word in arguments)


def _short(word: str) -> str:
    return repr(word if len(word) <= 40 else word[:37] + "...")


def _configured(config: Mapping[str, t.Any]) -> Iterator[tuple[str, t.Any]]:
    """As load_config_file of vLLM 0.32."""
    for key, value in config.items():
        name = _long(str(key).replace("_", "-"))
        if value is False:
            if name in _adopt_options.FLAGS or name not in _adopt_options.KNOWN:
                yield name, False
        elif isinstance(value, list):
            if value:
                yield name, [typed(str(item)) for item in value]
        elif value is None:
            yield name, "None"  # what str(None) gives vLLM, which most options read as none
        else:
            yield name, value


def _put(said: Options, nested: dict[str, dict[str, t.Any]], name: str, value: t.Any) -> None:
    """The last one counts, except where vLLM gathers."""
    if name in _adopt_options.GATHERED and name in said.given:
        earlier = said.given[name]
        value = [
            *(earlier if isinstance(earlier, list) else [earlier]),
            *(value if isinstance(value, list) else [value]),
        ]
    if name.startswith("no-") and value is True and name not in _adopt_options.FLAGS:
        name, value = name[3:], False
    nested.pop(name, None)
    said.given[name] = value


def _is_option(word: str) -> bool:
    """As argparse: negative numbers and what holds a space are values."""
    if len(word) < 2 or not word.startswith("-"):
        return False
    return not re.fullmatch(r"-\d+|-\d*\.\d+", word) and (" " not in word or "=" in word.split(" ", 1)[0])


def full_name(word: str) -> tuple[str, str | None]:
    """(long name with dashes, value after =) of an option's word: short forms, underscores, abbreviations."""
    key, equals, value = word.partition("=")
    given = value if equals else None
    if not key.startswith("--"):
        level = re.fullmatch(r"-O(.+)", key)
        if level:
            return ("optimization-level", level[1]) if "." not in key else ("compilation-config" + level[1], given)
        if key == "-O":
            return "optimization-level", given
        head, dot, rest = key[1:].partition(".")
        if head in _adopt_options.SHORT:
            return _adopt_options.SHORT[head] + dot + rest, given
        if head[:1] in _adopt_options.SHORT and len(head) > 1:
            return _adopt_options.SHORT[head[0]], key[2:] + equals + value
        return head + dot + rest, given
    head, dot, rest = key[2:].partition(".")
    return _long(head.replace("_", "-")) + dot + rest, given


def _long(name: str) -> str:
    """argparse takes the start of a name for the name, if there is only one."""
    if name not in _adopt_options.KNOWN:
        longer = [known for known in _adopt_options.KNOWN if known.startswith(name)]
        name = longer[0] if len(longer) == 1 else name
    return _adopt_options.ALIASES.get(name, name)


def _walk(arguments: Sequence[str], said: Options, nested: dict[str, dict[str, t.Any]]) -> Iterator[str]:
    """Read options into `said`, yield what stands alone."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if word == "--":
            yield from arguments[index:]
            return
        if not _is_option(word):
            yield word
            continue
        name, value = full_name(word)
        follow = index
        while follow < len(arguments) and not _is_option(arguments[follow]) and arguments[follow] != "--":
            follow += 1
        ready = list(arguments[index:follow])
        if "." in name:
            if value is None:
                value, ready = (ready[0], ready[1:]) if ready else ("", [])
                index += 1
            _nest(nested, name, value)
            continue
        taken = _take(name, value, ready)
        if taken is None:
            said.problems.append(f"--{name}: has no value")
            continue
        result, used = taken
        index += used
        _put(said, nested, name, result)


def _take(name: str, value: str | None, ready: list[str]) -> tuple[t.Any, int] | None:
    """(value of an option, how many of the words after it are its own)."""
    if value is not None:
        return typed(value), 0
    if name in _adopt_options.FLAGS or name in _adopt_options.NEGATED:
        return True, 0
    if not ready:
        return None if name in _adopt_options.VALUES or name in _adopt_options.LISTS else (True, 0)
    if name in _adopt_options.VALUES or name in _adopt_options.OPTIONAL:
        return typed(ready[0]), 1
    values = [typed(item) for item in ready]
    return (values[0] if len(values) == 1 else values), len(ready)


def _nest(nested: dict[str, dict[str, t.Any]], name: str, text: str) -> None:
    """--a.b.c VALUE is part of the JSON of --a; with + it is a list."""
    if name.endswith("+"):
        name, text = name[:-1], json.dumps(text.split(","))
    head, *keys = name.split(".")
    try:
        value = json.loads(text)
    except ValueError:
        number = human_number(text)
        value = text if number is None else number
    for key in reversed(keys[1:]):
        value = {key: value}
    _merge(nested.setdefault(head, {}), keys[0], value)


def _merge(target: dict[str, t.Any], key: str, value: t.Any) -> None:
    there = target.get(key)
    if isinstance(there, dict) and isinstance(value, dict):
        for inner, item in value.items():
            _merge(there, inner, item)
    elif isinstance(there, list) and isinstance(value, list):
        there.extend(value)
    else:
        target[key] = value


def human_number(text: str) -> int | None:
    """vLLM's 1k (1000), 1K (1024), 25.6k; plain whole numbers too."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)([kKmMgGtT])", text.strip())
    if not found:
        return int(text) if re.fullmatch(r"\s*-?\d{1,18}\s*", text) else None
    power = "kmgt".index(found[2].lower()) + 1
    if found[2].islower():
        return int(float(found[1]) * 1000**power)
    return None if "." in found[1] else int(found[1]) * 1024**power


def typed(text: str) -> t.Any:
    """A word as YAML would hold it, where that gives vLLM the very same word again; else the word."""
    if re.fullmatch(r"0|-?[1-9]\d{0,16}", text):
        return int(text)
    if re.fullmatch(r"-?(0|[1-9]\d{0,9})\.\d{1,10}", text) and str(float(text)) == text:
        return float(text)
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, dict) else text
    return text
