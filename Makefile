# What people and the CI run. Everything else is `manage.py`.
.PHONY: demo test bench format lock vendor clean

VENV := .venv
BIN := $(VENV)/bin

demo: $(VENV)/.runs
	@$(BIN)/python manage.py demo $(ARGS)

# A stop after a failed check would hide what the tests say, so the script runs all and then fails.
test: $(VENV)/.checks
	@.ci/test

# All topics, or TOPICS="launch upload": writes docs/benchmarks.md.
bench: $(VENV)/.checks
	@.ci/system-packages
	$(BIN)/python -m benchmarks $(TOPICS)

format: $(VENV)/.checks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both locks name the versions for every platform; the second keeps to the first.
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: $(VENV)/.checks
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url -c requirements.txt requirements-dev.in -o requirements-dev.txt

# What browsers load from others, unchanged. Needs npm, which nothing else here does.
UPPY := 6.0.1
UPPY_SHA256 := 2635f034972f7e492a2b51cc447cf408587cdf916844232010bb7d46ab09ef70
vendor:
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	npm pack --silent --pack-destination "$$folder" "uppy@$(UPPY)" > /dev/null; \
	echo "$(UPPY_SHA256)  $$folder/uppy-$(UPPY).tgz" | sha256sum --check --quiet; \
	tar -xzf "$$folder/uppy-$(UPPY).tgz" -C ota/static/ota/vendor/uppy --strip-components=1 package/LICENSE; \
	tar -xzf "$$folder/uppy-$(UPPY).tgz" -C ota/static/ota/vendor/uppy --strip-components=2 package/dist/uppy.min.js

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@.ci/venv $(VENV)

# The stamps are younger than the locks once these are installed: a second run starts at once.
$(VENV)/.runs: requirements.txt | $(BIN)/python
	@echo "Installing what the project needs (about a minute, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.checks: requirements-dev.txt | $(BIN)/python
	@echo "Installing what the project and its checks need (about a minute, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(VENV)/.runs $@
