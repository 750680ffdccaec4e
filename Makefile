# Each target makes what it needs first (scripts/bootstrap: Debian packages, uv, .venv) and says what it does.
# Paths may hold spaces: nothing here is a file that make itself would have to name.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Not the user's own settings for Ansible, and nothing that another virtual environment left behind.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

.PHONY: help venv lab converge demo endpoint down test lint unit sanity integration molecule adoption driver faults nemesis slow rivals soak bench docs locks

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: ## the controller's tool chain in .venv, from the hash-locked requirements/dev.txt
	@scripts/bootstrap venv

lab: ## the lab's hosts: lb1, gpu1, gpu2 and the AWS endpoint aws1
	@scripts/bootstrap lab
	@scripts/step "Make the lab's hosts" "make down, then make lab again; lab/README.md says what a machine must offer" \
	  ansible-playbook lab/create.yml

converge: lab ## ansible-playbook site.yml on the lab
	@scripts/step "Converge the lab (ansible-playbook site.yml)" "read the failed task above, then make converge: it goes on where it stopped" \
	  ansible-playbook site.yml

demo: converge ## from bare hosts to pictures answered through the balancer, then kills and recovery
	@scripts/step "Demo" "make demo again; make down first starts from bare hosts" \
	  python -m lab.demo

endpoint: venv ## the balancer's base URL
	@python -m lab.endpoint

down: venv ## remove the lab's hosts and network; images and caches stay
	@scripts/step "Remove the lab" "podman ps -a shows what is left" ansible-playbook lab/destroy.yml

test: ## everything: lint, unit, sanity, integration, then the whole way in the lab
	@scripts/bootstrap lab
	@python scripts/run_tests.py all

lint: ## ansible-lint (production), yamllint, ruff, mypy --strict, shellcheck
	@scripts/bootstrap test
	@python scripts/run_tests.py lint

unit: ## pytest tests/unit
	@scripts/bootstrap test
	@python scripts/run_tests.py unit

sanity: ## ansible-test sanity, in a copy of the tracked files
	@scripts/bootstrap test
	@python scripts/run_tests.py sanity

integration: ## pytest tests/integration, on this machine, without the lab
	@scripts/bootstrap test
	@python scripts/run_tests.py integration

molecule: ## molecule test: the whole way in the lab, with real vLLM
	@scripts/bootstrap lab
	@python scripts/run_tests.py molecule

adoption: ## servers started by hand in every way are taken over, and install_service.sh on a bare host; twenty minutes
	@scripts/bootstrap lab
	@python -m pytest tests/lab/test_adopt_*.py tests/lab/test_install_service.py -v -ra

driver: ## NVIDIA's driver built on Debian 12 and 13, then changed under servers that go on; fifty minutes
	@scripts/bootstrap lab
	@molecule test -s nvidia_driver
	@STEADFAST_DRIVER_HOSTS=driver2 molecule test -s nvidia_driver
	@python -m pytest tests/lab/test_driver_upgrade.py -v -ra

faults: ## every fault under every process manager, with real vLLM: writes docs/faults.md; an hour or more
	@scripts/bootstrap lab
	@python -m lab.conformance --write

nemesis: converge ## random faults, several at once, while servers serve and start: five seeds of 15 steps; three hours
	@scripts/step "Nemesis" "run the one command that the failure names" python -m lab.nemesis

slow: converge ## ten starts that are slow for good reasons: the keeper ends none; half an hour
	@scripts/step "Slow starts" "python -m lab.slow_starts --kind KIND is one of them" python -m lab.slow_starts

rivals: ## the keeper beside the source guide's recipe, fault by fault: writes docs/rivals.md; two hours
	@scripts/bootstrap lab
	@python -m lab.rivals

soak: converge ## twenty minutes at the limit with real vLLM: a busy server is never taken for dead
	@scripts/step "Soak" "read the incident above; make soak again" python -m lab.soak

bench: converge ## measurements side by side, each prints a ratio
	@scripts/step "A run that changes nothing, against facts and a ping" "make bench again" python -m bench.converge
	@scripts/step "A start through the unit, against bare vllm serve" "make bench again" python -m bench.start
	@scripts/step "Tokens a second with the watcher, against without" "make bench again" python -m bench.throughput
	@scripts/step "Hang to kill, crash to start, beside the guide's recipe" "make bench again" python -m bench.keeper
	@scripts/step "A look of the keeper, against fork and curl" "make bench again" python -m bench.probe_cost --host gpu1

docs: venv ## docs/reference from roles' argument specs and modules' documentation
	@python scripts/reference_docs.py

locks: venv ## requirements/*.txt anew from requirements/*.in
	@scripts/lock
