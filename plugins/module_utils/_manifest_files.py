# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Single files and directories on this host: looked at, written and removed so that a kill leaves the old or the new.

Private to steadfast.vllm.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Desired

# A temporary file stands beside its target, so that a rename is atomic. Its name is fixed, so that the run after a kill
# finds and removes it instead of leaving one more behind.
SUFFIX = ".steadfast-new"


def look(path: str) -> Actual:
    """What stands at C(path), not following a link there."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Actual()
    attributes = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return Actual(_manifest_plan.LINK, *attributes)
    if stat.S_ISREG(status.st_mode):
        return Actual(_manifest_plan.FILE, *attributes, digest=digest_of(Path(path).read_bytes()))
    if stat.S_ISDIR(status.st_mode):
        children = (child.name for child in Path(path).iterdir())
        names = frozenset(name for name in children if not name.endswith(SUFFIX))
        return Actual(_manifest_plan.DIRECTORY, *attributes, children=names)
    return Actual(_manifest_plan.OTHER, *attributes)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parent(path: str) -> str:
    """The directory that C(path) lies in."""
    return str(Path(path).parent)


def resolved(path: str) -> str:
    """C(path) with every link before its last part followed: two names of one place become one."""
    return f"{os.path.realpath(parent(path))}/{Path(path).name}"


def temporary_path(path: str) -> str:
    return str(Path(path).with_name(f".{Path(path).name}{SUFFIX}"))


def replace_file(path: str, content: bytes, mode: int, label: Callable[[str, str], None] | None = None) -> None:
    """Write beside, then rename: C(path) holds the old bytes or the new, never a part."""
    write_beside(path, content, mode, label=label)
    move_into_place(path)


def write_beside(
    path: str,
    content: bytes,
    mode: int,
    owner: tuple[int, int] = (-1, -1),
    label: Callable[[str, str], None] | None = None,
) -> None:
    """Write the temporary file of C(path), complete and on the disk. It is private until owner and mode are set.

    C(label) sets the SELinux context: it gets the new file and the path that it is for.
    """
    temporary = temporary_path(path)
    remove_quietly(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if label is not None:
            label(temporary, path)
    except OSError as error:
        remove_quietly(temporary)
        # Writing to a full disk fails without saying where.
        raise OSError(error.errno, error.strerror, path) from error


def move_into_place(path: str) -> None:
    Path(temporary_path(path)).replace(path)
    sync_directory(parent(path))


def sync_directory(directory: str) -> None:
    """Make a rename or a removal in C(directory) outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_quietly(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def make_directory(want: Desired, label: Callable[[str, str], None] | None = None) -> None:
    """Make a directory that is private until it has its owner and mode."""
    Path(want.path).mkdir(mode=0o700)
    if label is not None:
        label(want.path, want.path)
    set_attributes(want)
    sync_directory(parent(want.path))


def set_attributes(want: Desired) -> None:
    """Owner and mode through a descriptor, so that a link put there meanwhile is not followed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if want.state == _manifest_plan.DIRECTORY:
        flags |= os.O_DIRECTORY
    descriptor = os.open(want.path, flags)
    try:
        # The owner first: changing it clears the set-user-id bit.
        os.fchown(descriptor, want.uid, want.gid)
        os.fchmod(descriptor, want.mode)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file, a link or an empty directory."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        Path(path).rmdir()
    else:
        remove_quietly(path)
    sync_directory(parent(path))
