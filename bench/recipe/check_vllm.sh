#!/bin/bash
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The source guide's health check, to be measured against: /health, three tries five seconds apart with ten seconds
# each, then a restart. Its cron line is `*/5 * * * *`, its unit Restart=always with RestartSec=10.
#
#   check_vllm.sh [URL] [COMMAND...]    COMMAND: instead of systemctl, where there is none

url=${1:-http://127.0.0.1:8000/health}
shift
for try in 1 2 3; do
  if curl --silent --fail --output /dev/null --max-time 10 "$url"; then
    exit 0
  fi
  if [ "$try" -lt 3 ]; then
    sleep 5
  fi
done
if [ "$#" -eq 0 ]; then
  set -- systemctl restart qwen3vl
fi
"$@"
exit 1
