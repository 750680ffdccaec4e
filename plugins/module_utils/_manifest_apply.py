# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply a manifest to this host: look, validate, write ahead, change, run what is owed. The thin edge under _manifest_plan.

Private to steadfast.vllm.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest, _manifest_diff, _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import Manifest, ManifestError
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Desired, Plan, Step

TAIL = 4000


@dataclass(frozen=True)
class Item:
    """One listed path with what is needed beside the plan: bytes and validator."""

    desired: Desired
    content: bytes = b""
    validate: Optional[str] = None
    validate_as: Optional[str] = None

    @property
    def path(self) -> str:
        return self.desired.path


@dataclass(frozen=True)
class Action:
    name: str
    command: Tuple[str, ...]


@dataclass
class Outcome:
    """What a run did, or in check mode would do."""

    files: List[str] = field(default_factory=list)
    removed: List[str] = field(default_factory=list)
    kept: List[str] = field(default_factory=list)
    owed: List[str] = field(default_factory=list)
    actions: List[str] = field(default_factory=list)
    unvalidated: List[Dict[str, str]] = field(default_factory=list)
    diff: List[Dict[str, str]] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.files or self.removed or self.actions)


@dataclass(frozen=True)
class Finished:
    code: int
    output: str


def run_command(argv: Sequence[str]) -> Finished:
    """Run a program without a shell and without input; OSError where it cannot be started."""
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    done = subprocess.run(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False
    )
    return Finished(done.returncode, done.stdout.decode("utf-8", "replace").strip())


