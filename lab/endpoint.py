# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints the base URL of the lab's balancer.

python -m lab.endpoint
"""

from __future__ import annotations

from lab.client import Lab

if __name__ == "__main__":
    print(Lab.read().url)
