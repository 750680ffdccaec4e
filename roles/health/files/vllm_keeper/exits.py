# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit codes, in one place because units, cron and playbooks depend on them."""

from __future__ import annotations

OK = 0
BAD = 1  # check: was bad and a restart was ordered; start, wait-ready: failed; status: not all healthy
WORSE = 2  # check: bad, and the restart could not be ordered
USAGE = 64
INTERNAL = 70
PARKED = 75  # gate: the only code that keeps a server from being started
CONFIG = 78
