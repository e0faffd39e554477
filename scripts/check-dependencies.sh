#!/usr/bin/env bash
# Holds the crates against the table of who may import whom (DESIGN.md, "Who may import whom?").
set -euo pipefail
cd "$(dirname "$0")/.."

# What follows would take a tree that cannot be read for an empty one.
cargo tree --quiet --locked --workspace --all-features >/dev/null

status=0
wrong() { printf 'dependencies: %s\n' "$*" >&2; status=1; }

# The names in a crate's tree, one a line: `tree CRATE [options of cargo tree]`.
tree() {
  local crate=$1
  shift
  cargo tree --quiet --locked --package "$crate" --prefix none --format '{p}' "$@" | awk '{ print $1 }' | sort -u
}
direct() { tree "$@" --depth 1 | grep -vx "$1" || true; }
only() { grep -Evx "$1" || true; }

ours='leasehold|lock-[a-z]+'
stores=$(for crate in lock-*/; do
  crate=${crate%/}
  case $crate in lock-core | lock-conformance | lock-testkit | lock-cli) ;; *) echo "$crate" ;; esac
done)
[ -n "$stores" ] || wrong "no store was found"

# The core has these and nothing else, whatever features are on.
core='async-trait|crc32fast|futures-util|getrandom|humantime|metrics|percent-encoding|rustix|serde|serde_json|tokio|tracing'
extra=$(direct lock-core --all-features --edges normal,build | only "$core")
[ -z "$extra" ] || wrong "lock-core imports" $extra

# The facade without features is the core and nothing else.
extra=$(comm -23 <(tree leasehold --no-default-features --edges normal,build | only leasehold) \
                 <(tree lock-core --edges normal,build))
[ -z "$extra" ] || wrong "leasehold without features imports" $extra
extra=$(direct leasehold --all-features --edges normal,build | only "lock-core|$(echo $stores | tr ' ' '|')")
[ -z "$extra" ] || wrong "leasehold has dependencies that are no stores:" $extra
extra=$(direct leasehold --all-features --edges dev | grep -Ex "$(echo $stores | tr ' ' '|')" || true)
[ -z "$extra" ] || wrong "the examples, benches and tests of leasehold import stores directly:" $extra

for crate in $stores lock-conformance; do
  extra=$(tree "$crate" --all-features --edges normal,build | grep -Ex "$ours" | only "$crate|lock-core" || true)
  [ -z "$extra" ] || wrong "$crate imports, of ours," $extra
done
# The suite is for strangers' stores too: it names no client of any.
extra=$(direct lock-conformance --all-features --edges normal,build | only 'lock-core|async-trait|libtest-mimic|tokio|[a-z-]*(rand|random)')
[ -z "$extra" ] || wrong "lock-conformance imports" $extra

extra=$(direct lock-cli --all-features --edges normal,build | grep -Ex "$ours" | only leasehold || true)
[ -z "$extra" ] || wrong "lock-cli imports, of ours," $extra

[ "$status" = 0 ] && echo "dependencies: as they should be"
exit "$status"
