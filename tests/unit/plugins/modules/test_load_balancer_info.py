# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the balancer's host is seen to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.modules.load_balancer_info import selinux_closed, unit_state


@pytest.mark.parametrize(
    ("shown", "active", "enabled"),
    [
        ("ActiveState=active\nUnitFileState=enabled\n", True, True),
        ("UnitFileState=disabled\nActiveState=reloading\n", True, False),
        ("ActiveState=failed\nUnitFileState=enabled\n", False, True),
        ("ActiveState=inactive\nUnitFileState=\n", False, False),
        ("", False, False),
    ],
)
def test_the_units_state(shown: str, active: bool, enabled: bool) -> None:
    assert unit_state(shown) == {"active": active, "enabled": enabled}


@pytest.mark.parametrize(("text", "closed"), [("0 0", True), ("1 1", False), (None, False)])
def test_selinux_is_closed_only_where_its_boolean_says_so(tmp_path: Path, text: str | None, closed: bool) -> None:
    boolean = tmp_path / "haproxy_connect_any"
    if text is not None:
        boolean.write_text(text)
    assert selinux_closed(boolean) is closed
