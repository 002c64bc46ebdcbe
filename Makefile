# Two commands on a fresh machine: `make liver_seg` and `make test`. Both set everything up first.
SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Images of containers often set it; every process would then compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
PIPELINES := $(notdir $(wildcard pipelines/*))

.PHONY: help setup samples $(PIPELINES) test coverage mutants lint bench tables lock

help: ## list the targets
	@grep -hE '^[a-z]+.*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'
	@printf '%s\tset up and run this pipeline\n' $(PIPELINES)

setup: ## virtual environment with the locked requirements and this clone's packages
	@scripts/setup.sh

samples: setup ## write data/ from code
	@pentad samples

$(PIPELINES): samples
	dvc repro pipelines/$@

lint: setup ## format, rules, types, import contracts
	ruff format --check .
	ruff check .
	mypy
	lint-imports

test: setup ## every check
	@$(MAKE) --no-print-directory --jobs=2 samples lint
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --no-loadscope-reorder

coverage: samples ## branch coverage of the packages by the whole suite, worker processes included
	coverage erase
	OMP_NUM_THREADS=1 coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder || echo "tests failed; what follows counts them too"
	coverage combine --quiet
	coverage report --skip-covered
	@coverage json --quiet -o - | python -c \
		'import json, sys; print("of branches alone: {percent_branches_covered:.1f} %".format(**json.load(sys.stdin)["totals"]))'

mutants: setup ## break core at random 100 times and count what its tests notice
	coverage erase
	COVERAGE_CONTEXT=test_function OMP_NUM_THREADS=1 coverage run -m pytest -q -p no:xdist tests/core
	coverage combine --quiet
	OMP_NUM_THREADS=1 python scripts/mutants.py --count 100

bench: samples ## measure every side-by-side table anew, peers in a folder of their own, CT=SCAN a real one (an hour on two quiet cores)
	@[ -d benchmarks/peers ] || python3 -m pip install --quiet --no-deps --target benchmarks/peers -r benchmarks/peers.txt
	python benchmarks/every.py --ct "$(CT)"
	python scripts/readme_tables.py

tables: setup ## write the generated tables of the README from what was measured
	@python benchmarks/every.py --collect
	@python scripts/readme_tables.py

lock: ## renew requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
		--group dev --all-extras packages/*/pyproject.toml --no-emit-package pentad-core --output-file requirements.lock
