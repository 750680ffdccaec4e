#!/usr/bin/env bash
# vLLM as a service on this very host, with no controller:   sudo bash install_service.sh [OPTION...]
#
# A vLLM server that somebody started by hand (nohup, screen, tmux, a unit, a container) is taken over: shown, asked
# about, drained and started again as a systemd service with the same options, model and key. Where none runs, the
# service of the guide is installed: qwen3vl with Qwen/Qwen3-VL-8B-Instruct on port 8000. Run again at any time: what is
# done stays, what was cut off goes on.
#
#   -y, --yes           take over without asking
#       --no-adopt      do not look for servers that run
#   -m, --model MODEL   a hub id or an absolute path, in place of the guide's model
#   -n, --name NAME     the name of the service (qwen3vl)
#   -p, --port PORT     its port (8000)
#   -i, --instances FILE   a YAML file with vllm_instances (and any other variable of the collection) in place of these
#   -e, --vars FILE     more variables of the collection, a YAML file; given once, it is kept
#       --check         only say what would be done
#   -h, --help          this text
#
# It keeps its inventory in /etc/steadfast/inventory: change host_vars/localhost/ there and run this again.
set -euo pipefail

die() {
  printf 'install_service.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

usage() {
  sed -n '/^# vLLM/,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

yes='' adopt=1 model='' name='' port='' instances='' vars='' check=''
value() { [[ $# -gt 1 && -n $2 ]] || die "$1 wants a value; --help says which" 2; }
while (($#)); do
  case $1 in
    -y | --yes) yes=1 ;;
    --no-adopt) adopt='' ;;
    -m | --model) value "$@" && model=$2 && shift ;;
    -n | --name) value "$@" && name=$2 && shift ;;
    -p | --port) value "$@" && port=$2 && shift ;;
    -i | --instances) value "$@" && instances=$2 && shift ;;
    -e | --vars) value "$@" && vars=$2 && shift ;;
    --check) check=--check ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown option $1; --help shows all" 2 ;;
  esac
  shift
done

((EUID == 0)) || die "only root can install a service. Run: sudo bash ${BASH_SOURCE[0]}"
[[ -z $instances || -z $model$name$port ]] || die "--instances says all there is to say: leave --model, --name, --port out" 2
for file in "$instances" "$vars"; do
  [[ -z $file || -r $file ]] || die "$file: cannot be read"
done
[[ -z $port || $port =~ ^[0-9]{1,5}$ ]] || die "--port $port: not a number" 2
[[ -d /run/systemd/system ]] || die "systemd does not run on this host (process 1 is $(cat /proc/1/comm)); playbooks/site.yml with service_manager: supervisor, tmux or screen runs without it"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
[[ -e $here/playbooks/site.yml && -e $here/scripts/bootstrap ]] || die "$here is not a checkout of steadfast.vllm: clone it and run the file in it"
cd -- "$here"
export HOME=${HOME:-/root}
umask 022
# shellcheck source=scripts/step
source scripts/step

inventory=/etc/steadfast/inventory
variables=$inventory/host_vars/localhost

# -- one at a time --------------------------------------------------------------------------------------------------
mkdir -p /etc/steadfast
exec 8>/etc/steadfast/lock
flock --nonblock 8 || die "another run is at work on this host (it holds /etc/steadfast/lock): wait for it"

# -- the tool chain -------------------------------------------------------------------------------------------------
# The lock is this run's alone: no program that is started here takes it along.
scripts/bootstrap venv 8>&-
export PATH=$here/.venv/bin:$PATH ANSIBLE_CONFIG=$here/ansible.cfg ANSIBLE_NOCOLOR=1
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV ANSIBLE_INVENTORY

# -- the inventory: this host, no connection, no become ---------------------------------------------------------------
put() { # FILE MODE, text on standard input: whole or not at all
  local staged
  staged=$(mktemp -- "$1.XXXXXX")
  cat >"$staged"
  chmod "$2" "$staged"
  mv -f -- "$staged" "$1"
}

write_inventory() {
  mkdir -p "$variables" && chmod 0755 "$inventory" "$inventory/host_vars" && chmod 0700 "$variables" || return
  put "$inventory/hosts.yml" 0644 <<'YAML' || return
---
# Written by install_service.sh. What this host runs stands in host_vars/localhost.
all:
  hosts:
    localhost:
      ansible_connection: local
      ansible_python_interpreter: /usr/bin/python3
      # Who runs this is root already.
      ansible_become: false
  children:
    vllm:
      hosts:
        localhost:
    load_balancer:
      hosts: {}
YAML
  if [[ -n $vars ]]; then
    put "$variables/settings.yml" 0600 <"$vars" || return
  fi
  if [[ -n $instances ]]; then
    put "$variables/vllm_instances.yml" 0600 <"$instances" || return
  elif [[ -n $model$name$port ]]; then
    describe | put "$variables/vllm_instances.yml" 0600 || return
  fi
}

describe() { # the instance of --model, --name, --port; JSON's strings are YAML's
  python3 - "$model" "$name" "$port" <<'PYTHON'
import json, re, sys
model, name, port = sys.argv[1:]
model = model or "Qwen/Qwen3-VL-8B-Instruct"
last = re.sub(r"[^a-z0-9]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")[:40]
name = name or ("qwen3vl" if model == "Qwen/Qwen3-VL-8B-Instruct" else last)
print("---\n# From install_service.sh's options.\nvllm_instances:")
print(f"  - name: {json.dumps(name)}\n    model: {json.dumps(model)}\n    port: {port or 8000}")
PYTHON
}

play() { # as the tool chain runs it, without this script's lock
  .venv/bin/ansible-playbook --inventory "$inventory" $check "$@" 8>&-
}

step "Write the inventory $inventory" "see why $inventory cannot be written, then run this again" write_inventory

# -- what runs ------------------------------------------------------------------------------------------------------
if [[ -n $adopt ]]; then
  asked=()
  if [[ -n $yes ]]; then
    asked=(-e adopt_confirm=yes)
  elif [[ ! -t 0 ]]; then
    asked=(-e adopt_confirm=no)
  fi
  step "Look for vLLM servers that run, and take them over" \
    "do what the last message says, then run this again; what was not taken over still runs" \
    play playbooks/adopt.yml "${asked[@]}" -e adopt_required=true -e adopt_secrets_file="$variables/adopted_secrets.yml"
fi

# -- the service ----------------------------------------------------------------------------------------------------
step "Install and start vLLM (site.yml)" \
  "do what the last message says, then run this again: it goes on where it stopped" \
  play playbooks/site.yml
[[ -z $check ]] || exit 0

units=$(.venv/bin/python - <<'PYTHON'
import json, pathlib
for path in sorted(pathlib.Path("/etc/vllm-keeper").glob("*.json")):
    told = json.loads(path.read_text())
    print(told["name"], told["base_url"])
PYTHON
)
printf '\nDone. This host serves:\n'
while read -r unit url; do
  [[ -z $unit ]] || printf '  %-20s %s\n' "$unit" "$url"
done <<<"$units"
first=${units%% *}
cat <<TEXT

Next:
  vllm-keeper status                  how it is
  systemctl status $first             the unit; stop, start and restart work as for any other
  journalctl -u $first -f             its log
  $variables/
                                      what this host runs; change it there, then: sudo bash $here/install_service.sh
TEXT
