#!/usr/bin/env bash
# Tries the README's commands where nothing is but Debian, a C compiler, git and Rust: in a bare root of Debian 12.
#
#   scripts/fresh-machine.sh             the README's commands, on a clone of the last commit; before a release
#   scripts/fresh-machine.sh --install   only that test.sh installs what the tests need, without Rust; about 3 minutes
#
# It needs root, and Debian's debootstrap, which it installs. Certificates, the settings of Go and the Rust toolchain are
# those of this machine. The root is below LEASEHOLD_FRESH_ROOT (default: target/fresh-root), and removed at the end
# unless LEASEHOLD_KEEP_ROOT is set.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'fresh-machine: %s\n' "$*" >&2; exit 1; }

# Mounts belong to a namespace of their own: they are gone when this ends, however it ends.
if [ "${1:-}" != --in-namespace ]; then
  [ "$(id -u)" = 0 ] || fail "this needs root"
  exec unshare --mount --propagation private "$0" --in-namespace "$@"
fi
shift
what=${1:-all}
case $what in all | --install) ;; *) fail "\"$what\" is not accepted: give --install, or nothing" ;; esac

root=${LEASEHOLD_FRESH_ROOT:-target/fresh-root}
mkdir -p "$root"
root=$(cd "$root" && pwd)
log=$root.log
started=$SECONDS

remove() {
  [ -z "${LEASEHOLD_KEEP_ROOT:-}" ] || return 0
  local mounted
  while read -r mounted; do
    umount --lazy "$mounted" || fail "$mounted is still mounted, and $root was not removed"
  done < <(awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/self/mounts | tac)
  rm -rf --one-file-system "$root"
}

step() {
  local name=$1 start=$SECONDS
  shift
  printf '%-60s' "$name"
  if "$@" >"$log" 2>&1 </dev/null; then
    printf 'ok, %s s\n' "$((SECONDS - start))"
  else
    printf 'FAILED, %s s\n' "$((SECONDS - start))"
    tail -n 80 "$log"
    fail "$name failed; all of it is in $log"
  fi
}

# Runs a command in the root, with nothing of this machine's environment but what names a proxy or certificates.
inside() {
  local kept=() name
  for name in $(compgen -e | grep -iE '^(https?_proxy|no_proxy|SSL_CERT_FILE|SSL_CERT_DIR|CARGO_[A-Z_]*|GO[A-Z]*PROXY|GOFLAGS|GONOSUMDB)$' || true); do
    kept+=("$name=${!name}")
  done
  chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb LANG=C.UTF-8 \
    PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${kept[@]}" \
    /bin/bash -c "cd /root/leasehold && $1"
}

bootstrap() {
  remove
  command -v debootstrap >/dev/null || { apt-get -qq update && apt-get -qq -y --no-install-recommends install debootstrap; }
  debootstrap --variant=minbase --include=gcc,libc6-dev,git,ca-certificates bookworm "$root"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  # Whatever this machine trusts beyond Debian.
  cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
  cat /etc/ssl/certs/ca-certificates.crt >"$root/etc/ssl/certs/ca-certificates.crt"
  cp /etc/apt/apt.conf.d/*artifact* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
  # A plain image has none, and each machine its own.
  rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  mount -t tmpfs tmpfs "$root/run"
  mkdir -p "$root/root/.config"
  cp -r "$HOME/.config/go" "$root/root/.config/" 2>/dev/null || true
}

clone() {
  git clone --quiet --no-hardlinks . "$root/root/leasehold"
  git -C "$root/root/leasehold" log -1 --format='%h %s'
}

toolchain() {
  mkdir -p "$root/opt/rust"
  mount --bind "$(rustc --print sysroot)" "$root/opt/rust"
  mount -o remount,bind,ro "$root/opt/rust"
}

# Every program that the tests start is there, also one that Debian usually has and a bare root has not.
programs() {
  local program missing=()
  while read -r program; do
    chroot "$root" /bin/bash -c "command -v '$program'" >/dev/null || missing+=("$program")
  done < <(git grep -hoE 'Command::new\("[a-zA-Z0-9_./-]+"\)' -- '*.rs' | sed 's/.*("\(.*\)")/\1/' | grep -vE '^(cargo|\.)' | sort -u)
  [ ${#missing[@]} -eq 0 ] || { echo "the tests start ${missing[*]}, which test.sh does not install"; return 1; }
}

trap remove EXIT
step "a bare root of Debian 12" bootstrap
step "a clone" clone
if [ "$what" = --install ]; then
  step "./test.sh --install" inside "./test.sh --install"
  step "every program that tests start is there" programs
else
  step "the Rust toolchain of this machine" toolchain
  while read -r command; do
    step "$command" inside "$command"
    tail -n 2 "$log"
  done < <(awk '/^## Try it/ { on = 1 } on && /^\$ / { print substr($0, 3) } on && /^```$/ { exit }' README.md)
fi
printf 'ok, in %s s\n' "$((SECONDS - started))"
