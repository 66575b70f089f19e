# make demo   virtual environment, install, every step on synthetic speech (offline)
# make test   virtual environment, install, ruff, mypy, tests, documentation
# make test-fast   the tests that need neither time nor other programs
# make docs   the documentation as pages, in site/
# make model AUDIO=FOLDER   the models in the box, anew from CC0 speech (docs/models.md)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast docs model lint types clean

demo: $(VENV)/.demo
	$(BIN)/wav2small demo

test: lint types docs $(VENV)/.peers
	$(BIN)/python -m pytest -rs

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -rs -m "not slow and not tools"

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

model: $(VENV)/.moonshine $(VENV)/.vad $(VENV)/.demo
	$(BIN)/python -m wav2small.benchmarks.studies.box '$(AUDIO)' -o build/box --install

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy wav2small teachers students export benchmarks

# One environment; a stamp per set of extras, renewed when the dependencies change.
$(VENV)/.%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# Counterparts of some tests: an S3 server (its boto and that of s3fs seldom agree, so it stands
# apart), the oldest supported ONNX Runtime, and one for another processor. A Python too new for
# these releases goes without them: their tests are skipped, with the reason.
$(VENV)/.peers: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/peers/s3
	$(VENV)/peers/s3/bin/python -m pip install --quiet 'moto[server]'
	-$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/peers/ort120 onnxruntime==1.20.1
	-$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(VENV)/peers \
		--python-version 3.11 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
		onnxruntime==1.22.1
	touch $@

clean:
	rm -rf $(VENV) build dist demo site *.egg-info .pytest_cache .mypy_cache .ruff_cache
