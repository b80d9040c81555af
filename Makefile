# Two commands do all the set-up: `make demo` (the main job) and `make test` (the tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo compare test check format bench results clean

demo: $(STAMP)  ## an emulated cluster on this machine trains ten small PyTorch jobs
	$(BIN)/powerflow demo

compare: $(STAMP)  ## compare the policies on a day of jobs at equal energy
	$(BIN)/powerflow compare --report powerflow-compare.html

# many tests wait for processes that they start: as many workers as cores would leave these idle; what the tests of
# a file share is made once; the order is that of tests/conftest.py
test: $(STAMP)  ## the whole test-suite
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## style, types, one-way arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## speed, as ratios and CPU time
	$(BIN)/python -m benchmarks.speed

results: $(STAMP)  ## docs/results.md and its data files (about an hour on two cores)
	$(BIN)/python -m benchmarks.results

# numba keeps what it compiled beside the sources, and does not see when a kernel of another file has changed
clean:
	find src tests benchmarks -name '*.nb[ic]' -delete
	rm -f src/powerflow/dashboard/static/live.*
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# pip would compile with one core, also what the tests hardly use; some files for other versions of Python do not compile
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard web/*.json web/src/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PowerFlow needs Python 3.11 or newer; say which with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,torch,nvidia,postgres,ray]'
	$(BIN)/python -m compileall -qq -j 0 -x '/(ray|plotly|pip|setuptools|mypy|mypyc|narwhals|networkx|graphql|tests|testing|_inductor)/' $(VENV)/lib src || true
	@test -e src/powerflow/dashboard/static/live.js || echo "PowerFlow is installed without the live page of its dashboard: npm's registry was not reached. All else works; python hatch_build.py says why."
	touch $(STAMP)
