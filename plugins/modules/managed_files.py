#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Keep the files that a role leaves on a host
version_added: "0.1.0"
author: steadfast.vllm contributors (@steadfast-vllm)
description:
  - Brings all files and directories that a role leaves on a host to what is listed, in one round trip however many they
    are.
  - Remembers what it wrote in a manifest on the host, and removes what is no longer listed.
  - Removes, where O(exclusive) says so, what was put beside its files by hand.
  - Remembers there too what a change owes, as a daemon reload or a restart, until it was done. So a run that was killed
    between writing a file and acting on it is finished by the next run.
  - Templates are rendered on the controller. All validators pass before anything is changed, and each file is replaced
    atomically.
options:
  manifest:
    description:
      - Name of the manifest, usually that of the role. It is kept as C(<state_directory>/<manifest>.json).
      - One path belongs to one manifest.
    type: str
    required: true
  state_directory:
    description: Directory on the host that holds the manifests, readable by root only.
    type: path
    default: /var/lib/steadfast
  files:
    description:
      - All files and directories of this manifest. What an earlier run listed and this one does not is removed.
      - An empty list removes everything that the manifest knows of.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Absolute path on the host, in its plain form.
          - A symbolic link at the path of a file is replaced by the file, never followed. A symbolic link at the
            path of a directory is refused.
        type: str
        required: true
      state:
        description:
          - Whether the path is a file or a directory.
          - A directory that is no longer listed is removed if it was made by this module and is empty.
        type: str
        choices: [file, directory]
        default: file
      template:
        description:
          - Name of a template in the role's C(templates) folder, rendered as M(ansible.builtin.template) does.
          - Exactly one of O(files[].template), O(files[].content) and O(files[].source) is needed for a file.
        type: str
      content:
        description: The content itself, as text.
        type: str
      source:
        description:
          - Name of a file in the role's C(files) folder, taken byte for byte.
          - A file encrypted by vault is decrypted.
        type: str
      vars:
        description: Variables for this template, beside those of the task.
        type: dict
      owner:
        description: Name or number of the owning user.
        type: str
        default: root
      group:
        description: Name or number of the owning group.
        type: str
        default: root
      mode:
        description:
          - Octal mode, in quotes.
          - The default is V(0644) for a file and V(0755) for a directory.
        type: str
      secret:
        description: Never show the content, in diff, messages or logs, nor the output of its validator.
        type: bool
        default: false
      validate:
        description:
          - Command that checks the new file before anything is changed. V(%s) stands for the path of the file to check.
            No shell is used.
          - It runs only when the content changes. The new files that go to the same directory lie beside each other,
            except secret ones.
          - If the program is missing the task fails; in check mode this is told in RV(unvalidated), since an earlier
            task may be the one to install it. So is a refusal in check mode on a host that never had this manifest.
        type: str
      validate_as:
        description: Name of the file to check, if it has to differ from that of O(files[].path).
        type: str
      owes:
        description:
          - Names of what is owed when the content of this file changes or the file is removed.
          - Mending only mode or owner owes nothing.
        type: list
        elements: str
        default: []
      before_remove:
        description:
          - Command, as a list of words, to run before the file is removed once it is no longer listed. It is remembered
            in the manifest.
          - If it fails, the file is kept and stays in the manifest.
        type: list
        elements: str
        default: []
  exclusive:
    description:
      - Directories in which names of a pattern belong to this manifest alone, as the drop-ins of a unit.
      - Regular files and symbolic links there that O(files) does not list are removed, because they change what the
        files of this manifest made true. They are told in RV(removed).
      - No copy of them is kept, but C(--diff) shows their content. It is not shown if a file of this manifest in the
        same directory is secret. Run in check mode with C(--diff) first where you do not know what is there.
      - What another manifest on the host lists is left and told in RV(kept). While another manifest cannot be read,
        everything that it could have listed is left, with a warning.
      - Directories, devices, sockets and pipes are left, and what lies in inner directories is not looked at.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path of the directory on the host, in its plain form. It need not be listed in O(files), and not
            exist.
          - A symbolic link at its place is not followed; there is a warning instead.
        type: str
        required: true
      pattern:
        description:
          - Names that belong to this manifest, with V(*), V(?) and V([]) as in Python's C(fnmatch). Upper and lower
            case differ, and V(*) matches names that begin with a dot too.
        type: str
        default: "*"
      owes:
        description: Names of what is owed when a file is removed here, as in O(files[].owes).
        type: list
        elements: str
        default: []
  actions:
    description:
      - What this task does itself for names that are owed, in this order, after the files are in place.
      - An owed name without an action here stays in the manifest.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name as in O(files[].owes) and O(exclusive[].owes).
        type: str
        required: true
      command:
        description: The command as a list of words. No shell is used.
        type: list
        elements: str
        required: true
  sealed:
    description: All contents, packed by the action plugin. It is not for tasks, which are refused with it.
    type: str
