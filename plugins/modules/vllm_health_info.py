#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_health_info: whether a vLLM server answers, and what a balancer should ask it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_health_info
short_description: Whether a vLLM server answers, and which path a balancer should ask
version_added: "0.1.0"
description:
  - Asks a server's C(/health), C(/ping), C(/v1/models), C(/), C(/openapi.json), C(/version) and C(/metrics), all at
    once, and tells what each answer means and whether a balancer's health check may ask it.
  - A path fits if it answers 200 without a key, redirects nobody, has a small body, and turns to 503 when the engine
    has died. That is C(/health), and the keeper's C(/ready) where O(keeper_port) or O(keeper_url) is given and answers.
  - Can send a real completion of one token (O(canary)), which alone shows that the engine does not hang, and tell the
    keeper's verdict (O(keeper)).
  - Runs wherever the question arises, on the GPU host, the balancer or the controller. Asks directly, as a balancer
    does. No proxy of the environment is used and no redirect followed.
  - A server that cannot be reached is an answer and no failure, so the module suits C(until).
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment:
  - steadfast.vllm.attributes.info
notes:
  - Reads in check mode as well. A canary is then sent too; nothing remembers it but the server's counters.
options:
  url:
    description:
      - Where the server is, without a path of its API. A prefix, as with C(--root-path), is kept.
    type: str
    default: http://127.0.0.1:8000
  name:
    description: The instance's name, for O(keeper), O(keeper_port) and messages.
    type: str
  api_key:
    description: The key that clients must show. Sent only where vLLM asks for one, to C(/v1).
    type: str
  timeout:
    description:
      - Seconds for each whole exchange, from the connection to the last byte. Looking up the name has as many.
    type: float
    default: 5
  canary:
    description:
      - Ask for a real completion of one token, of V(text) or about a small V(picture).
      - Sent only if C(/health) answered 200. Not for embedding and pooling models.
    type: str
    choices: [none, text, picture]
    default: none
  canary_timeout:
    description: Seconds for the whole of the canary. A busy server answers late.
    type: float
    default: 30
  keeper:
    description:
      - Whether to run C(vllm-keeper status) for O(name) on the host, which needs root there.
      - If the keeper cannot be asked, RV(healthy) is V(false).
    type: bool
    default: false
  keeper_command:
    description: The keeper's command.
    type: path
    default: /usr/local/bin/vllm-keeper
  keeper_port:
    description: The keeper's port at the host of O(url), to ask its C(/ready). Excludes O(keeper_url).
    type: int
  keeper_url:
    description: Where the keeper's port is, such as V(http://gpu1:9410). Excludes O(keeper_port).
    type: str
  balancer_path:
    description: The path that a balancer asks now. RV(problems) says if it does not fit.
    type: str
  validate_certs:
    description: Whether a certificate must be valid, if O(url) or O(keeper_url) is https.
    type: bool
    default: true
  ca_path:
    description: A file of certificates to trust, on the host that asks. The system's, if not given.
    type: path
  fail:
    description: Whether to fail if the instance is not RV(healthy), with RV(problems) as the message.
    type: bool
    default: false
seealso:
  - module: steadfast.vllm.alb_target_health_info
  - module: steadfast.vllm.alb_health_check
"""

EXAMPLES = r"""
- name: Wait until the model answers
  steadfast.vllm.vllm_health_info:
    url: http://127.0.0.1:8000
    canary: text
  register: qwen3vl
  until: qwen3vl.healthy
  retries: 60
  delay: 10

- name: Show what the instance says and what the keeper thinks of it
  steadfast.vllm.vllm_health_info:
    name: qwen3vl
    keeper: true
    balancer_path: /
  become: true
  register: looked

- name: Show it
  ansible.builtin.debug:
    msg: "{{ looked.report }}"

- name: Refuse a server that the balancer cannot reach
  steadfast.vllm.vllm_health_info:
    url: http://{{ hostvars.gpu1.vllm_address }}:8000
    fail: true
  delegate_to: lb1
"""

RETURN = r"""
healthy:
  description:
    - Whether C(/health) is 200, C(/v1/models) names a model (or wants a key that was not given), and all that was asked
      for besides (O(canary), O(keeper), O(keeper_port), O(keeper_url)) says yes.
  returned: always
  type: bool
  sample: true
