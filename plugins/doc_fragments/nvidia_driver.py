# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wished of NVIDIA's driver, said once for the modules that look and that install."""

from __future__ import annotations


class ModuleDocFragment:
    """`extends_documentation_fragment: steadfast.vllm.nvidia_driver`."""

    DOCUMENTATION = r"""
options:
  state:
    description: Whether the driver is to be there. V(absent) takes away all that came with it.
    type: str
    choices: [present, absent]
    default: present
  source:
    description:
      - Where it comes from, the distribution's own archive or NVIDIA's repository.
      - With V(preinstalled) nothing is installed, and what is there is verified.
    type: str
    choices: [distribution, nvidia, preinstalled]
    required: true
  branch:
    description: The branch, three digits such as V(580). A driver of another branch is replaced by the newest of it.
    type: str
    default: ""
  version:
    description: The exact version as NVIDIA writes it, such as V(580.95.05). Any of the branch, if not given.
    type: str
    default: ""
  modules:
    description:
      - The kernel modules. V(auto) keeps those that are there if they drive the GPUs; else it takes the ones that the
        generation of the GPUs needs, and where both do, the open ones from branch 560 on.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  kernel:
    description:
      - The kernel that the modules are built for, as a release (V(6.1.0-41-cloud-amd64\)) or a flavour of the
        distribution (V(cloud-amd64\)).
      - The running kernel, if not given.
    type: str
    default: ""
  hold:
    description: What is held, so that an upgrade of the host leaves it alone.
    type: list
    elements: str
    choices: [driver, kernel]
    default: [driver]
  without_gpu:
    description: What is done on a machine without an NVIDIA GPU.
    type: str
    choices: [fail, skip, install]
    default: fail
  reboot:
    description:
      - Whether the caller will reboot the host if one is owed. Where it will not, a GPU that nouveau holds is a
        problem.
    type: bool
    default: false
  container_toolkit:
    description:
      - Whether the NVIDIA Container Toolkit is to be there too, and a unit that describes the GPUs to container engines
        (CDI) at every boot.
    type: bool
    default: false
  dcgm:
    description: Whether NVIDIA's Data Center GPU Manager is to be there too, and to run.
    type: bool
    default: false
  repository:
    description: Where NVIDIA's repositories lie, one folder a distribution. Used with O(source=nvidia).
    type: str
    default: https://developer.download.nvidia.com/compute/cuda/repos
  repository_key:
    description: The text of the public key that the repository is signed with. Needed with O(source=nvidia) by apt.
    type: str
    default: ""
"""
