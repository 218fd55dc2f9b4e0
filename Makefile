# Everything here sets itself up: the only things needed are Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SERVICE_TESTS := tests/ledger tests/guardrails/test_admission.py tests/guardrails/test_admission_faults.py \
  tests/guardrails/test_counters.py tests/guardrails/test_limits_parity.py tests/guardrails/test_redis_cluster.py tests/chaos/test_redis_faults.py \
  tests/chaos/test_sql_faults.py tests/e2e/test_main_job.py
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
# The real LiteLLM has an environment of its own: it brings a hundred packages that nothing of ours needs.
LITELLM_VERSION := 1.108.7
GATEWAY := .venv-gateway
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help demo chat evals matrix mutants fuzz test test-slow test-all test-services gateway-test jaeger-test soak alert-drill bench peers nightly check format lint imports types doctor lock digests clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.run  ## one /create makes one video, then the incident replayed; nothing configured
	@$(PY) -m bot demo

chat: $(VENV)/.run  ## leave it running, with a web page to talk to
	@$(PY) -m bot chat

doctor: $(VENV)/.run  ## what is configured, what is missing, what to do
	@$(PY) -m bot doctor

test: $(VENV)/.dev  ## the quick tests, with one of every slow kind
	@$(PY) -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev  ## the slow tests, which `make test` leaves out
	@$(PY) -m pytest -n 2 --dist worksteal -m "slow and not nightly"

test-all: test test-slow  ## every test that takes less than minutes

test-services: $(VENV)/.dev  ## the stores' tests on PostgreSQL and Redis
	@ONETAKE_TEST_SERVICES=1 $(PY) -m pytest -n 2 --dist worksteal $(SERVICE_TESTS)

gateway-test: $(VENV)/.dev $(GATEWAY)/.litellm-$(LITELLM_VERSION)  ## orders through the real LiteLLM proxy (10 minutes, 800 MB)
	@ONETAKE_LITELLM=$(CURDIR)/$(GATEWAY)/bin/litellm $(PY) -m pytest -m gateway tests/gateway

jaeger-test: $(VENV)/.dev  ## the operators' questions, asked of a real Jaeger (the first time it is built: 8 minutes, Go)
	@ONETAKE_JAEGER="$$(deploy/jaeger/build.sh)" $(PY) -m pytest -m jaeger tests/jaeger

soak: $(VENV)/.dev  ## seeded traffic and faults over the whole app: make soak REQUESTS=200 SEED=7 PROVIDER=blind
	@$(PY) -m tests.chaos.soak --requests $(or $(REQUESTS),200) --seed $(or $(SEED),7) \
	  --provider $(or $(PROVIDER),listable) --database $(or $(DATABASE),sqlite) $(if $(ROUGH),--rough)

alert-drill: $(VENV)/.dev  ## fire every alert once and end it by its act, with a real Prometheus and Alertmanager (150 seconds)
	@$(PY) -m tests.deploy.alert_drill

evals: $(VENV)/.dev  ## attacks on the whole app, scored by the provider's own charge log (5 minutes on 2 cores): make evals ARGS="--case C02"
	@$(PY) -m evals run $(ARGS)

matrix: $(VENV)/.dev  ## every mutant against the cases of its layer, written into docs/evals.md
	@$(PY) -m evals matrix $(ARGS)

mutants: $(VENV)/.dev  ## the same in a minute: each mutant against the cases that it says kill it
	@$(PY) -m evals matrix --quick

fuzz: $(VENV)/.dev  ## look for what no case says: make fuzz EXAMPLES=5000 SEED=7
	@$(PY) -m evals fuzz --examples $(or $(EXAMPLES),2000) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.bench  ## every figure of docs/benchmarks.md that one machine can measure in minutes: make bench SHORT=1
	@$(PY) -m bench $(if $(SHORT),--short) $(ARGS)

peers: $(VENV)/.dev  ## the guard next to thirteen libraries, docs/comparison.md written from it (hours): make peers ARGS="--seeds 2 --jobs 3"
	@$(PY) -m bench.peers --write $(ARGS)

nightly: $(VENV)/.bench gateway-test jaeger-test  ## the real LiteLLM and Jaeger; the whole benchmark and the query plans at 10^6 rows, docs/benchmarks.md written from it (hours)
	@$(PY) -m pytest -n 2 --dist worksteal -m nightly
	@ONETAKE_HISTORY=1000000 $(PY) -m pytest --timeout=7200 tests/ledger/test_query_plans.py
	@$(PY) -m bench --whole --write $(ARGS)
	@$(PY) -m bench.peers --write

check: lint imports types test  ## format, lint, imports, types, quick tests

format: $(VENV)/.dev  ## write the format
	@$(PY) -m ruff format . && $(PY) -m ruff check --fix .

# Python files of over 600 lines want a reason. Those named here have one.
LONG_FILES :=

lint: $(VENV)/.dev
	@$(PY) -m ruff format --check . && $(PY) -m ruff check .
	@git ls-files '*.py' | grep -vxF "$(LONG_FILES)" | xargs wc -l | \
	  awk '$$2 != "total" && $$1 > 600 {print "warning: " $$2 " has " $$1 " lines (see LONG_FILES in Makefile)"}'

imports: $(VENV)/.dev
	@$(VENV)/bin/lint-imports

types: $(VENV)/.dev
	@$(PY) -m mypy

lock: $(VENV)/.dev  ## pin requirements*.txt again, with hashes and without an index host
	@for part in "" "-dev" "-bench"; do \
	  $(VENV)/bin/uv pip compile pyproject.toml $$( [ -n "$$part" ] && echo --group $${part#-} ) \
	    --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --upgrade \
	    --custom-compile-command "make lock" --quiet -o requirements$$part.txt; done

digests:  ## pin every image of deploy/ by its digest (needs docker and a network)
	@deploy/digests.sh

# `venv` without pip is what Debian's python3 gives when python3-venv is missing: say so plainly.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "OneTake needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	@echo "Installing what OneTake runs on …"
	@$(PIP_INSTALL) -r requirements.txt && touch $@

$(VENV)/.dev: requirements-dev.txt | $(VENV)/bin/python
	@echo "Installing what OneTake is built and tested with …"
	@$(PIP_INSTALL) -r requirements-dev.txt && touch $@ $(VENV)/.run

$(GATEWAY)/.litellm-$(LITELLM_VERSION): | $(VENV)/bin/python
	@echo "Installing LiteLLM $(LITELLM_VERSION) in $(GATEWAY) …"
	@$(PYTHON) -m venv --clear $(GATEWAY)
	@$(GATEWAY)/bin/python -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$(LITELLM_VERSION)" && touch $@

$(VENV)/.bench: requirements-bench.txt | $(VENV)/bin/python
	@echo "Installing the libraries that the benchmark compares with …"
	@$(PIP_INSTALL) -r requirements-bench.txt && touch $@ $(VENV)/.dev $(VENV)/.run

clean:  ## remove the virtual environment and caches; var/ (your data) stays
	@rm -rf $(VENV) $(GATEWAY) .peers .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
