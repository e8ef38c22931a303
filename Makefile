# Every target that CI runs is one that runs on a laptop. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

STACK ?= dev
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB := $(BIN)/python -m lab
CHARTS := .lab/charts
POLICY := policy/$(VENV)/.installed

export PYTHONDONTWRITEBYTECODE := 1
# an Output in an f-string raises instead of writing a warning into a resource
export PULUMI_ERROR_OUTPUT_STRING := true

.PHONY: help up preview render pr-preview policy verify doctor sniff drift down own-cluster pr-comment exercise kiali grafana jaeger prometheus \
	lab-up lab-down lab-status url env tools system test format lint types layers unit golden e2e truth chaos bench actionlint charts \
	settings-table clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

# --- the mesh ------------------------------------------------------------------------------------

up: $(VENV) system ## install the mesh and Bookinfo: on the lab, or on the cluster the stack names
	@$(LAB) pulumi --stack $(STACK) -- up --yes
	@$(LAB) summary --stack $(STACK)

preview: $(VENV) system ## what `make up` would change, the objects inside Helm releases included
	@$(LAB) preview --stack $(STACK)

render: $(VENV) ## every object of the stack as YAML, with no cluster; BASE=origin/main: what differs
	@$(LAB) render --stack $(STACK) $(if $(BASE),--base $(BASE))

pr-preview: $(VENV) system ## the preview as Markdown for a pull request, with what it does to mTLS; BASE= as above
	@$(LAB) pr-preview --stack $(STACK) $(if $(BASE),--base $(BASE))

policy: $(VENV) $(POLICY) system ## `pulumi preview` under the guard rails of policy/; fails where one is broken
	@$(LAB) pulumi --stack $(STACK) -- preview --policy-pack policy

drift: $(VENV) system ## what in the cluster is not as the program says; fails where something is
	@$(LAB) pulumi --stack $(STACK) -- preview --refresh --diff --expect-no-changes

verify: $(VENV) ## prove it: requests and refusals on the lab, what the proxies say elsewhere
	@$(LAB) verify --stack $(STACK)

doctor: $(VENV) ## what is wrong with the cluster or the mesh, what a destroy left, and what mends it
	@$(LAB) doctor --stack $(STACK)

sniff: $(VENV) ## the bytes on the wire of a pod, before and after STRICT
	@$(LAB) sniff --stack $(STACK)

down: $(VENV) ## destroy the stack, stop the lab
	@$(LAB) destroy --stack $(STACK)

# --- what it does --------------------------------------------------------------------------------

kiali: ## the mesh as a graph: a local port that leads to Kiali, its address and login
grafana: ## dashboards of the mesh, likewise
jaeger: ## traces of requests, likewise
prometheus: ## metrics, likewise
kiali grafana jaeger prometheus: $(VENV)
	@$(LAB) dashboard $@ --stack $(STACK)

exercise: $(VENV) system ## a frontend, a backend, strict mTLS: on a lab of its own, and proven
	@$(LAB) exercise

# --- pull requests -------------------------------------------------------------------------------

COMMENT ?= comment.md

pr-comment: $(VENV) ## post $(COMMENT) to the pull request $$PR, or edit the one that is there
	@$(BIN)/python -m tools.pr_comment $(COMMENT)

# on a runner a lab would be started, and the update would reach nobody
own-cluster: $(VENV) ## fails where the stack's settings name no cluster
	@grep -Eq '^ +service-mesh:kubeContext: *["'\'']?[^"'\'' #]' Pulumi.$(STACK).yaml || { echo \
		"Pulumi.$(STACK).yaml names no cluster: pulumi config set kubeContext NAME --stack $(STACK)" >&2; \
		exit 1; }

actionlint: $(VENV) ## the workflows, checked by actionlint
	@"$$($(BIN)/python -m lab.toolchain ensure --only actionlint)/actionlint" -shellcheck= -pyflakes= \
		.github/workflows/*.yml

# --- the lab -------------------------------------------------------------------------------------

lab-up: $(VENV) system ## start the embedded cluster alone
	@$(LAB) up

lab-down: $(VENV) ## stop the embedded cluster and remove all of it, Pulumi's state of it included
	@$(LAB) down

url: $(VENV) ## the address of Bookinfo's page on the lab
	@$(LAB) url

lab-status: $(VENV) ## is the lab up, and where are its logs
	@$(LAB) status

env: $(VENV) ## shell variables for pulumi, kubectl, istioctl: eval "$$(make -s env)"
	@$(LAB) env

tools: $(VENV) ## fetch or build every program the lab needs, and list where each comes from
	@$(BIN)/python -m lab.toolchain ensure
	@$(BIN)/python -m lab.toolchain list

# the lab's network needs iptables and iproute2; on Debian and Ubuntu root can have them at once
system:
	@if ! command -v iptables >/dev/null || ! command -v ip >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq iptables iproute2 >/dev/null; \
		else echo "the lab needs iptables and iproute2: sudo apt-get install iptables iproute2" >&2; \
			exit 1; fi; fi

# --- checks --------------------------------------------------------------------------------------

test: format lint types layers unit ## everything that needs no cluster

format: $(VENV)
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }

lint: $(VENV)
	@$(BIN)/ruff check --quiet .

types: $(VENV) $(POLICY)
	@$(BIN)/mypy .
	@$(BIN)/mypy examples/two-services/__main__.py
	@MYPYPATH=policy $(BIN)/mypy --python-executable policy/$(BIN)/python policy/__main__.py

layers: $(VENV)
	@$(BIN)/lint-imports --no-cache

unit: $(VENV) charts
	@$(BIN)/pytest

golden: $(VENV) charts ## write tests/unit/golden anew; read the difference before committing it
	@GOLDEN=write $(BIN)/pytest tests/unit/test_program.py

e2e: $(VENV) $(POLICY) system ## the real engine on a lab of its own: up, again, drift, destroy, up again
	@$(BIN)/pytest tests/e2e -m e2e -x -v --durations=12

truth: $(VENV) system ## tlscheck beside a real istiod: what it sends to proxies, what those then do
	@$(BIN)/python -m lab.truth --speak

chaos: $(VENV) system ## a bench of faults, and what must be typed after each; SEED=, ONLY=NAME, KILLS=, MINUTES=
	@$(LAB) chaos $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(KILLS),--kills $(KILLS)) $(if $(MINUTES),--minutes $(MINUTES))

bench: $(VENV) system ## tlscheck on big meshes; the dev stack beside istioctl and kubectl; how both grow
	@$(BIN)/python -m bench.tlscheck_bench
	@$(BIN)/python -m bench.stack_bench

charts: $(CHARTS)
$(CHARTS): | $(VENV)
	@$(BIN)/python -m lab.toolchain charts $(CHARTS)

settings-table: $(VENV) ## write the README's table of settings from Pulumi.yaml
	@$(BIN)/python -m tools.settings_table --write

# --- environment ---------------------------------------------------------------------------------

$(VENV): $(VENV)/.installed
$(VENV)/.installed: requirements.txt requirements-dev.txt requirements-lab.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)
	@echo "installing pinned requirements into $(VENV)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-lab.txt
	@touch $@

# pulumi-policy and the lab want different versions of protobuf
$(POLICY): policy/requirements.txt
	@$(PYTHON) -m venv policy/$(VENV)
	@echo "installing pinned requirements into policy/$(VENV)" >&2
	@policy/$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: lab-down ## remove the virtual environment and every cache of this checkout
	@rm -rf $(VENV) policy/$(VENV) .lab .mypy_cache .pytest_cache .ruff_cache
