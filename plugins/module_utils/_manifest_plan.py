# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do so that a host holds what a manifest lists: pure decisions on plain data, no I/O.

Private to steadfast.vllm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

ABSENT = "absent"
FILE = "file"
DIRECTORY = "directory"
LINK = "link"
OTHER = "other"

REMOVE = "remove"
# Somebody else removed it already: what a removal owes is owed, but nothing is changed here.
FORGET = "forget"
MAKE = "make"
WRITE = "write"
ATTRIBUTES = "attributes"


@dataclass(frozen=True)
class Entry:
    """One path that a manifest answers for, and what must be known to take it away later."""

    path: str
    state: str = "file"
    owes: tuple[str, ...] = ()
    before_remove: tuple[str, ...] = ()
    secret: bool = False
    # Only a directory that we made is ours to remove.
    made: bool = False


@dataclass(frozen=True)
class Manifest:
    entries: Mapping[str, Entry] = field(default_factory=dict)
    owed: frozenset[str] = frozenset()

    def without_owed(self, names: Iterable[str]) -> Manifest:
        return replace(self, owed=self.owed - frozenset(names))

    def without_entries(self, paths: Iterable[str]) -> Manifest:
        left = frozenset(paths)
        return replace(self, entries={path: entry for path, entry in self.entries.items() if path not in left})


