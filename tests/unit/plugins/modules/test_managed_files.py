# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What travels between the two halves of managed_files, and who the host knows."""

from __future__ import annotations

import grp
import os
import pwd

import yaml
from ansible_collections.steadfast.vllm.plugins.action.managed_files import pack
from ansible_collections.steadfast.vllm.plugins.modules import managed_files
from ansible_collections.steadfast.vllm.plugins.modules.managed_files import Accounts, items_of, unpack
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _manifest_options
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.binary()))
def test_contents_arrive_byte_for_byte(contents: list[bytes | None]) -> None:
    assert unpack(pack(contents)) == [content or b"" for content in contents]


def test_both_halves_and_the_documentation_know_the_same_options() -> None:
    options = yaml.safe_load(managed_files.DOCUMENTATION)["options"]
    assert set(options) == {*_manifest_options.TASK_KEYS, "sealed"} == set(managed_files.OPTIONS)
    assert set(options["files"]["suboptions"]) == set(_manifest_options.FILE_KEYS) == set(managed_files.FILE_OPTIONS)
    exclusive = set(options["exclusive"]["suboptions"])
    assert exclusive == set(_manifest_options.EXCLUSIVE_KEYS) == set(managed_files.EXCLUSIVE_OPTIONS)
    assert exclusive == set(_manifest_options.normalise_exclusive({"path": "/a"}))
    assert set(options["actions"]["suboptions"]) == set(_manifest_options.ACTION_KEYS)
    normal = _manifest_options.normalise({"path": "/a", "content": ""})
    assert set(normal) == set(_manifest_options.FILE_KEYS) - {"template", "content", "source", "vars"}


def test_names_and_numbers_of_accounts() -> None:
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    normal = _manifest_options.normalise({"path": "/a", "content": "x", "owner": user, "group": group, "mode": "0640"})
    (item,) = items_of([normal], [b"x"], Accounts(check=False))
    assert (item.desired.uid, item.desired.gid, item.desired.mode) == (os.getuid(), os.getgid(), 0o640)
    (item,) = items_of([{**normal, "owner": "4711", "group": "0"}], [b"x"], Accounts(check=False))
    assert (item.desired.uid, item.desired.gid) == (4711, 0)


def test_an_unknown_account_is_a_problem_or_in_check_mode_a_warning() -> None:
    accounts = Accounts(check=False)
    assert accounts.number("owner", "no-such-user", "files[3]") == -1
    assert accounts.problems == [
        "files[3].owner: there is no user no-such-user on this host: make it before this task, or name another"
    ]
    accounts = Accounts(check=True)
    accounts.number("group", "no-such-group", "files[3]")
    assert accounts.problems == []
    assert accounts.warnings == ["files[3].group: there is no group no-such-group on this host (yet)"]
