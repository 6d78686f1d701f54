# make demo        installs what is missing, builds clipc, and classifies a photograph
# make test        the same, and runs the tests
# make notebooks   installs what they need, and executes the notebooks in place
#
# Everything goes into the folder $(VENV). Another interpreter: make demo PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/pip --disable-pip-version-check --quiet
SANITIZE = build/sanitize

SOURCES = $(shell find csrc clipc -name '*.[ch]' -o -name '*.py' -o -name '*.gz' -o -name '*.safetensors' -o -name 'zoo.json')

.PHONY: demo test test-full test-sanitize benchmark notebooks lint clean

demo: $(VENV)/installed
	$(VENV)/bin/clipc --version
	$(VENV)/bin/clipc classify examples/images/cat.png cat dog bird car --model tiny

test: $(VENV)/installed $(VENV)/tools-installed
	$(VENV)/bin/pytest $(PYTEST_OPTIONS)

# Those tests that `make test` leaves out because they take minutes: models of full size, the notebooks, and the
# oracles of explanations among themselves.
test-full: $(VENV)/installed $(VENV)/tools-installed
	$(VENV)/bin/pytest --full -m full $(PYTEST_OPTIONS)

# The same extension under AddressSanitizer and UndefinedBehaviorSanitizer. Tests that need PyTorch are left
# out: the oracles run in `make test`.
test-sanitize: $(VENV)/installed $(VENV)/tools-installed
	tools/test_sanitized.sh $(VENV)/bin/python $(SANITIZE)

benchmark: $(VENV)/installed $(VENV)/tools-installed
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(VENV)/bin/pytest benchmarks

# NOTEBOOKS=notebooks/04_zero_shot_detection.ipynb executes one of them.
notebooks: $(VENV)/installed $(VENV)/notebooks-installed
	$(VENV)/bin/python tools/execute_notebooks.py $(NOTEBOOKS)

lint: $(VENV)/tools-installed
	$(VENV)/bin/ruff check .

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip setup.py pyproject.toml $(SOURCES)
	tools/install_system_packages.sh
	$(PIP) install .
	touch $@

# clip-anytorch brings OpenAI's reference code, grad-cam the usual Grad-CAM for PyTorch; what they depend on
# (torchvision, OpenCV) is not needed.
$(VENV)/tools-installed: $(VENV)/bin/pip pyproject.toml
	$(PIP) install '.[test]'
	$(PIP) install --no-deps clip-anytorch grad-cam
	touch $@

$(VENV)/notebooks-installed: $(VENV)/bin/pip pyproject.toml
	$(PIP) install '.[notebooks]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV) clipc/*.so
