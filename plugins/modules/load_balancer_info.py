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
  - Where HAProxy runs, it also tells of each server whether it gets requests, and what its health check and its keeper
    said last.
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
      variable:
        description: What sets the port, for the message if it is taken.
        type: str
        default: load_balancer_ports
  names:
    description: Host names to look up on this host, as P(steadfast.vllm.balancer#filter) returns them.
    type: list
    elements: str
    default: []
  socket:
    description: HAProxy's runtime API. Without one that answers nothing is told of the servers.
    type: path
    default: /run/haproxy/admin.sock
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

- name: Look who gets requests
  steadfast.vllm.load_balancer_info:
  register: balancer

- name: Wait until all servers do
  steadfast.vllm.load_balancer_info:
  register: balancer
  until: balancer.servers | length > 0 and balancer.servers | rejectattr('serving') | length == 0
  retries: 30
  delay: 2
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
addresses:
  description: For each of O(names) that is known here its addresses, sorted.
  returned: success
  type: dict
  sample: {gpu1.example.com: [10.0.0.11]}
servers:
  description: Each server, nothing where HAProxy does not run.
  returned: success
  type: list
  elements: dict
  contains:
    backend:
      description: The instance.
      type: str
      sample: qwen3vl
    name:
      description: The host.
      type: str
      sample: gpu1
    address:
      description: Where requests go.
      type: str
      sample: 10.0.0.11:8000
    status:
      description: HAProxy's own word, V(UP), V(DOWN), V(DOWN (agent\)), V(DRAIN), V(MAINT), V(UP 1/2), ...
      type: str
      sample: DOWN (agent)
    serving:
      description: Whether it gets requests, or would as a standby.
      type: bool
      sample: false
    weight:
      description: Its share; V(0) when its keeper drains it.
      type: int
      sample: 1
    standby:
      description: Whether it is a standby.
      type: bool
      sample: false
    requests:
      description: Requests that it is busy with.
      type: int
      sample: 2
    check_status:
      description: The last health check, in HAProxy's short form.
      type: str
      sample: L7OK
    check_code:
      description: The HTTP status that it got.
      type: str
      sample: "200"
    agent:
      description:
        - What its keeper said last, V(up), V(draining) or V(down).
        - V(silent) if it does not answer, V(unclear) if it was not understood, V(unknown) before the first answer, and
          V(none) if it is not asked.
      type: str
      sample: down
    agent_status:
      description: The last agent check, in HAProxy's short form.
      type: str
      sample: L7STS
    agent_says:
      description: The keeper's reason, or why there was no answer.
      type: str
      sample: "via agent : down (hung)"
notices:
  description: A line for each server that is out as its keeper no longer speaks, and for each answer that is none.
  returned: success
  type: list
  elements: str
  sample: []
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
import socket
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _balancer, _balancer_state, _sockets

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


def addresses(names: t.Iterable[str]) -> dict[str, list[str]]:
    """Each name's addresses, sorted, as a name server likes to turn them around; unknown names are left out."""
    found = {}
    for name in names:
        try:
            # Each entry ends with (address, port, ...).
            found[name] = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
        except (OSError, UnicodeError):
            continue
    return found


def statistics(path: str) -> str:
    """`show stat` of the HAProxy behind the socket; nothing if there is none."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b"show stat\n")
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return ""
    return answer.decode(errors="replace")


def main() -> None:
    bind: dict[str, t.Any] = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "default": "*"},
        "port": {"type": "int", "required": True},
        "variable": {"type": "str", "default": "load_balancer_ports"},
    }
    module = AnsibleModule(
        argument_spec={
            "binds": {"type": "list", "elements": "dict", "default": [], "options": bind},
            "names": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
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
    servers = _balancer_state.servers(statistics(module.params["socket"]))
    module.exit_json(
        changed=False,
        addresses=addresses(module.params["names"]),
        servers=servers,
        notices=_balancer_state.notices(servers),
        installed=shutil.which("haproxy", path=PROGRAMS) is not None,
        selinux_closed=selinux_closed(),
        conflicts=conflicts,
        **unit_state(shown),
    )


if __name__ == "__main__":
    main()
