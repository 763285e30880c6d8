PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo picture test test-fast lint types docs

# -c keeps the install repeatable: the versions last tested
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]' -c constraints.txt
	touch $@

demo: $(VENV)/installed
	$(BIN)/wsss demo

# the README's picture: some of the demo's photographs through the chain
picture: demo
	cp runs/demo/overview.png docs/demo.png

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

# without trainings: while one works on the code
test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not trains"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the Python API
types: $(VENV)/installed
	$(BIN)/python -m mypy

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]' -c constraints.txt
	touch $@

# the site of the documents, build/site/index.html; a broken link is an error
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
