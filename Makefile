# Everything a newcomer needs: `make run` serves, `make test` tests.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# What we are compared to, in an environment of its own: its versions shall not decide ours.
export PEERS ?= .venv-peers

export HOST ?= 127.0.0.1
export PORT ?= 8080

.PHONY: run test lint sample docker faults bench clean

run: $(VENV)/run sample ## Serve on http://HOST:PORT, by default http://127.0.0.1:8080
	exec $(BIN)/gunicorn wsgi:app

test: $(VENV)/dev ## Run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sample: $(VENV)/run ## Make the sample data, the first time
	$(BIN)/python -m jobmanager sample

docker: ## Build the container image
	docker build -t jobmanager .

faults: $(VENV)/dev ## Have some 600 faults strike servers on both databases, and tell how many were survived; takes 20 minutes
	CAMPAIGN_ROUNDS=400 $(BIN)/python -m pytest -s tests/server/test_campaign.py

bench: $(VENV)/dev $(PEERS)/done ## Measure, beside what we are compared to; ONLY=export: that alone, QUICK=1: only see that it runs
	$(BIN)/python -m benchmarks $(ONLY) $(if $(QUICK),--quick)

clean: ## Remove what was installed and made here, but not the data
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/run: requirements.txt setup.cfg
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(PEERS)/done: benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
