# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of a running server: where it lies, and how it becomes the instance's own without a fetch.

Private to this collection, runs on the host as root. A snapshot of a hub's cache is linked into the folder of models
(hard links: no second copy on the disk); what cannot be linked, or what the service's user could not read, is copied.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import shutil
import stat
import tempfile
import typing as t
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _derive, _host, _hub_fetch
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_entry import Model
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import human

SNAPSHOT = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})$")
COMMIT = re.compile(r"[0-9a-f]{40}")
# What others may read: models are no secret, and the service is another user than root.
FOLDER = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH


class Problem(Exception):
    """What went wrong, for the reader."""


def caches(environ: Mapping[str, str], home: str, download_dir: str | None = None) -> list[str]:
    """The folders of the hub's cache that a server reads, as huggingface_hub finds them."""
    if download_dir:
        return [download_dir]
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return [_expand(environ[variable], home)]
    if environ.get("HF_HOME"):
        return [_expand(environ["HF_HOME"], home) + "/hub"]
    base = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    return [_expand(base, home) + "/huggingface/hub"]


def _expand(path: str, home: str) -> str:
    return home + path[1:] if path == "~" or path.startswith("~/") else path


def locate(
    told: str,
    revision: str | None,
    folders: list[str],
    directory: str,
    home: str,
    place: Callable[[str], str | None],
    user: str,
) -> Model:
    """Where the model of a server is. `place` gives the path on the host of a path that the server sees."""
    expanded = _expand(told, home)
    local = os.path.normpath(os.path.join(directory, expanded)) if told else ""
    if local and (told.startswith(("/", "./", "../", "~")) or Path(place(local) or "/nowhere").is_dir()):
        found = SNAPSHOT.search(local)
        path = place(local)
        if path is None:
            return Model("path", local, problem=f"{local} is inside the container alone: copy it to the host")
        if found:
            return _whole(Path(path), f"{found[1]}/{found[2]}", found[3])
        return Model("path", path, problem=_unusable(path, user))
    if not told:
        return Model("missing", problem="it is not known which: start the server with its model on the command line")
    for folder in folders:
        path = place(os.path.join(directory, folder))
        snapshot = path and _snapshot(Path(path) / f"models--{told.replace('/', '--')}", revision or "main")
        if snapshot:
            return _whole(snapshot, told, snapshot.name)
    return Model("missing")


