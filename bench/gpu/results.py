# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured: each result goes to the disk at once, so that whatever fails later takes nothing along."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_LINE = 1500
LARGEST_LOG = 3 << 20
UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SLOT = re.compile(r"\b[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.0\b")


class Results:
    """hidden: {what tells this machine from others: what stands for it in what is kept}."""

    def __init__(self, folder: Path, hidden: Mapping[str, str], clock: float | None = None) -> None:
        self.folder = folder
        self.hidden = dict(sorted(hidden.items(), key=lambda pair: -len(pair[0])))
        self.begun = time.monotonic() if clock is None else clock
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, *words: object) -> None:
        line = f"[{time.monotonic() - self.begun:7.1f}] {' '.join(map(str, words))}"
        print(line, flush=True)
        with (self.folder / "bench.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def keep(self, what: str, value: object) -> None:
        text = self.clean(json.dumps(value, default=str))
        with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(f'{{"what": {json.dumps(what)}, "value": {text}}}\n')
        self.say("RESULT", what, text if len(text) < LONGEST_LINE else text[:LONGEST_LINE] + "...")

    def row(self, name: str, value: object) -> None:
        """One more line of a file of JSON lines."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(self.clean(json.dumps(value, default=str)) + "\n")

    def file(self, name: str, content: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=1, default=str) + "\n"
        path.write_text(self.clean(text), encoding="utf-8")

    def log(self, path: Path, name: str) -> None:
        """The end of a log, as much as is worth keeping."""
        try:
            data = path.read_bytes()[-LARGEST_LOG:]
        except OSError as error:
            self.say("not kept:", path, error)
            return
        self.file(name, data.decode("utf-8", "replace"))

    def clean(self, text: str) -> str:
        """Without paths, names and serial numbers of this machine."""
        text = UUID.sub(lambda match: f"{match[1]}-00000000-0000-0000-0000-000000000000", text)
        text = SLOT.sub("00000000:00:00.0", text)
        for secret, name in self.hidden.items():
            text = text.replace(secret, name)
        return text

    def all(self) -> list[tuple[str, Any]]:
        found = []
        try:
            lines = (self.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                row = json.loads(line)
                found.append((str(row["what"]), row["value"]))
            except (ValueError, KeyError, TypeError):
                continue  # cut off in the middle of a word
        return found
