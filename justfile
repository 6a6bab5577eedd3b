# What is done often, and what CI does: .ci/run calls these recipes and nothing else.

# List the recipes.
default:
    @just --list

# Everything that CI checks.
check: fmt-check lint doc deploy-check test test-release gates deny

# Format the code.
fmt:
    cargo fmt --all

# Fail if the code is not formatted.
fmt-check:
    cargo fmt --all -- --check

# Lint everything; warnings are errors.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Build the documentation; broken links are errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Run the tests: all of them, or those named. No root, no network, no other server.
test *args:
    cargo test --workspace {{args}}

# The tests that drive the binary, on what is shipped.
test-release:
    cargo build --release --locked -p sluicegate
    SLUICEGATE_TEST_BINARY="$(realpath "${CARGO_TARGET_DIR:-target}")/release/sluicegate" cargo test --locked -p sluicegate \
        --test cli --test engine --test grpc --test http2 --test run --test strictness --test tls --test upstream \
        --test websocket

# The Helm chart and the manifests: rendered, held to the schemas of Kubernetes and to what they promise. With --write,
# what is rendered from the chart is written anew.
deploy-check *args:
    deploy/check {{args}}

# System calls and heap allocations per request. Without strace, or where it is forbidden, the first is skipped.
gates *args:
    benches/gates.sh {{args}}

# Proxies side by side: `just compare --quick`. Once, benches/peers.sh installs what it is compared with.
compare *args:
    cargo run --release -p benches -- compare {{args}}

# Licences, sources and duplicates of dependencies. Needs cargo-deny.
deny:
    cargo deny --locked --all-features check bans licenses sources

# Write the golden files of the compiler anew; read the difference before committing it.
golden:
    UPDATE_GOLDEN=1 cargo test -p config --test golden

# Show what the gateway does, on free loopback ports.
demo:
    cargo run --release -- demo

# Build what is shipped.
release:
    cargo build --release --locked -p sluicegate
