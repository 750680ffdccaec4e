#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module nvidia_driver_info: what there is to do for NVIDIA's driver on a host, or what stands in the way."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: What there is to do for NVIDIA's driver on a host, or what stands in the way
version_added: "0.1.0"
description:
  - Looks at the GPUs, the kernel, Secure Boot, the packages and the disks of a host, and makes a plan from what is
    wished, or tells all that stands in its way, before anything is changed.
  - What the repositories have is asked through lists in a folder that goes away again, with apt's own rehearsal of the
    installation. A host whose driver is as wished asks no repository.
  - Nothing is changed, neither in C(/etc/apt) nor in C(/var/lib/apt/lists).
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment:
  - steadfast.vllm.nvidia_driver
  - steadfast.vllm.attributes.info
options:
  users_leave:
    description: Whether the caller ends the programs that use the GPU before anything is changed, so that they are no
      problem.
    type: bool
    default: false
  fail:
    description: Whether to fail if there is a problem, with all of them in the message.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See what an installation of the distribution's driver would do
  steadfast.vllm.nvidia_driver_info:
    source: distribution
  register: driver
  become: true

- name: Refuse a host whose driver does not answer, or was swapped below its loaded module
  steadfast.vllm.nvidia_driver_info:
    source: preinstalled
    fail: true
  become: true
"""

RETURN = r"""
problems:
  description: What stands in the way, a line each. Empty if nothing does.
  returned: always
  type: str
  sample: "nvidia_driver_version: 535.1.1: the source distribution does not offer it with proprietary kernel modules for
    this host; it offers 535.309.01, 535.261.03"
due:
  description: What there is to do, in words. Empty if the host is as wished.
  returned: success
  type: list
  elements: str
  sample: [install nvidia-kernel-dkms 535.309.01-0+deb12u1]
version:
  description: The driver's version that is planned, or there.
  returned: success
  type: str
  sample: 535.309.01
modules:
  description: The kind of kernel modules.
  returned: success
  type: str
  sample: proprietary
kernel:
  description: The release of the kernel that the modules are for.
  returned: success
  type: str
  sample: 6.1.0-41-cloud-amd64
packages:
  description: The packages of the plan with their versions, empty for any.
  returned: success
  type: dict
  sample: {nvidia-kernel-dkms: 535.309.01-0+deb12u1}
manager:
  description: The program that installs packages there, V(apt) or V(dnf).
  returned: success
  type: str
  sample: apt
stream:
  description: The module stream of dnf that pins the branch, empty with apt.
  returned: success
  type: str
  sample: ""
repository:
  description: The name that dnf has for NVIDIA's repository, empty with apt.
  returned: success
  type: str
  sample: ""
files:
  description: The files of the plan, as M(steadfast.vllm.managed_files) takes them.
  returned: success
  type: list
  elements: dict
  sample: [{path: /etc/modprobe.d/steadfast-nvidia-driver.conf, content: "blacklist nouveau\n", owes: []}]
initramfs:
  description: The command that makes the initramfs anew, empty where there is none.
  returned: success
  type: list
  elements: str
  sample: [update-initramfs, -u, -k, all]
skipped_because:
  description: Why nothing is to be done here; empty where something may be.
  returned: success
  type: str
  sample: ""
gpus:
  description: The GPUs, each with its slot, device id, driver and generation.
  returned: success
  type: list
  elements: dict
  sample: [{slot: "0000:3b:00.0", device: "2330", driver: nvidia, generation: hopper}]
services:
  description: The units to run, each with V(there), V(active) and V(enabled).
  returned: success
  type: dict
  sample: {nvidia-persistenced.service: {there: true, active: true, enabled: true}}
reboot_needed:
  description: Why a reboot is owed; empty where none is.
  returned: success
  type: str
  sample: "the driver on the disk is 580.95.05, and version 580.65.06 is loaded"
disturbs:
  description: Whether what there is to do ends what uses the GPUs, because the driver changes or the host reboots.
  returned: success
  type: bool
  sample: false
"""

import typing as t
from contextlib import ExitStack

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _nvidia_driver,
    _nvidia_driver_apply,
    _nvidia_driver_files,
    _nvidia_driver_host,
)
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_nvidia_driver_host.OPTIONS,
            "users_leave": {"type": "bool", "default": False},
            "fail": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wished: dict[str, t.Any] = module.params
    run = runner(module.run_command)
    with ExitStack() as opened:
        plan, seen = _nvidia_driver_host.look(wished, run, opened)
    manager = obstacles.manager(seen)
    due = [] if plan.skipped else _nvidia_driver_apply.due(plan, seen)
    problems, reboot = list(plan.problems), ""
    # What dnf has not brought yet cannot be worth anything.
    there = bool(seen["library"]) or manager != "dnf"
    if there and not (due or plan.skipped or problems) and wished["state"] == "present":
        wrong, reboot = _nvidia_driver.verdict(seen, _nvidia_driver_host.SMI_SECONDS)
        problems += wrong
    if reboot and wished["reboot"]:
        problems += obstacles.in_use(seen, f"the host is to be rebooted, as {reboot}")
    told = "\n".join(map(str, problems))
    if told and wished["fail"]:
        module.fail_json(msg=f"the driver cannot be as wished; nothing was changed:\n{told}", problems=told)
    if reboot and not wished["reboot"]:
        module.warn(f"A reboot is owed: {reboot}. Drain the host and reboot it, or set nvidia_driver_reboot: true")
    units = [
        name
        for name, wanted in (
            ("nvidia-persistenced.service", plan.persistence),
            ("nvidia-fabricmanager.service", plan.fabric),
            *((extra.unit, wished[option]) for option, extra in tables.EXTRAS.items()),
        )
        if wanted and wished["state"] == "present" and not plan.skipped
    ]
    module.exit_json(
        changed=False,
        problems=told,
        due=due,
        version=plan.version or seen["library"],
        modules=plan.modules,
        kernel=plan.kernel,
        packages=dict(plan.packages),
        manager=manager,
        stream=plan.stream,
        repository=_nvidia_driver_files.repository_id(wished, seen) if manager == "dnf" else "",
        files=_nvidia_driver_files.entries(wished, seen, plan),
        initramfs=seen["initramfs"],
        skipped_because=plan.skipped,
        gpus=[{**gpu, "generation": tables.generation(gpu["device"])} for gpu in seen["gpus"]],
        services={name: _nvidia_driver_host.service(name, run) for name in units},
        reboot_needed=reboot,
        disturbs=bool(reboot and wished["reboot"]) or (plan.swap and bool(due)),
    )


if __name__ == "__main__":
    main()
