# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Render what a role leaves on a host here, and let the module of the same name apply it in one round trip."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import DIRECTORY
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _manifest_options

MODULE = "steadfast.vllm.managed_files"
# The contents travel inside the module, so that there is one round trip. That is for configuration, not for models.
LIMIT = 32 * 1024 * 1024


class Refused(Exception):
    """A file that cannot be made; its text is for the user and holds no secret."""


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables: dict[str, Any] = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        arguments = self._task.args
        problems = _manifest_options.problems(arguments)
        if problems:
            return self._failed(result, problems)
        files = [_manifest_options.normalise(item) for item in arguments["files"]]
        contents: list[bytes | None] = []
        for number, item in enumerate(arguments["files"]):
            try:
                contents.append(self._content(item, files[number], f"files[{number}]", variables))
            except Refused as refused:
                problems.append(str(refused))
        size = sum(len(content) for content in contents if content is not None)
        if size > LIMIT:
            problems.append(
                f"files: {size} bytes of content are more than the {LIMIT} that one task may carry: use a copy task"
            )
        if problems:
            return self._failed(result, problems)
        module_arguments = {
            "manifest": str(arguments["manifest"]),
            "state_directory": str(arguments.get("state_directory") or DIRECTORY),
            "files": files,
            "exclusive": [_manifest_options.normalise_exclusive(item) for item in arguments.get("exclusive") or []],
            "actions": [
                {"name": str(action["name"]), "command": [str(word) for word in action["command"]]}
                for action in arguments.get("actions") or []
            ],
            "sealed": pack(contents),
        }
        result.update(self._execute_module(module_name=MODULE, module_args=module_arguments, task_vars=variables))
        return result

    def _failed(self, result: dict[str, Any], problems: list[str]) -> dict[str, Any]:
        result.update(failed=True, changed=False, msg="\n".join(problems))
        return result

    def _content(
        self, item: Mapping[str, Any], normal: Mapping[str, Any], place: str, variables: dict[str, Any]
    ) -> bytes | None:
        if normal["state"] == "directory":
            return None
        if item.get("content") is not None:
            return str(item["content"]).encode("utf-8", "surrogateescape")
        if item.get("source") is not None:
            return self._source(str(item["source"]), f"{place}.source")
        return self._template(str(item["template"]), item, normal, f"{place}.template", variables)

    def _find(self, folder: str, name: str, place: str) -> str:
        try:
            return str(self._find_needle(folder, name))
        except AnsibleError as error:
            raise Refused(f"{place}: {name} was not found in the {folder}/ folders of the role or playbook") from error

    def _source(self, name: str, place: str) -> bytes:
        path = self._find("files", name, place)
        if Path(path).is_dir():
            raise Refused(f"{place}: {path} is a directory: list its files one by one")
        try:
            real = self._loader.get_real_file(path)
            try:
                return Path(real).read_bytes()
            finally:
                self._loader.cleanup_tmp_file(real)
        except (AnsibleError, OSError) as error:
            raise Refused(f"{place}: {path} cannot be read: {error}") from error

    def _template(
        self, name: str, item: Mapping[str, Any], normal: Mapping[str, Any], place: str, variables: dict[str, Any]
    ) -> bytes:
        path = self._find("templates", name, place)
        roots = [*variables.get("ansible_search_path", []), self._loader.get_basedir(), str(Path(path).parent)]
        search = [folder for root in roots for folder in (f"{root}/templates", root)]
        available = {"ansible_managed": "Ansible managed"}
        available.update(variables)
        available.update(template_path=name, template_fullpath=path, template_destpath=normal["path"])
        available.update(item.get("vars") or {})
        try:
            text = trust_as_template(self._loader.get_text_file_contents(path))
            templar = self._templar.copy_with_new_env(searchpath=search, available_variables=available)
            rendered = templar.template(
                text, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": False}
            )
        except AnsibleUndefinedVariable as error:
            raise Refused(f"{place}: {name} ({path}) for {normal['path']}: {error}") from error
        except AnsibleError as error:
            # An error of a filter can quote the value that it was given.
            reason = type(error).__name__ + ", not shown: the file is secret" if normal["secret"] else str(error)
            raise Refused(f"{place}: {name} ({path}) for {normal['path']} cannot be rendered: {reason}") from error
        if rendered is None:
            return b""
        if not isinstance(rendered, str):
            kind = _manifest_options.kind_of(rendered)
            raise Refused(
                f"{place}: {name} ({path}) renders to a {kind}, not to text: end its expression with to_json or string"
            )
        return str(rendered).encode("utf-8", "surrogateescape")


def pack(contents: list[bytes | None]) -> str:
    """All contents as one string: a line of sizes (null for a directory), then the bytes, compressed."""
    sizes = json.dumps([None if content is None else len(content) for content in contents])
    body = b"".join(content for content in contents if content is not None)
    return base64.b64encode(zlib.compress(sizes.encode() + b"\n" + body, 6)).decode("ascii")
