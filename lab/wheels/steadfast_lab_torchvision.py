# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let `import torchvision` work where its C++ library does not load.

PyPI's torchvision is linked to CUDA. Beside a CPU build of torch its library fails to load, and then the import
fails on two missing operators. Declare them: what Qwen3-VL uses of torchvision (resizing, normalising) needs neither.
Where the operators are there, as with PyTorch's own CPU build, nothing is done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _DeclareOperators:
    """Not a finder of anything: it is asked at the moment when torchvision is about to need the operators."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision._meta_registrations":
            sys.meta_path.remove(self)
            import torch
            from torchvision.extension import _has_ops

            if not _has_ops():
                for operator in ("nms", "qnms"):
                    torch.library.define(
                        f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
        return None


sys.meta_path.insert(0, _DeclareOperators())
