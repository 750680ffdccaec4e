# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each manager leaves on a host: complete, its own for each instance, and able to end what it ran."""

from __future__ import annotations

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances, _service_files
from vllm_keeper import cli

OPTIONS = {
    "keeper": "/usr/local/bin/vllm-keeper",
    "user": "vllm", "group": "vllm", "home": "/var/lib/vllm", "release": "/opt/vllm/current", "path": "/usr/bin:/bin",
    "enabled": True, "delay": 10,
    "compose": {
        "image": "localhost/v:1", "user": "995:995", "gpus": "cdi", "health": {}, "shm_size": "8g",
        "restart": "unless-stopped", "log_driver": "json-file", "volumes": [], "extra": {},
    },
    "supervisor": {"source": "distribution", "root": "/opt/supervisor"},
}  # fmt: skip
TWO = _instances.normalise(
    [{"name": "aa", "model": "/srv/a", "gpus": [0]}, {"name": "bb", "model": "/srv/b", "port": 8001, "gpus": [1]}]
)


def paths(manager: str, instances: list[dict[str, object]]) -> set[str]:
    return {item["path"] for item in _service_files.plan(instances, manager, OPTIONS)["files"]}


@pytest.mark.parametrize("manager", sorted(_service_files.MANAGERS))
def test_what_one_instance_needs_is_nobody_else_s(manager: str) -> None:
    both, first, second = paths(manager, TWO), paths(manager, TWO[:1]), paths(manager, TWO[1:])
    assert both == first | second
    owed = {item["path"]: item.get("owes", []) for item in _service_files.plan(TWO, manager, OPTIONS)["files"]}
    for path in first - second:
        assert "bb" not in owed[path], f"{path} of a restarts b"
    for path in first & second:
        assert not {"aa", "bb"} & set(owed[path]), f"{path} is of both, and restarts one for the other"


@pytest.mark.parametrize("manager", sorted(_service_files.MANAGERS))
def test_every_instance_is_ended_by_its_own_manager_before_its_file_goes(manager: str) -> None:
    found = _service_files.plan(TWO, manager, OPTIONS)["files"]
    ends = [item["before_remove"] for item in found if item.get("before_remove")]
    for name in ("aa", "bb"):
        mine = [words for words in ends if words[-1] == name]
        assert mine, f"nothing ends {name}"
        for words in mine:
            assert words[:4] == [OPTIONS["keeper"], "retire", "--manager", manager]


def test_systemd_is_reloaded_by_whatever_comes_after_it() -> None:
    for manager in _service_files.MANAGERS:
        names = [action["name"] for action in _service_files.plan([], manager, OPTIONS)["actions"]]
        assert names.count("systemd") == 1


def test_the_control_of_pypi_s_supervisor_reaches_the_keeper() -> None:
    """What the manifest remembers is read back by the keeper's own command line."""
    options = {**OPTIONS, "supervisor": {"source": "pypi", "root": "/opt/supervisor"}}
    found = _service_files.plan(TWO, "supervisor", options)["files"]
    (words,) = [one["before_remove"] for one in found if one["path"] == "/etc/supervisor/conf.d/aa.conf"]
    read = cli._parser().parse_args(words[1:])
    assert (read.verb, read.manager, read.names) == ("retire", "supervisor", ["aa"])
    assert read.control == ["/opt/supervisor/current/bin/supervisorctl", "-c", "/etc/supervisor/steadfast.conf"]
