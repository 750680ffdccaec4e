# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What C(--diff) shows of a step: pure, and never a secret.

Private to steadfast.vllm.
"""

from __future__ import annotations

import hashlib
from typing import Dict, List, Optional

from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Desired, Step

# The same limit as Ansible's own (MAX_FILE_SIZE_FOR_DIFF).
TOO_LONG = 104448


def of_step(
    step: Step, now: Actual, before: bytes, link_target: str, desired: Optional[Desired], content: bytes, secret: bool
) -> List[Dict[str, str]]:
    """The before and after of one step: content and attributes each where they differ."""
    shown: List[Dict[str, str]] = []
    is_file = _manifest_plan.FILE in (now.kind, desired.state if desired else "") or now.kind == _manifest_plan.LINK
    if is_file and step.verb in (_manifest_plan.WRITE, _manifest_plan.REMOVE):
        old, new = _contents(step, now, before, link_target, content, secret)
        shown.append(_entry(step.path, "", old, new))
    old, new = _attributes(now), _wanted(desired) if step.verb != _manifest_plan.REMOVE else ""
    if old != new:
        shown.append(_entry(step.path, " (owner and mode)", old, new))
    return shown


def _entry(path: str, what: str, before: str, after: str) -> Dict[str, str]:
    return {"before_header": path + what, "after_header": path + what, "before": before, "after": after}


def _contents(step: Step, now: Actual, before: bytes, link_target: str, content: bytes, secret: bool) -> List[str]:
    if now.kind == _manifest_plan.LINK:
        old = f"symbolic link to {link_target}\n"
    elif now.kind != _manifest_plan.FILE:
        old = ""
    else:
        old = "(secret content, not shown)\n" if secret else show(before)
    if step.verb == _manifest_plan.REMOVE:
        return [old, ""]
    return [old, "(different secret content, not shown)\n" if secret else show(content)]


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


def _wanted(desired: Optional[Desired]) -> str:
    return "" if desired is None else _lines(desired.state, desired.mode, desired.uid, desired.gid)


def _lines(state: str, mode: int, uid: int, gid: int) -> str:
    return f"state: {state}\nmode: {mode:04o}\nowner: {_number(uid)}\ngroup: {_number(gid)}\n"


def _number(value: int) -> str:
    return "(not known yet)" if value == -1 else str(value)
