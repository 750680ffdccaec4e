# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an instance stands in AWS: the mapping `aws` of its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_keeper.config import Reader

PYTHON = "/opt/vllm-keeper/aws/current/bin/python"


@dataclass(frozen=True)
class Settings:
    target_groups: tuple[str, ...] = ()  # names or ARNs, from which the instance is taken
    group: str = ""  # the Auto Scaling Group; "" = the one that the host is in
    region: str = ""  # "" = from the instance metadata
    instance_id: str = ""  # "" = from the instance metadata
    addresses: tuple[str, ...] = ()  # for target groups of addresses: the host's; () = from the instance metadata
    endpoint: str = ""  # instead of AWS's own
    deadline: float = 30
    keep: int = 1  # healthy targets that a target group is left with, at least
    limit: int = 1  # hosts of the group that may be out or under repair at once
    claim_expires: float = 900
    settle: float = 3  # how long a claim waits for claims made at the same time to become visible
    respect_grace: bool = True
    python: str = PYTHON


def read(reader: Reader) -> Settings:
    """The mapping `aws` of an instance's configuration; its problems go to READER."""
    default = Settings()
    return Settings(
        target_groups=_words(reader, "target_groups"),
        group=_word(reader, "group"),
        region=_word(reader, "region"),
        instance_id=_word(reader, "instance_id"),
        addresses=_words(reader, "addresses"),
        endpoint=_word(reader, "endpoint"),
        deadline=reader.number("deadline", default.deadline, 1, 300),
        keep=reader.count("keep", default.keep, 0, 1000),
        limit=reader.count("limit", default.limit, 1, 1000),
        claim_expires=reader.number("claim_expires", default.claim_expires, 60, 86400),
        settle=reader.number("settle", default.settle, 0, 60),
        respect_grace=reader.flag("respect_grace", default.respect_grace),
        python=reader.path("python", default.python),
    )


def _word(reader: Reader, key: str) -> str:
    value = reader.text(key, "")
    # It becomes an argument of the tool: a leading dash would be an option.
    if value.startswith("-"):
        reader.bad(key, value, "must not begin with a dash")
        return ""
    return value


def _words(reader: Reader, key: str) -> tuple[str, ...]:
    value = reader.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one and one[0] != "-" for one in value):
        reader.bad(key, value, "must be a list of words, none of which begins with a dash")
        return ()
    return tuple(value)
