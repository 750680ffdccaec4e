# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real vLLM on one GPU under the keeper, measured: `python3 -m bench.gpu --help`.

Nothing but the standard library, so that it runs where a GPU is and no Ansible. NVML is asked as the keeper asks it, by
a program of vLLM's own Python.
"""
