# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was taken out of target groups, so that exactly that is put back. Written before anything is taken out."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_keeper_aws.errors import ToolError

VERSION = 1


@dataclass(frozen=True)
class Taken:
    group: str  # ARN
    target: str  # instance id or address
    port: int
    zone: str = ""  # of an address outside of the VPC: AWS wants it again


class Memory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Taken]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']!r}")
            return [_taken(item) for item in data["taken"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ToolError("usage", f"{self.path}: cannot be read ({error.strerror or error}); run as root") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = (
                f"{self.path}: is torn ({error!r}), so what was taken out is not known; register this host in its "
                "target groups by hand, then remove the file"
            )
            raise ToolError("usage", text) from error

    def write(self, taken: list[Taken]) -> None:
        """Nothing taken is no file: that it is there says that the host is out."""
        if not taken:
            self._forget()
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        text = json.dumps({"version": VERSION, "taken": [vars(one) for one in taken]}, indent=1, sort_keys=True) + "\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            text = f"{self.path}: cannot be written ({error.strerror or error}); nothing was taken out"
            raise ToolError("usage", text) from error

    def _forget(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ToolError("usage", f"{self.path}: cannot be removed ({error.strerror or error})") from error


def _taken(item: dict[str, Any]) -> Taken:
    texts = [item["group"], item["target"], item["zone"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a target without its words")
    return Taken(texts[0], texts[1], int(item["port"]), texts[2])
