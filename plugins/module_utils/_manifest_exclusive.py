# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names in a directory that belong to a manifest alone: what stands there beside what it lists is extra. Pure.

Private to steadfast.vllm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual


@dataclass(frozen=True)
class Exclusive:
    """The names in one directory that match a pattern, and what the removal of an extra one owes."""

    path: str
    pattern: str = "*"
    owes: tuple[str, ...] = ()


def matching(
    rules: Iterable[Exclusive], actual: Mapping[str, Actual], spelled: Callable[[str], str] = str
) -> dict[str, tuple[str, ...]]:
    """Every path that a rule covers, with what its removal would owe.

    C(spelled) gives the name by which the manifest calls a path, where a link gives it two.
    """
    found: dict[str, tuple[str, ...]] = {}
    for rule in rules:
        for name in sorted(actual.get(rule.path, Actual()).children):
            if fnmatchcase(name, rule.pattern):
                path = spelled(f"{rule.path}/{name}")
                found[path] = tuple(dict.fromkeys((*found.get(path, ()), *rule.owes)))
    return found


def warnings(rules: Iterable[Exclusive], actual: Mapping[str, Actual]) -> list[str]:
    """Directories that could not be looked into, because something else stands there."""
    kinds = {rule.path: actual.get(rule.path, Actual()).kind for rule in rules}
    return [
        f"{path}: is {'a symbolic link' if kind == _manifest_plan.LINK else 'no directory'}, so nothing in it was "
        "looked at for exclusive: replace it by a directory, or take it out of exclusive"
        for path, kind in kinds.items()
        if kind not in (_manifest_plan.DIRECTORY, _manifest_plan.ABSENT)
    ]
