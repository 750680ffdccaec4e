# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role left on a host, and what is still owed for it: the manifest, its file and its lock.

Private to steadfast.vllm. A manifest is one JSON file for each role, C(<directory>/<role>.json), readable by root only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, Mapping, Optional, Set, Tuple

DIRECTORY = "/var/lib/steadfast"
VERSION = 1
# A temporary file stands beside its target, so that a rename is atomic. Its name is fixed, so that the run after a kill
# finds and replaces it instead of leaving one more behind.
SUFFIX = ".steadfast-new"


class ManifestError(Exception):
    """Something the user has to read: names the place, why it is wrong and what to do."""


class Garbled(ManifestError):
    """The text is no manifest: torn, edited by hand, or another program's."""


@dataclass(frozen=True)
class Entry:
    """One path that a manifest answers for, and what must be known to take it away later."""

    path: str
    state: str = "file"
    owes: Tuple[str, ...] = ()
    before_remove: Tuple[str, ...] = ()
    secret: bool = False
    # Only a directory that we made is ours to remove.
    made: bool = False


@dataclass(frozen=True)
class Manifest:
    entries: Mapping[str, Entry] = field(default_factory=dict)
    owed: FrozenSet[str] = frozenset()

    def without_owed(self, names: Iterable[str]) -> Manifest:
        return replace(self, owed=self.owed - frozenset(names))


def serialise(manifest: Manifest) -> str:
    """The manifest as text: sorted, so that equal manifests are equal text."""
    files = [
        {
            "path": entry.path,
            "state": entry.state,
            "owes": list(entry.owes),
            "before_remove": list(entry.before_remove),
            "secret": entry.secret,
            "made": entry.made,
        }
        for _path, entry in sorted(manifest.entries.items())
    ]
    document = {"version": VERSION, "owed": sorted(manifest.owed), "files": files}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def parse(text: str) -> Manifest:
    """The manifest that C(text) holds; Garbled where it holds none."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Garbled(f"it is not JSON ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise Garbled("it has no version")
    if document["version"] > VERSION:
        raise ManifestError(
            f"it has version {document['version']}, this release of steadfast.vllm writes version {VERSION}. "
            "A newer release wrote it: run that release, or move the file away"
        )
    entries: Dict[str, Entry] = {}
    for number, item in enumerate(_list(document.get("files"), "files", dict)):
        entry = _entry(item, f"files[{number}]")
        entries[entry.path] = entry
    return Manifest(entries, frozenset(_list(document.get("owed"), "owed", str)))


def _entry(item: Dict[str, Any], place: str) -> Entry:
    path, state = item.get("path"), item.get("state")
    if not isinstance(path, str) or not path.startswith("/"):
        raise Garbled(f"{place}.path is no absolute path")
    if state not in ("file", "directory"):
        raise Garbled(f"{place}.state is neither file nor directory")
    return Entry(
        path=path,
        state=state,
        owes=tuple(_list(item.get("owes"), f"{place}.owes", str)),
        before_remove=tuple(_list(item.get("before_remove"), f"{place}.before_remove", str)),
        secret=bool(item.get("secret")),
        made=bool(item.get("made")),
    )


def _list(value: Any, place: str, kind: type) -> Any:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise Garbled(f"{place} is not a list of {kind.__name__}")
    return value


def manifest_path(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.json")


def load(directory: str, name: str) -> Optional[Manifest]:
    """The named manifest, None where there is none yet. Garbled or ManifestError where it cannot be used."""
    path = manifest_path(directory, name)
    try:
        with open(path, "rb") as stream:
            raw = stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Garbled(f"{path}: it is not text") from error
    except ManifestError as error:
        raise type(error)(f"{path}: {error}") from error


def save(directory: str, name: str, manifest: Manifest) -> None:
    """Write the named manifest so that it is either the old one or the new one, whatever happens."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    replace_file(manifest_path(directory, name), serialise(manifest).encode(), 0o600)


def is_private(path: str) -> bool:
    """Whether a manifest's file has the mode that it should have."""
    try:
        return os.stat(path).st_mode & 0o7777 == 0o600
    except FileNotFoundError:
        return True


def set_aside(directory: str, name: str) -> str:
    """Keep a copy of a manifest that cannot be used; where the copy lies."""
    path = manifest_path(directory, name)
    aside = f"{path}.garbled-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    with open(path, "rb") as stream:
        replace_file(aside, stream.read(), 0o600)
    return aside


def names(directory: str) -> Tuple[str, ...]:
    """The names of all manifests in C(directory)."""
    try:
        found = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(name[: -len(".json")] for name in found if name.endswith(".json") and not name.startswith(".")))


def owed(directory: str = DIRECTORY) -> Set[str]:
    """All names that any manifest on this host still owes."""
    result: Set[str] = set()
    for name in names(directory):
        try:
            manifest = load(directory, name)
        except Garbled:
            # The run of its own role says so and owes everything anew; a reader has nothing to add.
            continue
        if manifest is not None:
            result |= manifest.owed
    return result


def settle(directory: str, settled: Iterable[str]) -> Set[str]:
    """Strike names from all manifests on this host, because what they ask for was done. Returns what was struck."""
    wanted = frozenset(settled)
    struck: Set[str] = set()
    if not wanted or not names(directory):
        return struck
    with lock(directory):
        for name in names(directory):
            try:
                manifest = load(directory, name)
            except Garbled:
                continue
            if manifest is not None and manifest.owed & wanted:
                struck |= manifest.owed & wanted
                save(directory, name, manifest.without_owed(wanted))
    return struck


@contextmanager
def lock(directory: str, create: bool = True, timeout: float = 600.0, poll: float = 0.1) -> Iterator[None]:
    """Hold the one lock of all manifests in C(directory). With create false a directory without a lock needs none."""
    path = os.path.join(directory, ".lock")
    flags = os.O_RDWR | os.O_CLOEXEC
    if create:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        flags |= os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        yield
        return
    try:
        _acquire(descriptor, path, timeout, poll)
        if create:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: str, timeout: float, poll: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ManifestError(
                f"{path}: another run (process {holder}) has held this lock for {timeout:.0f} s. "
                "Wait for it to end, or end it, and run again"
            )
        time.sleep(poll)


def temporary_path(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{SUFFIX}")


def replace_file(path: str, content: bytes, mode: int, label: Optional[Callable[[str, str], None]] = None) -> None:
    """Write beside, then rename: C(path) holds the old bytes or the new, never a part."""
    write_beside(path, content, mode, label=label)
    move_into_place(path)


def write_beside(
    path: str,
    content: bytes,
    mode: int,
    uid: int = -1,
    gid: int = -1,
    label: Optional[Callable[[str, str], None]] = None,
) -> None:
    """Write the temporary file of C(path), complete and on the disk. It is private until owner and mode are set."""
    temporary = temporary_path(path)
    remove_quietly(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            if uid != -1 or gid != -1:
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if label is not None:
            label(temporary, path)
    except OSError:
        remove_quietly(temporary)
        raise


def move_into_place(path: str) -> None:
    os.rename(temporary_path(path), path)
    sync_directory(os.path.dirname(path))


def sync_directory(directory: str) -> None:
    """Make a rename or a removal in C(directory) outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
