#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_service: makes the instances of a host run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_service
short_description: Runs vLLM instances and pays the restarts that changes owe
version_added: "0.1.0"
description:
  - Starts what does not run, enables what would not start on boot, and restarts what a change of its files owes.
  - What is owed was recorded by M(steadfast.vllm.managed_files), so a run that was cut off between the change and the
    restart is made good by the next one. It is settled only after the instance has answered.
  - Acts through the keeper, so that its history tells an ordered restart from a crash.
  - All instances of a host are started at once.
author: steadfast.vllm contributors (@steadfast-vllm)
requirements:
  - The keeper (role P(steadfast.vllm.health#role)) on the host. Check mode does without.
extends_documentation_fragment:
  - steadfast.vllm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  instances:
    description: Names of the instances that shall run.
    type: list
    elements: str
    required: true
  restart:
    description: Restart what is owed V(now), or V(defer) it and name it in RV(deferred).
    type: str
    choices: [now, defer]
    default: now
  owed:
    description:
      - Restarts owed besides those recorded on the host. In check mode nothing was recorded, so pass what
        M(steadfast.vllm.managed_files) returned.
    type: list
    elements: str
    default: []
  enabled:
    description: Whether the instances start when the host boots.
    type: bool
    default: true
  keeper:
    description: The keeper's command.
    type: path
    default: /usr/local/bin/vllm-keeper
  state_directory:
    description: The folder of manifests.
    type: path
    default: /var/lib/steadfast
"""

EXAMPLES = r"""
- name: Run the instance
  steadfast.vllm.vllm_service:
    instances: [qwen3vl]
  become: true
"""

RETURN = r"""
started:
  description: Instances that were started.
  type: list
  elements: str
  returned: always
restarted:
  description: Instances that were restarted.
  type: list
  elements: str
  returned: always
enabled:
  description: Instances that now start on boot.
  type: list
  elements: str
  returned: always
disabled:
  description: Instances that no longer start on boot.
  type: list
  elements: str
  returned: always
deferred:
  description: Instances that run and are owed a restart.
  type: list
  elements: str
  returned: always
"""

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest, _service


class Trouble(Exception):
    """What cannot go on, in words for the user."""


def _seen(module: AnsibleModule, keeper: str) -> dict[str, _service.Seen]:
    """What the keeper says, by name; empty where there is no keeper yet, which only check mode may meet."""
    if not os.path.exists(keeper):
        if module.check_mode:
            return {}
        raise Trouble(f"keeper: {keeper} is not on this host; run the role steadfast.vllm.health first")
    code, out, err = module.run_command([keeper, "status", "--json"])
    try:
        return {
            row["name"]: _service.Seen(row["verdict"], bool(row.get("enabled"))) for row in json.loads(out)["instances"]
        }
    except (ValueError, KeyError, TypeError):
        if module.check_mode:
            return {}
        said = (err or out)[-2000:]
        raise Trouble(f"keeper: `{keeper} status --json` ended with {code} and no readable answer: {said}") from None


def _order(module: AnsibleModule, keeper: str, verb: str, names: list[str]) -> None:
    """Give one verb to all names at once, then wait for each; Trouble with the last lines of each that failed.

    The keeper bounds each wait by the instance's own timeouts.
    """
    failed = []
    for name in names[1:]:
        module.run_command([keeper, verb, "--no-wait", name])
    for position, name in enumerate(names):
        # `start` waits for the start that is under way, also for that of an ordered restart
        waiting = verb if position == 0 else "start"
        code, out, err = module.run_command([keeper, waiting, name])
        if code != 0:
            failed.append(f"{name}: `vllm-keeper {waiting} {name}` ended with {code}\n{(out + err)[-4000:]}")
    if failed:
        raise Trouble("\n".join(failed))


def _run(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    names = list(dict.fromkeys(params["instances"]))
    known = _seen(module, params["keeper"])
    seen = {name: known.get(name, _service.Seen(None, False)) for name in names}
    owed = _manifest.owed(params["state_directory"]) | set(params["owed"])
    plan = _service.plan(names, seen, owed, params["restart"], params["enabled"])
    result = {
        "changed": plan.changes,
        "started": plan.start,
        "restarted": plan.restart,
        "enabled": plan.enable,
        "disabled": plan.disable,
        "deferred": plan.defer,
    }
    if module._diff and plan.changes:
        result["diff"] = _diff(names, seen, plan)
    if module.check_mode:
        return result
    for name in plan.enable:
        module.run_command([params["keeper"], "enable", name], check_rc=True)
    for name in plan.disable:
        module.run_command([params["keeper"], "disable", name], check_rc=True)
    for verb, chosen in (("start", plan.start), ("restart", plan.restart)):
        if chosen:
            _order(module, params["keeper"], verb, chosen)
            _manifest.settle(params["state_directory"], {name for name in chosen if name in owed})
    return result


def _diff(names: list[str], seen: dict[str, _service.Seen], plan: _service.Plan) -> dict[str, str]:
    before = [f"{n}: {seen[n].verdict or 'absent'}, {'enabled' if seen[n].enabled else 'not enabled'}" for n in names]
    after = []
    for name in names:
        act = "started" if name in plan.start else "restarted" if name in plan.restart else seen[name].verdict
        on_boot = name in plan.enable or (seen[name].enabled and name not in plan.disable)
        after.append(f"{name}: {act}, {'enabled' if on_boot else 'not enabled'}")
    return {"before": "\n".join(before) + "\n", "after": "\n".join(after) + "\n"}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "str", "required": True},
            "restart": {"type": "str", "choices": ["now", "defer"], "default": "now"},
            "owed": {"type": "list", "elements": "str", "default": []},
            "enabled": {"type": "bool", "default": True},
            "keeper": {"type": "path", "default": "/usr/local/bin/vllm-keeper"},
            "state_directory": {"type": "path", "default": "/var/lib/steadfast"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_run(module))
    except (Trouble, _manifest.ManifestError) as trouble:
        module.fail_json(msg=str(trouble))


if __name__ == "__main__":
    main()
