# shellcheck shell=bash
# What deploy/setup and its recipes share: versions, places, and how to talk. Sourced, from the repository root.

# shellcheck disable=SC2034  # read by the files that source this one
{
  nats_server_min=2.14.5 # the first with the batch publishing that the queue relies on
  nats_server_fetched=2.15.1
  guest_rust_min=1.95    # what the workspace asks for in Cargo.toml
  debian_recipe=1        # raise it when build-with-debian changes, so that everyone builds again

  tools=$PWD/.tools
  guest_env=$tools/guest-env
  debian_rust=$tools/rust-web
}

say() {
  echo "setup: $*" >&3
}

# fail WHAT HINT
fail() {
  printf 'setup: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

log_of() {
  echo ".tools/log/$1.log"
}

# Recipes are programs of their own so that `set -e` holds inside them whatever calls them.
run_recipe() {
  local recipe=$1
  shift
  mkdir -p "$tools/log" "$tools/bin"
  "deploy/setup.d/$recipe" "$@" >"$tools/log/$recipe.log" 2>&1 </dev/null
}

# version_at_least 2.15.1 2.14.5
version_at_least() {
  local IFS=.- i
  # shellcheck disable=SC2206  # splitting at the dots is the point
  local have=($1) want=($2)
  for i in 0 1 2; do
    case "${have[i]:-0}" in *[!0-9]*) return 1 ;; esac
    [ "${have[i]:-0}" -gt "${want[i]:-0}" ] && return 0
    [ "${have[i]:-0}" -lt "${want[i]:-0}" ] && return 1
  done
  return 0
}

# Two set-ups at once (a test run beside a quickstart) would write the same files.
with_lock() {
  mkdir -p "$tools"
  local lock=$tools/lock owner told=
  until mkdir "$lock" 2>/dev/null; do
    owner=$(cat "$lock/pid" 2>/dev/null || true)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$lock" # its owner was killed
    elif [ -z "$told" ]; then
      told=yes
      say "waiting for another set-up of this folder (${owner:-starting}; if there is none: rm -r .tools/lock)"
    fi
    sleep 0.2
  done
  echo $$ >"$lock/pid"
  trap 'rm -rf "$tools/lock"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  "$@"
  rm -rf "$lock"
  trap - EXIT INT TERM
}
