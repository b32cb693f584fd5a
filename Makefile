# Every target makes .venv if it is missing, installs exactly the extras that it needs, and runs.
# `make demo ARGS="--epochs 1"` hands options on; `make PYTHON=python3.13 test` chooses another interpreter.

PYTHON ?= python3
ARGS ?=
BENCH ?= dispatch layers
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
# A stamp per extra: installing again waits for a change of pyproject.toml.
with = $(VENV)/.with-$(1)

.DEFAULT_GOAL := help
.PHONY: help demo test programs fuzz parity check format bench clean
# Two pips at once in one environment break each other.
.NOTPARALLEL:

help:
	@echo "make demo    train the article's network on real digits"
	@echo "make test    the tests that need no torch"
	@echo "make programs  ten thousand random programs, for an hour or two"
	@echo "make fuzz    a hundred thousand damaged and hostile checkpoints, for some minutes"
	@echo "make parity  the tests that compare with torch"
	@echo "make check   ruff and pyright"
	@echo "make format  let ruff mend what it can"
	@echo "make bench   time a compiled call against other libraries, and layers against plain jax.numpy"
	@echo "make clean   remove .venv, caches and builds"

demo: $(call with,demo)
	$(RUN) examples/digits.py $(ARGS)

test: $(call with,test)
	$(RUN) -m pytest -q -n auto --dist worksteal -m "not parity" tests $(ARGS)

programs: $(call with,test)
	FLAMBEAU_PROGRAMS=10000 $(RUN) -m pytest -q -n auto --dist worksteal tests/transforms/test_programs.py $(ARGS)

fuzz: $(call with,test)
	FLAMBEAU_FUZZ=100000 $(RUN) -m pytest -q -n auto --dist worksteal tests/io/test_fuzz.py $(ARGS)

parity: $(call with,torch) $(call with,test)
	$(RUN) -m pytest -q -n auto --dist worksteal -m parity tests $(ARGS)

check: $(call with,test) $(call with,dev)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

format: $(call with,dev)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# torch comes first: its pin has to hold before another package asks for any version of it.
bench: $(call with,torch) $(call with,bench)
	for each in $(BENCH); do $(RUN) benchmarks/$$each.py $(ARGS) || exit; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .jax_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.with-%: pyproject.toml | $(VENV)/.made
	@echo "installing flambeau[$*] into $(VENV)"
	@$(PIP) --editable ".[$*]"
	@touch $@

# A stamp rather than bin/python, which is there already when making the environment was interrupted.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flambeau needs Python 3.11 or newer; name one with PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
