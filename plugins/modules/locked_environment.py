#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module locked_environment: what happens on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: locked_environment
short_description: Releases of a Python environment from a lock file with hashes
version_added: "0.1.0"
description:
  - Makes C(<root>/releases/<id>) from a requirements file in which every package has a version and hashes, by uv,
    and points C(<root>/current) at it. Rolling back is a switch, not an install.
  - The id is the version of O(package) and twelve digits that stand for the lock and the Python version; comments in
    the lock do not count.
  - A release is usable only when it is whole. An interrupted build is removed and made again, a failed one is removed
    at once, and C(current) moves only after the new release has been checked, in one step.
  - Nothing is fetched and the lock is not even sent while the host has the release.
  - Comment lines of the lock may say where it holds, C(# requires-python:) with a version specifier, and what a release
    takes on disk, C(# need-bytes:) with a number.
author: steadfast.vllm contributors (@steadfast-vllm)
attributes:
  check_mode:
    description: Says what would be built, switched and pruned, and does nothing.
    support: full
  diff_mode:
    description: Shows the releases on the host and which one is current.
    support: full
  idempotent:
    description: A host that has the release as its current one is left alone.
    support: full
options:
  root:
    description: Folder that holds the releases, on the host.
    type: path
    required: true
  lock_file:
    description:
      - The lock on the controller, as C(uv pip compile --generate-hashes) writes it.
      - A relative path is looked for in C(files), as M(ansible.builtin.copy) does.
    type: str
    required: true
  package:
    description: The package whose version names the release. It must be in the lock.
    type: str
    required: true
  minimum:
    description: The oldest version of O(package) that is allowed, because of security. A lock below it is refused.
    type: str
  python:
    description:
      - The Python of the release, as an interpreter's path on the host or as a version such as V(3.12), which uv
        fetches and keeps under O(root).
    type: str
    default: /usr/bin/python3
  python_fallback:
    description:
      - The version that uv fetches where O(python) is a path whose version does not meet the lock's C(requires-python).
      - An empty string refuses such a host.
    type: str
    default: "3.12"
  keep:
    description:
      - How many releases stay on the host, the current one among them.
      - A release that a running process uses stays too, until a later run finds it unused.
    type: int
    default: 3
  uv:
    description: The uv to use, on the host.
    type: path
    default: /usr/local/bin/uv
  environment:
    description:
      - Settings for uv, such as C(UV_DEFAULT_INDEX), C(UV_FIND_LINKS) or C(HTTPS_PROXY). They may hold credentials and
        are never shown.
      - They are no part of the release's id.
    type: dict
    default: {}
  need_bytes:
    description:
      - Free disk space that is demanded before a release is built.
      - The default is what the lock says, else the size of the current release, else an estimate by number of packages.
    type: int
  allow_builds:
    description:
      - Whether packages may be built from source. What such a build fetches has no hashes, so the default is to take
        wheels only.
    type: bool
    default: false
  compile_bytecode:
    description: Whether to compile at install, since the service may not write into its release when it starts.
    type: bool
    default: true
  sealed:
    description: Filled in by the action plugin. Do not set it.
    type: str
"""

EXAMPLES = r"""
- name: Install vLLM
  steadfast.vllm.locked_environment:
    root: /opt/vllm
    lock_file: vllm-0.32.0-cu130.txt
    package: vllm
    minimum: "0.31.0"

- name: Install from a closed network's index
  steadfast.vllm.locked_environment:
    root: /opt/vllm
    lock_file: vllm-0.32.0-cu130.txt
    package: vllm
    environment:
      UV_DEFAULT_INDEX: "https://{{ index_user }}:{{ index_password }}@packages.example.org/simple"
"""

RETURN = r"""
release:
  description: Id of the release that the lock makes.
  type: str
  returned: success
  sample: 0.32.0-1f0c3a9be2d4
path:
  description: Its folder.
  type: str
  returned: success
  sample: /opt/vllm/releases/0.32.0-1f0c3a9be2d4
version:
  description: Version of O(package) in it.
  type: str
  returned: success
  sample: 0.32.0
python:
  description: Implementation and version of its Python.
  type: str
  returned: success
  sample: cpython-3.12
installed:
  description: Whether the release was built.
  type: bool
  returned: success
switched:
  description: Whether C(current) moved.
  type: bool
  returned: success
toolkit:
  description:
    - The CUDA toolkit that the lock brings, in C(<path>/cuda), with C(version) and C(problem).
    - C(version) is empty where the lock has no nvcc. C(problem) says why it cannot compile on this host; there is a
      warning of it, too.
  type: dict
  returned: when changed
  sample: {"version": "13.0", "problem": ""}
pruned:
  description: Ids of the releases that were removed.
  type: list
  elements: str
  returned: success
"""

import base64
import json
import zlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner
from ansible_collections.steadfast.vllm.plugins.module_utils._environment import Environment, Problem, Request


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "lock_file": {"type": "str", "required": True},
            "package": {"type": "str", "required": True},
            "minimum": {"type": "str"},
            "python": {"type": "str", "default": "/usr/bin/python3"},
            "python_fallback": {"type": "str", "default": "3.12"},
            "keep": {"type": "int", "default": 3},
            "uv": {"type": "path", "default": "/usr/local/bin/uv"},
            "environment": {"type": "dict", "default": {}},
            "need_bytes": {"type": "int"},
            "allow_builds": {"type": "bool", "default": False},
            "compile_bytecode": {"type": "bool", "default": True},
            "sealed": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    if not module.params["sealed"]:
        module.fail_json(
            msg="locked_environment: call it as steadfast.vllm.locked_environment, so that its action runs"
        )
    sealed: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(module.params["sealed"])))
    options = {name: value for name, value in module.params.items() if name not in ("sealed", "environment", "minimum")}
    environment = Environment(Request(**options, **sealed), runner(module.run_command))
    try:
        result = environment.ensure(check_mode=module.check_mode)
    except Problem as err:
        module.fail_json(msg=f"locked_environment: {err}", **err.facts)
    except OSError as err:
        module.fail_json(msg=f"locked_environment: {err.filename or module.params['root']}: {err.strerror or err}")
    problem = (result.get("toolkit") or {}).get("problem")
    if problem and result.get("installed"):
        module.warn(f"{result['path']}: its CUDA toolkit cannot be used: {problem}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
