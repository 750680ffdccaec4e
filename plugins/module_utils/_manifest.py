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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_files
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Entry, Manifest

DIRECTORY = "/var/lib/steadfast"
VERSION = 1


class ManifestError(Exception):
    """Something the user has to read: names the place, why it is wrong and what to do."""


class Garbled(ManifestError):
    """The text is no manifest: torn, edited by hand, or another program's."""


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
    entries: dict[str, Entry] = {}
    for number, item in enumerate(_list(document.get("files"), "files", dict)):
        entry = _entry(item, f"files[{number}]")
        entries[entry.path] = entry
    return Manifest(entries, frozenset(_list(document.get("owed"), "owed", str)))


def _entry(item: dict[str, Any], place: str) -> Entry:
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
    return f"{directory}/{name}.json"


def load(directory: str, name: str) -> Manifest | None:
    """The named manifest, None where there is none yet. Garbled or ManifestError where it cannot be used."""
    path = manifest_path(directory, name)
    try:
        raw = Path(path).read_bytes()
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
    """Write the named manifest so that it is either the old one or the new one, whatever happens.

    One that lists nothing and owes nothing leaves no file.
    """
    if manifest == Manifest():
        if Path(directory).is_dir():
            _manifest_files.remove(manifest_path(directory, name))
        return
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    _manifest_files.replace_file(manifest_path(directory, name), serialise(manifest).encode(), 0o600)


def is_private(path: str) -> bool:
    """Whether a manifest's file has the mode that it should have."""
    try:
        return Path(path).stat().st_mode & 0o7777 == 0o600
    except FileNotFoundError:
        return True


def set_aside(directory: str, name: str) -> str:
    """Keep a copy of a manifest that cannot be used; where the copy lies."""
    path = manifest_path(directory, name)
    aside = f"{path}.garbled-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    _manifest_files.replace_file(aside, Path(path).read_bytes(), 0o600)
    return aside


def names(directory: str) -> tuple[str, ...]:
    """The names of all manifests in C(directory)."""
    try:
        found = [path.name for path in Path(directory).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(name[: -len(".json")] for name in found if name.endswith(".json") and not name.startswith(".")))


def owed(directory: str = DIRECTORY) -> set[str]:
    """All names that any manifest on this host still owes."""
    result: set[str] = set()
    for name in names(directory):
        try:
            manifest = load(directory, name)
        except Garbled:
            # The run of its own role says so and owes everything anew; a reader has nothing to add.
            continue
        if manifest is not None:
            result |= manifest.owed
    return result


def settle(directory: str, settled: Iterable[str]) -> set[str]:
    """Strike names from all manifests on this host, because what they ask for was done. Returns what was struck."""
    wanted = frozenset(settled)
    struck: set[str] = set()
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
    path = f"{directory}/.lock"
    flags = os.O_RDWR | os.O_CLOEXEC
    if create:
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
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
