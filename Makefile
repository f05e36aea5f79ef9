# Two commands do everything: `make book` and `make test`. `make help` lists the rest.
# The first working Python of 3.11 to 3.13 is taken, or the one named: make book PYTHON=python3.12
FIND = for p in $(PYTHON) python3.12 python3.11 python3.13 python3; do \
  "$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
  2>/dev/null && echo "$$p" && break; done
SETUP_PYTHON := $(shell $(FIND))
RUN := .venv/bin/python
HTML := book/_build/html
# No chapter, test or build asks a network for anything once set-up is done.
export HF_HUB_OFFLINE := 1
export TQDM_DISABLE := 1

.PHONY: help setup book html execute pdf colab fresh test lint clean
help:
	@echo "make book   set up, execute the chapters that changed, build the HTML"
	@echo "make test   set up, lint, run every test and every chapter, build with warnings as errors"
	@echo "make pdf    print the built pages into one PDF (needs Chromium)"
	@echo "make colab  run every chapter with Colab's versions, alone in an empty folder"
	@echo "make fresh  as book, but execute every chapter again"
	@echo "make lint   ruff over package, tools, tests and notebooks"
	@echo "make clean  remove the built pages (.venv and the cached model stay)"

setup:
	@if [ -z "$(SETUP_PYTHON)" ]; then \
	  echo "No working Python 3.11, 3.12 or 3.13 (with venv) found: install one, or name it: make book PYTHON=/path/to/python3.12"; exit 1; fi
	@env -u TQDM_DISABLE -u HF_HUB_OFFLINE "$(SETUP_PYTHON)" book/_tools/setup.py

execute: setup
	@$(RUN) book/_tools/execute.py

html:
	@$(RUN) book/_tools/build.py

book: execute html

pdf:
	@$(RUN) book/_tools/pdf.py

colab: setup
	@$(RUN) book/_tools/colab.py

fresh: setup
	@$(RUN) book/_tools/execute.py --force
	@$(MAKE) --no-print-directory html

lint:
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

test: setup lint
	@echo "== every test, and every chapter run again (nbval)"
	@$(RUN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 tests $(wildcard book/*.ipynb)

clean:
	rm -rf book/_build
