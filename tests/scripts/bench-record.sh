#!/usr/bin/env bash
# Puts the table of the last benchmark (target/bench/volume.md, or the file named) into docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
table=${1:-${TARGET:-target}/bench/volume.md}
page=docs/performance.md
begin='<!-- the benchmark: begin -->' end='<!-- the benchmark: end -->'

[ -s "$table" ] || { echo "error: there is no $table: run \`make bench\` first" >&2; exit 1; }
for mark in "$begin" "$end"; do
    [ "$(grep -cxF "$mark" "$page")" = 1 ] || { echo "error: $page has not one line $mark" >&2; exit 1; }
done
new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    sed "/^$begin\$/q" "$page"
    # Its heading is that of the page.
    echo
    sed '1,2d' "$table"
    echo
    sed -n "/^$end\$/,\$p" "$page"
} >"$new"
cat "$new" >"$page"
echo "bench-record: $page has the table of $table"
