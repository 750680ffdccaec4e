#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_takeover: ends a server that was started by hand, so that a managed one takes its place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_takeover
short_description: Takes the place of a vLLM server that was started by hand
version_added: "0.1.0"
description:
  - Works on one server that M(steadfast.vllm.vllm_found_info) found, in stages, so that everything can be installed
    while the server still answers.
  - With O(stage=secrets) its secrets are compared with those of the inventory, or kept in a file on the host.
  - With O(stage=prepare) the server goes on. Its model, if it is a snapshot in a hub's cache, becomes the instance's
    own by hard links, without a fetch.
  - With O(stage=stop) whatever could start it again is held, its API alone is asked to end, so that streams finish, and
    what is left of it after O(drain_timeout) is killed. A unit is disabled and its file moved aside, a window of
    tmux or screen is closed unless something else runs in it, the restart policy of a container is set to V(no).
  - Refuses a process that is not the one that was found, or that cannot be taken over.
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment: [steadfast.vllm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - A server that is gone is stopped already.
options:
  identity:
    description: Which server, RV(steadfast.vllm.vllm_found_info#module:servers[].identity).
    type: str
    required: true
  stage:
    description: What to do.
    type: str
    choices: [secrets, prepare, stop]
    required: true
  drain_timeout:
    description: Seconds that running requests get.
    type: int
    default: 60
  secrets:
    description:
      - What the inventory has for the variables that the entry names, as a dictionary. They are compared with what the
        server has, on the host; a difference is refused, because clients would be locked out.
    type: dict
    default: {}
  secrets_file:
    description:
      - Write the server's secrets there, on the host, as a YAML file of variables that only root reads. For a host that
        is its own controller.
    type: path
  name:
    description: The name of the instance, as in the entry.
    type: str
  model_root:
    description: The folder of models of a hub.
    type: path
    default: /var/lib/vllm/models
  service_user:
    description: The user who will have to read the models. It must be there.
    type: str
    default: vllm
  manifest_directory:
    description: Where the collection keeps what it wrote on the host.
    type: path
    default: /var/lib/steadfast
seealso:
  - module: steadfast.vllm.vllm_found_info
"""

EXAMPLES = r"""
- name: See that its key is the one of the vault
  steadfast.vllm.vllm_takeover:
    identity: "{{ found.servers[0].identity }}"
    stage: secrets
    secrets:
      vault_qwen3vl_api_key: "{{ vault_qwen3vl_api_key }}"

- name: Have its model while it serves
  steadfast.vllm.vllm_takeover:
    identity: "{{ found.servers[0].identity }}"
    stage: prepare

- name: Stop it
  steadfast.vllm.vllm_takeover:
    identity: "{{ found.servers[0].identity }}"
    stage: stop
"""

RETURN = r"""
did:
  description: What was done, a line each; what stays on the host begins with V(left).
  returned: success
  type: list
  elements: str
  sample: [pid 4711 drained and ended in 2.4 s]
back:
  description: How to get the old server back.
  returned: success
  type: list
  elements: str
  sample: [systemctl start old-vllm.service]
"""

import json
import os
import re
import tempfile
import typing as t
from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_found, _adopt_models, _adopt_stop
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner, runner
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import human

SECRET_LINE = re.compile(r"([A-Za-z_]\w*): !unsafe (\".*\")")
HEADER = "# Secrets of servers that were taken over. Written by steadfast.vllm.vllm_takeover, for root alone."


class Refused(Exception):
    """Why nothing is done, for the reader."""


def argument_spec() -> dict[str, t.Any]:
    return {
        "identity": {"type": "str", "required": True},
        "stage": {"type": "str", "choices": ["secrets", "prepare", "stop"], "required": True},
        "drain_timeout": {"type": "int", "default": 60},
        "secrets": {"type": "dict", "default": {}, "no_log": True},
        "secrets_file": {"type": "path"},
        "name": {"type": "str"},
        "model_root": {"type": "path", "default": "/var/lib/vllm/models"},
        "service_user": {"type": "str", "default": "vllm"},
        "manifest_directory": {"type": "path", "default": "/var/lib/steadfast"},
    }


def server(options: Mapping[str, t.Any], run: Runner) -> _adopt_found.Found | None:
    """The server of that identity; None if it is gone."""
    wanted = _adopt_found.Wanted(options["model_root"], options["service_user"], options["manifest_directory"])
    found = _adopt_found.Finder(wanted, run).find_one(options["identity"], options["name"] or "")
    if not found:
        return None
    if found.managed:
        raise Refused(f"pid {found.server.pid} is instance {found.managed} of this collection already")
    if found.plan.problems:
        raise Refused("\n".join(found.plan.problems))
    return found


def compare(one: _adopt_found.Found, options: Mapping[str, t.Any], check: bool) -> list[str]:
    """Refuse secrets that are not the server's; keep them on the host if the caller wants it. Returns what was done."""
    wrong = [
        f"{secret.variable}: is not what the running server has ({secret.source}): its clients would be locked out; "
        "correct it in the vault, or leave it out if secrets_file is given"
        for secret in one.plan.secrets
        if secret.variable in options["secrets"] and str(options["secrets"][secret.variable]) != secret.value
    ]
    lacking = [
        f"{secret.variable}: not in the inventory, and the running server has one ({secret.source}): put its value "
        "into the vault under that name"
        for secret in one.plan.secrets
        if secret.variable not in options["secrets"] and not options["secrets_file"]
    ]
    if wrong + lacking:
        raise Refused("\n".join(wrong + lacking))
    kept = {secret.variable: secret.value for secret in one.plan.secrets}
    if kept and options["secrets_file"] and keep_secrets(options["secrets_file"], kept, check):
        return [f"kept {len(kept)} secrets of the running server in {options['secrets_file']}, for root alone"]
    return []


def prepare(one: _adopt_found.Found, options: Mapping[str, t.Any], check: bool) -> list[str]:
    """The model, while the server goes on."""
    did = []
    model = one.model
    if _to_adopt(one) and model and not _adopt_models.adopted(options["model_root"], model):
        place = _adopt_models.target(options["model_root"], model)
        counts = {"linked": 0, "copied": 0}
        if not check:
            counts = _adopt_models.adopt(options["model_root"], model, options["service_user"])
        did.append(
            f"took {model.repository} at {model.commit[:12]} from {model.path} to {place}: "
            f"{human(counts['linked'])} linked, {human(counts['copied'])} copied, nothing fetched"
        )
    return did


def _to_adopt(one: _adopt_found.Found) -> bool:
    model = one.model
    return model is not None and model.kind == "snapshot" and one.plan.entry.get("model") == model.repository


def keep_secrets(path: str, secrets: Mapping[str, str], check: bool) -> bool:
    """Add to the file; whether that changed it."""
    there: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        text = ""
    for line in text.splitlines():
        found = SECRET_LINE.fullmatch(line)
        if not found and line.strip("- ") and not line.startswith("#"):
            raise Refused(f"{path}: holds a line that this module did not write: move it away")
        if found:
            there[found[1]] = json.loads(found[2])
    wanted = {**there, **secrets}
    if wanted == there:
        return False
    # A value with braces must stay text: Ansible would take it for a template. JSON's strings are YAML's.
    lines = [f"{name}: !unsafe {json.dumps(value)}" for name, value in sorted(wanted.items())]
    if not check:
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=folder, prefix=".secrets-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("\n".join(["---", HEADER, *lines, ""]))
        os.replace(staged, path)
    return True


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    options = dict(module.params)
    if os.geteuid() != 0:
        module.fail_json(msg="vllm_takeover: only root may do this: set become: true")
    run = runner(module.run_command)
    try:
        one = server(options, run)
        if one is None:
            if options["stage"] != "stop":
                raise Refused(f"the server {options['identity']} has gone since it was found: look again")
            module.exit_json(changed=False, did=[], back=[])
            return
        module.no_log_values.update(secret.value for secret in one.plan.secrets)
        if options["stage"] != "stop":
            work = compare if options["stage"] == "secrets" else prepare
            did = work(one, options, module.check_mode)
            module.exit_json(changed=bool(did), did=did, back=[])
        stopper = _adopt_stop.Stopper(one, options["drain_timeout"], run)
        if not module.check_mode:
            stopper.stop()
        module.exit_json(changed=True, did=list(_adopt_stop.told(stopper)), back=stopper.back)
    except (Refused, _adopt_models.Problem, _adopt_stop.Problem) as refused:
        module.fail_json(msg=f"vllm_takeover: {refused}")
    except (OSError, TimeoutError) as failure:
        module.fail_json(msg=f"vllm_takeover: {failure}")


if __name__ == "__main__":
    main()
