# `make demo` runs the main job, `make test` the tests; both need only Python 3.10 or newer and a package index.

SUITS = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c "$(SUITS)" 2>/dev/null && { echo $$p; break; }; done)
DEMO = .venv-demo
TEST = .venv-test
DOCS = .venv-docs
# The number of processes in which tests run at once. Each uses one thread for linear algebra, so that they do not compete.
JOBS ?= 2
TEST_ENVIRONMENT = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# `make lint` also fails for files that `make format` would change; FORMAT= leaves that out.
FORMAT ?= 1

.PHONY: help demo test test-slicer benchmark mutants docs format lint clean

help:
	@echo "make demo   predict survival for a made-up patient; results in demo-output/"
	@echo "make test   run all tests (and the linter)"
	@echo "make lint   run ruff, mypy and codespell alone"
	@echo "make format format all files"
	@echo "make docs   build the pages of docs/ and of the library into docs/site"
	@echo "make mutants   change the code in small ways and see whether the tests notice; ARGS='slices --number 100'"
	@echo "make test-slicer SLICER=/path/to/Slicer   run the module's tests in an installed Slicer"
	@echo "make benchmark   measure, into Testing/benchmarks/results.md; ARGS='--store STORE --cohort FOLDER'"
	@echo "make clean  remove what the other targets made"

demo: $(DEMO)/.ready
	$(DEMO)/bin/python -m training_cli.demo --output demo-output

test: $(TEST)/.ready lint
	$(TEST_ENVIRONMENT) $(TEST)/bin/python -m pytest -n $(JOBS) --dist loadfile

# Slicer's exit code is that of the tests; QT_QPA_PLATFORM=offscreen or xvfb-run where there is no display.
test-slicer:
	@test -n "$(SLICER)" || { echo "Say where Slicer is: make test-slicer SLICER=/path/to/Slicer"; exit 1; }
	"$(SLICER)" --testing --no-splash --no-main-window --disable-cli-modules \
	  --additional-module-paths "$(CURDIR)/CNNSurvival" --python-script "$(CURDIR)/Testing/in_slicer/run_tests.py"

benchmark: $(TEST)/.ready
	$(TEST)/bin/python Testing/benchmarks/run.py $(ARGS)

lint: $(TEST)/.ready
	$(TEST)/bin/ruff check .
	$(if $(FORMAT),$(TEST)/bin/ruff format --check .)
	$(TEST)/bin/mypy
	$(TEST)/bin/codespell

format: $(TEST)/.ready
	$(TEST)/bin/ruff format .

mutants: $(TEST)/.ready
	$(TEST)/bin/python Testing/mutants/run.py $(ARGS)

docs: $(DOCS)/.ready
	$(DOCS)/bin/python docs/imports.py
	$(DOCS)/bin/python -m sphinx -W --keep-going -q -b html docs docs/site
	@echo "Open docs/site/index.html"

$(DEMO)/.ready: requirements/demo.txt pyproject.toml
	$(call make_environment,$(DEMO),requirements/demo.txt)

$(TEST)/.ready: requirements/test.txt requirements/demo.txt pyproject.toml
	$(call make_environment,$(TEST),requirements/test.txt)

$(DOCS)/.ready: requirements/docs.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "The docs need Python 3.11 or newer; name it: make docs PYTHON=/path/to/python3"; exit 1; }
	rm -rf $(DOCS)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements/docs.txt
	touch $(DOCS)/.ready

# A new virtual environment with the pinned packages and this project, in place; the stamp comes last.
define make_environment
	@test -n "$(PYTHON)" && $(PYTHON) -c "$(SUITS)" 2>/dev/null || { \
	  echo "Needs Python 3.10 to 3.13 and found none; install one, or name it: make PYTHON=/path/to/python3 ..."; exit 1; }
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r $(2)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(1)/.ready
endef

clean:
	rm -rf $(DEMO) $(TEST) $(DOCS) demo-output docs/site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
