# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What C(--diff) shows of a step: pure, and never a secret.

Private to steadfast.vllm.
"""

from __future__ import annotations

import hashlib

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Desired, Step

# The same limit as Ansible's own (MAX_FILE_SIZE_FOR_DIFF).
TOO_LONG = 104448


def of_step(
    step: Step,
    now: Actual,
    desired: Desired | None,
    contents: tuple[bytes, bytes],
    hints: tuple[bool, str],
) -> list[dict[str, str]]:
    """The before and after of one step: content and attributes, each where they differ.

    C(contents) are the old and new bytes, empty where secret; C(hints) whether it is secret and where a link points.
    """
    if step.verb == _manifest_plan.FORGET:
        return []
    shown: list[dict[str, str]] = []
    if step.verb == _manifest_plan.WRITE or (
        step.verb == _manifest_plan.REMOVE and now.kind != _manifest_plan.DIRECTORY
    ):
        old = _before(now, contents[0], *hints)
        new = "" if step.verb == _manifest_plan.REMOVE else _after(contents[1], hints[0])
        shown.append(_entry(step.path, "", old, new))
    old, new = _attributes(now), "" if step.verb == _manifest_plan.REMOVE else _wanted(desired)
    if old != new:
        shown.append(_entry(step.path, " (owner and mode)", old, new))
    return shown


def _entry(path: str, what: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": path + what, "after_header": path + what, "before": before, "after": after}


def _before(now: Actual, content: bytes, secret: bool, link_target: str) -> str:
    if now.kind == _manifest_plan.LINK:
        return f"symbolic link to {link_target}\n"
    if now.kind != _manifest_plan.FILE:
        return ""
    return "(secret content, not shown)\n" if secret else show(content)


def _after(content: bytes, secret: bool) -> str:
    return "(different secret content, not shown)\n" if secret else show(content)


def show(content: bytes) -> str:
    """Text as it is; what is no text or too long only by size and checksum."""
    try:
        if len(content) <= TOO_LONG and b"\0" not in content:
            return content.decode("utf-8")
        kind = "long text" if b"\0" not in content[:TOO_LONG] else "binary content"
    except UnicodeDecodeError:
        kind = "binary content"
    return f"({kind}, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()})\n"


def _attributes(now: Actual) -> str:
    if now.kind not in (_manifest_plan.FILE, _manifest_plan.DIRECTORY):
        return ""
    return _lines(now.kind, now.mode, now.uid, now.gid)


def _wanted(desired: Desired | None) -> str:
    return "" if desired is None else _lines(desired.state, desired.mode, desired.uid, desired.gid)


def _lines(state: str, mode: int, uid: int, gid: int) -> str:
    return f"state: {state}\nmode: {mode:04o}\nowner: {_number(uid)}\ngroup: {_number(gid)}\n"


def _number(value: int) -> str:
    return "(not known yet)" if value == -1 else str(value)
