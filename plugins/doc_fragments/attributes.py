# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What check mode, diff mode and idempotence mean, said once for all modules."""

from __future__ import annotations


class ModuleDocFragment:
    """`extends_documentation_fragment: steadfast.vllm.attributes`; the module adds its own `support:`."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status of a real run, without changing anything.
  diff_mode:
    description: Will return details on what has changed, or in C(check_mode) would change, when in diff mode.
  idempotent:
    description: When run twice in a row outside check mode with the same arguments, the second run changes nothing.
"""

    # For modules that only read: extends_documentation_fragment: steadfast.vllm.attributes.info
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status of a real run, without changing anything.
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    description: Will return details on what has changed, or in C(check_mode) would change, when in diff mode.
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    description: When run twice in a row outside check mode with the same arguments, the second run changes nothing.
    support: full
    details:
      - This module changes nothing.
"""
