# `make demo` and `make test` do all of their own set-up: a virtual environment here, and system packages where root may
# install them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export MPLBACKEND = Agg

.PHONY: demo test docs check bench-quick format system gpaw clean

demo: $(STAMP)
	$(BIN)/potstill run examples/nickel.toml --out runs/demo

# One process more than cores, because some tests wait for a batch system; each with one thread, because threads of several
# processes on the same cores wait for each other by spinning.
test: export OMP_NUM_THREADS = 1
test: export NUMBA_NUM_THREADS = 1
test: $(STAMP) system gpaw
	$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal

docs: $(STAMP)
	$(BIN)/mkdocs build --quiet --strict

# Ratios of speed, each within one run, beside those that were kept; a few minutes.
bench-quick: $(STAMP)
	$(BIN)/python benchmarks/quick.py

check: $(STAMP)
	$(BIN)/ruff format --check src tests scripts benchmarks docs
	$(BIN)/ruff check src tests scripts benchmarks docs
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format src tests scripts benchmarks docs
	$(BIN)/ruff check --fix src tests scripts benchmarks docs

# torch goes first and by exact version: then the range that the package asks for is satisfied, and pip does not look
# for a build with several gigabytes of GPU libraries.
$(STAMP): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

# Chromium opens the report in tests, PostgreSQL keeps labels, Slurm runs workers, Quantum ESPRESSO and GPAW make labels;
# GPAW is compiled, so it needs libraries. Without root and without them, those tests are skipped with a reason.
system:
	@missing=""; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		missing="chromium"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$$missing postgresql"; \
	command -v pw.x >/dev/null || missing="$$missing quantum-espresso"; \
	test -f /usr/share/cp2k/POTENTIAL_UZH || missing="$$missing cp2k-data"; \
	test -f /usr/include/xc.h || missing="$$missing libxc-dev"; \
	test -f /usr/include/fftw3.h || missing="$$missing libfftw3-dev"; \
	ls /usr/lib/*/libopenblas.so >/dev/null 2>&1 || missing="$$missing libopenblas-dev"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v slurmctld >/dev/null || test -x /usr/sbin/slurmctld || missing="$$missing slurm-wlm"; \
	command -v munged >/dev/null || test -x /usr/sbin/munged || missing="$$missing munge"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else echo "absent, so the tests that need it will be skipped: $$missing"; fi

gpaw: $(STAMP) system
	@$(BIN)/python -c "import gpaw" 2>/dev/null || ! test -f /usr/include/xc.h || \
		GPAW_CONFIG=$(CURDIR)/scripts/gpaw_serial.py $(BIN)/python -m pip install --quiet gpaw==25.7.0

clean:
	rm -rf $(VENV) site build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
