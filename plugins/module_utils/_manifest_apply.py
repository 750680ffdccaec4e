# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply a manifest to this host: look, validate, write ahead, change, act on what is owed. The edge of _manifest_plan.

Private to steadfast.vllm.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _manifest,
    _manifest_diff,
    _manifest_exclusive,
    _manifest_files,
    _manifest_plan,
    _manifest_validate,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import ManifestError
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_commands import Runner, failure_of
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_exclusive import Exclusive
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_files import parent, resolved
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Manifest, Plan, Step
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_validate import Item

LEAVES = (_manifest_plan.REMOVE, _manifest_plan.FORGET)


@dataclass(frozen=True)
class Action:
    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What one call of managed_files asks for."""

    directory: str
    name: str
    items: tuple[Item, ...]
    actions: tuple[Action, ...] = ()
    exclusive: tuple[Exclusive, ...] = ()
    check: bool = False
    diff: bool = False
    # Where check mode may stage files for validators; else they are staged under the directory.
    scratch: str = ""


@dataclass
class Outcome:
    """What a run did, or in check mode would do."""

    files: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    owed: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    unvalidated: list[dict[str, str]] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.files or self.removed or self.actions)

    def tell(self, steps: Sequence[Step]) -> None:
        self.removed = [step.path for step in steps if step.verb == _manifest_plan.REMOVE]
        self.files = [step.path for step in steps if step.verb not in LEAVES]


@dataclass
class Host:
    """The side effects that tests replace.

    C(run) runs a program without a shell, C(label) sets the SELinux context of a new file, and C(checkpoint) is told of
    each point where a kill could come.
    """

    run: Runner
    label: Callable[[str, str], None] | None = None
    checkpoint: Callable[[str], None] = lambda place: None


class Run:
    """One call of managed_files on this host. The outcome tells the truth also where the call ended in an error."""

    def __init__(self, request: Request, host: Host) -> None:
        self.request = request
        self.items = {item.path: item for item in request.items}
        self.host = host
        self.outcome = Outcome()
        base = request.scratch if request.check and request.scratch else request.directory
        self.stage = f"{base}/.staging-{request.name}"
        # The manifest on the disk: None where there is none that can be read.
        self.stored: Manifest | None = None
        self.garbled = False

    def __call__(self) -> Outcome:
        try:
            with _manifest.lock(self.request.directory, create=not self.request.check):
                self._locked()
        except OSError as error:
            raise ManifestError(_explain(error)) from error
        return self.outcome

    def _locked(self) -> None:
        known = self._load()
        manifest = self._without_renamed(known)
        others, unreadable = self._others()
        problems = self._claimed(others)
        desired = [item.desired for item in self.items.values()]
        rules = self.request.exclusive
        looked_at = {*self.items, *manifest.entries, *(rule.path for rule in rules)}
        actual = {path: _manifest_files.look(path) for path in looked_at}
        exclusive = _manifest_exclusive.matching(rules, actual, self._spelling(manifest))
        actual.update({path: _manifest_files.look(path) for path in exclusive if path not in actual})
        # Where a manifest cannot be read, nobody knows what it claims.
        claimed = frozenset(path for path in exclusive if unreadable or resolved(path) in others)
        plan = _manifest_plan.plan(desired, manifest, actual, exclusive, claimed)
        problems += [*plan.problems, *self._missing_parents(), *self._own_state()]
        if problems:
            raise ManifestError("\n".join(problems))
        self._validate(plan)
        self.outcome.warnings += _manifest_exclusive.warnings(rules, actual)
        self._warn_unreadable(unreadable, [path for path in plan.kept if path in claimed])
        self.outcome.kept = list(plan.kept)
        if self.request.diff:
            self.outcome.diff = [
                entry for step in plan.steps for entry in self._diff(step, manifest, actual.get(step.path, Actual()))
            ]
        if self.request.check:
            self.outcome.tell(plan.steps)
            self.outcome.actions = [action.name for action in self.request.actions if action.name in plan.final.owed]
            self.outcome.owed = sorted(plan.final.owed.difference(self.outcome.actions))
        else:
            self._apply(plan, known)

    # Before the plan

    def _load(self) -> Manifest:
        try:
            self.stored = _manifest.load(self.request.directory, self.request.name)
        except _manifest.Garbled as error:
            self.garbled = True
            owed = frozenset(name for item in self.items.values() for name in item.desired.owes)
            self.outcome.warnings.append(
                f"The manifest could not be read and is made anew: {error}. A copy of it is kept beside it. Nothing "
                "that only it knew of is removed; what it owed is unknown, so all that is listed is owed: "
                f"{', '.join(sorted(owed)) or 'nothing'}"
            )
            return Manifest(owed=owed)
        return self.stored or Manifest()

    def _without_renamed(self, manifest: Manifest) -> Manifest:
        """Leave out what is listed now under another name of the same place: removing it would remove the new one."""
        listed = {resolved(path) for path in self.items}
        gone = {path for path in manifest.entries if path not in self.items and resolved(path) in listed}
        return manifest.without_entries(gone) if gone else manifest

    def _spelling(self, manifest: Manifest) -> Callable[[str], str]:
        """By which name the manifest knows a path: one that is listed through a link is no extra file."""
        names = {resolved(path): path for path in (*manifest.entries, *self.items)}
        return lambda path: names.setdefault(resolved(path), path)

    def _others(self) -> tuple[dict[str, str], list[str]]:
        """Which other manifest claims which place, and the manifests that do not say."""
        places: dict[str, str] = {}
        unreadable = []
        for other in _manifest.names(self.request.directory):
            if other == self.request.name:
                continue
            try:
                manifest = _manifest.load(self.request.directory, other) or Manifest()
            except ManifestError:
                # It is for the run of that manifest to say so.
                unreadable.append(_manifest.manifest_path(self.request.directory, other))
                continue
            places.update({resolved(path): other for path in manifest.entries})
        return places, unreadable

    def _claimed(self, others: Mapping[str, str]) -> list[str]:
        problems = []
        places: dict[str, str] = {}
        for path in self.items:
            place = resolved(path)
            if place in places:
                problems.append(f"{path}: is the same place as {places[place]}, by a link: list it once")
            places[place] = path
        for place, path in places.items():
            if place in others:
                other = others[place]
                where = _manifest.manifest_path(self.request.directory, other)
                problems.append(
                    f"{path}: belongs to the manifest {other} ({where}). One path has one owner: take it out of "
                    f"{other} and run that first, or take it out of {self.request.name}"
                )
        return problems

    def _own_state(self) -> list[str]:
        """The manifests themselves are nobody's extra files, by whatever name their directory goes."""
        state = os.path.realpath(self.request.directory)
        return [
            f"{rule.path}: is {state}, where the manifests are kept: take it out of exclusive"
            for rule in self.request.exclusive
            if _manifest_plan.within(resolved(rule.path), [state])
        ]

    def _warn_unreadable(self, unreadable: Sequence[str], kept: Sequence[str]) -> None:
        if unreadable and kept:
            self.outcome.warnings.append(
                f"{', '.join(kept)}: would be removed, because it is not listed, but was kept: {', '.join(unreadable)} "
                "cannot be read and may claim it. Run the role of that manifest, which makes it anew, and run again"
            )

    def _missing_parents(self) -> list[str]:
        problems = []
        listed = {path for path, item in self.items.items() if item.desired.state == _manifest_plan.DIRECTORY}
        missing = {parent(path): path for path in reversed(self.items) if not Path(parent(path)).is_dir()}
        for folder, path in sorted(missing.items()):
            if folder in listed:
                continue
            if not self.request.check:
                problems.append(f"{path}: its directory {folder} does not exist: list it with state: directory before")
            elif not _manifest_plan.within(folder, listed):
                self.outcome.warnings.append(f"{path}: its directory {folder} does not exist (yet)")
        return problems

    def _validate(self, plan: Plan) -> None:
        changing = {step.path for step in plan.steps if step.verb == _manifest_plan.WRITE}
        found = _manifest_validate.verdicts(list(self.items.values()), changing, self.stage, self.host.run)
        first = self.stored is None and not self.garbled
        refusals = []
        for verdict in found:
            # In check mode an earlier task did not install what a validator needs. On a host that has this manifest
            # everything is there, and a refusal is one.
            if self.request.check and (first or not verdict.refused):
                self.outcome.unvalidated.append({"path": verdict.path, "reason": verdict.reason})
            else:
                refusals.append(verdict.reason if verdict.refused else f"{verdict.reason}: install it before this task")
        if refusals:
            raise ManifestError(
                "\n".join(refusals) + "\nNothing was changed. Correct what the file is made from and run again"
            )

    def _diff(self, step: Step, manifest: Manifest, now: Actual) -> list[dict[str, str]]:
        item = self.items.get(step.path)
        entry = manifest.entries.get(step.path)
        secret = bool((item and item.desired.secret) or (entry and entry.secret))
        if item is None and entry is None:
            # An extra file beside a secret one may be its copy.
            secret = resolved(parent(step.path)) in self._secret_places(manifest)
        old = new = b""
        target = ""
        if not secret:
            old = Path(step.path).read_bytes() if now.kind == _manifest_plan.FILE else b""
            new = item.content if item else b""
        if now.kind == _manifest_plan.LINK:
            target = str(Path(step.path).readlink())
        return _manifest_diff.of_step(step, now, item.desired if item else None, (old, new), (secret, target))

    def _secret_places(self, manifest: Manifest) -> set[str]:
        listed = {path for path, item in self.items.items() if item.desired.secret}
        known = {path for path, entry in manifest.entries.items() if entry.secret}
        return {resolved(parent(path)) for path in listed | known}

    # Changing

    def _apply(self, plan: Plan, known: Manifest) -> None:
        self._sweep(known)
        done: list[Step] = []
        made: list[str] = []
        try:
            if plan.steps:
                self.host.checkpoint("before writing ahead")
                self._store(plan.ahead)
            self._prepare(plan, made)
            self._remove(plan, done)
            self._change(plan, done)
        except (OSError, ManifestError) as error:
            self._give_up(plan, known, done, made)
            if isinstance(error, OSError):
                raise ManifestError(_explain(error)) from error
            raise
        self.outcome.tell(plan.steps)
        failure = self._act(plan.final.owed)
        self.host.checkpoint("before the final manifest")
        self._store(Manifest(plan.final.entries, frozenset(self.outcome.owed)))
        self.host.checkpoint("after the final manifest")
        if failure:
            raise ManifestError(failure)

    def _sweep(self, known: Manifest) -> None:
        """Remove what a killed run left: staged files and temporary files."""
        shutil.rmtree(self.stage, ignore_errors=True)
        for path in {*self.items, *known.entries}:
            if Path(parent(path)).is_dir():
                _manifest_files.remove_quietly(_manifest_files.temporary_path(path))

    def _store(self, manifest: Manifest) -> None:
        directory, name = self.request.directory, self.request.name
        if self.garbled:
            _manifest.set_aside(directory, name)
        wanted = manifest if manifest != Manifest() else None
        if self.garbled or self.stored != wanted or not _manifest.is_private(_manifest.manifest_path(directory, name)):
            _manifest.save(directory, name, manifest)
        self.garbled, self.stored = False, wanted

    def _prepare(self, plan: Plan, made: list[str]) -> None:
        """Everything that takes space, before anything is stopped, removed or replaced."""
        for step in plan.steps:
            self.host.checkpoint(f"before preparing {step.path}")
            if step.verb == _manifest_plan.MAKE:
                _manifest_files.make_directory(self.items[step.path].desired, self.host.label)
                made.append(step.path)
            elif step.verb == _manifest_plan.WRITE:
                item = self.items[step.path]
                owner = (item.desired.uid, item.desired.gid)
                _manifest_files.write_beside(step.path, item.content, item.desired.mode, owner, self.host.label)

    def _remove(self, plan: Plan, done: list[Step]) -> None:
        for step in plan.steps:
            if step.verb in LEAVES:
                self.host.checkpoint(f"before removing {step.path}")
                self._before_remove(step)
                self.host.checkpoint(f"ready to remove {step.path}")
                if step.verb == _manifest_plan.REMOVE:
                    _manifest_files.remove(step.path)
                done.append(step)

    def _before_remove(self, step: Step) -> None:
        failure = failure_of(step.before_remove, self.host.run) if step.before_remove else ""
        if failure and step.verb == _manifest_plan.FORGET:
            self.outcome.warnings.append(f"{step.path}: is gone already; what was to run before its removal, {failure}")
        elif failure:
            raise ManifestError(
                f"{step.path}: is no longer listed but was kept, because before its removal {failure}\n"
                "It stays in the manifest: mend the reason and run again"
            )

    def _change(self, plan: Plan, done: list[Step]) -> None:
        for step in plan.steps:
            if step.verb in LEAVES:
                continue
            self.host.checkpoint(f"before changing {step.path}")
            if step.verb == _manifest_plan.WRITE:
                _manifest_files.move_into_place(step.path)
            elif step.verb == _manifest_plan.ATTRIBUTES:
                _manifest_files.set_attributes(self.items[step.path].desired)
            done.append(step)

    def _give_up(self, plan: Plan, known: Manifest, done: Sequence[Step], made: Sequence[str]) -> None:
        """Take back what was only prepared, and leave a manifest that owes for what was done and no more."""
        finished = {step.path for step in done}
        for step in plan.steps:
            if step.verb == _manifest_plan.WRITE and step.path not in finished:
                _quietly(_manifest_files.remove_quietly, _manifest_files.temporary_path(step.path))
        left = [path for path in reversed(made) if path in finished or not _quietly(Path(path).rmdir)]
        truth = _manifest_plan.after(known, done, plan.final, left)
        # On a full disk the manifest written ahead stays: it owes too much, never too little.
        _quietly(self._store, truth)
        self.outcome.tell(done)
        self.outcome.owed = sorted((self.stored or Manifest()).owed)
        self.outcome.diff = []

    def _act(self, owed: frozenset[str]) -> str:
        """Run the owed actions in order until one fails; why it did, or nothing. The outcome has what is still owed."""
        failure = ""
        for action in self.request.actions:
            if action.name not in owed:
                continue
            self.host.checkpoint(f"before action {action.name}")
            reason = failure_of(action.command, self.host.run)
            if reason:
                failure = (
                    f"The files are in place, but {action.name} stays owed: {reason}\nMend the reason and run again"
                )
                break
            self.outcome.actions.append(action.name)
        self.outcome.owed = sorted(owed.difference(self.outcome.actions))
        return failure


def _quietly(action: Callable[..., object], *arguments: object) -> bool:
    """Whether it went well: for tidying up after an error that is worth more than this one."""
    try:
        action(*arguments)
    except (OSError, ManifestError):
        return False
    return True


def _explain(error: OSError) -> str:
    path = str(error.filename2 or error.filename or "")
    if path.endswith(_manifest_files.SUFFIX):
        path = f"{parent(path)}/{Path(path).name[1 : -len(_manifest_files.SUFFIX)]}"
    where = f"{path}: " if path else ""
    return (
        f"{where}cannot be read or written: {error.strerror or error}. No file is half-written; what was done is in "
        "the manifest. Mend the reason and run again"
    )
