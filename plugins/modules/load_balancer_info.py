#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module load_balancer_info: what a balancer's host has, and what stands in the way."""

from __future__ import annotations

DOCUMENTATION = r"""
module: load_balancer_info
short_description: What a balancer's host has, and what stands in its way, before anything is changed
version_added: "0.1.0"
author: steadfast.vllm contributors (@steadfast-vllm)
description:
  - Looks, in one round trip, whether HAProxy is installed, runs and starts at boot, whether SELinux lets it open any
    port, and whether another program has a port that it is to open.
  - So a role can leave out the tasks that have nothing to do.
  - Of a program that has a port it tells id, command name, user and unit, never arguments, which may hold secrets.
extends_documentation_fragment:
  - steadfast.vllm.attributes.info
options:
  binds:
    description: What the balancer is to open, as P(steadfast.vllm.balancer#filter) returns it.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The instance, or what else the port is for.
        type: str
        required: true
      address:
        description: The address, V(*) for all.
        type: str
        default: "*"
      port:
        description: The port.
        type: int
        required: true
      stats:
        description: Whether it is the statistics page.
        type: bool
        default: false
  service:
    description: The unit that may have the ports.
    type: str
    default: haproxy.service
  fail:
    description: Whether to fail if a port is taken, with all of them in the message.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse a host on which another program has the port
  steadfast.vllm.load_balancer_info:
    binds:
      - {name: qwen3vl, port: 8000}
    fail: true
"""

RETURN = r"""
installed:
  description: Whether the program is there.
  returned: success
  type: bool
  sample: true
active:
  description: Whether the service runs.
  returned: success
  type: bool
  sample: true
enabled:
  description: Whether the service starts at boot.
  returned: success
  type: bool
  sample: true
selinux_closed:
  description: Whether SELinux keeps HAProxy from opening ports that its policy does not list.
  returned: success
  type: bool
  sample: false
conflicts:
  description: A line for each port that another program has.
  returned: always
  type: list
  elements: str
  sample:
    - "port 8000 for qwen3vl: taken on 0.0.0.0 by nginx (pid 812, user root, unit nginx.service); stop it, or choose
      another port with load_balancer_ports: {qwen3vl: ...}"
"""

import os
import shutil
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _balancer, _sockets

# Of sudo's and Ansible's PATH some leave out sbin.
PROGRAMS = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"])
SELINUX_BOOLEAN = Path("/sys/fs/selinux/booleans/haproxy_connect_any")


def unit_state(text: str) -> dict[str, bool]:
    """From the output of `systemctl show` whether a unit runs and starts at boot."""
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    return {
        "active": fields.get("ActiveState") in ("active", "activating", "reloading"),
        "enabled": fields.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "generated"),
    }


def selinux_closed(boolean: Path = SELINUX_BOOLEAN) -> bool:
    try:
        return boolean.read_text(encoding="ascii").startswith("0")
    except OSError:
        return False


def main() -> None:
    bind: dict[str, t.Any] = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "default": "*"},
        "port": {"type": "int", "required": True},
        "stats": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "binds": {"type": "list", "elements": "dict", "default": [], "options": bind},
            "service": {"type": "str", "default": "haproxy.service"},
            "fail": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    binds, service = module.params["binds"], module.params["service"]
    listeners = _sockets.listeners({bind["port"] for bind in binds})
    conflicts = _balancer.port_conflicts(binds, listeners, service)
    if conflicts and module.params["fail"]:
        module.fail_json(msg="the balancer's ports are not free:\n" + "\n".join(conflicts), conflicts=conflicts)
    try:
        _code, shown, _errors = module.run_command(
            ["systemctl", "show", "--property=ActiveState,UnitFileState", service], handle_exceptions=False
        )
    except OSError:
        # Without systemd nothing is known to run; the task that starts it will say what is missing.
        shown = ""
    module.exit_json(
        changed=False,
        installed=shutil.which("haproxy", path=PROGRAMS) is not None,
        selinux_closed=selinux_closed(),
        conflicts=conflicts,
        **unit_state(shown),
    )


if __name__ == "__main__":
    main()
