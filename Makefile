# Two commands carry the project; each works first on a machine with Python 3.11 or newer and make.
#
#     make tutorial   the environment, the data, and every notebook run: build/notebooks and build/html
#     make test       the environment, and every check: style, unit tests, notebooks against their outputs

PYTHON ?= python3
TORCH := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := build/tools
CANARY := build/canary
VAELIB := $(BIN)/python -m vaelib
NOTEBOOKS = $(sort $(wildcard notebooks/[0-9]*.ipynb))
EXERCISES = $(sort $(wildcard notebooks/exercises/*.ipynb notebooks/solutions/*.ipynb))
PIP := $(BIN)/python -m pip --disable-pip-version-check
NBCONVERT := $(BIN)/python -m nbconvert --log-level=WARN
EXECUTE := TQDM_DISABLE=1 $(NBCONVERT) --to=notebook --execute --ExecutePreprocessor.timeout=600

# What Jupyter and Matplotlib remember stays in the project. A kernel installed for another project is not seen.
export JUPYTER_CONFIG_DIR := $(CURDIR)/$(VENV)/var/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/$(VENV)/var/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/$(VENV)/var/jupyter/runtime
export IPYTHONDIR := $(CURDIR)/$(VENV)/var/ipython
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/var/matplotlib
# Sums are rounded in an order that depends on the number of threads: the same everywhere, the same results.
export OMP_NUM_THREADS ?= 2

.PHONY: help environment data synthetic own tutorial test lab site browser bench stress outputs results terms times
.PHONY: lock audit canary clean
.DELETE_ON_ERROR:

help:
	@echo "make tutorial  run every notebook; results in build/notebooks and build/html"
	@echo "make test      check the style, run the unit tests, run the notebooks against their outputs"
	@echo "make lab       open the first notebook in JupyterLab"
	@echo "make site      the notebooks as a book of static pages, with search: build/site"
	@echo "make bench     measure beside others, and say what fell: benchmarks/results.json, the table in the README"
	@echo "make stress    kill it, fill the disk, feed it damaged files by the thousand, and see that nothing is lost"
	@echo "make data      make and prepare the synthetic patients (or prepare those in VAELIB_DATA)"
	@echo "make clean     remove build/ and the caches of the tools"
	@echo "For maintainers: make results (the scoreboard), make outputs (run the committed notebooks in place),"
	@echo "  make terms (links to the glossary), make times (what make tutorial took), make lock (pin anew),"
	@echo "  make audit (known faults of what is pinned), make canary (make test with the newest of everything)."

# --- the environment -------------------------------------------------------------------------------------

environment: $(INSTALLED)

$(sort $(BIN)/python $(TOOLS)/bin/python $(CANARY)/bin/python):
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$("$(PYTHON)" --version) is too old; 3.11 or newer is needed. Name one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: this Python cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	"$(PYTHON)" -m venv $(@:/bin/python=)

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the pinned packages into $(VENV): a few minutes the first time."
	$(PIP) install --progress-bar=off -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@mkdir -p $(VENV)/var  # for what Jupyter and Matplotlib remember
	@touch $@

# --- the data --------------------------------------------------------------------------------------------

data: $(if $(VAELIB_DATA),own,synthetic)

synthetic: $(INSTALLED)
	$(VAELIB) phantom data/synthetic
	$(VAELIB) prepare data/synthetic

own: $(INSTALLED)
	$(VAELIB) prepare

# --- the notebooks ---------------------------------------------------------------------------------------

# Copies are run, in a folder of their own, so that neither the committed notebooks nor their figures change.
# The classic template is the one that hands a figure's alternative text on to the page.
tutorial: data
	rm -rf build/notebooks build/html
	mkdir -p build/html
	cp -R notebooks build/notebooks
	@rm -f build/times.json; comma='{'; for notebook in $(NOTEBOOKS:notebooks/%=build/notebooks/%); do \
	  begin=$$(date +%s); $(EXECUTE) --inplace "$$notebook" || exit 1; \
	  seconds=$$(( $$(date +%s) - begin )); echo "$$notebook: $$seconds s"; \
	  printf '%s\n  "%s": %d' "$$comma" "$$(basename "$$notebook" .ipynb)" $$seconds >> build/times.json; comma=,; \
	done; printf '\n}\n' >> build/times.json
	cp -R build/notebooks/figures build/html/
	$(NBCONVERT) --to=html --template=classic --output-dir=build/html $(NOTEBOOKS:notebooks/%=build/notebooks/%)
	@sed -i.ipynb -E 's/(href="[0-9][A-Za-z0-9_]*)\.ipynb/\1.html/g' build/html/*.html && rm build/html/*.html.ipynb
	@echo "Done. Open build/html/00_start_here.html, or 'make lab' to run the notebooks yourself."

lab: $(INSTALLED)
	$(BIN)/python -m jupyterlab notebooks/00_start_here.ipynb

test: synthetic
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python -m pytest --durations=10
	rm -rf build/nbval
	mkdir -p build
	cp -R notebooks build/nbval
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 \
	  --nbval-sanitize-with=tests/sanitize.cfg --durations=10 build/nbval

# --- the site --------------------------------------------------------------------------------------------

# A book of the notebooks as they are committed, and the latent explorer, in static pages. It takes two packages for the
# browser from npm the first time; after that, nothing is asked of anyone.
site: synthetic
	$(BIN)/python -m course.book.build build/site
	env -u VAELIB_DATA $(BIN)/python -m course.explorer build/site/explorer
	mkdir -p build/site/explorer/ort
	cp build/npm/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs \
	  build/npm/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm build/site/explorer/ort/
	$(BIN)/python -m course.book.check build/site
	@echo "Done. To read it: python3 -m http.server --directory build/site"

# The browser that some tests drive; where it is missing they say so. It belongs to the system, so only root can add it.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq --yes -o Acquire::Retries=3 chromium fonts-dejavu-core; \
	else echo "make: no Chromium here. On Debian: sudo apt install chromium"; exit 1; fi

# --- how fast -------------------------------------------------------------------------------------------

# The others are pinned in the extra "bench"; nothing that the lock pins is changed by them. It takes three quarters of
# an hour, and wants the machine for itself.
bench: synthetic
	$(PIP) install --quiet --constraint requirements.lock --editable '.[bench]'
	env -u VAELIB_DATA TQDM_DISABLE=1 $(BIN)/python -W ignore -m benchmarks.growth
	env -u VAELIB_DATA TQDM_DISABLE=1 $(BIN)/python -W ignore -m benchmarks

# --- how robust -----------------------------------------------------------------------------------------

# What `make test` does in small: kills, full disks, damaged files by the thousand, and a fuzzer that looks for more.
# Half an hour; the fuzzer comes for some Pythons and systems only.
stress: $(INSTALLED)
	$(PIP) install --quiet --constraint requirements.lock --editable '.[stress]'
	$(BIN)/python -W ignore -m stress.kill
	$(BIN)/python -W ignore -m stress.room
	$(BIN)/python -W ignore -m stress.read
	$(BIN)/python -W ignore -m stress.guided

# --- for maintainers -------------------------------------------------------------------------------------

# Every number that the notebooks and the README quote: results.json, the tables in the README, and the checkpoints in
# notebooks/checkpoints. About two hours on two cores; what is trained stays in data/models, so a second run is short.
results: synthetic
	env -u VAELIB_DATA TQDM_DISABLE=1 $(BIN)/python -m studies.ladder
	env -u VAELIB_DATA TQDM_DISABLE=1 $(BIN)/python -m studies

# The first use of each term in each lesson leads to notebooks/glossary.md.
terms: $(INSTALLED)
	$(BIN)/python -m course.book.link_terms

# The seconds of the last `make tutorial`, into the page for teachers; and the slides anew.
times: $(INSTALLED)
	$(BIN)/python -m course

# Outputs are committed without clock times, widget state or the number of the Python that made them.
outputs: synthetic
	env -u VAELIB_DATA $(EXECUTE) --inplace --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.store_widget_state=False --ClearMetadataPreprocessor.enabled=True \
	  --ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec \
	  --ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags $(NOTEBOOKS) $(EXERCISES)

# Tools for the lock are no part of it: they have an environment of their own.
$(TOOLS)/bin/pip-compile $(TOOLS)/bin/pip-audit: | $(TOOLS)/bin/python
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet pip-tools pip-audit

# All that is installed, and what builds vaelib. CONTRIBUTING.md says why without hashes, and what stands in for them.
# The limit on dateutil is botocore's: unless it is said here, every botocore there is would be tried first.
lock: $(TOOLS)/bin/pip-compile
	printf "%s\n" "torch==$(TORCH)" "python-dateutil<3" > build/constraints.txt
	$(TOOLS)/bin/pip-compile --quiet --upgrade --strip-extras --allow-unsafe --extra=test --extra=site \
	  --build-deps-for=editable --constraint=build/constraints.txt \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file=build/requirements.txt pyproject.toml
	{ echo "# Made by 'make lock' from pyproject.toml: the set that 'make' installs and that the notebooks' outputs"; \
	  echo "# were made with. Without hashes, since each platform has its own wheel of torch, which may bring"; \
	  echo "# packages of its own (CUDA's, for one). CONTRIBUTING.md says what stands in for them."; \
	  sed -e '/^#/d' -e '/^$$/d' -e 's/^\(torch==[^+]*\)+.*/\1/' build/requirements.txt | sort -f; } > requirements.lock

# A package that the database does not know is a failure: else a database out of reach would read as a clean bill.
audit: $(TOOLS)/bin/pip-audit
	$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner=off --requirement=requirements.lock

# Once a month: what the newest packages that pyproject.toml allows will break. The lock's own test is skipped.
canary:
	rm -rf $(CANARY)
	$(MAKE) $(CANARY)/bin/python
	$(CANARY)/bin/python -m pip --disable-pip-version-check install --progress-bar=off --editable '.[test,site]'
	touch $(CANARY)/.installed
	VAELIB_CANARY=1 $(MAKE) test VENV=$(CANARY)

clean:
	rm -rf build .pytest_cache .ruff_cache notebooks/.ipynb_checkpoints
	find vaelib tests -name __pycache__ -prune -exec rm -rf {} +
