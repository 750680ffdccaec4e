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
import stat
import struct
import sys
from collections.abc import Iterable

JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6}
HIDDEN = "***"
MARK = b"\x1e"  # begins a line of ours for who writes the lines of several and knows where each is: logfile.tee


class Log:
    def __init__(self, verb: str, journal: str = JOURNAL) -> None:
        self.verb, self.instance, self.unit = verb, "", ""
        self.mark = ""
        self.shared = False  # whether a server writes into the same streams, maybe half a line
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
        print(f"{self._fresh(1)}{text}", flush=True)

    def _say(self, level: str, text: str) -> None:
        text = self.clean(text)
        sent = self._send(level, text)
        if _stderr_is_journal():
            if not sent:
                print(f"{self._fresh(2)}<{PRIORITIES[level]}>{text}", file=sys.stderr, flush=True)
        else:
            where = f"{self.instance}: " if self.instance else ""
            print(f"{self._fresh(2)}vllm-keeper {self.verb}: {where}{text}", file=sys.stderr, flush=True)

    def _fresh(self, handle: int) -> str:
        """What begins a line of ours. Into a pipe or a terminal nobody can look: better a line with nothing on it there
        than ours at the end of a progress bar.
        """
        if self.mark:
            return self.mark
        return "\n" if self.shared and not _at_a_line_s_beginning(handle) else ""

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


def _at_a_line_s_beginning(handle: int) -> bool:
    """Of a file that is known; of a pipe or a terminal it never is."""
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode) or not seen.st_size:
            return stat.S_ISREG(seen.st_mode)
        # The handle that was lent to us can only write.
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:
        return False


def _stderr_is_journal() -> bool:
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        seen = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{seen.st_dev}:{seen.st_ino}"
