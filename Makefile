# The two commands of the README, and the parts of the gate one by one. docs/building.md says what each does.

# cargo's home, for a shell that was open before Rust was installed.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: test demo setup fmt clippy unit doc fuzz mutants black_box live

test:
	@bash .ci/run

demo: setup
	cargo run --release --locked --package understudy-node -- demo

setup:
	@bash .ci/setup

fmt clippy unit doc fuzz mutants black_box live:
	@bash .ci/run $@
