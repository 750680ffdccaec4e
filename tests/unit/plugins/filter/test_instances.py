# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter, given what Ansible itself gives it: lazy containers, tagged strings, things that cannot be resolved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.template import trust_as_template
from ansible_collections.steadfast.vllm.plugins.filter import instances as plugin
from ansible_collections.steadfast.vllm.plugins.filter import preflight_instances


def render(given: object, **variables: object) -> dict[str, t.Any]:
    """What a task gets that passes these variables, templates in them included, through the filter."""
    found = Path(plugin.__file__).resolve().parents[2]
    done = subprocess.run(
        [
            "ansible", "-i", "localhost,", "-c", "local", "localhost", "-m", "ansible.builtin.debug",
            "-a", "msg={{ given | steadfast.vllm.instances }}", "-e", json.dumps({"given": given, **variables}),
        ],
        capture_output=True, text=True, check=False,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(found / ".collections"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOLOR": "1",
        },
    )  # fmt: skip
    _host, arrow, result = done.stdout.partition("=> ")
    assert arrow, done.stdout + done.stderr
    return t.cast("dict[str, t.Any]", json.loads(result))


def exactly_plain(value: object) -> bool:
    if type(value) is dict:
        return all(exactly_plain(key) and exactly_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(exactly_plain, value))
    return type(value) in (str, int, float, bool, type(None))


def test_templates_inside_are_rendered() -> None:
    given = [{"name": "a", "model": "{{ where }}/m", "port": "{{ '80' ~ '01' }}", "env": {"A": "{{ where }}"}}]
    (made,) = render(given, where="/srv")["msg"]
    assert (made["model_path"], made["port"], made["secrets"]) == ("/srv/m", 8001, {"A": "/srv"})


def test_what_comes_out_is_plain_data() -> None:
    tagged = trust_as_template("tagged")
    given = [{trust_as_template("name"): tagged, "model": "/m", "api_key": tagged, "extra_args": {"x": [tagged]}}]
    assert not exactly_plain(given)
    assert exactly_plain(plugin.instances(given))


def test_what_cannot_be_resolved_is_told_with_everything_else() -> None:
    given = [{"name": "a", "model": "/m", "port": "{{ nowhere }}", "prot": 1, "env": {"A": "{{ hidden.x }}"}}]
    text = render(given)["msg"]
    assert "vllm_instances[0].port: cannot be resolved ('nowhere' is undefined)" in text
    assert "vllm_instances[0].env.A: cannot be resolved ('hidden' is undefined)" in text
    assert "vllm_instances[0].prot: unknown key, did you mean port?" in text


def test_problems_become_ansibles_error() -> None:
    with pytest.raises(AnsibleError, match="the instances cannot be used:\nvllm_instances: a string"):
        plugin.instances("x")


def test_none_and_defaults() -> None:
    assert plugin.instances(None, {"port": 9000})[0]["port"] == 9000


def test_filters_by_name() -> None:
    assert plugin.FilterModule().filters() == {"instances": plugin.instances}
    filters = preflight_instances.FilterModule().filters()
    assert filters["preflight_instances"](plugin.instances())[0]["unit"] == "qwen3vl.service"
