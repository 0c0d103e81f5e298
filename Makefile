# Everything runs in an environment of its own ($(VENV)), which each target
# sets up if it is missing.  Needed: make, Python >= 3.11 with venv, a network
# to PyPI for the first run.
#
#   make test PYTEST_ARGS='-k sqlite -x'    part of the tests
#   make test REQUIRE=all                   a missing database (or Chromium)
#                                           is an error
#   make test SCREENSHOTS=1 PYTEST_ARGS=tests/test_browser.py
#                                           pictures of the demo's pages
#   make test PYTHON=python3.13 VENV=.venv313

VENV ?= .venv
PYTEST_ARGS ?=
PSERVE_ARGS ?=
FAULTS_ARGS ?=
SOAK_ARGS ?=
ATTACK_ARGS ?=
# How long `make soak` runs; 120 in CI.
SECONDS ?= 3600
# A file of releases to install, instead of the newest ones.
CONSTRAINTS ?=
PEERS_ARGS ?=
# How many processes run the tests, each with servers of its own, which take
# a gigabyte: not as many as a large machine has processors.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); \
	echo $$((n > 8 ? 8 : n)))
# How long `make stress` works on each database.
SECONDS_EACH ?= 60
# Which databases must be there: nothing, or `all`.
REQUIRE ?=
export REQUIRE

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-pythons fuzz coverage lint types docs dist \
	stress stress-galera stress-peers clean \
	bench bench-all bench-growth bench-ids bench-memory bench-serializer \
	bench-serve bench-settings bench-touch \
	attack faults soak

# Every target that ends in "##" and a text is listed.
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------- environment

# The first interpreter that is new enough and can make an environment.
# $(PYTHON), if set, is the only candidate.
$(BIN)/python:
	@set -e; \
	for candidate in $(or $(PYTHON),python3 python3.15 python3.14 python3.13 \
			python3.12 python3.11 python); do \
		if "$$candidate" -c 'import sys, venv, ensurepip; \
				sys.exit(sys.version_info < (3, 11))' \
				>/dev/null 2>&1; then \
			echo "==> Making $(VENV) with $$candidate" \
				"($$("$$candidate" --version))"; \
			"$$candidate" -m venv $(VENV); \
			exit 0; \
		fi; \
	done; \
	echo "Python >= 3.11 with venv is needed; tried: $(or $(PYTHON),\
python3 python3.15 python3.14 python3.13 python3.12 python3.11 python)." >&2; \
	echo "Install it (Debian, Ubuntu: apt install python3 python3-venv)" \
		"or name it: make ... PYTHON=/path/to/python3" >&2; \
	exit 1

# One stamp per extra: a second run does nothing until setup.py changes.
$(VENV)/.installed-%: setup.py pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "==> Installing the package with its extra '$*' into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[$*]' $(addprefix --constraint ,$(CONSTRAINTS))
	@touch $@

# -------------------------------------------------------------------- targets

demo: $(VENV)/.installed-demo ## run the demo shop; it prints its address
	@echo "==> Starting the demo (pserve development.ini); Ctrl-C stops it"
	@exec $(BIN)/pserve development.ini $(PSERVE_ARGS)

# The processes must agree on the order of sets, as it is in names of tests;
# the seed is another one in each run.
test: $(VENV)/.installed-testing ## run the tests on every database found
	@echo "==> Running the tests (REQUIRE='$(REQUIRE)', JOBS=$(JOBS))"
	@PYTHONHASHSEED=$${PYTHONHASHSEED:-$$$$} $(BIN)/python -m pytest \
		-n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# What depends on releases of others, and of Python, is in these tests; the
# databases have little part in it.
PART := -k 'sqlite or test_shortcut or test_pooling' tests/test_statements.py \
	tests/test_session_dict.py tests/test_session_types.py tests/test_damage.py \
	tests/test_flash.py tests/test_csrf.py tests/test_own_serializer.py \
	tests/test_encryption.py tests/test_shortcut.py tests/test_pooling.py

# Each in an environment of its own.
test-lowest: ## some tests, with the lowest releases that setup.py allows
	@$(MAKE) --no-print-directory test VENV=$(VENV)-lowest \
		CONSTRAINTS=.ci/lowest.txt PYTEST_ARGS="$(PART) $(PYTEST_ARGS)"

# pyenv's are behind a shim that may refuse to run them.
test-pythons: $(BIN)/python ## these tests with each other Python that is found
	@set -e; for version in 3.11 3.12 3.13 3.14 3.15; do \
		$(BIN)/python -V | grep -q " $$version\." && continue; \
		for candidate in python$$version \
				$$HOME/.pyenv/versions/$$version.*/bin/python; do \
			"$$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1 \
				|| continue; \
			$(MAKE) --no-print-directory test PYTHON="$$candidate" \
				VENV=$(VENV)-$$version PYTEST_ARGS="$(PART) $(PYTEST_ARGS)"; \
			break; \
		done; \
	done

