# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that run on a host: each with the entry that says the same, or with why it is left alone.

Private to this collection, runs on the host. The eyes are _adopt_look.py, the judgement _adopt_launch.py and
_adopt_entry.py; here they meet.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import os
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _adopt_arguments,
    _adopt_container,
    _adopt_entry,
    _adopt_launch,
    _adopt_look,
    _adopt_models,
    _adopt_secrets,
    _host,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Launch, Process
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner
from ansible_collections.steadfast.vllm.plugins.module_utils._models import as_user

READ_YAML = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin.read())))"
YAML_BYTES = 2**20
ANY = str(ipaddress.IPv4Address(0))


@dataclass
class Found:
    """One server."""

    server: Process
    command: _adopt_arguments.Command
    launch: Launch
    tree: set[int]
    directory: str
    environ: dict[str, str] = field(repr=False)
    listening: list[tuple[str, int, bool]] = field(default_factory=list)
    port: t.Any = None  # where its command line has it listen
    container: dict[str, t.Any] = field(default_factory=dict, repr=False)
    outside: tuple[int, ...] = ()  # scripts that live for the container alone
    managed: str = ""
    model: _adopt_entry.Model | None = None
    plan: _adopt_entry.Plan = field(default_factory=_adopt_entry.Plan)

    @property
    def identity(self) -> str:
        """Names this very process, also after its number was given to another."""
        return f"{self.server.pid}:{self.server.born}"


@dataclass(frozen=True)
class Wanted:
    """What the caller says."""

    model_root: str
    service_user: str
    manifest_directory: str
    names: Mapping[str, str] = field(default_factory=dict)  # port -> name
    taken: Sequence[str] = ()


