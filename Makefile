# Two commands on a fresh machine: `make quickstart` and `make test`.
# `make quickstart INPUT=crawl.warc.gz` runs the same chain on any crawl.

PYTHON ?= python3
VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
SAMPLE := tests/testdata/crawl
INPUT ?= $(SAMPLE)/sample_crawl.warc.gz
# Pages per validation page (mC4: 1000; a small crawl needs more validation).
VALIDATION_MODULUS ?= 5
# Training steps: 2,048 tokens each. The sample is small; a crawl of thousands of
# pages deserves half an hour on two cores.
PRETRAIN_STEPS ?= $(if $(filter $(SAMPLE)/%,$(INPUT)),800,6000)
# Truth table (url, language) to compare language identification with; may be empty.
TRUTH ?= $(if $(filter $(SAMPLE)/%,$(INPUT)),$(SAMPLE)/sample_crawl.tsv,)
RUN ?= runs/$(if $(OVERLAY),$(notdir $(OVERLAY))_)$(firstword $(subst ., ,$(notdir $(INPUT))))
G := gin/experiments/quickstart
# A directory of gin files named by job that win over the quickstart's.
OVERLAY ?=
ifneq ($(OVERLAY),)
ifeq ($(wildcard $(OVERLAY)/*.gin),)
$(error OVERLAY=$(OVERLAY) holds no gin file; give a directory such as gin/overlays/tiny)
endif
endif
JOB := $(RUN_PYTHON) -m mlm.run
GIN = --gin_file=$G/$1.gin $(if $(wildcard $(OVERLAY)/$1.gin),--gin_file=$(OVERLAY)/$1.gin)

export TF_CPP_MIN_LOG_LEVEL ?= 3
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/runs/compilation_cache

.PHONY: help setup quickstart test test-slow test-distributed lint format clean

help:
	@echo "make quickstart             crawl -> corpus -> tokenizer -> pretraining -> SFT -> reward model -> RLOO -> report"
	@echo "make quickstart INPUT=FILE  the same on your own WARC or WET (RUN=DIR for the results)"
	@echo "make quickstart OVERLAY=gin/overlays/tiny   a smoke test of two minutes: every step, next to no training"
	@echo "make test                   sets up and runs the tests;  make test-slow: the long ones too"
	@echo "make test-distributed       the pipelines on Prism, a runner with workers of their own (needs go)"
	@echo "make lint                   ruff check and format check"
	@echo "make clean                  removes runs/ (results); the environment stays"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 12) else "Python 3.11 or 3.12 is needed, this is %d.%d; call make PYTHON=python3.11" % v)'
	test -x $(RUN_PYTHON) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

# Every step returns at once when its result is there, and resumes when half done.
quickstart: setup
	$(RUN_PYTHON) -m beam_pipelines.mc4 --input=$(INPUT) --output=$(RUN)/corpus --validation_modulus=$(VALIDATION_MODULUS) $(if $(filter $(SAMPLE)/%,$(INPUT)),--bad_words=$(SAMPLE)/bad_words)
	$(JOB) train_tokenizer $(call GIN,train_tokenizer) --gin.CORPUS=$(RUN)/corpus --gin.OUTPUT=$(RUN)/tokenizer
	$(JOB) cache_tokens $(call GIN,cache_tokens) --gin.CORPUS=$(RUN)/corpus --gin.TOKENIZER=$(RUN)/tokenizer --gin.OUTPUT=$(RUN)/tokens
	$(JOB) pretrain $(call GIN,pretrain) --gin.TOKENS=$(RUN)/tokens --gin.TOKENIZER=$(RUN)/tokenizer --gin.OUTPUT=$(RUN)/pretrain $(if $(OVERLAY),,--gin.TRAIN_STEPS=$(PRETRAIN_STEPS))
	$(JOB) make_instructions $(call GIN,make_instructions) --gin.CORPUS=$(RUN)/corpus --gin.TOKENIZER=$(RUN)/tokenizer --gin.OUTPUT=$(RUN)/instructions
	$(JOB) cache_records $(call GIN,cache_records) --gin.SOURCES="{'templates': '$(RUN)/instructions'}" --gin.TOKENIZER=$(RUN)/tokenizer --gin.OUTPUT=$(RUN)/examples
	$(JOB) finetune $(call GIN,finetune) --gin.TOKENIZER=$(RUN)/tokenizer --gin.INITIAL=$(RUN)/pretrain --gin.EXAMPLES=$(RUN)/examples --gin.OUTPUT=$(RUN)/sft
	$(JOB) make_preferences $(call GIN,make_preferences) --gin.TOKENIZER=$(RUN)/tokenizer --gin.POLICY=$(RUN)/sft --gin.RECORDS=$(RUN)/instructions --gin.OUTPUT=$(RUN)/preferences
	$(JOB) train_reward_model $(call GIN,train_reward_model) --gin.TOKENIZER=$(RUN)/tokenizer --gin.INITIAL=$(RUN)/sft --gin.PREFERENCES=$(RUN)/preferences --gin.OUTPUT=$(RUN)/reward_model
	$(JOB) align_rloo $(call GIN,align_rloo) --gin.TOKENIZER=$(RUN)/tokenizer --gin.INITIAL=$(RUN)/sft --gin.REWARD_MODEL=$(RUN)/reward_model --gin.RECORDS=$(RUN)/instructions --gin.OUTPUT=$(RUN)/rloo
	$(JOB) evaluate $(call GIN,evaluate) --gin.CORPUS=$(RUN)/corpus --gin.TOKENIZER=$(RUN)/tokenizer --gin.PRETRAINED=$(RUN)/pretrain --gin.SFT=$(RUN)/sft --gin.REWARD_MODEL=$(RUN)/reward_model --gin.RLOO=$(RUN)/rloo --gin.RECORDS=$(RUN)/instructions --gin.OUTPUT=$(RUN)/evaluation
	$(JOB) report $(call GIN,report) --gin.RUN=$(RUN) --gin.OUTPUT=$(RUN)/report --gin.TRUTH="'$(TRUTH)'"
	@echo "Report: $(RUN)/report/report.html"

test: setup
	$(RUN_PYTHON) -m pytest --numprocesses=2 --dist=loadfile

test-slow: setup
	$(RUN_PYTHON) -m pytest -m 'not distributed'

# Beam's own portable runner, of the version that requirements.txt pins.
PRISM := $(CURDIR)/.tools/prism
PRISM_VERSION := $(shell sed -n "s/^apache-beam==\([0-9.]*\).*/\1/p" requirements.txt)

$(PRISM): requirements.txt
	GOBIN=$(dir $(PRISM)) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(PRISM_VERSION)
	touch $@

test-distributed: setup $(PRISM)
	PRISM=$(PRISM) $(RUN_PYTHON) -m pytest -m distributed

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf runs
