# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom a server runs."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass


class AccountError(Exception):
    """No such user or group here."""


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]


def find(user: str, group: str) -> Account:
    """ "" stands for who we are, and for the user's own group. Raises AccountError."""
    try:
        entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as error:
        raise AccountError(f"{error.args[0]}; run site.yml, which makes it") from error
    # Membership beside the main group is what lets a user reach devices (video, render).
    return Account(entry.pw_name, entry.pw_uid, gid, entry.pw_dir, tuple(os.getgrouplist(entry.pw_name, gid)))
