# Two commands on a fresh machine: `make demo` and `make test`. Only python3 and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# for the tests alone: browsers for the pages, an RTSP camera for the agent, systemd-analyze for its unit, a clock, a broker, ssh
SYSTEM := gcc libc6-dev mmdebstrap chromium chromium-driver webkit2gtk-driver xvfb python3-gi gir1.2-gst-rtsp-server-1.0 \
          gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad systemd faketime procps mosquitto \
          openssl openssh-client

.PHONY: help demo test quick test-pi check bench system clean
help:
	@echo "make demo    train on real images, convert to int8, run on a camera clip: minutes, no download of data"
	@echo "make test    check, then every test"
	@echo "make quick   the tests that take less than about a second"
	@echo "make test-pi the agent on Raspberry Pi OS, emulated"
	@echo "make check   ruff, mypy, import contracts, word check"
	@echo "make bench   the figures of benchmarks/, as JSON lines"

# uv resolves and installs in 20 s what takes pip minutes; it comes from the index like everything else
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make an environment; on Debian: apt install python3-venv"; exit 2; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[train,convert,keras,onnx,phone,dev]'
	@touch $@

# where it may, that is as root on Debian; elsewhere the tests that need one of them are skipped and say so
system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(SYSTEM) >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM) >/dev/null; \
	fi
	@# node and npm come from Debian, or from elsewhere in one package
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v npm >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; \
	fi

demo: $(INSTALLED)
	@$(BIN)/python -m examples.demo

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.plain_words

# Three at a time on two cores: half of what the tests take is waiting. A file's tests stay together, for what they share
# is made once; and files stay in their order (tests/conftest.py)
test: system check
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The inner loop
quick: $(INSTALLED)
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# Raspberry Pi OS, emulated; part of `make test` too
test-pi: system $(INSTALLED)
	$(BIN)/pytest tests/pi

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.agent

clean:
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