# atheris has no wheel for every version of Python, so it is no extra.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.installed-testing ## fuzz the cookie and the stored data (atheris)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: atheris
	@for what in cookie data; do \
		echo "==> Fuzzing the $$what for $(FUZZ_SECONDS) seconds"; \
		$(BIN)/python -m tests.fuzz $$what \
			-max_total_time=$(FUZZ_SECONDS) -max_len=600 -verbosity=0 \
			|| exit 1; \
	done

# Under coverage itself: plugins, ours too, are imported before pytest-cov.
coverage: $(VENV)/.installed-testing ## the tests, with line and branch coverage
	@echo "==> Running the tests under coverage"
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: $(VENV)/.installed-checks ## check the style (ruff)
	@echo "==> Checking the style"
	@$(BIN)/ruff check .

types: $(VENV)/.installed-checks $(VENV)/.installed-testing ## check the types (mypy, strict)
	@echo "==> Checking the types"
	@$(BIN)/mypy

docs: $(VENV)/.installed-docs ## build the documentation; warnings are errors
	@echo "==> Building the documentation"
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "==> Open docs/_build/html/index.html"

dist: $(VENV)/.installed-checks ## build sdist and wheel and check them
	@echo "==> Building the sdist, and the wheel from it"
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >$(VENV)/build.log 2>&1 \
		|| { cat $(VENV)/build.log; exit 1; }
	@echo "==> Checking what they hold, and installing the wheel by itself"
	@$(BIN)/python .ci/check_wheel.py dist

stress: $(VENV)/.installed-testing ## look for lost and revived sessions, long
	@echo "==> Random requests, judged by a model ($(SECONDS_EACH) s each)"
	@$(BIN)/python -m tests.stress --seconds $(SECONDS_EACH)

stress-galera: $(VENV)/.installed-testing ## the same on a three-node Galera cluster
	@echo "==> Random requests over three nodes ($(SECONDS_EACH) s)"
	@$(BIN)/python -m tests.stress --galera --seconds $(SECONDS_EACH)

# In an environment of its own (benchmarks/environment.py).  The machine should
# do nothing else meanwhile.  BENCH_ARGS is for one of them: each has --help.
bench: $(BIN)/python ## measure this package beside raw drivers and others
	@echo "==> Measuring (the results go to benchmarks/results)"
	@$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

bench-growth: $(BIN)/python ## sessions in tables of up to 5 million rows
	@$(BIN)/python -m benchmarks.growth $(BENCH_ARGS)

bench-memory: $(BIN)/python ## what sessions weigh, on disk and in the process
	@$(BIN)/python -m benchmarks.memory $(BENCH_ARGS)

bench-touch: $(BIN)/python ## what an index on the expiry costs and gives
	@$(BIN)/python -m benchmarks.touch $(BENCH_ARGS)

bench-ids: $(BIN)/python ## what ids in the order of time give the index
	@$(BIN)/python -m benchmarks.ids $(BENCH_ARGS)

bench-serve: $(BIN)/python ## requests per second of waitress and gunicorn
	@$(BIN)/python -m benchmarks.serve $(BENCH_ARGS)

bench-serializer: $(BIN)/python ## the serializer beside the JSON library alone
	@$(BIN)/python -m benchmarks.serializer $(BENCH_ARGS)

bench-settings: $(BIN)/python ## what to set for speed, and what it buys
	@$(BIN)/python -m benchmarks.settings $(BENCH_ARGS)

bench-all: ## all of these, one after the other, about half an hour
	@for one in bench bench-growth bench-memory bench-touch bench-ids \
			bench-serve bench-serializer bench-settings; do \
		$(MAKE) --no-print-directory $$one BENCH_ARGS= || exit 1; \
	done

# In an environment of its own (benchmarks/environment.py), with what the
# other systems need; PEERS_ARGS='--times 3' for a first look.
stress-peers: $(BIN)/python ## count what two requests at once do elsewhere
	@echo "==> Counting what two requests at once do, here and elsewhere"
	@$(BIN)/python -m benchmarks.peers $(PEERS_ARGS)

faults: $(VENV)/.installed-testing ## databases and processes that go away, under load
	@echo "==> Breaking databases and processes under load"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		gunicorn waitress
	@$(BIN)/python -W ignore -m tests.faults $(FAULTS_ARGS)

soak: $(VENV)/.installed-testing ## mixed load with random faults, SECONDS=3600
	@echo "==> Mixed load with random faults for $(SECONDS) seconds"
	@$(BIN)/python -W ignore -m tests.faults.soak $(SECONDS) $(SOAK_ARGS)

attack: $(VENV)/.installed-testing ## forged, planted and stolen cookies, hostile data
	@echo "==> Attacking an application"
	@$(BIN)/python -W ignore -m tests.attack $(ATTACK_ARGS)

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(VENV)-* build dist docs/_build *.egg-info \
		.coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
