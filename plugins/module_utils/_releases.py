# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions about releases of a locked environment (private to this collection, runs on the host, touches nothing)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

SPECIFIER = re.compile(r"^(>=|<=|==|!=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?$")


@dataclass(frozen=True)
class Release:
    """A folder under releases/."""

    name: str
    complete: bool
    used: float  # when it was last made current


def release_id(version: str, lock_digest: str, python: str) -> str:
    """Name of the release that a lock makes with a Python ("cpython-3.11")."""
    digest = hashlib.sha256(f"{lock_digest}\n{python}\n".encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9.+_-]', '_', version)}-{digest}"


def python_allowed(specifiers: str, version: Sequence[int]) -> bool:
    """Whether a Python version meets a requires-python such as ">=3.11,<3.15"."""
    for part in filter(None, (word.strip() for word in specifiers.split(","))):
        match = SPECIFIER.match(part)
        if not match:
            raise ValueError(f"requires-python: {part} is not understood")
        bound = tuple(int(number) for number in match[2].split("."))
        size = len(bound) if match[3] else max(len(bound), len(version))
        left = (tuple(version) + (0,) * size)[:size]
        right = (bound + (0,) * size)[:size]
        verdicts = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            ">": left > right,
        }
        if not verdicts[match[1]]:
            return False
    return True


def to_prune(releases: Collection[Release], current: str, keep: int, busy: Collection[str]) -> list[str]:
    """Releases to remove: all but the newest `keep`, never the current one or one that a process uses.

    Half-built ones go whatever their number: nobody can switch to them.
    """
    half = sorted(r.name for r in releases if not r.complete and r.name != current)
    whole = sorted((r for r in releases if r.complete and r.name != current), key=lambda r: (-r.used, r.name))
    kept = max(keep - 1, 0)  # the current one is one of them
    return [name for name in half + [r.name for r in whole[kept:]] if name not in busy]


def hash_failure(stderr: str) -> str:
    """The package whose hash did not match ("six==1.17.0"), or "" if that is not what went wrong."""
    match = re.search(r"Hash mismatch for `([^`]+)`", stderr)
    return match[1] if match else ""


def line_of(package: str, lock: str) -> int:
    """Line of a lock in which a pin such as six==1.17.0 begins, 0 if none."""
    name = package.partition("==")[0].lower()
    for number, line in enumerate(lock.splitlines(), 1):
        match = re.match(r"[A-Za-z0-9._-]+(?=\s*(?:\[|==))", line)
        if match and re.sub(r"[-_.]+", "-", match[0]).lower() == re.sub(r"[-_.]+", "-", name):
            return number
    return 0


def redact(text: str, environment: Mapping[str, str]) -> str:
    """A program's words without what the environment was trusted with."""
    secrets = set()
    for name, value in environment.items():
        secrets.update(re.findall(r"://([^/@\s]+)@", value))
        secrets.update(part for pair in re.findall(r"://([^/@\s]+)@", value) for part in pair.split(":", 1)[1:])
        if re.search(r"TOKEN|PASS|SECRET|KEY|CREDENTIAL", name, re.IGNORECASE):
            secrets.add(value)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "****")
    return re.sub(r"://[^/@\s]+@", "://****@", text)


def human(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
