#!/usr/bin/env bash
# numa_residency_test.sh RESIDENCY_TEST: runs launcher/residency_test on a machine with four NUMA nodes, where none
# of its tests may skip: eight workers, each bound to its own core, every page on its node.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
binary=$(readlink -f "$1")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

status=0
"$here/numa_vm.sh" "$binary" -- "$binary" >"$log" || status=$?
cat "$log"
[ "$status" = 0 ] || exit "$status"
if grep -q SKIPPED "$log"; then
  echo "FAILED: a test skipped where everything is there to be bound" >&2
  exit 1
fi
grep -qx '8 workers on 4 NUMA nodes: 2048 pages read back, 0 remote' "$log" || {
  echo "FAILED: the read-back of 8 workers on 4 nodes is missing" >&2
  exit 1
}
