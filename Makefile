# Everything a person types here; `make help` lists it. STACK chooses the stack, IMAGES the images,
# PYTHON the Python to build on.

STACK ?= local
IMAGES ?= gateway worker-fake worker-cpu
CLUSTER_IMAGES ?= gateway worker-fake worker-cpu
PYTHON ?= python3
BOOTSTRAP = $(PYTHON) tools/bootstrap.py
TANDEM = tools/run python -m pulumi_tandem.cli

.DEFAULT_GOAL := help
.PHONY: help up down status test check fix bench images cluster cluster-down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## set this machine up, create or update the stack, prove that KV moves, print the evidence
	@$(BOOTSTRAP)
	@$(TANDEM) up --stack $(STACK)

down: ## remove the stack: no process and no port stays
	@$(BOOTSTRAP) --only environment
	@$(TANDEM) down --stack $(STACK)

status: ## pools, generations, latencies and KV speed of the running stack
	@$(TANDEM) status --stack $(STACK)

test: ## every rung of tests: check, real Pulumi engine, real serving, faults
	@$(BOOTSTRAP)
	@tools/run python tools/ladder.py

check: ## lint, format, types and the tests that need nothing; under a minute
	@$(BOOTSTRAP) --only environment
	@tools/run python tools/ladder.py check

fix: ## let the formatter and the linter mend what they can
	@tools/run ruff check --fix .
	@tools/run ruff format .

bench: ## every benchmark but that of scale, which needs a cluster: their tables, and the picture of the README
	@$(BOOTSTRAP)
	@tools/run python -m benchmarks.checking
	@tools/run python -m benchmarks.plans
	@tools/run python -m benchmarks.simulation
	@tools/run python -m benchmarks.flexible
	@tools/run python -m benchmarks.pairing
	@tools/run python -m benchmarks.estimator
	@tools/run python -m benchmarks.gateway
	@tools/run python -m benchmarks.serving
	@tools/run python -m benchmarks.pairing --real

images: ## container images as archives in the cache, with buildah, podman or docker; IMAGES="gateway worker-vllm" for others
	@$(BOOTSTRAP) $(foreach image,$(subst -,_,$(IMAGES)),--only image_$(image))

cluster: ## a real Kubernetes of one node with eight fake GPUs on this machine, as root; its kubeconfig is .tandem/cluster/kubeconfig
	@$(BOOTSTRAP) --only kubernetes $(foreach image,$(subst -,_,$(CLUSTER_IMAGES)),--only image_$(image))
	@PYTHONPATH=tools $(PYTHON) -m cluster up $(CLUSTER_IMAGES:%=--image %)

cluster-down: ## that cluster gone: no process, mount, rule or link; its images stay in the cache
	@PYTHONPATH=tools $(PYTHON) -m cluster down

clean: ## remove what bootstrap and the tools made in this checkout, but no stack's state (.tandem) and not the cache
	rm -rf .venv .venv-engine stacks/.venv build dist .coverage .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
