# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of managed_files: every problem at once, each with its place. Pure.

Private to steadfast.vllm.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import DIRECTORY
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_files import parent

TASK_KEYS = ("manifest", "files", "exclusive", "actions", "state_directory")
FILE_KEYS = (
    "path",
    "state",
    "template",
    "content",
    "source",
    "vars",
    "owner",
    "group",
    "mode",
    "secret",
    "validate",
    "validate_as",
    "owes",
    "before_remove",
)
# What makes no sense for a directory.
CONTENT_KEYS = ("template", "content", "source", "vars", "secret", "validate", "validate_as")
EXCLUSIVE_KEYS = ("path", "pattern", "owes")
ACTION_KEYS = ("name", "command")
USUAL_MODES = (
    0o400,
    0o440,
    0o444,
    0o500,
    0o550,
    0o555,
    0o600,
    0o640,
    0o644,
    0o660,
    0o664,
    0o700,
    0o750,
    0o755,
    0o775,
    0o777,
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]*\Z")
_MANIFEST = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
_MODE = re.compile(r"0?[0-7]{3,4}\Z")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def problems(arguments: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a task's arguments, one line each; empty where nothing is."""
    found = _unknown(arguments, TASK_KEYS, "")
    manifest = arguments.get("manifest")
    if not isinstance(manifest, str) or not _MANIFEST.match(manifest):
        found.append(
            f"manifest: {_say(manifest)} is no name for a manifest: lower-case letters, digits, _ and -, as in service"
        )
    directory = arguments.get("state_directory", DIRECTORY)
    found += _path_problems(directory, "state_directory")
    files = arguments.get("files")
    if isinstance(files, list):
        found += _files_problems(files, directory if isinstance(directory, str) else DIRECTORY)
    else:
        found.append(f"files: {_say(files)} is not a list; an empty list removes every file of this manifest")
    listed = {item["path"] for item in files if _is_file_entry(item)} if isinstance(files, list) else set()
    found += _exclusive_problems(
        arguments.get("exclusive"), listed, directory if isinstance(directory, str) else DIRECTORY
    )
    found += _actions_problems(arguments.get("actions"))
    return found


def normalise(item: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of C(files) with its defaults. Only for entries without problems."""
    state = item.get("state") or "file"
    mode = item.get("mode")
    return {
        "path": str(item["path"]),
        "state": str(state),
        "owner": _text(item.get("owner"), "root"),
        "group": _text(item.get("group"), "root"),
        "mode": str(mode) if mode is not None else ("0755" if state == "directory" else "0644"),
        "secret": _is_true(item.get("secret")),
        "validate": _optional(item.get("validate")),
        "validate_as": _optional(item.get("validate_as")),
        "owes": [str(name) for name in item.get("owes") or []],
        "before_remove": [str(word) for word in item.get("before_remove") or []],
    }


def normalise_exclusive(item: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of C(exclusive) with its defaults. Only for entries without problems."""
    return {
        "path": str(item["path"]),
        "pattern": _text(item.get("pattern"), "*"),
        "owes": [str(name) for name in item.get("owes") or []],
    }


def _files_problems(files: list[Any], directory: str) -> list[str]:
    found: list[str] = []
    first: dict[str, int] = {}
    plain = {item["path"] for item in files if _is_file_entry(item)}
    for number, item in enumerate(files):
        place = f"files[{number}]"
        if not isinstance(item, dict):
            found.append(f"{place}: {_say(item)} is not a map with at least a path")
            continue
        found += _file_problems(item, place)
        path = item.get("path")
        if not isinstance(path, str):
            continue
        if path in first:
            found.append(f"{place}.path: {path} is already listed as files[{first[path]}]: list each path once")
        first.setdefault(path, number)
        if path == directory or path.startswith(directory + "/"):
            found.append(
                f"{place}.path: {path} lies in {directory}, where the manifests are kept: choose another place"
            )
        if path != "/" and parent(path) in plain:
            found.append(f"{place}.path: {path} would lie in {parent(path)}, which is listed as a file")
    return found


def _is_file_entry(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("path"), str) and item.get("state") in (None, "file")


def _file_problems(item: Mapping[str, Any], place: str) -> list[str]:
    found = _unknown(item, FILE_KEYS, f"{place}.")
    found += _path_problems(item.get("path"), f"{place}.path")
    state = item.get("state")
    if state not in (None, "file", "directory"):
        found.append(f"{place}.state: {_say(state)} is neither file nor directory")
    given = [key for key in ("template", "content", "source") if item.get(key) is not None]
    if state == "directory":
        for key in CONTENT_KEYS:
            if item.get(key) not in (None, False):
                found.append(f"{place}.{key}: a directory has none: leave it out, or leave out state: directory")
    elif len(given) != 1:
        have = " and ".join(given) or "none"
        found.append(
            f"{place}: exactly one of template, content, source (or state: directory) is needed, there is {have}"
        )
    for key in given:
        found += _text_problems(item[key], f"{place}.{key}")
    found += _mode_problems(item.get("mode"), f"{place}.mode")
    for key in ("owner", "group"):
        value = item.get(key)
        if isinstance(value, bool) or not (
            value is None or isinstance(value, int) or (isinstance(value, str) and value)
        ):
            found.append(f"{place}.{key}: {_say(value)} is not a name or number")
    if item.get("secret") is not None and not _is_boolean(item["secret"]):
        found.append(f"{place}.secret: {_say(item['secret'])} is neither true nor false")
    variables = item.get("vars")
    if variables is not None and not isinstance(variables, dict):
        found.append(f"{place}.vars: {_say(variables)} is not a map of variables")
    found += _validate_problems(item, place)
    found += _names_problems(item.get("owes"), f"{place}.owes")
    if item.get("before_remove") is not None:
        found += _command_problems(item["before_remove"], f"{place}.before_remove", may_be_empty=True)
    return found


def kind_of(value: Any) -> str:
    """The kind of a value in the words of YAML; Ansible has its own classes for most."""
    kinds = ((bool, "boolean"), (dict, "map"), (list, "list"), ((int, float), "number"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _text_problems(value: Any, place: str) -> list[str]:
    if isinstance(value, str):
        return []
    return [f"{place}: a {kind_of(value)} is not text: end the expression with to_json, to_nice_yaml or string"]


def _path_problems(path: Any, place: str) -> list[str]:
    if not isinstance(path, str) or not path:
        return [f"{place}: {_say(path)} is not a path: give an absolute one"]
    if not path.startswith("/"):
        return [f"{place}: {path} is relative: give an absolute path"]
    if "\0" in path or "\n" in path:
        return [f"{place}: {path!r} holds a control character"]
    if not path.strip("/"):
        return [f"{place}: / is not for managed_files to manage"]
    # normpath keeps two slashes at the beginning.
    plain = "/" + os.path.normpath(path).lstrip("/")
    return [] if path == plain else [f"{place}: {path} is not in its plain form: write {plain}"]


def _mode_problems(mode: Any, place: str) -> list[str]:
    if mode is None:
        return []
    if isinstance(mode, int) and not isinstance(mode, bool):
        return [f'{place}: {mode} is a number, because it is not quoted. Write mode: "{_meant(mode).zfill(4)}"']
    if not isinstance(mode, str) or not _MODE.match(mode):
        return [f'{place}: {_say(mode)} is not an octal mode in quotes, as "0644"']
    return []


def _meant(mode: int) -> str:
    """The octal digits behind a number: YAML reads an unquoted 0644 as 420, and whoever writes 644 means octal too."""
    written = str(mode)
    return written if re.fullmatch("[0-7]{3,4}", written) and int(written, 8) in USUAL_MODES else f"{mode:o}"


def _validate_problems(item: Mapping[str, Any], place: str) -> list[str]:
    validate, name = item.get("validate"), item.get("validate_as")
    found = []
    if validate is not None:
        if not isinstance(validate, str) or not validate.strip():
            found.append(f"{place}.validate: {_say(validate)} is not a command")
        else:
            try:
                words = shlex.split(validate)
            except ValueError as error:
                return [f"{place}.validate: `{validate}` cannot be split into words: {error}"]
            if not any("%s" in word for word in words[1:]):
                found.append(f"{place}.validate: `{validate}` has no %s, the place of the file to check: add it")
    if name is not None:
        if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
            found.append(f"{place}.validate_as: {_say(name)} is not a file name without a folder")
        if validate is None:
            found.append(f"{place}.validate_as: there is no validate that it is for")
    return found


def _names_problems(value: Any, place: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [f"{place}: {_say(value)} is not a list of names"]
    return [f"{place}[{number}]: {_say(name)} is not a name" for number, name in enumerate(value) if not _is_name(name)]


def _exclusive_problems(exclusive: Any, listed: set[str], directory: str) -> list[str]:
    if exclusive is None:
        return []
    if not isinstance(exclusive, list):
        return [f"exclusive: {_say(exclusive)} is not a list of maps with at least a path"]
    found: list[str] = []
    first: dict[tuple[str, str], int] = {}
    for number, item in enumerate(exclusive):
        place = f"exclusive[{number}]"
        if not isinstance(item, dict):
            found.append(f"{place}: {_say(item)} is not a map with at least a path")
            continue
        found += _unknown(item, EXCLUSIVE_KEYS, f"{place}.")
        found += _names_problems(item.get("owes"), f"{place}.owes")
        wrong = _path_problems(item.get("path"), f"{place}.path")
        wrong += _pattern_problems(item.get("pattern"), f"{place}.pattern")
        found += wrong
        if wrong:
            continue
        path, pattern = str(item["path"]), _text(item.get("pattern"), "*")
        if path in listed:
            found.append(f"{place}.path: {path} is listed as a file: give the directory that it lies in")
        if path == directory or path.startswith(directory + "/"):
            found.append(f"{place}.path: {path} is where the manifests are kept: choose another place")
        if (path, pattern) in first:
            found.append(
                f"{place}: {path} with the pattern {pattern} is already exclusive[{first[path, pattern]}]: "
                "list each once"
            )
        first.setdefault((path, pattern), number)
    return found


def _pattern_problems(pattern: Any, place: str) -> list[str]:
    if pattern is None:
        return []
    if not isinstance(pattern, str) or not pattern or "\0" in pattern:
        return [f'{place}: {_say(pattern)} is not a pattern for names, as "*.conf"']
    if "/" in pattern:
        return [f"{place}: {pattern} holds a /: it is for names in the directory alone, which path gives"]
    return []


def _actions_problems(actions: Any) -> list[str]:
    if actions is None:
        return []
    if not isinstance(actions, list):
        return [f"actions: {_say(actions)} is not a list of maps with name and command"]
    found: list[str] = []
    seen: dict[str, int] = {}
    for number, action in enumerate(actions):
        place = f"actions[{number}]"
        if not isinstance(action, dict):
            found.append(f"{place}: {_say(action)} is not a map with name and command")
            continue
        found += _unknown(action, ACTION_KEYS, f"{place}.")
        name = str(action.get("name"))
        if not _is_name(action.get("name")):
            found.append(f"{place}.name: {_say(action.get('name'))} is not a name")
        elif name in seen:
            found.append(f"{place}.name: {name} is already actions[{seen[name]}]: one name has one command")
        else:
            seen[name] = number
        found += _command_problems(action.get("command"), f"{place}.command")
    return found


def _command_problems(value: Any, place: str, may_be_empty: bool = False) -> list[str]:
    if isinstance(value, list) and all(isinstance(word, str) for word in value) and (value or may_be_empty):
        return []
    return [f"{place}: {_say(value)} is not a list of words, as [systemctl, daemon-reload]; no shell is used"]


def _unknown(mapping: Mapping[Any, Any], known: Iterable[str], prefix: str) -> list[str]:
    found = []
    for key in mapping:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), list(known), n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        found.append(f"{prefix}{key}: unknown key, {hint}")
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.match(value))


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or str(value).lower() in _TRUE + _FALSE


def _is_true(value: Any) -> bool:
    return value is not None and str(value).lower() in _TRUE


def _text(value: Any, default: str) -> str:
    return default if value is None else str(value)


def _optional(value: Any) -> Any:
    return None if value is None else str(value)


def _say(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
