# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that `vllm serve` of this Python's own vLLM takes, as roles/vllm/files/options has them.

    /opt/vllm/current/bin/python serve_options.py > roles/vllm/files/options/vllm-VERSION.json

On a host that has the new version, whenever scripts/lock-vllm has made a lock of it. molecule/default compares the file
with what the installed vLLM says. By option: "switch" for one that takes no value, "int" or "float", the list of its
choices, "value" for anything else, "optional" for what may also be given without one.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


def kind(action: Any) -> object:
    """What an option takes, as far as that can be judged without vLLM."""
    if action.nargs == 0:
        return "switch"
    if action.nargs in ("?", "*"):
        return "optional"
    if action.choices:
        return sorted(str(choice) for choice in action.choices)
    return action.type.__name__ if action.type in (int, float) else "value"


def main() -> int:
    """Print them."""
    with contextlib.redirect_stdout(sys.stderr):  # vLLM says things while it is imported
        import vllm  # what this runs in has it
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    options = {
        word[2:]: kind(action)
        for action in parser._actions
        for word in action.option_strings
        if word.startswith("--") and word != "--help"
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(what)}" for name, what in sorted(options.items()))
    version = vllm.__version__.partition("+")[0]
    print(f'{{"version": {json.dumps(version)}, "options": {{\n{lines}\n}}}}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
