# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys
from pathlib import Path


def run() -> int:
    # Python puts this folder first when it runs it. The package is what is wanted, none of its modules by a bare name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from vllm_keeper_aws.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
