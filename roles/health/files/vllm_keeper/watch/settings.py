# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides how soon a hang is believed. Defaults are the tightest that were shown to kill no busy server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_keeper.config import Reader

PICTURES = ("auto", "always", "never")


@dataclass(frozen=True)
class CanarySettings:
    """every: seconds without visible progress until one is sent. picture_every: seconds between two with a picture.

    priority: sent along where the server schedules by priority (vLLM refuses it elsewhere); 0 sends none.
    """

    enabled: bool = True
    every: float = 1.0
    picture: str = "auto"
    picture_every: float = 60.0
    timeout: float = 120.0
    priority: int = 0


@dataclass(frozen=True)
class WatchSettings:
    """All in seconds.

    interval: between two looks; doubt_interval: the same while progress is missing. timeout: for one answer of the API.
    stall_after: how long work may wait while neither a counter moves nor a process of the server uses or wants a CPU;
    stall_factor: and at least so many times the longest that they did neither in a step of recent work. patience,
    patience_factor: the same while its processes are active, by the longest step as a whole. api_patience: how long an
    active API may leave us without an answer. start_stall_after: how long a start may stand
    still until it is ended; 0 for as long as it likes.
    """

    enabled: bool = True
    dry_run: bool = False
    interval: float = 1.0
    doubt_interval: float = 0.2
    timeout: float = 0.5
    stall_after: float = 1.5
    stall_factor: float = 3.0
    patience: float = 30.0
    patience_factor: float = 6.0
    api_patience: float = 30.0
    start_stall_after: float = 60.0
    canary: CanarySettings = field(default_factory=CanarySettings)


def read(watch: Reader, canary: Reader) -> WatchSettings:
    w, c = WatchSettings(), CanarySettings()
    settings = WatchSettings(
        enabled=watch.flag("enabled", w.enabled),
        dry_run=watch.flag("dry_run", w.dry_run),
        interval=watch.number("interval", w.interval, 0.05, 60),
        doubt_interval=watch.number("doubt_interval", w.doubt_interval, 0.05, 60),
        timeout=watch.number("timeout", w.timeout, 0.1, 60),
        stall_after=watch.number("stall_after", w.stall_after, 0.5, 3600),
        stall_factor=watch.number("stall_factor", w.stall_factor, 1, 100),
        patience=watch.number("patience", w.patience, 1, 86400),
        patience_factor=watch.number("patience_factor", w.patience_factor, 1, 100),
        api_patience=watch.number("api_patience", w.api_patience, 1, 86400),
        start_stall_after=watch.number("start_stall_after", w.start_stall_after, 0, 86400),
        canary=CanarySettings(
            enabled=canary.flag("enabled", c.enabled),
            every=canary.number("every", c.every, 0.1, 3600),
            picture=canary.choice("picture", c.picture, PICTURES),
            picture_every=canary.number("picture_every", c.picture_every, 1, 86400),
            timeout=canary.number("timeout", c.timeout, 1, 3600),
            priority=canary.count("priority", c.priority, -(2**31), 2**31),
        ),
    )
    if settings.patience < settings.stall_after:
        watch.bad("patience", settings.patience, f"must not be shorter than stall_after ({settings.stall_after:g})")
    if 0 < settings.start_stall_after < 1:
        watch.bad("start_stall_after", settings.start_stall_after, "must be 0 (never) or at least 1")
    if settings.doubt_interval > settings.interval:
        watch.bad("doubt_interval", settings.doubt_interval, f"must not exceed interval ({settings.interval:g})")
    return settings
