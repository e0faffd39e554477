#!/usr/bin/env bash
# Runs every test of the workspace, the documentation's examples and the example programs, and installs what they need.
#
#   ./test.sh            everything
#   ./test.sh -p NAME    what `cargo test` takes besides: only the tests, without the example programs
#   ./test.sh --install  only installs
set -euo pipefail
cd "$(dirname "$0")"

# A command that the tests run, and the Debian package that has it.
needed=(
  cc:gcc                 # builds SQLite, and a wall clock for servers
  faketime:faketime      # steps the wall clock of a process
  unshare:util-linux     # gives a process a time or mount namespace of its own
  mount:mount
  kill:procps            # stops and continues servers
  mkfs.ext4:e2fsprogs    # makes a disk that fills up
  protoc:protobuf-compiler # builds the client of etcd
  etcd:etcd-server
  etcdctl:etcd-client
  go:golang-go           # builds a program with Go's mutex of etcd, which shares a queue with locks
  openssl:openssl        # makes certificates
  timeout:coreutils
  redis-server:redis-server
  redis-sentinel:redis-sentinel
  redis-cli:redis-tools
  setpriv:util-linux     # runs servers that refuse to be root's
  psql:postgresql-client
  pgbouncer:pgbouncer
  java:default-jre-headless
  javac:default-jdk-headless # builds the program that contends with Curator
)

# A file that the tests need, and the Debian package that has it.
needed_files=(
  /usr/include/google/protobuf/descriptor.proto:libprotobuf-dev # builds the client of etcd
  # Not the package zookeeperd, which would start a server.
  /usr/share/java/zookeeper.jar:libzookeeper-java
  /usr/share/java/netty-codec.jar:libnetty-java # TLS in ZooKeeper
  /usr/share/java/curator-recipes.jar:libcurator-recipes-java # another client, which locks must exclude
  /usr/share/java/slf4j-nop.jar:libslf4j-java
)

say() { printf '%s\n' "$*"; }
fail() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

install_missing() {
  local missing=() packages=() pair
  for pair in "${needed[@]}"; do
    # Not a word of the shell's own, such as `kill`.
    type -P "${pair%%:*}" >/dev/null && continue
    missing+=("${pair%%:*}")
    packages+=("${pair##*:}")
  done
  for pair in "${needed_files[@]}"; do
    [ -e "${pair%%:*}" ] && continue
    missing+=("${pair%%:*}")
    packages+=("${pair##*:}")
  done
  # Debian keeps the programs of the server out of the way.
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || { missing+=(postgres) && packages+=(postgresql); }
  # Another client, which locks must exclude.
  /usr/bin/python3 -c 'import redis' 2>/dev/null || { missing+=(python3-redis) && packages+=(python3-redis); }
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  command -v apt-get >/dev/null || fail "the tests need ${missing[*]}: install what has them, as on Debian ${packages[*]}"
  [ ${#sudo[@]} -eq 0 ] || sudo -n true 2>/dev/null ||
    fail "the tests need ${missing[*]}: as root, run apt-get install ${packages[*]}"
  say "installing ${packages[*]}"
  "${sudo[@]}" apt-get -qq update >/dev/null
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get -qq -y --no-install-recommends install "${packages[@]}" >/dev/null
}

# What the user has set for the command is not for the tests.
unset LEASEHOLD_STORE LEASEHOLD_LOG LEASEHOLD_NAME LEASEHOLD_HOLDER LEASEHOLD_TOKEN LEASEHOLD_REALM LEASEHOLD_DEADLINE

# Every process of this run inherits this mark, also one that outlives the test that started it.
LEASEHOLD_TEST_RUN="$$-$(date +%s%N)"
export LEASEHOLD_TEST_RUN

stop_what_is_left() {
  local environment pid stopped=0
  for environment in /proc/[0-9]*/environ; do
    pid=${environment#/proc/}
    pid=${pid%/environ}
    [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
    grep -qzsx "LEASEHOLD_TEST_RUN=$LEASEHOLD_TEST_RUN" "$environment" 2>/dev/null || continue
    kill -9 "$pid" 2>/dev/null && stopped=$((stopped + 1))
  done
  [ "$stopped" = 0 ] || say "stopped $stopped processes that the tests had left"
}

mkdir -p target
log=target/test.log
trap stop_what_is_left EXIT

# What the tests that failed said; the end of the output where that is not found.
show_failures() {
  grep -E '^(error|test .*FAILED)' "$log" | head -n 50 || true
  awk '/^failures:$/ { inside = 1 } /^test result:/ { inside = 0 } inside' "$log" | grep . || tail -n 60 "$log"
  say "all of it is in $log"
}

# Runs a step; its output is shown only if it fails.
step() {
  local name=$1 start=$SECONDS
  shift
  printf '%-44s' "$name"
  if "$@" >"$log" 2>&1 </dev/null; then
    say "ok, $((SECONDS - start)) s"
  else
    say "FAILED, $((SECONDS - start)) s"
    show_failures
    fail "$name failed"
  fi
}

# The test programs, one a line: those that take longest first, so that none is left alone at the end.
test_programs() {
  cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, sys

longest = "conformance zk postgres etcd command semantics schedules search redis places".split()
targets = [target for package in json.load(sys.stdin)["packages"] for target in package["targets"]]
names = {target["name"] for target in targets if "test" in target["kind"]} - {"load"}
print("\n".join(sorted(names, key=lambda name: (longest.index(name) if name in longest else 99, name))))'
}

# Runs some of the tests; what it takes is what `cargo test` takes. Its output goes to a file of its own.
run_some() { cargo test --workspace --all-features --locked --no-fail-fast "$@" >"target/test-logs/${*: -1}" 2>&1 </dev/null; }

# Runs every test: as many programs at a time as there are processors, since most wait for servers; at the end, alone,
# those that load the whole machine.
run_tests() {
  local status=0
  rm -rf target/test-logs
  mkdir -p target/test-logs
  export -f run_some
  {
    test_programs | sed 's/^/--test /'
    printf '%s\n' --lib --bins --doc
  } | xargs -P "$(nproc)" -I{} bash -c 'run_some {}' || status=1
  run_some --test load || status=1
  cat target/test-logs/*
  return "$status"
}

count() { awk -v word="$1" '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ "^" word) n += $(i - 1) } END { print n + 0 }' "$log"; }

[ "${1:-}" != --install ] || { install_missing && exit; }
command -v cargo >/dev/null || fail "the tests need Rust: see https://rustup.rs"
install_missing
command -v unshare >/dev/null && [ "$(uname -s)" = Linux ] || fail "the tests run on Linux"

if [ $# -gt 0 ]; then
  cargo test --all-features --locked "$@"
  exit
fi

step "building" cargo test --workspace --all-features --locked --no-run
step "tests" run_tests
passed=$(count passed) ignored=$(count ignored) failed=$(count failed)
[ "$passed" -gt 0 ] || fail "no test ran"

examples=0
for example in examples/*.rs; do
  name=$(basename "$example" .rs)
  # Built with the tests; `cargo run` would build all of it again, with fewer features of what it is made of.
  step "example $name" timeout 120 "${CARGO_TARGET_DIR:-target}/debug/examples/$name"
  examples=$((examples + 1))
done
[ "$examples" -gt 0 ] || fail "no example ran"

say "all tests and $examples examples, in $SECONDS s:"
say "$passed passed, $failed failed, $ignored skipped"
