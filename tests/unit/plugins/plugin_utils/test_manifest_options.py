# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every wrong option is named with its place, its value, and what to do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.plugin_utils._manifest_options import (
    normalise,
    normalise_exclusive,
    problems,
)
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = {"path": "/etc/a", "content": "x"}


def of(**arguments: Any) -> list[str]:
    return problems({"manifest": "service", "files": [], **arguments})


def of_file(**options: Any) -> list[str]:
    return of(files=[{**GOOD, **options}])


def test_a_good_task_has_no_problems() -> None:
    files = [
        {"path": "/etc/vllm", "state": "directory", "mode": "0750", "owner": "vllm", "group": 0},
        {
            "path": "/etc/systemd/system/qwen3vl.service",
            "template": "unit.service.j2",
            "vars": {"instance": {}},
            "validate": "systemd-analyze verify %s",
            "validate_as": "qwen3vl.service",
            "owes": ["systemd", "qwen3vl"],
            "before_remove": ["systemctl", "disable", "--now", "qwen3vl.service"],
        },
        {"path": "/etc/vllm/qwen3vl.env", "content": "", "mode": "600", "secret": True},
        {"path": "/opt/x", "source": "x", "secret": False, "owes": [], "before_remove": []},
    ]
    assert of(files=files, actions=[{"name": "systemd", "command": ["systemctl", "daemon-reload"]}]) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": 420}, 'files[0].mode: 420 is a number, because it is not quoted. Write mode: "0644"'),
        ({"mode": 644}, 'files[0].mode: 644 is a number, because it is not quoted. Write mode: "0644"'),
        ({"mode": 384}, 'files[0].mode: 384 is a number, because it is not quoted. Write mode: "0600"'),
        ({"mode": 493}, 'files[0].mode: 493 is a number, because it is not quoted. Write mode: "0755"'),
        ({"mode": "u=rw"}, "files[0].mode: 'u=rw' is not an octal mode in quotes, as \"0644\""),
        ({"mode": "0999"}, "files[0].mode: '0999' is not an octal mode"),
        ({"mode": "64"}, "files[0].mode: '64' is not an octal mode"),
        ({"mode": True}, "files[0].mode: True is not an octal mode"),
        ({"valdate": "x %s"}, "files[0].valdate: unknown key, did you mean validate?"),
        ({"frobnicate": 1}, "files[0].frobnicate: unknown key, known are path, state"),
        ({"path": "etc/a"}, "files[0].path: etc/a is relative: give an absolute path"),
        ({"path": None}, "files[0].path: nothing is not a path"),
        ({"path": 7}, "files[0].path: 7 is not a path"),
        ({"path": "/etc/../a"}, "files[0].path: /etc/../a is not in its plain form: write /a"),
        ({"path": "/etc/a/"}, "files[0].path: /etc/a/ is not in its plain form: write /etc/a"),
        ({"path": "//etc/a"}, "files[0].path: //etc/a is not in its plain form: write /etc/a"),
        ({"path": "/"}, "files[0].path: / is not for managed_files to manage"),
        ({"path": "/a\nb"}, "holds a control character"),
        ({"path": "/var/lib/steadfast/x"}, "lies in /var/lib/steadfast, where the manifests are kept"),
        ({"state": "absent"}, "files[0].state: 'absent' is neither file nor directory"),
        ({"state": "directory"}, "files[0].content: a directory has none"),
        ({"content": None}, "files[0]: exactly one of template, content, source"),
        ({"template": "x.j2"}, "there is template and content"),
        ({"content": {"a": 1}}, "files[0].content: a map is not text: end the expression with to_json"),
        ({"content": None, "source": 5}, "files[0].source: a number is not text"),
        ({"owner": ""}, "files[0].owner: '' is not a name or number"),
        ({"group": True}, "files[0].group: True is not a name or number"),
        ({"secret": "perhaps"}, "files[0].secret: 'perhaps' is neither true nor false"),
        ({"vars": "a=1"}, "files[0].vars: 'a=1' is not a map of variables"),
        ({"validate": "haproxy -c -f"}, "files[0].validate: `haproxy -c -f` has no %s"),
        ({"validate": "%s"}, "files[0].validate: `%s` has no %s, the place of the file to check"),
        ({"validate": "a '%s"}, "files[0].validate: `a '%s` cannot be split into words"),
        ({"validate": ""}, "files[0].validate: '' is not a command"),
        ({"validate_as": "a"}, "files[0].validate_as: there is no validate"),
        ({"validate": "a %s", "validate_as": "a/b"}, "files[0].validate_as: 'a/b' is not a file name"),
        ({"owes": "systemd"}, "files[0].owes: 'systemd' is not a list of names"),
        ({"owes": ["a", ""]}, "files[0].owes[1]: '' is not a name"),
        ({"before_remove": "rm x"}, "files[0].before_remove: 'rm x' is not a list of words"),
        ({"before_remove": ["rm", 1]}, "files[0].before_remove: ['rm', 1] is not a list of words"),
    ],
)
def test_a_wrong_file_option(options: dict[str, Any], says: str) -> None:
    found = of_file(**options)
    assert len(found) == 1, found
    assert says in found[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"manifest": None}, "manifest: nothing is no name for a manifest"),
        ({"manifest": "../x"}, "manifest: '../x' is no name for a manifest"),
        ({"files": None}, "files: nothing is not a list; an empty list removes every file"),
        ({"files": {"a": 1}}, "files: {'a': 1} is not a list"),
        ({"files": ["/etc/a"]}, "files[0]: '/etc/a' is not a map with at least a path"),
        ({"file": []}, "file: unknown key, did you mean files?"),
        ({"sealed": "x"}, "sealed: unknown key"),
        ({"state_directory": "var"}, "state_directory: var is relative"),
        ({"files": [GOOD, {"path": "/b", "content": ""}, GOOD]}, "files[2].path: /etc/a is already listed as files[0]"),
        (
            {"files": [GOOD, {"path": "/etc/a/b", "content": ""}]},
            "files[1].path: /etc/a/b would lie in /etc/a, which is listed as a file",
        ),
        ({"actions": {"name": "x"}}, "actions: {'name': 'x'} is not a list of maps"),
        ({"actions": ["x"]}, "actions[0]: 'x' is not a map"),
        (
            {"actions": [{"name": "x", "cmd": [], "command": ["a"]}]},
            "actions[0].cmd: unknown key, did you mean command?",
        ),
        ({"actions": [{"name": "x", "command": "a b"}]}, "actions[0].command: 'a b' is not a list of words"),
        ({"actions": [{"name": "x", "command": []}]}, "actions[0].command: [] is not a list of words"),
        ({"actions": [{"command": ["a"]}]}, "actions[0].name: nothing is not a name"),
        ({"actions": [{"name": "x", "command": ["a"]}] * 2}, "actions[1].name: x is already actions[0]"),
    ],
)
def test_a_wrong_task_option(arguments: dict[str, Any], says: str) -> None:
    found = of(**arguments)
    assert len(found) == 1, found
    assert says in found[0]


