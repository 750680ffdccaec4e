# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches models from a hub. Private to this collection.

This file runs on the host as the service's user, under the Python of vLLM's release, whose huggingface_hub it uses; the
module vllm_models sends its text and a request on standard input. So it imports nothing of this collection, and no
secret stands in an argument or a file.

A model lies at <root>/<org>--<name>/<revision>, a link to .snapshots/<commit> beside it, whole or not
at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

MARKER = ".steadfast.json"
# Free space that is left to others on the disk.
RESERVE = 256 * 1000 * 1000


class Problem(Exception):
    """What went wrong, for the reader."""


def state(path: Path, repository: str) -> str:
    """The commit that is whole at a model's path, "" if none. Asks no network."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if marker["repository"] != repository:
            return ""
        for name, size in marker["files"].items():
            if (path / name).stat().st_size != size:
                return ""
        return str(marker["commit"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def wanted(files: dict[str, int], ignore: list[str]) -> dict[str, int]:
    """The repository's files without those that a pattern leaves out."""
    return {name: size for name, size in files.items() if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore)}


def present(folder: Path) -> int:
    """Bytes of an interrupted fetch that need not come again."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def human(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def fetch(model: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Fetch one model and publish it. Returns what came."""
    hub: Any = importlib.import_module("huggingface_hub")
    path, repository, revision = Path(model["path"]), model["model"], model["revision"] or "main"
    home = path.parent
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commit = state(path, repository)
        if commit:  # another run fetched it meanwhile
            return {"commit": commit, "bytes": 0}
        api = hub.HfApi(endpoint=request["endpoint"] or None, token=request["token"] or False)
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=60)
        files = wanted({entry.rfilename: entry.size or 0 for entry in info.siblings or []}, request["ignore"])
        if not files:
            raise Problem(f"{repository} at {revision} has no file to fetch")
        snapshot = home / ".snapshots" / str(info.sha)
        if state(snapshot, repository) != info.sha:
            _download(hub, repository, str(info.sha), files, snapshot, request)
        _point(path, snapshot)
        return {"commit": str(info.sha), "bytes": sum(files.values())}


def _download(
    hub: Any, repository: str, commit: str, files: dict[str, int], snapshot: Path, request: dict[str, Any]
) -> None:
    partial = snapshot.parent.parent / f".partial-{commit}"
    partial.mkdir(exist_ok=True)
    need = sum(files.values()) - present(partial) + RESERVE
    free = shutil.disk_usage(partial).free
    if free < need:
        raise Problem(
            f"{repository} at {commit[:12]} is {human(sum(files.values()))} and needs {human(need)} free on the disk of"
            f" {partial.parent}, which has {human(free)}. Nothing was fetched."
        )
    hub.snapshot_download(
        repository,
        revision=commit,
        local_dir=partial,
        ignore_patterns=request["ignore"] or None,
        endpoint=request["endpoint"] or None,
        token=request["token"] or False,
        max_workers=8,
    )
    wrong = [name for name, size in files.items() if _size(partial / name) != size]
    if wrong:
        raise Problem(f"{repository} at {commit[:12]}: came incomplete: {', '.join(wrong[:5])}. Run again to go on.")
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    marker = {"repository": repository, "commit": commit, "files": files}
    (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    os.sync()  # published means on the disk
    snapshot.parent.mkdir(exist_ok=True)
    if snapshot.exists():  # damaged: a file of it is gone or has another size
        shutil.rmtree(snapshot)
    partial.rename(snapshot)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _point(path: Path, snapshot: Path) -> None:
    if path.exists() and not path.is_symlink():
        raise Problem(f"{path}: there is something of that name that was not put there by this role; move it away")
    staged = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()
    staged.symlink_to(Path(".snapshots") / snapshot.name)
    staged.replace(path)


def explain(err: Exception, model: dict[str, Any], token: str) -> str:
    """What an error of the hub means for the reader."""
    name, revision = model["model"], model["revision"] or "main"
    meanings = {
        "GatedRepoError": f"{name} is gated: accept its terms on the hub and set vllm_hub_token",
        "RepositoryNotFoundError": f"{name}: no such model on the hub, or private and vllm_hub_token may not read it",
        "RevisionNotFoundError": f"{name} has no revision {revision}",
        "LocalEntryNotFoundError": f"{name}: the hub could not be reached",
        "PermissionError": f"{model['path']}: the service's user may not write there: make its folder the user's own",
        "HFValidationError": f"{name} is not a hub id",
    }
    kinds = [kind.__name__ for kind in type(err).__mro__]
    known = next((meanings[kind] for kind in kinds if kind in meanings), f"{name} at {revision}: {type(err).__name__}")
    said = " ".join(str(err).split())[:600]
    text = str(err) if isinstance(err, Problem) else f"{known}. {said}"
    return text.replace(token, "****") if token else text


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def main() -> int:
    """Read the request, fetch, answer in one line of JSON."""
    request = json.loads(sys.stdin.read())
    fetched = {}
    for model in request["models"]:
        try:
            fetched[model["path"]] = fetch(model, request)
        except Exception as err:  # the answer is for a person: whatever it was, it names the model
            _answer({"failed": explain(err, model, request["token"]), "fetched": fetched})
            return 1
    _answer({"fetched": fetched})
    return 0
