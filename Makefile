# Everything a newcomer needs: `make run` serves, `make test` tests.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# The environment of the benchmarks' peers, separate so that their versions do not constrain ours.
export PEERS ?= .venv-peers

export HOST ?= 127.0.0.1
export PORT ?= 8080

.PHONY: run test test-fast lint sample docker faults bench clean

run: $(VENV)/run sample ## Serve on http://HOST:PORT, by default http://127.0.0.1:8080
	exec $(BIN)/gunicorn wsgi:app

test: $(VENV)/dev ## Run the whole test suite
	$(BIN)/python -m pytest -n 4 --dist worksteal

test-fast: $(VENV)/dev ## Run the tests of single modules, of the store on SQLite and of HTTP; one to two minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not database_server" tests/unit tests/store tests/http

lint: $(VENV)/dev ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

sample: $(VENV)/run ## Make the sample data, unless it exists
	$(BIN)/python -m jobmanager sample

docker: ## Build the container image
	docker build -t jobmanager .

faults: $(VENV)/dev ## Inject some 600 faults into servers on both databases and count the survived ones; 20 minutes
	CAMPAIGN_ROUNDS=400 $(BIN)/python -m pytest -s tests/server/test_campaign.py

bench: $(VENV)/dev $(PEERS)/done ## Run the benchmarks beside the peers; ONLY=export runs one, QUICK=1 only shows that they run
	$(BIN)/python -m benchmarks $(ONLY) $(if $(QUICK),--quick)

clean: ## Remove everything that was installed or built here, except the data
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
