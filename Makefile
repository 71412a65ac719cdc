# Two commands carry the project; each works first on a machine with Python 3.11 or newer and make.
#
#     make tutorial   the environment, the data, and every notebook run: build/notebooks and build/html
#     make test       the environment, and every check: style, types, unit tests, notebooks against their outputs
#
# The steps of every command stand in noxfile.py, which works without make too: `pip install nox`, `nox -s test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TASKS := environment data synthetic own tutorial test lab site browser bench stress outputs results terms times \
  lock audit canary clean

.PHONY: help $(TASKS)

help:
	@echo "make tutorial  run every notebook; results in build/notebooks and build/html"
	@echo "make test      check style and types, run the unit tests, run the notebooks against their outputs"
	@echo "make lab       open the first notebook in JupyterLab"
	@echo "make site      the notebooks as a book of static pages, with search: build/site"
	@echo "make bench     measure beside others, and say what fell: benchmarks/results.json and its table"
	@echo "make stress    kill it, fill the disk, feed it damaged files by the thousand, and see that nothing is lost"
	@echo "make data      make and prepare the synthetic patients (or prepare those in VAELIB_DATA)"
	@echo "make clean     remove build/ and the caches of the tools"
	@echo "For maintainers: make results (every study), make outputs (run the committed notebooks in place),"
	@echo "  make terms (links to the glossary), make times (what make tutorial took), make lock (pin anew),"
	@echo "  make audit (known faults of what is pinned), make canary (make test with the newest of everything)."

$(TASKS): $(VENV)/.nox
	@$(BIN)/python -m nox --session $@

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$("$(PYTHON)" --version) is too old; 3.11 or newer is needed. Name one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: this Python cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.nox: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements.lock nox
	@touch $@
