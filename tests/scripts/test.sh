#!/usr/bin/env bash
# Runs the tests (arguments: nextest's) and then looks for what they left on this host.
set -euo pipefail
cd "$(dirname "$0")/../.."
export AWS_EC2_METADATA_DISABLED=true
here=tests/scripts

# Tests are compiled by the user and run as root.
if [ -n "${SUDO:-}" ]; then
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=$SUDO"
fi
# The scenarios run the programs themselves, which cargo builds for their own crates' tests only.
cargo build --release --workspace --bins --tests

notes=$(mktemp -d "${TMPDIR:-/tmp}/traces.XXXXXX")
trap 'rm -rf "$notes"' EXIT
$SUDO "$TARGET/release/sweep"
$SUDO $here/traces.sh >"$notes/before"
status=0
cargo nextest run --release --workspace "$@" || status=$?

# A test that was killed could not clean up after itself: say so, and do it.
$SUDO "$TARGET/release/sweep" --report || status=1
$SUDO $here/traces.sh >"$notes/after"
comm -13 "$notes/before" "$notes/after" >"$notes/left"
comm -23 "$notes/before" "$notes/after" | grep '^content' >>"$notes/left" || true
for kind in process namespace interface route mount file content; do
    echo "left behind: $(grep -c "^$kind " "$notes/left" || true) of kind $kind"
done
if [ -s "$notes/left" ]; then
    echo "error: the tests left these behind or changed them:" >&2
    cat "$notes/left" >&2
    status=1
fi
exit "$status"