problems:
  description: What is wrong and what to do, first what keeps it from being healthy.
  returned: always
  type: list
  elements: str
  sample:
    - "http://127.0.0.1:8000: connection refused: it is down or still loads its model; on the host, `vllm-keeper status
      qwen3vl` tells why and what is done about it"
endpoints:
  description: The paths, in the order of the guide's table.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The path.
      type: str
      sample: /health
    outcome:
      description: V(answered), V(refused), V(timeout), V(unreachable) or V(broken).
      type: str
      sample: answered
    status:
      description: The HTTP status. V(null) without an answer.
      type: int
      sample: 200
    seconds:
      description: How long it took.
      type: float
      sample: 0.003
    size:
      description: Bytes of the answer, of which at most 1 MiB is read.
      type: int
      sample: 0
    meaning:
      description: What it means.
      type: str
      sample: the API answers and its engine has not died; it may hang
    fits:
      description: Whether a balancer's check may ask it. V(null) where no answer tells.
      type: bool
      sample: true
    unfit:
      description: Why not.
      type: list
      elements: str
      sample: []
recommended_path:
  description: What a balancer should ask. V(null) if nothing here fits.
  returned: always
  type: str
  sample: /health
health_check:
  description: The same as C(vllm_health_check) and M(steadfast.vllm.alb_health_check) take it.
  returned: always
  type: dict
  sample: {path: /health, port: traffic-port, protocol: HTTP, matcher: "200"}
served_models:
  description: The names that clients may ask for.
  returned: always
  type: list
  elements: str
  sample: [Qwen/Qwen3-VL-8B-Instruct]
max_model_len:
  description: Tokens of prompt and answer together, of the first model.
  returned: always
  type: int
  sample: 1024
version:
  description: The server's version.
  returned: always
  type: str
  sample: 0.32.0
canary:
  description: What came of the canary. V(null) if none was wanted.
  returned: always
  type: dict
  sample: {kind: text, ok: true, sent: true, status: 200, seconds: 0.031, detail: one token came back}
keeper:
  description:
    - What C(vllm-keeper status --json) says of the instance, with at least C(name), C(verdict), C(reason),
      C(next_action) and C(healthy). V(null) if not wanted.
  returned: always
  type: dict
  sample: {name: qwen3vl, verdict: healthy, reason: GET /health is 200, next_action: none, healthy: true}
ready:
  description: What the keeper's own port says. V(null) if it was not asked.
  returned: always
  type: dict
  sample: {url: "http://127.0.0.1:9410/ready/qwen3vl", outcome: answered, status: 200, seconds: 0.001, said: ready}
report:
  description: All of it for people, a line each thing.
  returned: always
  type: list
  elements: str
  sample: ["qwen3vl at http://127.0.0.1:8000: healthy, vLLM 0.32.0"]
name:
  description: The instance, as given.
  returned: always
  type: str
  sample: qwen3vl
url:
  description: Where it was asked.
  returned: always
  type: str
  sample: http://127.0.0.1:8000
"""

import os
import re
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _command, _exchange
from ansible_collections.steadfast.vllm.plugins.module_utils import _health_info as core

# Its own look at /health and at the manager has bounds well below.
KEEPER_TIMEOUT = 30.0
LONGEST = 3600


def argument_spec() -> dict[str, t.Any]:
    return {
        "url": {"type": "str", "default": "http://127.0.0.1:8000"},
        "name": {"type": "str"},
        "api_key": {"type": "str", "no_log": True},
        "timeout": {"type": "float", "default": 5},
        "canary": {"type": "str", "choices": ["none", "text", "picture"], "default": "none"},
        "canary_timeout": {"type": "float", "default": 30},
        "keeper": {"type": "bool", "default": False},
        "keeper_command": {"type": "path", "default": "/usr/local/bin/vllm-keeper"},
        "keeper_port": {"type": "int"},
        "keeper_url": {"type": "str"},
        "balancer_path": {"type": "str"},
        "validate_certs": {"type": "bool", "default": True},
        "ca_path": {"type": "path"},
        "fail": {"type": "bool", "default": False},
    }


def check(params: t.Mapping[str, t.Any]) -> None:
    """TargetError for a value that cannot be meant."""
    for option in ("timeout", "canary_timeout"):
        if not 0 < params[option] <= LONGEST:
            raise _exchange.TargetError(f"{option}: {params[option]:g}: give more than 0 and at most {LONGEST} seconds")
    port = params["keeper_port"]
    if port is not None and not 1 <= port <= 65535:
        raise _exchange.TargetError(f"keeper_port: {port} is no port; give a number from 1 to 65535")
    if params["name"] is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", params["name"]):
        raise _exchange.TargetError(
            f"name: {params['name']!r} is no name of an instance; use letters, digits and dashes"
        )
    path = params["balancer_path"]
    if path and not re.fullmatch(r"/[!-~]*", path):
        raise _exchange.TargetError(f"balancer_path: {path!r} is no path; begin it with / and write spaces as %20")


def ready_url(params: t.Mapping[str, t.Any], where: _exchange.Target) -> str:
    """Where the keeper's port is asked; empty if it is not."""
    if params["keeper_port"] is not None:
        base = replace(where, scheme="http", port=params["keeper_port"], prefix="").url
    elif params["keeper_url"]:
        base = _exchange.target(params["keeper_url"], "keeper_url").url
    else:
        return ""
    return f"{base}/ready" + (f"/{params['name']}" if params["name"] else "")


class Looker:
    """Everything that is asked. Each request has its own deadline, and those without a key go out together."""

    def __init__(self, params: t.Mapping[str, t.Any], run: _command.Runner) -> None:
        check(params)
        self.params, self.run = params, run
        self.where = _exchange.target(params["url"], "url")
        self.key = _exchange.bearer(params["api_key"])
        self.ready_url = ready_url(params, self.where)
        self.context = None
        if "https" in (self.where.scheme, self.ready_url.partition(":")[0]):
            self.context = _exchange.tls(params["validate_certs"], params["ca_path"])
        self.client = _exchange.Client(self.where, self.key, self.context)

    def look(self) -> core.Seen:
        within = self.params["timeout"]
        balancer_path = self.params["balancer_path"] or ""
        answers = self._answers(core.paths(balancer_path), within)
        keyed = None
        if self.key and answers[core.MODELS].status in core.KEY_WANTED:
            keyed = self.client.get(core.MODELS, within, with_key=True)
        return core.Seen(
            url=self.where.url,
            answers=answers,
            name=self.params["name"] or "",
            keyed=keyed,
            key_given=bool(self.key),
            canary=self._canary(answers, keyed),
            keeper=self._keeper() if self.params["keeper"] else None,
            ready_url=self.ready_url,
            ready=self._ready(within) if self.ready_url else None,
            balancer_path=balancer_path,
        )

    def _answers(self, paths: list[str], within: float) -> dict[str, _exchange.Answer]:
        lost = self.client.resolve(within)
        if lost is not None:
            return dict.fromkeys(paths, lost)
        # A server that hangs costs one timeout, not one for each path.
        with ThreadPoolExecutor(max_workers=len(paths)) as pool:
            return dict(zip(paths, pool.map(lambda path: self.client.get(path, within), paths)))

    def _canary(
        self, answers: t.Mapping[str, _exchange.Answer], keyed: _exchange.Answer | None
    ) -> dict[str, t.Any] | None:
        kind = self.params["canary"]
        if kind == "none":
            return None
        if not answers["/health"].ok:
            return core.canary_unsent(kind, "/health is not 200")
        served, _longest = core.models(keyed or answers[core.MODELS])
        if not served:
            return core.canary_unsent(kind, "/v1/models names no model")
        path, content = core.canary_request(kind, served[0])
        return core.canary_result(kind, self.client.post(path, content, self.params["canary_timeout"]))

    def _keeper(self) -> dict[str, t.Any]:
        command, name = self.params["keeper_command"], self.params["name"]
        if not os.path.exists(command):
            return core.keeper_missing(name, f"{command} is not on this host", "run site.yml, which installs it")
        try:
            done = self.run([command, "status", "--json", name], timeout=KEEPER_TIMEOUT)
        except OSError as error:  # TimeoutError is one
            return core.keeper_missing(
                name, f"`{command} status`: {error}", "see to the load of the host, then to the keeper"
            )
        return core.keeper_row(name, command, done.status, done.output, done.errors)

    def _ready(self, within: float) -> _exchange.Answer:
        client = _exchange.Client(_exchange.target(self.ready_url, "keeper_url"), context=self.context)
        return client.resolve(within) or client.get("", within)


def main() -> None:
    """Wire the options to the look."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[("keeper_port", "keeper_url")],
        required_if=[("keeper", True, ("name",))],
        supports_check_mode=True,
    )
    try:
        result = core.conclude(Looker(module.params, _command.runner(module.run_command)).look())
    except _exchange.TargetError as error:
        module.fail_json(msg=f"vllm_health_info: {error}")
    if module.params["fail"] and not result["healthy"]:
        module.fail_json(msg="the instance is not healthy:\n" + "\n".join(result["problems"]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