def test_a_good_exclusive_has_no_problems() -> None:
    rules: list[dict[str, Any]] = [
        {"path": "/etc/systemd/system/qwen3vl.service.d", "pattern": "*.conf", "owes": ["systemd", "qwen3vl"]},
        {"path": "/etc/systemd/system/qwen3vl.service.d", "pattern": "*.d"},
        {"path": "/etc/x"},
    ]
    assert of(exclusive=rules) == of(exclusive=[]) == of(exclusive=None) == []
    assert normalise_exclusive(rules[0]) == rules[0]
    assert normalise_exclusive({"path": "/etc/x"}) == {"path": "/etc/x", "pattern": "*", "owes": []}


@pytest.mark.parametrize(
    ("exclusive", "says"),
    [
        ({"path": "/etc"}, "exclusive: {'path': '/etc'} is not a list of maps"),
        (["/etc"], "exclusive[0]: '/etc' is not a map"),
        ([{"path": "/a", "patern": "*"}], "exclusive[0].patern: unknown key, did you mean pattern?"),
        ([{}], "exclusive[0].path: nothing is not a path"),
        ([{"path": "etc"}], "exclusive[0].path: etc is relative"),
        ([{"path": "/a/"}], "exclusive[0].path: /a/ is not in its plain form: write /a"),
        ([{"path": "/"}], "exclusive[0].path: / is not for managed_files"),
        ([{"path": "/var/lib/steadfast"}], "exclusive[0].path: /var/lib/steadfast is where the manifests are kept"),
        ([{"path": "/etc/a"}], "exclusive[0].path: /etc/a is listed as a file: give the directory"),
        ([{"path": "/a", "pattern": ""}], "exclusive[0].pattern: '' is not a pattern for names"),
        ([{"path": "/a", "pattern": 5}], "exclusive[0].pattern: 5 is not a pattern for names"),
        ([{"path": "/a", "pattern": "b/*"}], "exclusive[0].pattern: b/* holds a /: it is for names in the directory"),
        ([{"path": "/a", "owes": "x"}], "exclusive[0].owes: 'x' is not a list of names"),
        (
            [{"path": "/a"}, {"path": "/a", "pattern": "*"}],
            "exclusive[1]: /a with the pattern * is already exclusive[0]",
        ),
    ],
)
def test_a_wrong_exclusive(exclusive: Any, says: str) -> None:
    found = of(files=[GOOD], exclusive=exclusive)
    assert len(found) == 1, found
    assert says in found[0]


def test_all_problems_are_told_at_once() -> None:
    assert len(of_file(mode=420, owes="x", valdate="y")) == 3


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "path",
    "state",
    "content",
    "mode",
    "owner",
    "secret",
    "vars",
    "validate",
    "validate_as",
    "owes",
    "before_remove",
]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), anything), anything, anything)
def test_no_input_gives_a_traceback(item: dict[str, Any], files: Any, actions: Any) -> None:
    of(files=files, actions=actions, exclusive=files)
    for rule in ({"path": "/a", "pattern": files, "owes": actions}, {"path": files}):
        if not of(exclusive=[rule]):
            normalise_exclusive(rule)
    if not of(files=[item]):
        normalise(item)


def test_defaults() -> None:
    assert normalise(GOOD) == {
        "path": "/etc/a",
        "state": "file",
        "owner": "root",
        "group": "root",
        "mode": "0644",
        "secret": False,
        "validate": None,
        "validate_as": None,
        "owes": [],
        "before_remove": [],
    }
    assert normalise({"path": "/d", "state": "directory"})["mode"] == "0755"
    assert normalise({**GOOD, "secret": "yes", "owner": 0, "mode": "0600"})["secret"] is True


def test_contents_and_variables_stay_on_the_controller() -> None:
    assert "hunter2" not in str(normalise({"path": "/a", "content": "hunter2", "vars": {"key": "hunter2"}}))
