#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module nvidia_driver_packages: installs, changes or removes NVIDIA's driver, or leaves the host as it was."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_packages
short_description: Install, change or remove NVIDIA's driver on a Debian or Ubuntu host, or leave it as it was
version_added: "0.1.0"
description:
  - Brings the packages of one version of the driver with apt, has DKMS build its kernel modules for the wished kernel,
    verifies that modules and libraries are of that version, and holds the packages.
  - If any of that fails, what came is purged, what changed gets its version back, holds are restored, and the module
    fails with the reason and the end of the build's log.
  - Remembers what it brought, in C(/var/lib/steadfast/nvidia_driver), and with O(state=absent) takes that away again as
    far as nothing else needs it.
  - Refuses what M(steadfast.vllm.nvidia_driver_info) tells as a problem before it changes anything.
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment:
  - steadfast.vllm.nvidia_driver
  - steadfast.vllm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the packages and holds that are named in the plan, and not those that apt brings with them.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Have the distribution's driver for the running kernel
  steadfast.vllm.nvidia_driver_packages:
    source: distribution
  become: true

- name: Be rid of it
  steadfast.vllm.nvidia_driver_packages:
    source: distribution
    state: absent
  become: true
"""

RETURN = r"""
done:
  description: What was done, or in check mode would be, in words.
  returned: success
  type: list
  elements: str
  sample: [install nvidia-kernel-dkms 535.309.01-0+deb12u1, hold nvidia-kernel-dkms]
version:
  description: The driver's version.
  returned: success
  type: str
  sample: 535.309.01
swapped:
  description: Whether the libraries are of another version now, or none, so that what uses them has to start anew.
  returned: success
  type: bool
  sample: true
reboot_needed:
  description: Why a reboot is owed; empty where none is.
  returned: success
  type: str
  sample: ""
"""

import typing as t
from contextlib import ExitStack

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _nvidia_driver,
    _nvidia_driver_apply,
    _nvidia_driver_host,
)
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner, runner


def change(module: AnsibleModule, wished: dict[str, t.Any], run: Runner, opened: ExitStack) -> dict[str, t.Any]:
    """What is due, done; the result of the module."""
    plan, seen = _nvidia_driver_host.look(wished, run, opened)
    recipe = obstacles.recipe(seen, wished)
    if recipe and recipe.manager != "apt":
        module.fail_json(
            msg=f"this host's packages come by {recipe.manager}: have it install {', '.join(plan.packages)}"
        )
    if plan.problems:
        told = "\n".join(map(str, plan.problems))
        module.fail_json(msg=f"the driver cannot be as wished; nothing was changed:\n{told}")
    before = seen["library"]
    due = [] if plan.skipped else _nvidia_driver_apply.due(plan, seen)
    result: dict[str, t.Any] = {"changed": bool(due), "done": due, "version": plan.version, "reboot_needed": ""}
    result["swapped"] = bool(due) and before != plan.version
    if due and module._diff:
        result["diff"] = _nvidia_driver_apply.changes(plan, seen)
    if module.check_mode or plan.skipped:
        return result
    hands = _nvidia_driver_apply.Hands(wished, seen, plan, run)
    if wished["state"] == "absent":
        if due:
            hands.remove()
        return result
    if due:
        hands.install()
        hands.load()
    _nvidia_driver_host.installed_state(plan, seen, run)
    wrong, result["reboot_needed"] = _nvidia_driver.verdict(seen, _nvidia_driver_host.SMI_SECONDS)
    if wrong:
        told = "\n".join(map(str, wrong))
        module.fail_json(msg=f"the driver is installed and does not work:\n{told}", **result)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=_nvidia_driver_host.OPTIONS, supports_check_mode=True)
    wished: dict[str, t.Any] = module.params
    try:
        with ExitStack() as opened:
            result = change(module, wished, runner(module.run_command), opened)
    except _nvidia_driver_apply.Failed as failure:
        module.fail_json(msg=f"the driver is not {wished['state']}: {failure}")
    reboot = result["reboot_needed"]
    if reboot and not wished["reboot"]:
        module.warn(f"A reboot is owed: {reboot}. Drain the host and reboot it, or set nvidia_driver_reboot: true")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
