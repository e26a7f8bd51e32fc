# For everyone:      make demo   train a CP-VAE on handwritten digits, evaluate it, draw the figures
#                    make test   run the tests, without the slow ones; make test PYTHON=python3.13 for another Python
# For contributors:  make lint   ruff: rules and format
#                    make types  mypy on the installed wheel
#                    make bench  time the project beside plain PyTorch and Pythae (half an hour, on a quiet machine);
#                                make bench ONLY="steps start" for some of it
#                    make test-lowest  run the tests with the lowest versions that setup.cfg declares, on the oldest
#                                Python: make test-lowest PYTHON=python3.11 where python3 is a newer one
# The first of them makes .venv and installs the project into it, which takes some minutes. Another Python, and the
# lowest versions, have environments of their own: .venv-python3.13, .venv-lowest.

PYTHON ?= python3

# data of the demo: digits needs no download; make demo DATA=mnist trains longer
DATA ?= digits

VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
INSTALL := $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt
LOWEST := .venv-lowest
PACKAGING := setup.cfg pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: demo test test-lowest lint types bench

demo: $(VENV)/.installed-test
	$(VENV)/bin/python -m pyro_priors.demo $(DATA)

# One thread per worker: two workers with a thread for every core each would fight over the cores.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow" -n 2

# Old packages warn of what newer ones, which are not pinned, have deprecated.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" -n 2 -W ignore::DeprecationWarning

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Type checkers see that models/ is pyro_priors.models only on an installed wheel, and that only from outside the tree.
types: $(VENV)/.installed-dev
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	echo "mypy on the wheel, installed in $$folder"; \
	$(VENV)/bin/python -m build --no-isolation --outdir "$$folder" . > "$$folder/build.log" 2>&1 || { cat "$$folder/build.log"; exit 1; }; \
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target "$$folder/site" "$$folder"/*.whl; \
	cd "$$folder"; \
	MYPYPATH="$$folder/site" "$(CURDIR)/$(VENV)/bin/python" -P -m mypy --config-file "$(CURDIR)/setup.cfg" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p pyro_priors

bench: $(VENV)/.installed-test $(VENV)/peers
	$(VENV)/bin/python -m benchmarks $(ONLY)

# What is only measured against, out of the way of what is installed.
$(VENV)/peers: benchmarks/peers.txt | $(VENV)/bin/python
	rm -rf $@
	$(INSTALL) --no-deps --target $@ -r benchmarks/peers.txt
	@touch $@

# The stamps are newer than what they were installed from; a change of one of the three installs again.
$(VENV)/.installed-test: $(PACKAGING) | $(VENV)/bin/python
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(PACKAGING) | $(VENV)/bin/python
	$(INSTALL) -e '.[test,dev]'
	@touch $@

# Each `name>=version` of setup.cfg as `name==version`. What those need themselves is not pinned.
$(LOWEST)/.installed: setup.cfg pyproject.toml | $(LOWEST)/bin/python
	sed -n 's/^    \([A-Za-z0-9_-]*\)>=\(.*\)/\1==\2/p' setup.cfg > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -c $(LOWEST)/constraints.txt -e '.[test]'
	@touch $@

$(VENV)/bin/python $(LOWEST)/bin/python:
	$(PYTHON) -m venv $(@D:/bin=)
