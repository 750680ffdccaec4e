# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's breaker: how many of a group may be under repair at once. Asked before a server that runs is killed.

Who is wrong about one server is wrong about all of them in the same minute. A crashed server is started whatever the
others do. Where no balancer tells (`fleet.url` is empty, or nobody answers there), each host's own budget is all there
is, and the keeper acts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vllm_keeper.probe import Server

if TYPE_CHECKING:
    from vllm_keeper.config import Reader

PAIR = re.compile(r"\b(up|total|asker|out)=(\S*)")


@dataclass(frozen=True)
class FleetSettings:
    """url: the balancer's fleet page of this backend; limit: hosts that may be out at once, us among them."""

    url: str = ""
    limit: int = 1
    timeout: float = 2.0


def read(reader: Reader) -> FleetSettings:
    default = FleetSettings()
    url = reader.text("url", default.url)
    if url and (urlsplit(url).scheme != "http" or not urlsplit(url).hostname):
        reader.bad("url", url, "must look like http://10.0.0.10:9411/fleet/qwen3vl")
    return FleetSettings(
        url=url,
        limit=reader.count("limit", default.limit, 1, 10_000),
        timeout=reader.number("timeout", default.timeout, 0.1, 30),
    )


def judge(text: str, limit: int) -> tuple[bool, str]:
    """Pure: (whether this host may act, why) from the fleet page."""
    found: dict[str, list[str]] = {}
    for key, value in PAIR.findall(text):
        found.setdefault(key, []).append(value)
    try:
        up, total = int(found["up"][0]), int(found["total"][0])
    except (KeyError, ValueError):
        return True, "the fleet page says nothing that is understood"
    asker, out = found.get("asker", [""])[0], sorted(set(found.get("out", [])))
    away = f"{up} of {total} serve"
    if up == 0:
        return True, f"{away}: there is nothing to lose"
    if asker and asker in out:
        # When many are out at once, the same few go first on every host.
        return out.index(asker) < limit, f"{away}, out are {', '.join(out)}"
    # Not known by name (behind NAT): it is one of those that are out, or will be.
    allowed = total - up < limit if asker else total - up <= limit
    return allowed, away


def may_act(settings: FleetSettings) -> tuple[bool, str]:
    if not settings.url:
        return True, ""
    parts = urlsplit(settings.url)
    answer = Server(f"http://{parts.netloc}").get(parts.path or "/", settings.timeout)
    if answer.kind != "ok":
        return True, f"the fleet page cannot be asked ({answer.detail})"
    return judge(answer.body.decode("utf-8", "replace"), settings.limit)
