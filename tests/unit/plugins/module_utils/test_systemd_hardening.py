# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each switch takes away its own directives and no other; the guide lists every one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.systemd_hardening import systemd_hardening
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd_hardening as hardening

GUIDE = Path(__file__).parents[4] / "docs" / "hardening.md"
HOME = "/var/lib/vllm"


def instance(**keys: Any) -> dict[str, Any]:
    (complete,) = _instances.normalise([{"name": "mine", "model": "/srv/models/mine", **keys}])
    return complete


def names(pairs: list[tuple[str, str]]) -> set[str]:
    return {directive for directive, _value in pairs}


ALL = hardening.directives({}, instance(), HOME)


def test_everything_is_on_unless_said_otherwise() -> None:
    assert hardening.directives(None, instance(), HOME) == ALL
    assert hardening.directives(dict.fromkeys(hardening.SWITCHES, True), instance(), HOME) == ALL
    assert {("ProtectSystem", "strict"), ("PrivateUsers", "yes"), ("CapabilityBoundingSet", "")} <= set(ALL)


@pytest.mark.parametrize("switch", [name for name in hardening.SWITCHES if name not in ("debug", "private_tmp")])
def test_a_switch_takes_away_its_own_directives_alone(switch: str) -> None:
    less = hardening.directives({switch: False}, instance(), HOME)
    gone = [pair for pair in ALL if pair not in less]
    assert gone, "the switch does nothing"
    assert [pair for pair in ALL if pair not in gone] == less
    assert not names(gone) & names(less)


def test_debuggers_get_their_system_calls_and_nothing_else() -> None:
    less = hardening.directives({"debug": False}, instance(), HOME)
    assert less == [*ALL, ("SystemCallFilter", "@debug")]
    # without a filter, one word of it would be a filter of its own that forbids the rest
    both = hardening.directives({"debug": False, "syscalls": False}, instance(), HOME)
    assert "SystemCallFilter" not in names(both)


def test_the_hosts_tmp_stays_writable_where_it_is_shared() -> None:
    less = hardening.directives({"private_tmp": False}, instance(), HOME)
    assert "PrivateTmp" not in names(less)
    assert ("ReadWritePaths", "-/tmp -/var/tmp") in less


@pytest.mark.parametrize(
    ("home", "writable"),
    [
        ("/var/lib/vllm", ("StateDirectory", "vllm")),
        ("/var/lib/ai/vllm", ("StateDirectory", "ai/vllm")),
        ("/srv/vllm", ("ReadWritePaths", "/srv/vllm")),
        ("/srv/var/lib/vllm", ("ReadWritePaths", "/srv/var/lib/vllm")),
    ],
)
def test_the_state_folder_is_writable_wherever_it_is(home: str, writable: tuple[str, str]) -> None:
    assert writable in hardening.directives({}, instance(), home)


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        ({}, False),
        ({"model": "/home/ubuntu/models/mine"}, True),
        ({"model": "/root/mine"}, True),
        ({"model": "/srv/home/mine"}, False),
        ({"model": "/mnt/roots/mine"}, False),
        ({"model": "/homes/mine"}, False),
        ({"extra_args": {"chat-template": "/home/me/chat.jinja"}}, True),
        ({"extra_args": {"lora-modules": ["mine=/home/me/lora"]}}, True),
        ({"extra_args": {"speculative-config": {"model": "/home/me/draft"}}}, True),
        ({"extra_args": {"hf-overrides": '{"path":"/run/user/1000/x"}'}}, True),
        ({"env": {"VLLM_CONFIG_ROOT": "/home/me"}}, True),
    ],
)
def test_home_folders_are_hidden_unless_the_instance_names_one(keys: dict[str, Any], seen: bool) -> None:
    found = dict(hardening.directives({}, instance(**keys), HOME))
    assert found["ProtectHome"] == ("read-only" if seen else "yes")


def test_devices_by_explicit_list() -> None:
    own = ["char-infiniband_verbs", "/dev/infiniband/rdma_cm", "/dev/gdrdrv r"]
    found = [value for name, value in hardening.directives({}, instance(), HOME, own) if name == "DeviceAllow"]
    assert found == [
        *(f"{group} rwm" for group in hardening.GPU_DEVICES),
        "char-infiniband_verbs rw",
        "/dev/infiniband/rdma_cm rw",
        "/dev/gdrdrv r",
    ]
    assert not [value for value in found if "*" in value], "which device is allowed is said in full"


def test_an_instance_without_gpus_gets_none() -> None:
    found = hardening.directives({}, instance(gpus=[]), HOME)
    assert ("DevicePolicy", "closed") in found
    assert "DeviceAllow" not in names(found)


@pytest.mark.parametrize(
    ("switches", "devices", "says"),
    [
        ({"privat_users": False}, [], "service_hardening.privat_users: unknown key, did you mean private_users?"),
        ({"PrivateUsers": False}, [], "service_hardening.PrivateUsers: unknown key, did you mean private_users?"),
        ({"x": False}, [], "service_hardening.x: unknown key: there are address_families, "),
        ({"home": "no"}, [], "service_hardening.home: 'no' is not a boolean: write true or false without quotes"),
        ({"home": None}, [], "service_hardening.home: None is not a boolean"),
        (["home"], [], "service_hardening: ['home'] is not a dictionary"),
        ({}, "/dev/kvm", "service_devices: '/dev/kvm' is not a list"),
        ({}, ["/dev/nvidia*"], "service_devices[0]: '/dev/nvidia*' is not a device"),
        ({}, ["char-x\nUser=root"], "service_devices[0]"),
        ({}, ["/dev/kvm\n"], "service_devices[0]"),
        ({}, ["kvm"], "service_devices[0]: 'kvm' is not a device"),
        ({}, ["/dev/kvm x"], "service_devices[0]"),
    ],
)
def test_what_cannot_be_used_is_refused(switches: object, devices: object, says: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        systemd_hardening(switches, instance(), HOME, devices)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="unknown key") as caught:
        hardening.directives({"x": True, "home": 1}, instance(), HOME, ["kvm", 7])
    assert len(str(caught.value).splitlines()) == 4


def test_the_guide_lists_every_switch_with_its_directives() -> None:
    table = GUIDE.read_text(encoding="utf-8").partition("## Switches")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table, re.MULTILINE))
    assert list(rows) == list(hardening.SWITCHES)
    for switch, text in rows.items():
        own = names(ALL) - names(hardening.directives({switch: False}, instance(), HOME))
        assert all(directive in text for directive in own), f"{switch}: {own}"