def _snapshot(folder: Path, revision: str) -> Path | None:
    commit = revision
    if not COMMIT.fullmatch(revision):
        if ".." in revision.split("/"):
            return None
        commit = _host.text_of(str(folder / "refs" / revision))
    if not COMMIT.fullmatch(commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _whole(snapshot: Path, repository: str, commit: str) -> Model:
    """A snapshot with all that its index names; one that is cut off counts as none."""
    whole = _host.config_of(snapshot)[0] == "ok" and not _host.absent_shards(snapshot)
    if not whole or not all(os.path.exists(item) for item in files(snapshot)):
        return Model("missing")
    return Model("snapshot", str(snapshot), repository, commit)


def _unusable(path: str, user: str) -> str:
    """Why a folder cannot be served by the service's user."""
    seen = _host.model(path, user)
    if seen["kind"] != "folder":
        return f"{path} is {'a file' if seen['kind'] == 'file' else 'not there'}: the service needs the model's folder"
    if seen["unreadable"]:
        return (
            f"user {user} cannot read {seen['unreadable'][0]}: chmod -R o+rX {path}, and chmod o+x each folder above "
            "it; or move the model under /srv, and start the server from there"
        )
    return ""


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links to files too."""
    for here, _folders, names in os.walk(folder):
        for name in names:
            yield Path(here, name)


def target(model_root: str, model: Model) -> Path:
    return Path(_derive.hub_folder(model_root, model.repository, model.commit))


def adopted(model_root: str, model: Model) -> bool:
    """Whether the model is the instance's own already."""
    return _hub_fetch.state(target(model_root, model), model.repository) == model.commit


def adopt(model_root: str, model: Model, user: str) -> dict[str, t.Any]:
    """Make a snapshot the instance's own: whole or not at all. Returns the bytes linked and copied."""
    account = pwd.getpwnam(user)
    root = Path(model_root)
    if not root.exists():
        root.mkdir(parents=True)
        os.chown(root, account.pw_uid, account.pw_gid)
    # The folder of models belongs to the service's user: root follows no link in there.
    base = os.open(root, os.O_DIRECTORY | os.O_NOFOLLOW)
    staged = Path(tempfile.mkdtemp(prefix=".adopting-", dir=root))
    try:
        counts = _fill(staged, Path(model.path), account)
        sizes = {str(path.relative_to(staged)): path.stat().st_size for path in files(staged)}
        marker = {"repository": model.repository, "commit": model.commit, "files": sizes}
        (staged / _hub_fetch.MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        os.sync()  # published means on the disk
        for here, _folders, _names in os.walk(staged, topdown=False):
            os.chmod(here, FOLDER)
            os.chown(here, account.pw_uid, account.pw_gid)
        os.chown(staged / _hub_fetch.MARKER, account.pw_uid, account.pw_gid)
        _publish(base, staged, target(model_root, model).parent.name, model.commit, account)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        os.close(base)
    return counts


def _fill(staged: Path, snapshot: Path, account: pwd.struct_passwd) -> dict[str, t.Any]:
    counts = {"linked": 0, "copied": 0}
    wanted = [(path, staged / path.relative_to(snapshot)) for path in files(snapshot)]
    wanted = [(Path(os.path.realpath(source)), link) for source, link in wanted]
    device = staged.stat().st_dev
    copies = [
        source
        for source, _link in wanted
        if source.stat().st_dev != device or not source.stat().st_mode & 0o004 or source.stat().st_nlink > 60000
    ]
    need, free = sum(source.stat().st_size for source in copies), shutil.disk_usage(staged).free
    if need and need + _hub_fetch.RESERVE > free:
        raise Problem(
            f"{snapshot} lies on another disk or cannot be read by others, so {human(need)} have to be copied, and "
            f"{staged.parent} has {human(free)} free: make room there, or choose vllm_model_root on the model's disk"
        )
    for source, link in wanted:
        link.parent.mkdir(parents=True, exist_ok=True)
        size = source.stat().st_size
        if source not in copies and _link(source, link):
            counts["linked"] += size
        else:
            shutil.copyfile(source, link)
            os.chmod(link, 0o644)
            os.chown(link, account.pw_uid, account.pw_gid)
            counts["copied"] += size
    return counts


def _link(source: Path, link: Path) -> bool:
    try:
        os.link(source, link, follow_symlinks=False)
    except OSError as failure:
        if failure.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False
        raise
    return True


def _publish(base: int, staged: Path, folder: str, commit: str, account: pwd.struct_passwd) -> None:
    """<root>/<org>--<name>/<commit> -> .snapshots/<commit>, as a fetch leaves it."""
    home = _folder(base, folder, account)
    try:
        snapshots = _folder(home, ".snapshots", account)
        try:
            _away(snapshots, commit)
            os.rename(staged.name, commit, src_dir_fd=base, dst_dir_fd=snapshots)
        finally:
            os.close(snapshots)
        _away(home, commit)
        os.symlink(f".snapshots/{commit}", commit, dir_fd=home)
        os.chown(commit, account.pw_uid, account.pw_gid, dir_fd=home, follow_symlinks=False)
    finally:
        os.close(home)


def _folder(above: int, name: str, account: pwd.struct_passwd) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=above)
        os.chown(name, account.pw_uid, account.pw_gid, dir_fd=above, follow_symlinks=False)
    except FileExistsError:
        pass
    return os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def _away(above: int, name: str) -> None:
    """What an adoption or a fetch that was cut off left under that name."""
    try:
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        os.rename(name, f".old-{name}-{os.getpid()}", src_dir_fd=above, dst_dir_fd=above)
