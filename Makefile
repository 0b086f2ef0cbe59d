# The two commands a user needs are `make demo` and `make test`; both set everything up in .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
EXAMPLES := .venv-examples

.PHONY: help demo detect serve test examples docs check format bench clean

help:
	@echo "make demo    set up, then train a static and two KernelWarehouse networks on embedded images"
	@echo "make detect  set up, then make a small data set in COCO's format, train two Mask R-CNNs on it, judge and draw"
	@echo "make serve   set up, train a small network on handwritten digits, export it, and serve it over HTTP"
	@echo "make test    set up, then run all tests"
	@echo "make examples  set up .venv-examples, then run every example on its package (ultralytics is AGPL-3.0)"
	@echo "make docs    set up, then build the documentation strictly into site/ (open site/index.html)"
	@echo "make check   set up, then format, lint, types and import layers"
	@echo "make format  rewrite the code in the house format"
	@echo "make bench   time every backend of single layers against the static convolution"
	@echo "make clean   remove .venv and everything made"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dynaconv needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@echo "Setting up .venv: PyTorch and the training tools, a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[train,detection,export,serve,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/dynaconv demo

detect: $(STAMP)
	$(BIN)/dynaconv detect demo

# A network of a minute's training; one that was stopped goes on, and one that is there stays.
serve/digits.onnx: | $(STAMP)
	$(BIN)/dynaconv train --model resnet18 --method.budget 1 --backbone.channels '[16,32,64,128]' --data mnist5k \
		--epochs 4 --out serve --name digits --run-id run --auto-resume
	$(BIN)/dynaconv export serve/digits/run/best $@ --dynamic-batch

serve: serve/digits.onnx
	$(BIN)/python examples/serve/app.py $<

# One thread a process: the networks are tiny, and more would only wait for each other. tests/conftest.py tells which tests
# share a worker.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --quiet

# What the examples need beyond .venv goes into an environment on top of it, so that nothing else sees it.
$(EXAMPLES)/.installed: $(STAMP) examples/requirements.txt
	@test -x $(EXAMPLES)/bin/python || $(BIN)/python -m venv $(EXAMPLES)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(EXAMPLES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beneath.pth"
	@$(EXAMPLES)/bin/python -m pip install --disable-pip-version-check --quiet --requirement examples/requirements.txt
	@touch $@

examples: $(EXAMPLES)/.installed
	OMP_NUM_THREADS=1 $(EXAMPLES)/bin/python -m pytest --numprocesses 2 -rs tests/examples

# The builder is not needed to use or test the library, so it is installed when it is first wanted.
.venv/.docs-installed: $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[docs]'
	@touch $@

docs: .venv/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The documentation is in site/: open site/index.html, or serve it with search: $(BIN)/python -m mkdocs serve"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python benchmarks/orders.py

clean:
	rm -rf .venv $(EXAMPLES) demo detect-demo serve runs compare bench site .pytest_cache .ruff_cache .hypothesis