class Finder:
    """Looks at a host once."""

    def __init__(self, wanted: Wanted, run: Runner) -> None:
        self.wanted = wanted
        self.run = run
        self.known = _adopt_look.everyone()
        self.taken = list(wanted.taken)
        self.our_files = [entry.path for entry in _host.manifest_entries(wanted.manifest_directory)]
        self.our_units = {os.path.basename(path) for path in self.our_files if path.endswith(".service")}
        # An entry of a keeper's settings for each instance, whichever manager runs it.
        self.our_names = {
            os.path.splitext(os.path.basename(path))[0]
            for path in self.our_files
            if path.startswith("/etc/vllm-keeper/") and path.endswith(".json")
        }

    def find(self) -> list[Found]:
        """All servers, each checked alone and then all together."""
        found = [self.look(server, command) for server, command in _adopt_look.servers(self.known)]
        _adopt_entry.check_together([one.plan for one in found if not one.managed])
        return found

    def find_one(self, identity: str, name: str) -> Found | None:
        """The server of an identity, None if it is gone."""
        for server, command in _adopt_look.servers(self.known):
            if identity == f"{server.pid}:{server.born}":
                return self.look(server, command, name)
        return None

    def look(self, server: Process, command: _adopt_arguments.Command, name: str = "") -> Found:
        """One server."""
        launch = _adopt_launch.classify(server, self.known)
        tree = _adopt_launch.descendants(server.pid, self.known)
        one = Found(
            server=server,
            command=command,
            launch=launch,
            tree=tree,
            directory=os.path.normpath(_adopt_look.link(server.pid, "cwd") or "/"),
            environ=_adopt_look.environ(server.pid),
            listening=_adopt_look.listening(server.pid, tree),
        )
        self._manager(one)
        if one.managed:
            return one
        hindrances = list(self._hindrances(one))
        if launch.kind == "container" and not hindrances:
            one.container = self._inspect(one) or {}
            hindrances += self._container_hindrances(one)
        config, trouble = self._config(one)
        hindrances += trouble
        options = _adopt_arguments.options(command, config)
        one.model = self._model(one, options)
        one.plan = self._plan(one, options, name)
        one.plan.problems[:0] = hindrances
        return one

    # -- who runs it ------------------------------------------------------------------------------------------------

    def _manager(self, one: Found) -> None:
        """A server of this collection is not found, it is managed."""
        chain = [one.server, *_adopt_launch.ancestors(one.server.pid, self.known)]
        file = _adopt_arguments.config_file(one.command) or ""
        name = os.path.splitext(os.path.basename(file))[0]
        ours = file.startswith("/etc/vllm/") and (file in self.our_files or name in self.our_names)
        kept = any(_keeper(process) for process in chain[1:])
        if one.launch.name in self.our_units and one.launch.kind == "unit":
            one.managed = one.launch.name[: -len(".service")]
        elif ours and (kept or one.launch.kind in ("container", "supervisor")):
            one.managed = name

    def _hindrances(self, one: Found) -> t.Iterator[str]:
        """Why a server cannot be taken over, from how it was started."""
        launch = one.launch
        if launch.kind == "pod":
            yield "it runs in a Kubernetes pod, which would start it again: leave it, or delete its workload there"
        if launch.kind == "supervisor":
            yield (
                f"it runs under {launch.name}, which would start it again: take its program out of {launch.name} "
                "first, start the server by hand or not at all, and run this again"
            )
        if launch.kind == "container" and launch.detail:
            yield "it runs in a container with an init system of its own, which is a host by itself: adopt it in there"
        file = _adopt_arguments.config_file(one.command) or ""
        if file.startswith("/etc/vllm/") and file in self.our_files:
            name = os.path.splitext(os.path.basename(file))[0]
            yield (
                f"it was started by hand with this collection's own {file}: end it (kill {one.server.pid}), then "
                f"vllm-keeper start {name}"
            )
        for address, port, shared in one.listening:
            if shared:
                yield (
                    f"port {port} ({address}): other servers listen at the same address and port, and one instance "
                    "cannot stand for all of them: stop the others first"
                )

    def _inspect(self, one: Found) -> dict[str, t.Any] | None:
        launch = one.launch
        if launch.runtime not in ("docker", "podman"):
            return None
        return _adopt_look.container(launch.runtime, launch.name, lambda argv: _plain(self.run, argv))

    def _container_hindrances(self, one: Found) -> t.Iterator[str]:
        launch = one.launch
        if launch.runtime not in ("docker", "podman"):
            yield f"it runs in a container of {launch.runtime or 'an unknown runtime'}: docker and podman are known"
        elif not one.container:
            yield (
                f"{launch.runtime} inspect {launch.name[:12]} tells root nothing: a rootless or remote "
                f"{launch.runtime} runs it; stop it as its user, and run this again"
            )
        else:
            yield from _adopt_container.hindrances(one.container)
            problems, one.outside = _adopt_container.run_by(one.container, self.known)
            yield from problems

    # -- what it was told -------------------------------------------------------------------------------------------

    def place(self, one: Found, path: str) -> str | None:
        """Where a path that the server sees lies on the host."""
        if one.launch.kind != "container":
            return path
        return _adopt_look.host_path(
            path, _adopt_look.text(one.server.pid, "mountinfo"), _adopt_look.text(os.getpid(), "mountinfo")
        )

    def _config(self, one: Found) -> tuple[dict[str, t.Any] | None, list[str]]:
        file = _adopt_arguments.config_file(one.command)
        if file is None:
            return None, []
        path = f"/proc/{one.server.pid}/root{os.path.join(one.directory, file)}"
        try:
            with open(path, encoding="utf-8") as stream:
                text = stream.read(YAML_BYTES)
        except (OSError, UnicodeDecodeError) as failure:
            reason = getattr(failure, "strerror", None) or "not text"
            return None, [f"--config {file}: cannot be read ({reason}): put the file back where it was"]
        try:
            config = self._yaml(one, text)
        except ValueError:
            return None, [
                f"--config {file}: is no YAML dictionary, or no Python with PyYAML is there to read it: install "
                "python3-yaml on the host, or give the options on the command line"
            ]
        return config, []

    def _yaml(self, one: Found, text: str) -> dict[str, t.Any]:
        try:
            yaml: t.Any = importlib.import_module("yaml")
        except ImportError:
            config = self._yaml_by(one, text)
        else:
            try:
                config = yaml.safe_load(text)
            except yaml.YAMLError as failure:
                raise ValueError from failure
        if config is not None and not isinstance(config, dict):
            raise ValueError
        return config or {}

    def _yaml_by(self, one: Found, text: str) -> t.Any:
        """Read by the server's own Python, as its own user: root runs nothing of that user's."""
        python = _adopt_look.link(one.server.pid, "exe")
        first = one.server.argv[0]
        account = _adopt_look.account(one.server.uid)
        if one.launch.kind == "container" or account is None or not os.path.basename(python).startswith("python"):
            raise ValueError
        # The path as it was called is the one that finds the environment's own modules.
        python = first if first.startswith("/") and os.path.realpath(first) == python else python
        try:
            done = self.run([*as_user(account), python, "-I", "-c", READ_YAML], given=text, environment={}, folder="/",
                            timeout=60)  # fmt: skip
        except (OSError, TimeoutError) as failure:
            raise ValueError from failure
        if done.status:
            raise ValueError
        return json.loads(done.output)

    def _model(self, one: Found, options: _adopt_arguments.Options) -> _adopt_entry.Model:
        _name, home = _adopt_look.user(one.server.uid)
        home = one.environ.get("HOME") or home
        folder = options.given.get("download-dir")
        revision = options.given.get("revision")
        return _adopt_models.locate(
            options.model or "",
            None if revision is None else str(revision),
            _adopt_models.caches(one.environ, home, None if folder is None else str(folder)),
            one.directory,
            home,
            lambda path: self.place(one, path),
            self.wanted.service_user,
        )

    def _plan(self, one: Found, options: _adopt_arguments.Options, name: str) -> _adopt_entry.Plan:
        ports = [port for _address, port, _shared in one.listening]
        said = one.port = options.given.get("port", _adopt_entry.PORT)
        outside: tuple[str, int] | None = None
        problems = []
        environ: Mapping[str, str] = one.environ
        if one.container and isinstance(said, int):
            places = _adopt_container.published(one.container, said)
            outside = places[0] if places else None
            if not places:
                problems.append(
                    f"port {said}: its container publishes it nowhere on this host, so nobody could have reached it"
                )
            if len(places) > 1:
                told = ", ".join(f"{address or ANY} port {port}" for address, port in places)
                problems.append(
                    f"port {said}: its container publishes it at {told}, and an instance listens at one place: start "
                    "the container with one of them"
                )
        if one.container:
            environ = _adopt_container.environ_outside(one.container, one.environ)
        address = outside[0] if outside else str(options.given.get("host") or "")
        reach = outside[1] if outside else said
        key = options.given.get("api-key") or one.environ.get("VLLM_API_KEY")
        key = key[0] if isinstance(key, list) else key
        answered = None
        if isinstance(reach, int) and 0 < reach < 65536 and ports:
            answered = _adopt_look.ask(address or ANY, reach, None if key is None else str(key))
        if outside and one.container:
            options.given.pop("host", None)
            if outside[0] not in ("", ANY, "::"):
                options.given["host"] = outside[0]
        seen = _adopt_entry.Seen(
            options=options,
            environ=environ,
            model=one.model or _adopt_entry.Model("missing"),
            answered=answered,
            ports=ports,
            port=outside[1] if outside else None,
        )
        plan = _adopt_entry.build(seen, name or self.wanted.names.get(str(reach), ""), self.taken)
        plan.problems.extend(problems)
        plan.notes.extend(_adopt_container.notes(one.container))
        self.taken.append(plan.entry["name"])  # the next server gets another name
        return plan


