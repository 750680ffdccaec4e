# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from hypothesis import settings

# No time limit an example: a loaded machine is no fault of the keeper's.
settings.register_profile("keeper", deadline=None, max_examples=60)
settings.load_profile("keeper")