def find_program(argv: Sequence[str]) -> Optional[str]:
    return shutil.which(argv[0], path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


@dataclass
class Host:
    """The side effects, replaceable in tests. C(checkpoint) is told before each step that a kill could come between."""

    run: Callable[[Sequence[str]], Finished] = run_command
    label: Optional[Callable[[str, str], None]] = None
    checkpoint: Callable[[str], None] = lambda place: None


def look(path: str) -> Actual:
    """What stands at C(path), not following a link there."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Actual()
    kind, digest, children = _manifest_plan.OTHER, "", frozenset()  # type: Tuple[str, str, FrozenSet[str]]
    if stat.S_ISLNK(status.st_mode):
        kind = _manifest_plan.LINK
    elif stat.S_ISREG(status.st_mode):
        kind, digest = _manifest_plan.FILE, digest_of(read(path))
    elif stat.S_ISDIR(status.st_mode):
        kind = _manifest_plan.DIRECTORY
        children = frozenset(name for name in os.listdir(path) if not name.endswith(_manifest.SUFFIX))
    return Actual(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, digest, children)


def read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Run:
    """One call of managed_files on this host."""

    def __init__(
        self,
        directory: str,
        name: str,
        items: Sequence[Item],
        actions: Sequence[Action] = (),
        check: bool = False,
        diff: bool = False,
        scratch: str = "",
        host: Optional[Host] = None,
    ) -> None:
        self.directory, self.name = directory, name
        self.items = {item.path: item for item in items}
        self.actions = list(actions)
        self.check, self.want_diff = check, diff
        self.host = host or Host()
        self.stage = os.path.join(scratch if check and scratch else directory, f".staging-{name}")
        self.outcome = Outcome()

    def __call__(self) -> Outcome:
        try:
            with _manifest.lock(self.directory, create=not self.check):
                return self._locked()
        except OSError as error:
            raise ManifestError(f"{error.filename or self.directory}: {error.strerror or error}") from error

    def _locked(self) -> Outcome:
        known = self._load()
        manifest = known if known is not None else Manifest()
        self._refuse_claimed()
        desired = [item.desired for item in self.items.values()]
        actual = {path: look(path) for path in set(self.items) | set(manifest.entries)}
        plan = _manifest_plan.plan(desired, manifest, actual)
        problems = list(plan.problems) + self._missing_parents()
        if problems:
            raise ManifestError("\n".join(problems))
        self._report(plan, manifest, actual)
        self._validate(plan, first=known is None)
        owed = plan.final.owed
        if self.check:
            self.outcome.actions = _manifest_plan.to_run(owed, [action.name for action in self.actions])
            self.outcome.owed = sorted(owed - set(self.outcome.actions))
            return self.outcome
        self._apply(plan, known)
        return self.outcome

    # The manifest, before anything else

    def _load(self) -> Optional[Manifest]:
        try:
            return _manifest.load(self.directory, self.name)
        except _manifest.Garbled as error:
            owed = frozenset(name for item in self.items.values() for name in item.desired.owes)
            aside = "" if self.check else f" A copy is kept as {_manifest.set_aside(self.directory, self.name)}."
            self.outcome.warnings.append(
                f"The manifest could not be read and is made anew: {error}.{aside} Nothing that only it knew of is "
                f"removed; what it owed is unknown, so everything that is listed is owed: {', '.join(sorted(owed)) or '-'}"
            )
            return Manifest(owed=owed)

    def _refuse_claimed(self) -> None:
        problems = []
        for other in _manifest.names(self.directory):
            if other == self.name:
                continue
            try:
                manifest = _manifest.load(self.directory, other)
            except ManifestError:
                continue
            for path in sorted(set(self.items) & set(manifest.entries if manifest else ())):
                problems.append(
                    f"{path}: belongs to the manifest {other} ({_manifest.manifest_path(self.directory, other)}). One path "
                    f"has one owner: list it in one of the two, and run {other} without it first"
                )
        if problems:
            raise ManifestError("\n".join(problems))

    def _missing_parents(self) -> List[str]:
        problems = []
        listed = {path for path, item in self.items.items() if item.desired.state == _manifest_plan.DIRECTORY}
        for path in self.items:
            parent = os.path.dirname(path)
            if parent in listed or os.path.isdir(parent):
                continue
            if self.check and not os.path.lexists(parent):
                self.outcome.warnings.append(f"{path}: its directory {parent} does not exist (yet)")
                continue
            problems.append(f"{path}: its directory {parent} does not exist: list it with state: directory, or make it first")
        return problems

    # What is told

    def _report(self, plan: Plan, manifest: Manifest, actual: Mapping[str, Actual]) -> None:
        for step in plan.steps:
            if step.verb == _manifest_plan.REMOVE:
                self.outcome.removed.append(step.path)
            elif step.verb != _manifest_plan.FORGET:
                self.outcome.files.append(step.path)
        self.outcome.kept = list(plan.kept)
        if self.want_diff:
            for step in plan.steps:
                self.outcome.diff.extend(self._diff(step, manifest, actual.get(step.path, Actual())))

    def _diff(self, step: Step, manifest: Manifest, now: Actual) -> List[Dict[str, str]]:
        if step.verb == _manifest_plan.FORGET:
            return []
        item = self.items.get(step.path)
        entry = manifest.entries.get(step.path)
        secret = bool((item and item.desired.secret) or (entry and entry.secret))
        before = read(step.path) if now.kind == _manifest_plan.FILE and not secret else b""
        target = os.readlink(step.path) if now.kind == _manifest_plan.LINK else ""
        return _manifest_diff.of_step(step, now, before, target, item.desired if item else None, item.content if item else b"", secret)

    # Validators, on staged files

    def _validate(self, plan: Plan, first: bool) -> None:
        changing = {step.path for step in plan.steps_of(_manifest_plan.WRITE)}
        checked = [item for item in self.items.values() if item.validate and item.path in changing]
        if not checked:
            return
        with self._staged({os.path.dirname(item.path) for item in checked}) as places:
            problems = [problem for item in checked for problem in self._validate_one(item, places[item.path], first)]
        if problems:
            raise ManifestError("Nothing was changed, because a new file was refused.\n" + "\n".join(problems))

    def _validate_one(self, item: Item, place: str, first: bool) -> List[str]:
        command = item.validate or ""
        argv = [word.replace("%s", place) for word in shlex.split(command)]
        program = find_program(argv)
        if program is None:
            reason = f"{item.path}: its validator {argv[0]} is not on this host"
            if self.check:
                self.outcome.unvalidated.append({"path": item.path, "reason": reason})
                return []
            return [f"{reason}: install it before, or leave out validate ({command})"]
        done = self.host.run([program] + argv[1:])
        if done.code == 0:
            return []
        output = "not shown, the file is secret" if item.desired.secret else _tail(done.output).replace(place, item.path)
        problem = f"{item.path}: refused by its validator `{command}` (exit code {done.code}): {output or 'no output'}"
        if self.check and first:
            # On a host that never had these files the validator may miss what an earlier task would have installed.
            self.outcome.unvalidated.append({"path": item.path, "reason": problem})
            return []
        return [f"{problem}\nCorrect what the file is made from; the file on the host is as it was"]

    @contextmanager
    def _staged(self, directories: Any) -> Iterator[Dict[str, str]]:
        """All new files of these directories side by side in a private place, because one may refer to another."""
        shutil.rmtree(self.stage, ignore_errors=True)
        try:
            places: Dict[str, str] = {}
            for number, directory in enumerate(sorted(directories)):
                base = os.path.join(self.stage, str(number))
                os.makedirs(base, mode=0o700)
                os.chmod(self.stage, 0o700)
                for item in self.items.values():
                    if item.desired.state == _manifest_plan.FILE and os.path.dirname(item.path) == directory:
                        places[item.path] = os.path.join(base, item.validate_as or os.path.basename(item.path))
                        _write_staged(places[item.path], item)
            yield places
        finally:
            shutil.rmtree(self.stage, ignore_errors=True)

    # Changing

    def _apply(self, plan: Plan, known: Optional[Manifest]) -> None:
        manifest = known if known is not None else Manifest()
        done: List[Step] = []
        made: List[str] = []
        if plan.steps:
            self.host.checkpoint("before writing ahead")
            _manifest.save(self.directory, self.name, plan.ahead)
        try:
            self._prepare(plan, made)
            self._remove(plan, done)
            self._change(plan, done)
        except (OSError, ManifestError) as error:
            self._give_up(plan, manifest, done, made)
            if isinstance(error, OSError):
                raise ManifestError(f"{error.filename or self.directory}: {error.strerror or error}") from error
            raise
        failure = self._act(plan.final.owed)
        final = Manifest(plan.final.entries, frozenset(self.outcome.owed))
        self.host.checkpoint("before the final manifest")
        if (plan.ahead if plan.steps else known) != final or not _manifest.is_private(self._path()):
            _manifest.save(self.directory, self.name, final)
        self.host.checkpoint("after the final manifest")
        if failure:
            raise ManifestError(failure)

    def _path(self) -> str:
        return _manifest.manifest_path(self.directory, self.name)

    def _prepare(self, plan: Plan, made: List[str]) -> None:
        """Everything that takes space, before anything is stopped, removed or replaced."""
        for step in plan.steps:
            self.host.checkpoint(f"before preparing {step.path}")
            if step.verb == _manifest_plan.MAKE:
                self._make_directory(self.items[step.path].desired)
                made.append(step.path)
            elif step.verb == _manifest_plan.WRITE:
                item = self.items[step.path]
                want = item.desired
                _manifest.write_beside(step.path, item.content, want.mode, want.uid, want.gid, self.host.label)

    def _make_directory(self, want: Desired) -> None:
        os.mkdir(want.path, 0o700)
        if self.host.label is not None:
            self.host.label(want.path, want.path)
        _set_attributes(want)
        _manifest.sync_directory(os.path.dirname(want.path))

    def _remove(self, plan: Plan, done: List[Step]) -> None:
        for step in plan.steps:
            if step.verb not in (_manifest_plan.REMOVE, _manifest_plan.FORGET):
                continue
            self.host.checkpoint(f"before removing {step.path}")
            self._before_remove(step)
            self.host.checkpoint(f"ready to remove {step.path}")
            if step.verb == _manifest_plan.REMOVE:
                _remove(step.path)
            done.append(step)

    def _before_remove(self, step: Step) -> None:
        if not step.before_remove:
            return
        failure = self._failure(step.before_remove)
        if not failure:
            return
        if step.verb == _manifest_plan.FORGET:
            self.outcome.warnings.append(f"{step.path}: was removed by somebody else; before its removal {failure}")
            return
        raise ManifestError(
            f"{step.path}: is no longer listed but was kept, because before its removal {failure}\n"
            "It stays in the manifest: mend the reason and run again"
        )

    def _change(self, plan: Plan, done: List[Step]) -> None:
        for step in plan.steps:
            if step.verb in (_manifest_plan.REMOVE, _manifest_plan.FORGET):
                continue
            self.host.checkpoint(f"before changing {step.path}")
            if step.verb == _manifest_plan.WRITE:
                _manifest.move_into_place(step.path)
            elif step.verb == _manifest_plan.ATTRIBUTES:
                _set_attributes(self.items[step.path].desired)
            done.append(step)

    def _give_up(self, plan: Plan, manifest: Manifest, done: Sequence[Step], made: Sequence[str]) -> None:
        """Take back what was only prepared, and leave a manifest that owes for what was done and no more."""
        for step in plan.steps_of(_manifest_plan.WRITE):
            if step not in done:
                _quietly(_manifest.remove_quietly, _manifest.temporary_path(step.path))
        finished = {step.path for step in done}
        left = {path for path in reversed(made) if path in finished or not _quietly(os.rmdir, path)}
        truth = _manifest_plan.after(manifest, done, plan.final, frozenset(left))
        # On a full disk the manifest written ahead stays: it owes too much, never too little.
        _quietly(lambda: _manifest.save(self.directory, self.name, truth))

    def _act(self, owed: FrozenSet[str]) -> str:
        """Run the owed actions in order; the first that fails ends it. Returns why, and leaves the truth in the outcome."""
        settled = set()
        failure = ""
        for action in self.actions:
            if action.name not in owed:
                continue
            self.host.checkpoint(f"before action {action.name}")
            failure = self._failure(action.command)
            if failure:
                failure = f"The files are in place, but for {action.name} {failure}\nIt stays owed: mend the reason and run again"
                break
            settled.add(action.name)
            self.outcome.actions.append(action.name)
        self.outcome.owed = sorted(owed - settled)
        return failure

    def _failure(self, argv: Sequence[str]) -> str:
        shown = " ".join(shlex.quote(word) for word in argv)
        try:
            done = self.host.run(argv)
        except OSError as error:
            return f"`{shown}` could not be run: {error.strerror}"
        if done.code == 0:
            return ""
        return f"`{shown}` failed with exit code {done.code}: {_tail(done.output) or 'no output'}"


def _write_staged(place: str, item: Item) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(item.content)
        os.fchmod(descriptor, (item.desired.mode & 0o700) | 0o600)


def _set_attributes(want: Desired) -> None:
    """Owner and mode through a descriptor, so that a link put there meanwhile is not followed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if want.state == _manifest_plan.DIRECTORY:
        flags |= os.O_DIRECTORY
    descriptor = os.open(want.path, flags)
    try:
        os.fchown(descriptor, want.uid, want.gid)
        os.fchmod(descriptor, want.mode)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    _manifest.remove_quietly(_manifest.temporary_path(path))
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        _manifest.remove_quietly(path)
    _manifest.sync_directory(os.path.dirname(path))


def _quietly(action: Callable[..., Any], *arguments: Any) -> bool:
    try:
        action(*arguments)
    except (OSError, ManifestError):
        return False
    return True


def _tail(text: str) -> str:
    return text if len(text) <= TAIL else "..." + text[-TAIL:]