@dataclass(frozen=True)
class Desired:
    """One path as it is to be. The digest is of a file's content; owners are numbers, -1 for one not known yet."""

    path: str
    state: str = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    digest: str = ""
    secret: bool = False
    owes: tuple[str, ...] = ()
    before_remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Actual:
    """What stands at a path now, not following a symbolic link."""

    kind: str = ABSENT
    mode: int = 0
    uid: int = 0
    gid: int = 0
    digest: str = ""
    children: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    verb: str
    path: str
    owes: tuple[str, ...] = ()
    before_remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Steps in the order to take them, and the manifest before the first and after the last."""

    steps: tuple[Step, ...]
    ahead: Manifest
    final: Manifest
    # Not ours to remove: no longer listed but not made by us, not empty, or no longer what we put there; or extra but
    # claimed by another manifest.
    kept: tuple[str, ...]
    problems: tuple[str, ...]


def plan(
    desired: Sequence[Desired],
    manifest: Manifest,
    actual: Mapping[str, Actual],
    exclusive: Mapping[str, tuple[str, ...]] | None = None,
    claimed: frozenset[str] = frozenset(),
) -> Plan:
    """Decide the steps. A path missing in C(actual) is absent; C(actual) must cover desired, manifest and exclusive.

    C(exclusive) are paths that nobody but this manifest may fill, with what their removal owes; those that are
    C(claimed) are another manifest's and stay.
    """
    listed = {item.path: item for item in desired}
    problems = [problem for item in desired for problem in _problems(item, actual.get(item.path, Actual()))]
    extra, foreign = _extra(exclusive or {}, listed, actual, claimed)
    removals, kept = _removals(listed, manifest, actual, extra)
    changes = [step for item in _ordered(desired) for step in _changes(item, actual.get(item.path, Actual()))]
    steps = tuple(removals) + tuple(changes)

    made = {step.path for step in changes if step.verb == MAKE}
    entries = {item.path: _entry(item, manifest, item.path in made) for item in desired}
    owed = manifest.owed.union(*(step.owes for step in steps))
    leaving = {step.path for step in removals}
    # What is extra gets no entry: after a kill it is the next list that decides whether it still is.
    removed = {path: manifest.entries[path] for path in leaving if path in manifest.entries}
    return Plan(
        steps=steps,
        ahead=Manifest({**removed, **entries}, owed),
        final=Manifest(entries, owed),
        kept=tuple(dict.fromkeys(path for path in (*kept, *foreign) if path not in leaving)),
        problems=tuple(problems),
    )


def after(manifest: Manifest, done: Sequence[Step], final: Manifest, made: Iterable[str] = ()) -> Manifest:
    """The manifest that tells the truth when a run ended early: old and new paths, owing only for what was done."""
    removed = {step.path for step in done if step.verb in (REMOVE, FORGET)}
    entries = {path: entry for path, entry in manifest.entries.items() if path not in removed}
    touched = {*made, *(step.path for step in done if step.path not in removed)}
    for path, entry in final.entries.items():
        if path in touched:
            entries[path] = entry
        elif path in entries:
            entries[path] = replace(entry, made=entries[path].made)
    owing = [*(step.owes for step in done), *(final.entries[path].owes for path in made)]
    return Manifest(entries, manifest.owed.union(*owing))


def within(path: str, directories: Iterable[str]) -> bool:
    """Whether C(path) is one of the directories or lies in one."""
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)


def _entry(item: Desired, manifest: Manifest, made_now: bool) -> Entry:
    before = manifest.entries.get(item.path)
    made = item.state == DIRECTORY and (made_now or (before is not None and before.made))
    return Entry(item.path, item.state, item.owes, item.before_remove, item.secret, made)


def _ordered(desired: Sequence[Desired]) -> list[Desired]:
    """Directories first and outer before inner; files in the order given."""
    directories = sorted((item for item in desired if item.state == DIRECTORY), key=lambda item: item.path)
    return directories + [item for item in desired if item.state != DIRECTORY]


def _problems(item: Desired, now: Actual) -> list[str]:
    if item.state == DIRECTORY:
        if now.kind == LINK:
            return [
                f"{item.path}: is a symbolic link. A directory is never managed through a link, because whoever can "
                "place the link would choose whose mode and owner are changed: list the directory it points to, or "
                "remove the link"
            ]
        if now.kind not in (ABSENT, DIRECTORY):
            return [f"{item.path}: is to be a directory but is something else: move it away and run again"]
        return []
    if now.kind == DIRECTORY:
        return [f"{item.path}: is to be a file but is a directory, which is not removed: move it away and run again"]
    if now.kind == OTHER:
        return [f"{item.path}: is to be a file but is a device, socket or pipe: move it away and run again"]
    return []


def _changes(item: Desired, now: Actual) -> list[Step]:
    same_attributes = (now.mode, now.uid, now.gid) == (item.mode, item.uid, item.gid)
    if item.state == DIRECTORY:
        if now.kind == ABSENT:
            return [Step(MAKE, item.path, item.owes)]
        return [] if same_attributes else [Step(ATTRIBUTES, item.path)]
    # A link at the place of a file is replaced, not followed: nobody's file elsewhere is written to.
    if now.kind != FILE or now.digest != item.digest:
        return [Step(WRITE, item.path, item.owes)]
    # Mending mode or owner owes nothing: what a running process has read is the same.
    return [] if same_attributes else [Step(ATTRIBUTES, item.path)]


def _extra(
    exclusive: Mapping[str, tuple[str, ...]],
    listed: Mapping[str, Desired],
    actual: Mapping[str, Actual],
    claimed: frozenset[str],
) -> tuple[dict[str, Step], list[str]]:
    """The removals of what stands where only this manifest may, and what another manifest has there."""
    found = [
        path for path in sorted(exclusive) if path not in listed and actual.get(path, Actual()).kind in (FILE, LINK)
    ]
    steps = {path: Step(REMOVE, path, exclusive[path]) for path in found if path not in claimed}
    return steps, [path for path in found if path in claimed]


def _removals(
    listed: Mapping[str, Desired], manifest: Manifest, actual: Mapping[str, Actual], extra: Mapping[str, Step]
) -> tuple[list[Step], list[str]]:
    """Files first, then directories from the inside, as far as they are empty by then.

    A file that the manifest knows is removed as it remembers, also where it would be extra.
    """
    gone = [entry for path, entry in sorted(manifest.entries.items()) if path not in listed]
    steps: list[Step] = []
    kept: list[str] = []
    for entry in gone:
        if entry.state == DIRECTORY:
            continue
        now = actual.get(entry.path, Actual())
        if now.kind in (FILE, LINK, ABSENT):
            steps.append(_removal(entry, now))
        else:
            kept.append(entry.path)
    known = {step.path for step in steps}
    steps += [step for path, step in extra.items() if path not in known]
    removed = {step.path for step in steps}
    arriving = {str(PurePosixPath(path).parent) for path in listed}
    for entry in reversed(gone):
        if entry.state != DIRECTORY or entry.path in removed:
            continue
        now = actual.get(entry.path, Actual())
        left = {name for name in now.children if f"{entry.path}/{name}" not in removed}
        empty = now.kind == DIRECTORY and not left and entry.path not in arriving
        if now.kind == ABSENT or (empty and entry.made):
            steps.append(_removal(entry, now))
            removed.add(entry.path)
        else:
            kept.append(entry.path)
    return steps, kept


def _removal(entry: Entry, now: Actual) -> Step:
    verb = FORGET if now.kind == ABSENT else REMOVE
    return Step(verb, entry.path, entry.owes, entry.before_remove)
