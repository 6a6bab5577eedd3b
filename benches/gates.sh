#!/usr/bin/env bash
# The deterministic gates: ≤ 4.2 data system calls and no heap allocation per keep-alive request. Builds what it needs.
#   benches/gates.sh            what can be measured must pass; without a usable strace that gate is skipped, loudly
#   benches/gates.sh --strict   everything must be measured and pass (CI)
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
profile=${PROFILE:-quick}
cargo build --locked --profile "$profile" -p benches --bin gates
# Same profile, other features: built after the plain binary is put aside, so that neither overwrites the other.
cargo build --locked --profile "$profile" -p sluicegate --features count-allocations
cp "$target/$profile/sluicegate" "$target/$profile/sluicegate-counting"
cargo build --locked --profile "$profile" -p sluicegate
exec "$target/$profile/gates" --syscalls "$target/$profile/sluicegate" \
    --allocations "$target/$profile/sluicegate-counting" "$@"
