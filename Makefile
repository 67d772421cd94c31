# The stable commands. Everything is installed into .venv from the package registries.
# Where the demo writes; a folder of pictures or DICOM files to read instead of drawn cells.
OUT ?= demo-out
IMAGES ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install install-dev install-hashed hashes demo test test-all nightly coverage check conformance faults audit bench bench-quick bench-gpu remote-engine docs image release lock clean

install: .venv/installed
install-dev: .venv/installed-dev

# uv installs in half a minute what takes pip minutes. It knows nothing of pip's own configuration: where only that says
# from where to install, pip does it.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) uv
	$(UV) --editable . || $(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(UV) --editable '.[dev,training]' || $(PIP) --editable '.[dev,training]'
	touch $@

demo: install
	$(BIN)/allpacs demo --out $(OUT) $(if $(IMAGES),--images $(IMAGES))

# Three at a time, each file in one process: most tests wait for something rather than compute. The longest files begin
# first (tests/conftest.py), so that none is left alone at the end.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder
# The default tier, under 8 minutes on two cores. A test of more than 20 s belongs into the next tier and fails here.
DEFAULT_TIER := -m "essential or not (process or nightly)" --longest-test-s 20
test: install-dev
	$(PYTEST) $(DEFAULT_TIER)

# What continuous integration runs: the above, and the tests that start whole plugins, train networks and kill workers.
test-all: install-dev
	$(PYTEST) -m "not nightly" --durations=40

# Everything, soak and random kills included, with long mutation and the benchmarks: some hours.
nightly: install-dev
	ALLPACS_FAULTS_LONG=1 ALLPACS_MUTATIONS=20000 $(PYTEST) --durations=40
	$(BIN)/python -m benchmarks --out build/bench.json

# The default tier, and which lines it ran: in coverage.xml, too. Takes half as long again.
coverage: install-dev
	$(PYTEST) $(DEFAULT_TIER) --cov --cov-report=term:skip-covered --cov-report=xml

# Third parties take, store, show and judge what allpacs sends: docs/conformance-results.md.
conformance: install-dev
	conformance/peers/install.sh
	$(BIN)/python -m conformance

# Every promise and what showed that it holds: docs/reliability.md. ALLPACS_FAULTS_LONG=1 for the long half (an hour).
faults: install-dev
	PYTHONPATH=.:tests $(BIN)/python -m faults

# Known vulnerabilities of what constraints.txt pins; asks the package index, and fails where it cannot be asked.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# How fast it is, each figure beside a peer's in the same run: docs/performance.md. On an otherwise idle machine.
bench: install-dev
	$(BIN)/python -m benchmarks --page docs/performance.md

bench-quick: install-dev
	$(BIN)/python -m benchmarks --quick --out build/bench-quick.json

# The engine on a GPU against the ceiling of its arithmetic and memory; ends with a message where there is none.
bench-gpu: install-dev
	$(BIN)/python -m benchmarks --only gpu --out build/bench-gpu.json

# A KServe model server in an environment of its own, and the suite of the engines with one that asks it.
remote-engine: install-dev
	$(PYTHON) -m venv build/model-server
	build/model-server/bin/pip install --quiet --disable-pip-version-check 'kserve>=0.15' openvino
	$(BIN)/pytest tests/contract/test_engine_contract.py -k Remote

# The documentation site, in build/site; a warning is an error.
docs: install-dev
	$(BIN)/python -m docs
	$(BIN)/python -m conformance documents
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# Build the container image's file in a chroot and run it; no container engine is needed. As root, some minutes.
image:
	tests/deploy/build_image.sh build/image

# sdist and wheel; beside them what the wheel brings along: components (CycloneDX) and licences.
release: install-dev
	rm -rf dist build/release build/lib && $(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file dist/allpacs.cdx.json build/release
	$(BIN)/pip-licenses --python build/release/bin/python --from=mixed --with-urls --format=markdown --output-file dist/licences.md

# As install, but nothing whose SHA-256 is not in requirements.lock.
install-hashed:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch .venv/installed

# The runtime's part of constraints.txt with every file's SHA-256, for all platforms.
hashes: install-dev
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --extra tracing --constraint constraints.txt --output-file requirements.lock pyproject.toml

# Renew the pinned versions: what a fresh environment resolves to today.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[dev,training]'
	build/lock/bin/pip freeze --exclude-editable > constraints.txt
	echo 'tensorflow[and-cuda]' | build/lock/bin/uv pip compile --quiet --no-annotate --no-header --constraint constraints.txt - \
		| grep '^nvidia' > deploy/container/constraints-gpu.txt

clean:
	rm -rf .venv build demo-out