def _keeper(process: Process) -> bool:
    return any(os.path.basename(word) == "vllm-keeper" or "vllm_keeper" in word for word in process.argv[:6])


def _plain(run: Runner, argv: Sequence[str]) -> tuple[int, str, str]:
    done = run(argv, timeout=30)
    return done.status, done.output, done.errors


def listening(one: Found) -> list[str]:
    """Where requests go. Its engine and workers have ports of their own, which are nobody's business."""
    asked = [item for item in one.listening if item[1] == one.port]
    return [f"{address} port {port}" for address, port, _shared in asked or one.listening]


def output(one: Found) -> str:
    """Where its standard output goes; the pipe to a container's runtime tells nobody anything."""
    if one.container:
        return f"{one.launch.runtime} logs {_adopt_container.name(one.container)}"
    return _adopt_look.link(one.server.pid, "fd/1")


def result(one: Found) -> dict[str, t.Any]:
    """A server as it may be shown."""
    harmless, secret = _adopt_secrets.shown_environment(one.environ)
    name, _home = _adopt_look.user(one.server.uid)
    model = one.model
    return {
        "identity": one.identity,
        "pid": one.server.pid,
        "command": _adopt_secrets.blank_argv(one.server.argv),
        "user": name,
        "directory": one.directory,
        "started": _adopt_launch.told(one.launch, one.server),
        "since": _adopt_look.since(one.server.born),
        "launch": _adopt_launch.fields(one.launch),
        "listening": listening(one),
        "output": output(one),
        "environment": harmless,
        "secret_variables": secret,
        "model": {"kind": model.kind, "path": model.path, "repository": model.repository, "commit": model.commit}
        if model
        else {},
        "managed": one.managed,
        "entry": one.plan.entry,
        "secrets": [{"key": item.key, "variable": item.variable, "source": item.source} for item in one.plan.secrets],
        "problems": one.plan.problems,
        "notes": one.plan.notes,
    }


def report(found: Sequence[Mapping[str, t.Any]]) -> list[str]:
    """Servers for people, a line each thing."""
    lines: list[str] = []
    for one in found:
        if one["managed"]:
            lines.append(f"instance {one['managed']} (pid {one['pid']}) is managed by this collection already")
            continue
        lines.append(f"vLLM server, pid {one['pid']}, user {one['user']}: {one['started']}, since {one['since']}")
        lines.append(f"  command: {' '.join(one['command'])}")
        lines.append(f"  in: {one['directory']}    listens at: {', '.join(one['listening']) or 'nothing yet'}")
        lines.append(f"  output goes to: {one['output'] or 'unknown'}")
        if one["environment"]:
            lines.append(f"  environment: {' '.join(f'{key}={value}' for key, value in one['environment'].items())}")
        if one["secret_variables"]:
            lines.append(f"  variables that may be secret, not shown: {' '.join(one['secret_variables'])}")
        model = one["model"]
        if model.get("kind") == "snapshot":
            lines.append(f"  model: {model['repository']} at {model['commit'][:12]}, in {model['path']}")
        elif model.get("path"):
            lines.append(f"  model: {model['path']}")
        lines.extend(f"  note: {note}" for note in one["notes"])
        for secret in one["secrets"]:
            lines.append(
                f"  secret: {secret['source']} becomes {secret['key']}, read from the variable {secret['variable']}"
            )
        lines.extend(f"  LEFT ALONE: {problem}" for problem in one["problems"])
        if not one["problems"]:
            lines.append(f"  can be taken over as instance {one['entry']['name']}")
    return lines or ["no vLLM server runs here"]