attributes:
  check_mode:
    description: Can run in check mode and return what would change without changing it.
    support: full
  diff_mode:
    description: Returns what changed, or in check mode would change. The content of secret files is not shown.
    support: full
  idempotent:
    description: Running it again with the same options on the same host changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Keep the unit and its secrets
  steadfast.vllm.managed_files:
    manifest: service
    files:
      - path: /etc/vllm
        state: directory
      - path: /etc/systemd/system/qwen3vl.service
        template: unit.service.j2
        vars:
          instance: "{{ my_instance }}"
        validate: systemd-analyze verify %s
        owes: [systemd, qwen3vl]
        before_remove: [systemctl, disable, --now, qwen3vl.service]
      - path: /etc/vllm/qwen3vl.env
        content: "VLLM_API_KEY={{ my_api_key }}\n"
        mode: "0600"
        secret: true
        owes: [qwen3vl]
    actions:
      - name: systemd
        command: [systemctl, daemon-reload]

- name: Keep a unit that nobody overrides by hand
  steadfast.vllm.managed_files:
    manifest: service
    files:
      - path: /etc/systemd/system/qwen3vl.service
        template: unit.service.j2
        vars:
          instance: "{{ my_instance }}"
        owes: [systemd, qwen3vl]
    exclusive:
      - path: /etc/systemd/system/qwen3vl.service.d
        pattern: "*.conf"
        owes: [systemd, qwen3vl]
    actions:
      - name: systemd
        command: [systemctl, daemon-reload]

- name: Take away everything that the manifest knows of
  steadfast.vllm.managed_files:
    manifest: service
    files: []
    actions:
      - name: systemd
        command: [systemctl, daemon-reload]
"""

RETURN = r"""
files:
  description: Paths that were written, made or mended.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/qwen3vl.service]
removed:
  description: Paths that were removed, because they are no longer listed or O(exclusive) leaves no place for them.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/old.service]
kept:
  description:
    - Paths that are no longer listed but were left, as a directory that is not empty or was not made by this module.
    - Paths in directories of O(exclusive) that belong to another manifest.
  returned: success
  type: list
  elements: str
  sample: []
actions:
  description: Names whose action ran.
  returned: success
  type: list
  elements: str
  sample: [systemd]
owed:
  description: Names that are still owed after this task.
  returned: success
  type: list
  elements: str
  sample: [qwen3vl]
unvalidated:
  description: Check mode only, files whose validator could give no answer, each with the reason.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /etc/haproxy/haproxy.cfg
      reason: "/etc/haproxy/haproxy.cfg: its validator haproxy is not on this host"
"""

import base64
import grp
import json
import os
import pwd
import zlib
from collections.abc import Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_files
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import DIRECTORY, ManifestError
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_apply import Action, Host, Request, Run
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_commands import Finished, search_path
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_exclusive import Exclusive
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Desired
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_validate import Item

FILE_OPTIONS = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["file", "directory"], "default": "file"},
    # The next four are for the controller: they never reach the host.
    "template": {"type": "str"},
    "content": {"type": "str", "no_log": True},
    "source": {"type": "str"},
    "vars": {"type": "dict", "no_log": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "validate": {"type": "str"},
    "validate_as": {"type": "str"},
    "owes": {"type": "list", "elements": "str", "default": []},
    "before_remove": {"type": "list", "elements": "str", "default": []},
}
EXCLUSIVE_OPTIONS = {
    "path": {"type": "str", "required": True},
    "pattern": {"type": "str", "default": "*"},
    "owes": {"type": "list", "elements": "str", "default": []},
}
ACTION_OPTIONS = {
    "name": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "required": True},
}
OPTIONS = {
    "manifest": {"type": "str", "required": True},
    "state_directory": {"type": "path", "default": DIRECTORY},
    "files": {"type": "list", "elements": "dict", "required": True, "options": FILE_OPTIONS},
    "exclusive": {"type": "list", "elements": "dict", "default": [], "options": EXCLUSIVE_OPTIONS},
    "actions": {"type": "list", "elements": "dict", "default": [], "options": ACTION_OPTIONS},
    # All contents, packed by the action plugin.
    "sealed": {"type": "str", "no_log": True},
}


def unpack(payload: str) -> list[bytes]:
    """The contents in the order of the files; the inverse of the action plugin's pack."""
    head, _newline, body = zlib.decompress(base64.b64decode(payload)).partition(b"\n")
    contents, start = [], 0
    for size in json.loads(head):
        contents.append(body[start : start + (size or 0)])
        start += size or 0
    return contents


