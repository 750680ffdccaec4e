#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module compose_image."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_image
short_description: The pinned image that vLLM's containers run, fetched or built on the host
version_added: "0.1.0"
description:
  - Sees to it that an image is on the host before anything that runs is touched. An image of somebody else must be
    pinned by its digest; one of our own is named by what it is made of, so one that is there is not built again.
  - Builds by BuildKit from a pinned base and a lock with hashes. Settings of uv and wheels are mounted, never stored
    in a layer.
  - Removes older images of its own, never others, and none that a container uses.
  - In check mode, or where Docker is not there yet, tells what would be done.
author: steadfast.vllm contributors (@steadfast-vllm)
requirements:
  - Docker Engine 23 or later, Docker Compose 2.17 or later; to build, Docker Buildx 0.8 or later
extends_documentation_fragment: [steadfast.vllm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  image:
    description: A pinned image, V(name:tag@sha256:<64 digits>). Without it, one is built from O(build).
    type: str
  build:
    description: What an image of our own is made of.
    type: dict
    suboptions:
      version:
        description: The version of vLLM, for the image's name.
        type: str
        required: true
      base:
        description:
          - The base image, V(name:tag@sha256:<64 digits>); the digest of a registry, or the identifier of an image
            that was loaded on the host.
        type: str
        required: true
      containerfile:
        description: Content of the Containerfile.
        type: str
        required: true
      lock_sha256:
        description: SHA-256 of the lock, in hexadecimal.
        type: str
        required: true
      lock:
        description: Content of the lock. Needed when the image has to be built.
        type: str
      packages:
        description: Packages of the base's distribution that go into the image.
        type: list
        elements: str
        default: []
      compile:
        description: Whether bytecode is compiled into the image, which makes starts quicker and the build longer.
        type: bool
        default: true
      uv:
        description: The uv that makes the environment.
        type: path
        default: /usr/local/bin/uv
      uv_config:
        description: A C(uv.toml) on the host, given to the build as a secret.
        type: path
      wheels:
        description: A folder on the host with wheels, in place of an index or beside it.
        type: path
      environment:
        description: Variables for the build, such as proxies, as JSON text.
        type: json
        default: "{}"
  archive:
    description:
      - An archive on the host, as C(docker save) makes it, with the image or the base, for closed networks. Loaded
        where they are not there.
    type: path
  user:
    description: The host's user whose number the containers run as.
    type: str
    default: vllm
  cdi:
    description: Whether containers get GPUs by the Container Device Interface, which is switched on where it is off.
    type: bool
    default: false
  keep:
    description: How many images of our own are kept.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Have the official image
  steadfast.vllm.compose_image:
    image: vllm/vllm-openai:v0.32.0@sha256:{{ vllm_image_digest }}

- name: Have an image of our own
  steadfast.vllm.compose_image:
    build:
      version: 0.32.0
      base: debian:trixie-slim@sha256:{{ base_digest }}
      containerfile: "{{ lookup('ansible.builtin.file', 'Containerfile') }}"
      lock: "{{ lookup('ansible.builtin.file', 'vllm.txt') }}"
      lock_sha256: "{{ lookup('ansible.builtin.file', 'vllm.txt', rstrip=false) | hash('sha256') }}"
      packages: [python3, python3-venv]
"""

RETURN = r"""
image:
  description: The image to run.
  type: str
  returned: success
  sample: localhost/steadfast-vllm:0.32.0-1f0c4be2a9d3
present:
  description: Whether it was on the host before.
  type: bool
  returned: success
engine_missing:
  description: Parts of Docker that are not there.
  type: list
  elements: str
  returned: success
  sample: [Docker Compose]
due:
  description: Whether something was, or in check mode would be, done.
  type: bool
  returned: success
pruned:
  description: Images of ours that were removed.
  type: list
  elements: str
  returned: success
user:
  description: Numbers of user and group, as containers take them.
  type: str
  returned: success
  sample: "996:996"
"""

import json
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _compose
from ansible_collections.steadfast.vllm.plugins.module_utils import _compose_image as images
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner

# Before the user is made, which only check mode meets.
NOBODY_YET = "10001:10001"


def account(name: str) -> str:
    """Numbers of user and group."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return NOBODY_YET
    return f"{entry.pw_uid}:{entry.pw_gid}"


def parts(given: dict[str, Any]) -> images.Build:
    """The option build as data."""
    environment = {str(key): str(value) for key, value in json.loads(given["environment"] or "{}").items()}
    return images.Build(
        base=given["base"],
        containerfile=given["containerfile"],
        lock_sha256=given["lock_sha256"],
        packages=tuple(given["packages"]),
        compile=given["compile"],
        lock=given["lock"] or "",
        uv=given["uv"],
        uv_config=given["uv_config"] or "",
        wheels=given["wheels"] or "",
        environment=environment,
    )


def ensure(module: AnsibleModule, engine: images.Engine) -> dict[str, Any]:
    """The image, and what was done for it."""
    params = module.params
    build = parts(params["build"]) if params["build"] else None
    if build is None:
        name, problem = params["image"], _compose.image_problem(params["image"], "service_compose_image")
    else:
        name = images.tag(params["build"]["version"], build)
        problem = _compose.image_problem(build.base, "service_compose_base")
    if problem:
        raise images.Problem(problem)
    missing = engine.missing(build=build is not None)
    result: dict[str, Any] = {
        "image": name,
        "present": not missing and bool(engine.has(name)),
        "engine_missing": missing,
        "pruned": [],
        "user": account(params["user"]),
        "changed": False,
    }
    if missing and not module.check_mode:
        raise images.Problem(f"not on this host, or not answering: {', '.join(missing)}; see systemctl status docker")
    if not missing and params["cdi"]:
        result["changed"] |= see_to_cdi(module, engine)
    if result["present"]:
        return result
    result["changed"] = True
    result["diff"] = {"before": "", "after": f"{name}\n"}
    if module.check_mode:
        return result
    if params["archive"]:
        engine.load(params["archive"], build.base if build else name)
    if build is None:
        if not engine.has(name):
            engine.pull(name)
        return result
    if not build.lock:
        raise images.Problem("build.lock: is needed, because the image is not there yet")
    engine.build(name, build)
    result["pruned"] = engine.remove(images.superseded(engine.ours(), name, params["keep"]))
    return result


def see_to_cdi(module: AnsibleModule, engine: images.Engine) -> bool:
    """Whether it had to be, or in check mode has to be, switched on."""
    if not engine.nvidia_specs():
        raise images.Problem(
            "service_compose_gpus: no file in /etc/cdi or /var/run/cdi describes NVIDIA's GPUs: run `nvidia-ctk cdi "
            "generate --output=/etc/cdi/nvidia.yaml` (NVIDIA Container Toolkit), or choose reservation, devices or none"
        )
    if engine.offers_cdi():
        return False
    if not module.check_mode:
        engine.switch_cdi_on()
    return True


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str"},
            "build": {
                "type": "dict",
                "options": {
                    "version": {"type": "str", "required": True},
                    "base": {"type": "str", "required": True},
                    "containerfile": {"type": "str", "required": True},
                    "lock_sha256": {"type": "str", "required": True},
                    "lock": {"type": "str"},
                    "packages": {"type": "list", "elements": "str", "default": []},
                    "compile": {"type": "bool", "default": True},
                    "uv": {"type": "path", "default": "/usr/local/bin/uv"},
                    "uv_config": {"type": "path"},
                    "wheels": {"type": "path"},
                    "environment": {"type": "json", "default": "{}", "no_log": True},
                },
            },
            "archive": {"type": "path"},
            "user": {"type": "str", "default": "vllm"},
            "cdi": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 3},
        },
        required_one_of=[("image", "build")],
        mutually_exclusive=[("image", "build")],
        supports_check_mode=True,
    )
    try:
        result = ensure(module, images.Engine(runner(module.run_command)))
        module.exit_json(due=result["changed"], **result)
    except images.Problem as problem:
        module.fail_json(msg=str(problem))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"compose_image: {error}")


if __name__ == "__main__":
    main()
