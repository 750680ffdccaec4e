# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether `vllm serve` of one version would take an instance's `extra_args`: it says so itself only once it starts.

Private to this collection. Pure, standard library only. The options come from roles/vllm/files/options, which
scripts/serve_options.py makes. What only vLLM can judge (a model's own limits, the keys of a JSON option) is left to
it.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from ansible_collections.steadfast.vllm.plugins.module_utils import _derive

SWITCH, VALUE, OPTIONAL = "switch", "value", "optional"
NUMBERS: dict[str, tuple[t.Callable[[str], object], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
}


class ServeOptions(t.NamedTuple):
    """options: by name without dashes: `switch`, `int`, `float`, the list of its choices, `value` for anything, or
    `optional` for anything and nothing.
    """

    version: str
    options: Mapping[str, object]


def read(given: object) -> ServeOptions | None:
    """None where nothing is known of the version. Raises ValueError for what is no such file's content."""
    if not given:
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("options"), Mapping) or not given.get("version"):
        raise ValueError("no options of vllm serve: give what scripts/serve_options.py prints, or nothing")
    return ServeOptions(str(given["version"]), given["options"])


def problems(extra_args: Mapping[str, t.Any], known: ServeOptions) -> Iterator[tuple[str, str]]:
    """(option, why it is refused), values never shown: an extra argument may be private."""
    for name, value in extra_args.items():
        why = _refused(name, value, known)
        if why:
            yield name, why


def _refused(name: str, value: t.Any, known: ServeOptions) -> str:
    base, dot, _rest = name.partition(".")
    option = _option(base, known.options)
    if option is None:
        close = get_close_matches(base, known.options, n=1)
        meant = f"did you mean {close[0]}?" if close else "see `vllm serve --help=all` of that version"
        return f"vllm serve {known.version} has no such option, and would not start: {meant}"
    if dot or _derive.unsaid(option, value):
        return ""
    written, value = _derive.said(option, value)
    if written not in known.options:
        return f"false, but vllm serve {known.version} knows no false there: leave the option out, or write its value"
    return _value_refused(known.options[written], value, known.version)


def _option(base: str, options: Mapping[str, object]) -> str | None:
    """The option that argparse takes it for: an unambiguous beginning will do."""
    if base in options:
        return base
    begun = [option for option in options if option.startswith(base)]
    return begun[0] if len(begun) == 1 else None


def _value_refused(takes: object, value: t.Any, version: str) -> str:
    if takes == SWITCH:
        return "" if isinstance(value, bool) else f"a switch of vllm serve {version}: write true or false"
    if takes == OPTIONAL:
        return ""
    if isinstance(value, bool):
        return f"true, but vllm serve {version} takes a value there: write {_wanted(takes)}"
    if takes == VALUE:
        return ""
    items = value if isinstance(value, list) else [value]
    return "" if all(_fits(takes, item) for item in items) else f"vllm serve {version} takes {_wanted(takes)}"


def _wanted(takes: object) -> str:
    if isinstance(takes, list):
        return f"one of {', '.join(map(str, takes))}"
    return NUMBERS[str(takes)][1] if takes in NUMBERS else "it"


def _fits(takes: object, item: object) -> bool:
    if isinstance(takes, list):
        return str(item) in takes
    try:
        NUMBERS[str(takes)][0](str(item))
    except ValueError:
        return False
    return True