class Accounts:
    """Names of users and groups to numbers, with every unknown name remembered."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def number(self, kind: str, name: str, place: str) -> int:
        if name.isdigit():
            return int(name)
        try:
            return pwd.getpwnam(name).pw_uid if kind == "owner" else grp.getgrnam(name).gr_gid
        except KeyError:
            what = "user" if kind == "owner" else "group"
            text = f"{place}.{kind}: there is no {what} {name} on this host"
            if self.check:
                self.warnings.append(f"{text} (yet)")
            else:
                self.problems.append(f"{text}: make it before this task, or name another")
            return -1


def items_of(files: list[dict[str, Any]], contents: list[bytes], accounts: Accounts) -> list[Item]:
    items = []
    for number, (options, content) in enumerate(zip(files, contents)):
        place = f"files[{number}]"
        mode = options["mode"] or ("0755" if options["state"] == "directory" else "0644")
        desired = Desired(
            path=options["path"],
            state=options["state"],
            mode=int(mode, 8),
            uid=accounts.number("owner", options["owner"], place),
            gid=accounts.number("group", options["group"], place),
            digest=_manifest_files.digest_of(content),
            secret=options["secret"],
            owes=tuple(options["owes"]),
            before_remove=tuple(options["before_remove"]),
        )
        items.append(Item(desired, content, options["validate"], options["validate_as"]))
    return items


def printable(value: Any) -> Any:
    """The result with every name on the host that is no UTF-8 written with escapes: Ansible refuses it otherwise."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: printable(inner) for key, inner in value.items()}
    return [printable(inner) for inner in value] if isinstance(value, list) else value


def host_of(module: AnsibleModule) -> Host:
    def label(temporary: str, path: str) -> None:
        known = os.path.lexists(path) and temporary != path
        context = module.selinux_context(path) if known else module.selinux_default_context(path)
        module.set_context_if_different(temporary, context, False)

    def run(argv: Sequence[str]) -> Finished:
        code, output, errors = module.run_command(
            list(argv),
            environ_update={"LC_ALL": "C.UTF-8", "PATH": search_path()},
            expand_user_and_vars=False,
            handle_exceptions=False,
        )
        return Finished(code, "\n".join(text.strip() for text in (output, errors) if text.strip()))

    return Host(run, label if module.selinux_enabled() else None)


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if not module.params["sealed"]:
        module.fail_json(
            msg="managed_files has to be run by its action plugin: name it steadfast.vllm.managed_files in a task"
        )
    accounts = Accounts(module.check_mode)
    items = items_of(module.params["files"], unpack(module.params["sealed"]), accounts)
    if accounts.problems:
        module.fail_json(msg="\n".join(accounts.problems))
    request = Request(
        directory=module.params["state_directory"],
        name=module.params["manifest"],
        items=tuple(items),
        actions=tuple(Action(action["name"], tuple(action["command"])) for action in module.params["actions"]),
        exclusive=tuple(
            Exclusive(rule["path"], rule["pattern"], tuple(rule["owes"])) for rule in module.params["exclusive"]
        ),
        check=module.check_mode,
        diff=module._diff,
        scratch=module.tmpdir if module.check_mode else "",
    )
    run = Run(request, host_of(module))
    try:
        outcome = run()
        failure = ""
    except ManifestError as error:
        outcome, failure = run.outcome, str(error)
    for warning in accounts.warnings + outcome.warnings:
        module.warn(printable(warning))
    result: dict[str, Any] = {
        "changed": outcome.changed,
        "files": outcome.files,
        "removed": outcome.removed,
        "kept": outcome.kept,
        "actions": outcome.actions,
        "owed": outcome.owed,
        "unvalidated": outcome.unvalidated,
    }
    if module._diff:
        result["diff"] = outcome.diff
    if failure:
        module.fail_json(msg=printable(failure), **printable(result))
    module.exit_json(**printable(result))


if __name__ == "__main__":
    main()
