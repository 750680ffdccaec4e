# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper asks of AWS: out of a target group and back, replaced by its Auto Scaling Group, one at a time.

Run as a directory by the Python of its own locked environment (boto3), never imported by the keeper. One JSON object
on stdout, always; status 0 when it was done, 1 when it was not, 2 for arguments that make no sense.
"""
