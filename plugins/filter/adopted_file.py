# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter adopted_file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: adopted_file
short_description: Found servers as a file of variables, for review
version_added: "0.1.0"
description:
  - Turns what M(steadfast.vllm.vllm_found_info) found into a file of variables with C(vllm_instances), those servers
    left out that cannot be taken over.
  - What came from a host stays text. A value with braces is marked C(!unsafe), so that nobody who runs a server can
    have a template run on the controller. Only the variables that stand for secrets are templates.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: RV(steadfast.vllm.vllm_found_info#module:servers).
    type: list
    elements: dict
    required: true
  host:
    description: The name of the host, for the file's first lines.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Write the entries for review
  ansible.builtin.copy:
    content: "{{ found.servers | steadfast.vllm.adopted_file(inventory_hostname) }}"
    dest: "{{ inventory_dir }}/host_vars/_adopted/{{ inventory_hostname }}.yml"
    mode: "0644"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The file's text.
  type: str
"""

import re
import typing as t
from collections.abc import Mapping, Sequence

import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils._values import plain

HEADER = """\
---
# What was found running on {host}, as vllm_instances. Review it; playbooks/adopt.yml takes it into the inventory
# when it takes over.
"""


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(text))


class Template(str):
    """A variable that stands for a secret."""


class Dumper(yaml.SafeDumper):
    """Indents lists, and keeps strings from being templates."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    tag = "!unsafe" if re.search(r"\{[{%#]", text) else "tag:yaml.org,2002:str"
    return dumper.represent_scalar(tag, str(text), style='"' if tag == "!unsafe" else None)


def _template(dumper: yaml.SafeDumper, text: Template) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')


Dumper.add_representer(str, _text)
Dumper.add_representer(Template, _template)


def entry(server: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """A server's entry, in which the variables of its secrets are templates."""
    made: dict[str, t.Any] = dict(server["entry"])
    for secret in server["secrets"]:
        variable = str(secret["variable"])
        if not re.fullmatch(r"vault_[a-z0-9_]+", variable):
            raise ValueError(f"adopted_file: {variable!r} is not a variable for a secret")
        reference = Template("{{ " + variable + " }}")
        if secret["key"].startswith("env."):
            made["env"] = {**made.get("env", {}), secret["key"][4:]: reference}
        else:
            made[secret["key"]] = reference
    return made


def adopted_file(servers: Sequence[Mapping[str, t.Any]], host: str = "") -> str:
    """The filter."""
    found = t.cast("list[dict[str, t.Any]]", plain(servers))
    good = [server for server in found if not server["problems"] and not server["managed"]]
    text = HEADER.format(host=re.sub(r"[^\w.:-]", "", str(host)) or "this host")
    for server in good:
        secrets = [f"{secret['variable']} ({secret['source']})" for secret in server["secrets"]]
        lines = [f"{server['entry']['name']}: {server['started']}, pid {server['pid']}", *server["notes"]]
        if secrets:
            lines.append(f"secrets, to be put into the vault: {', '.join(secrets)}")
        text += "".join(f"# {_one_line(line)}\n" for line in lines)
    dumped: str = yaml.dump(
        {"vllm_instances": [entry(server) for server in good]},
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=False,
        width=10**6,
    )
    return text + dumped


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        return {"adopted_file": adopted_file}
