# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper says: to journald as structured fields, and to the terminal or cron as lines.

Sent with OBJECT_SYSTEMD_UNIT, so that `journalctl -u qwen3vl` shows what the keeper did to qwen3vl, even when it
did so from cron.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable

JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6}
HIDDEN = "***"


class Log:
    def __init__(self, verb: str, journal: str = JOURNAL) -> None:
        self.verb, self.instance, self.unit = verb, "", ""
        self._journal = journal
        self._secrets: list[str] = []

    def hide(self, values: Iterable[str]) -> None:
        # Short values ("1", "true") are no secrets, and hiding them would make the lines unreadable.
        self._secrets = sorted({value for value in values if len(value) >= 6}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def info(self, text: str) -> None:
        self._say("info", text)

    def notice(self, text: str) -> None:
        self._say("notice", text)

    def warning(self, text: str) -> None:
        self._say("warning", text)

    def error(self, text: str) -> None:
        self._say("error", text)

    def result(self, text: str, level: str = "info") -> None:
        """The one line that a verb is run for: always on stdout."""
        text = self.clean(text)
        self._send(level, text)
        print(text, flush=True)

    def _say(self, level: str, text: str) -> None:
        text = self.clean(text)
        sent = self._send(level, text)
        if _stderr_is_journal():
            if not sent:
                print(f"<{PRIORITIES[level]}>{text}", file=sys.stderr, flush=True)
        else:
            where = f"{self.instance}: " if self.instance else ""
            print(f"vllm-keeper {self.verb}: {where}{text}", file=sys.stderr, flush=True)

    def _send(self, level: str, text: str) -> bool:
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(PRIORITIES[level]),
            "SYSLOG_IDENTIFIER": "vllm-keeper",
            "KEEPER_VERB": self.verb,
        }
        if self.instance:
            fields["KEEPER_INSTANCE"] = self.instance
        if self.unit and os.geteuid() == 0:
            fields["OBJECT_SYSTEMD_UNIT"] = self.unit
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                link.settimeout(1)  # a full journal must not hold up a repair
                link.sendto(encode(fields), self._journal)
        except OSError:
            return False
        return True


def encode(fields: dict[str, str]) -> bytes:
    """journald's native protocol; the length-prefixed form for values that hold a newline."""
    out = b""
    for key, value in fields.items():
        raw = value.encode("utf-8", "replace")
        if b"\n" in raw:
            out += key.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        else:
            out += key.encode() + b"=" + raw + b"\n"
    return out


def _stderr_is_journal() -> bool:
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        seen = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{seen.st_dev}:{seen.st_ino}"
