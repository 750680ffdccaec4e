# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action behind locked_environment: reads the lock on the controller, sends it only where it is needed."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host for the release; send the lock if it has to be built."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        lock = self._lock(arguments)
        environment = {str(key): str(value) for key, value in (arguments.pop("environment", None) or {}).items()}
        arguments.pop("sealed", None)
        if arguments.get("need_bytes") is None:
            arguments["need_bytes"] = lock.need_bytes
        request: dict[str, Any] = {
            "version": lock.version_of(str(arguments["package"])),
            "digest": lock.digest,
            "pins": len(lock.pins),
            "requires_python": lock.requires_python,
            "environment": environment,
            "lock": None,
        }
        answer = self._ask(arguments, request, task_vars)
        if answer.pop("lock_needed", False):
            answer = self._ask(arguments, {**request, "lock": lock.text}, task_vars)
        result.update(answer)
        return result

    def _lock(self, arguments: dict[str, Any]) -> _lock.Lock:
        """The lock, read and judged before the host is asked anything."""
        for name in ("root", "lock_file", "package"):
            if not arguments.get(name):
                raise AnsibleActionFail(f"locked_environment: {name} is missing")
        name = str(arguments["lock_file"])
        package = str(arguments["package"])
        try:
            path = Path(self._find_needle("files", name))
            text = path.read_text(encoding="utf-8")
        except (AnsibleError, OSError, UnicodeDecodeError) as err:
            raise AnsibleActionFail(
                f"locked_environment: lock_file: {name}: cannot be read on the controller ({err})"
            ) from err
        try:
            lock = _lock.parse(text)
            version = lock.version_of(package)
        except _lock.LibraryMissing as err:
            raise AnsibleActionFail(f"locked_environment: {err}") from err
        except _lock.LockError as err:
            lines = "\n".join(f"  {problem}" for problem in err.problems)
            raise AnsibleActionFail(f"locked_environment: lock_file: {path} is refused:\n{lines}") from err
        minimum = arguments.get("minimum")
        if minimum and _lock.below_minimum(version, str(minimum)):
            raise AnsibleActionFail(
                f"locked_environment: {path}: {package} {version} is below minimum {minimum}: older versions have known"
                f" security holes. Make a lock of {minimum} or later."
            )
        return lock

    def _ask(
        self, arguments: dict[str, Any], request: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        # One opaque string: no_log on single values would blank every "1" of the output.
        sealed = base64.b64encode(zlib.compress(json.dumps(request).encode(), 9)).decode()
        answer: dict[str, Any] = self._execute_module(
            module_name="steadfast.vllm.locked_environment",
            module_args={**arguments, "sealed": sealed},
            task_vars=task_vars,
        )
        return answer
