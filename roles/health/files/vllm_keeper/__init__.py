# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-keeper: keeps the vLLM servers of one host serving.

Standard library only: the keeper must work on the day when environments are broken, vLLM's or its own.
"""

from __future__ import annotations

__version__ = "0.1.0"
