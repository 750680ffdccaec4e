# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's apt sources, read, and what they lack of their own archive (private to this collection). Pure.

No archive is named here: a host's own sources say where its distribution comes from.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence

# Of a one-line source's options those that deb822 has, by its own names (sources.list(5)).
OPTIONS = {
    "signed-by": "Signed-By",
    "arch": "Architectures",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "check-date": "Check-Date",
    "inrelease-path": "InRelease-Path",
    "by-hash": "By-Hash",
    "pdiffs": "PDiffs",
}
FIELDS = ("Types", "URIs", "Suites", "Components", "Enabled")


class Source(t.NamedTuple):
    """One stanza of the kind deb. options: the rest of it, as deb822 has them."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


def read(files: Mapping[str, str]) -> list[Source]:
    """The enabled sources of packages in the files of apt, {name: text}; .sources is deb822, the rest one-line."""
    found: list[Source] = []
    for name, text in files.items():
        found += _stanzas(text) if name.endswith(".sources") else _lines(text)
    return found


def _lines(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)", line.partition("#")[0].strip())
        if match:
            pairs = (word.partition("=") for word in (match[1] or "").split())
            options = tuple((OPTIONS[key], value.replace(",", " ")) for key, _is, value in pairs if key in OPTIONS)
            found.append(Source((match[2],), (match[3],), tuple(match[4].split()), options))
    return found


def _stanzas(text: str) -> list[Source]:
    found = []
    for block in re.split(r"\n[ \t]*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields = {
            name.lower(): value.strip()
            for name, value in re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", block, re.MULTILINE)
        }
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in ("no", "false"):
            known = [field.lower() for field in FIELDS]
            names = re.findall(r"^([A-Za-z-]+):", block, re.MULTILINE)
            options = tuple((name, fields[name.lower()]) for name in names if name.lower() not in known)
            uris, suites, components = (
                tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components")
            )
            found.append(Source(uris, suites, components, options))
    return found


def lacking(
    sources: Iterable[Source], codename: str, origins: Mapping[str, str], wanted: Sequence[str]
) -> list[Source]:
    """The same archives with those components alone that are wanted and that no source has.

    An archive is the distribution's own if it has the component main for a suite of the code name and says so itself:
    `origins`, {address: origin}, has those whose index is known. Of an unknown one the address has to say it.
    """
    suites = (codename, f"{codename}-updates", f"{codename}-security")
    had: dict[tuple[str, str], set[str]] = {}
    kept: dict[tuple[str, str], Source] = {}
    for source in sources:
        for uri in source.uris:
            for suite in set(source.suites) & set(suites):
                place = (uri.rstrip("/"), suite)
                had.setdefault(place, set()).update(source.components)
                kept.setdefault(place, source)
    found: dict[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], list[str]] = {}
    for (uri, suite), components in had.items():
        missing = tuple(name for name in wanted if name not in components)
        if "main" in components and missing and _own(uri, origins):
            found.setdefault((uri, missing, kept[uri, suite].options), []).append(suite)
    return [Source((uri,), tuple(sorted(names)), missing, options) for (uri, missing, options), names in found.items()]


def own(sources: Iterable[Source], codename: str, origins: Mapping[str, str]) -> bool:
    """Whether the distribution's own archive is among the sources."""
    return any(
        codename in source.suites and "main" in source.components and any(_own(uri, origins) for uri in source.uris)
        for source in sources
    )


def _own(uri: str, origins: Mapping[str, str]) -> bool:
    origin = origins.get(uri.rstrip("/"))
    if origin:
        return origin in ("Debian", "Ubuntu")
    return re.search(r"/(debian|ubuntu)(-security|-ports)?$", uri.rstrip("/")) is not None


def text(sources: Iterable[Source], head: str) -> str:
    """The sources as a file of deb822."""
    stanzas = []
    for source in sources:
        lines = ["Types: deb", f"URIs: {' '.join(source.uris)}", f"Suites: {' '.join(source.suites)}"]
        if source.components:
            lines.append(f"Components: {' '.join(source.components)}")
        lines += [f"{name}:{_folded(value)}" for name, value in source.options]
        stanzas.append("\n".join(lines))
    return f"# {head}\n" + "\n\n".join(stanzas) + "\n" if stanzas else ""


def _folded(value: str) -> str:
    """A value of several lines keeps them: the key of a Signed-By may stand in the file itself."""
    return (
        "\n" + "\n".join(f" {line.strip() or '.'}" for line in value.splitlines() if line)
        if "\n" in value
        else f" {value}"
    )
