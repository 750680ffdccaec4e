#!/bin/bash
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# site.yml on this machine, as root: one GPU, no systemd, no network. Twice, with a picture between; the second run must
# change nothing. What is put there by hand before: vLLM, supervisor and nvidia-ml-py, as releases.
#
#   WHEELS=/tmp/w SITE=/tmp/site:/opt/torch/.venv/lib/python3.12/site-packages MODEL=/srv/model bench/gpu/site/run.sh
#
# WHEELS: *.whl of ansible-core with what it needs, of supervisor and of nvidia-ml-py, for the Python that is used.
# SITE: folders with vLLM's packages. PYTHON (/usr/bin/python3): runs all of it. ENVIRONMENT: of the server, as JSON.
# ARGUMENTS: other options of vllm serve, as JSON. OUT (.): where the output goes. More words go to ansible-playbook.
# `run.sh end` ends what it started.
set -uo pipefail
python=${PYTHON:-/usr/bin/python3}
out=$(realpath "${OUT:-.}")
tree=$(cd "$(dirname "$0")/../../.." && pwd)
daemon=/opt/supervisor/current/bin/supervisorctl
control() { "$daemon" -c /etc/supervisor/steadfast.conf "$@"; }
cd "$tree" || exit 1

if [ "${1:-}" = end ]; then
  /usr/local/bin/vllm-keeper stop qwen3vl
  control shutdown
  exit
fi

unpacked=$(mktemp -d)
for wheel in "${WHEELS:?}"/*.whl; do
  case $(basename "$wheel") in
  supervisor-*) folder=/opt/by-hand/supervisor ;;
  nvidia_ml_py-*) folder=/opt/by-hand/nvidia-ml-py ;;
  *) folder=$unpacked ;;
  esac
  mkdir -p "$folder" && "$python" -m zipfile -e "$wheel" "$folder" || exit 1
done
chmod -R a+rX /opt/by-hand
export PYTHONPATH=$unpacked
# This checkout as steadfast.vllm, in a folder that nobody else has made.
mkdir -p "$unpacked/collections/ansible_collections/steadfast"
ln -sfn "$tree" "$unpacked/collections/ansible_collections/steadfast/vllm"
export ANSIBLE_COLLECTIONS_PATH=$unpacked/collections ANSIBLE_NOCOLOR=1

lock=${LOCK:-$tree/roles/vllm/files/locks/vllm-0.32.0-cu130.txt}
release() { "$python" -m bench.gpu.site.releases --python "$python" "$@"; }
IFS=: read -r -a site <<<"${SITE:?}"
release --lock "$lock" --package vllm --root /opt/vllm "${site[@]/#/--add=}" || exit 1
release --lock roles/service/files/supervisor/requirements.txt --package supervisor --root /opt/supervisor \
  --add /opt/by-hand/supervisor || exit 1
release --lock roles/health/files/gpu/requirements.txt --package nvidia-ml-py --root /opt/vllm-keeper/gpu \
  --add /opt/by-hand/nvidia-ml-py || exit 1

# The preflight refuses a folder without weights, which load-format dummy does not need: an empty file stands for them.
if ! compgen -G "${MODEL:?}/*.safetensors" >/dev/null; then : >"$MODEL/no-weights.pt"; fi
play() {
  timeout "$1" "$python" -m ansible playbook -i bench/gpu/site/hosts.yml site.yml --skip-tags uv \
    -e "bench_model=$MODEL" -e "vllm_lock_file=$lock" -e "vllm_python=$python" -e "ansible_python_interpreter=$python" \
    -e "{\"bench_environment\": ${ENVIRONMENT:-{\}}, \"bench_arguments\": ${ARGUMENTS:-{\"load-format\": \"dummy\"\}}}" \
    "${@:2}"
}

echo "--- first run"
play 450 "$@" >"$out/site-1.log" 2>&1
first=$?
grep -E "^(fatal|changed|failed)|severity: (error|warning)|^TASK.*Run what is not|here  .*ok=" "$out/site-1.log"
[ $first -eq 0 ] || tail -n 40 "$out/site-1.log"
cp /var/log/vllm/qwen3vl.log "$out/site-server.log" 2>/dev/null
/usr/local/bin/vllm-keeper status qwen3vl | tee "$out/site-status.txt"

echo "--- a picture"
"$python" - <<'P' | tee "$out/site-picture.txt"
from bench.gpu import ask

answer = ask.ask(8000, "/v1/chat/completions",
                 ask.picture_question("Qwen/Qwen3-VL-8B-Instruct", ask.picture(512, 1), 4), 90)
print(answer.status, f"{answer.seconds:.2f} s", answer.text[:300])
P

echo "--- second run"
play 100 "$@" >"$out/site-2.log" 2>&1
grep -E "^(fatal|changed|failed)|here  .*ok=" "$out/site-2.log"
/usr/local/bin/vllm-keeper gpus qwen3vl 2>&1 | tee "$out/site-gpus.txt"
rm -rf "$unpacked"
if [ $first -eq 0 ] && grep -q "^200 " "$out/site-picture.txt" && grep -q "here  .*changed=0 .*failed=0" "$out/site-2.log"; then
  echo "SITE OK: served, a picture answered, second run changed=0"
else
  echo "SITE FAILED"
  exit 1
fi
