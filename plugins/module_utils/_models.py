# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides which models a host lacks and has them fetched (private to this collection, runs on the host as root).

Everything under the models' folder belongs to the service's user, so root only reads there: what writes is _hub_fetch,
run as that user.
"""

from __future__ import annotations

import inspect
import json
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _hub_fetch, _releases
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner

# The module's own Python becomes the user before it starts another program, so that root runs nothing of that user's.
AS_USER = """\
import os, sys
user, group, groups, *command = sys.argv[1:]
try:
    os.setgroups([int(number) for number in groups.split(",")])
    os.setgid(int(group))
    os.setuid(int(user))
    os.execv(command[0], command)
except OSError as err:
    sys.exit(f"{command[0]} as user {user}: {err.strerror}")
"""
RUN = (
    "import json, sys, io; sent = json.loads(sys.stdin.read()); sys.stdin = io.StringIO(sent['request']);"
    " names = {'__name__': 'hub_fetch'};"
    " exec(compile(sent['program'], 'hub_fetch', 'exec'), names); sys.exit(names['main']())"
)


class Problem(Exception):
    """What went wrong, for the reader."""


@dataclass(frozen=True)
class Request:
    """The module's options."""

    models: list[dict[str, Any]]
    python: str
    user: str
    endpoint: str
    token: str
    ignore: list[str]
    environment: dict[str, str]


class Models:
    """The models of this host."""

    def __init__(self, request: Request, run: Runner) -> None:
        self.request = request
        self.run = run

    def ensure(self, check_mode: bool) -> dict[str, Any]:
        """Check what is given by path, fetch what is missing. Returns the module's result."""
        # Two instances may share a model.
        models = {model["path"]: model for model in self.request.models}
        problems = [text for model in models.values() if model["source"] == "path" for text in self._unusable(model)]
        if problems:
            raise Problem("\n".join(problems))
        hub = {path: model for path, model in models.items() if model["source"] == "hub"}
        before = {path: _hub_fetch.state(Path(path), model["model"]) for path, model in hub.items()}
        missing = [hub[path] for path, commit in before.items() if not commit]
        after = {path: commit or "to be fetched" for path, commit in before.items()}
        if missing and not check_mode:
            after.update({path: fetched["commit"] for path, fetched in self._fetch(missing).items()})
        result: dict[str, Any] = {
            "changed": bool(missing),
            "commits": after,
            "fetched": [model["path"] for model in missing],
        }
        if missing:
            result["diff"] = {
                "before": "".join(f"{path}: {commit or 'none'}\n" for path, commit in before.items()),
                "after": "".join(f"{path}: {commit}\n" for path, commit in after.items()),
            }
        return result

    def _unusable(self, model: dict[str, Any]) -> list[str]:
        path = Path(model["path"])
        if not path.exists():
            return [f"model: {path} is not on the host: put the model there, or write its hub id"]
        if path.is_dir() and not any((path / name).exists() for name in ("config.json", "params.json")):
            return [f"model: {path} holds no config.json (or params.json), so it is not a model that vLLM can read"]
        return []

    def _fetch(self, missing: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        request = self.request
        try:
            account = pwd.getpwnam(request.user)
        except KeyError as err:
            raise Problem(f"user: {request.user} is not on the host; role vllm makes it") from err
        if not os.access(request.python, os.X_OK):
            raise Problem(f"python: {request.python} is not on the host; it comes with vLLM's release")
        for model in missing:
            _make_root(Path(model["path"]).parents[1], account)
        work = {"models": missing, "endpoint": request.endpoint, "token": request.token, "ignore": request.ignore}
        variables = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": account.pw_dir,
            "LANG": "C.UTF-8",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DO_NOT_TRACK": "1",
            **{name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ},
            **request.environment,
        }
        done = self.run(
            [*as_user(account), request.python, "-I", "-c", RUN],
            given=json.dumps({"program": inspect.getsource(_hub_fetch), "request": json.dumps(work)}),
            environment=variables,
            folder="/",
        )
        try:
            answer: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
        except (ValueError, IndexError) as err:
            said = _releases.redact(done.errors.strip()[-2000:], {**request.environment, "TOKEN": request.token})
            raise Problem(f"the fetch ended with status {done.status} and no answer. {said}") from err
        if "failed" in answer:
            raise Problem(_releases.redact(str(answer["failed"]), {**request.environment, "TOKEN": request.token}))
        fetched: dict[str, dict[str, Any]] = answer["fetched"]
        return fetched


def as_user(account: pwd.struct_passwd) -> list[str]:
    """What stands before a command that another user is to run."""
    groups = ",".join(map(str, os.getgrouplist(account.pw_name, account.pw_gid)))
    return [sys.executable, "-I", "-c", AS_USER, str(account.pw_uid), str(account.pw_gid), groups]


def _make_root(path: Path, account: pwd.struct_passwd) -> None:
    """Make the folder of all models where only root may. Where the user may, it does it itself, so that root follows
    no link of the user's."""
    if path.exists():
        return
    above = next(parent for parent in path.parents if parent.exists())
    if above.stat().st_uid == 0:
        path.mkdir(parents=True)
        os.chown(path, account.pw_uid, account.pw_gid)
