#!/usr/bin/env bash
# numa_test.sh ANNULUS: trains a few steps with 8 workers on an emulated machine of 2 sockets, 4 NUMA nodes and 8
# cores, and checks what Annulus reads back about itself: every worker on a core of its own, at least 99 % of its
# pages on its node. Exits 77, after a loud line, where QEMU cannot be had (see numa_vm.sh).
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
annulus=$(readlink -f "$1")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# The one place that knows the form of the read-back. Reads from stdin a line for each rank,
#
#   rank 3: CPU 3, NUMA node 1, 2048 pages, 0 remote
#
# anywhere in a line, among other lines. $1: what is being checked, for messages. Two cores belong to each node.
check_placement() {
  awk -v what="$1" '
    match($0, /rank [0-9]+: CPUs? [0-9,-]+, NUMA node [0-9]+, [0-9]+ pages, [0-9]+ remote/) {
      split(substr($0, RSTART, RLENGTH), word, /[ :,]+/)
      rank = word[2]; cpu = word[4]; node = word[7]; pages = word[8]; remote = word[10]
      if (rank in seen) bad("rank " rank " is listed twice")
      if (cpu in owner) bad("ranks " owner[cpu] " and " rank " share CPU " cpu)
      if (cpu !~ /^[0-9]+$/) bad("rank " rank " may run on CPUs " cpu ", not on one core")
      if (node != int(cpu / 2)) bad("rank " rank " is on CPU " cpu " but its memory on node " node)
      if (pages < 1) bad("rank " rank " has no pages")
      if (remote > 0.01 * pages) bad("rank " rank " has " remote " of " pages " pages on other nodes")
      seen[rank] = 1; owner[cpu] = rank; ranks++
    }
    function bad(text) { print "FAILED: " what ": " text; failed = 1 }
    END {
      if (ranks != 8) bad(ranks + 0 " ranks were read back instead of 8")
      exit failed
    }'
}

# The part of the log between "== NAME" and the next "== ".
section() { sed -n "/^== $1\$/,/^== /p" "$log"; }

status=0
"$here/numa_vm.sh" "$annulus" -- "
  echo '== topo'
  '$annulus' topo --verify --workers 8 || exit 1
  echo '== train'
  '$annulus' train --model mlp --dataset synthetic --workers 8 --batch-size 64 --steps 3 --run-dir /tmp/run || exit 1
  echo '== end'" >"$log" || status=$?
cat "$log"
[ "$status" = 0 ] || exit "$status"
grep -qx '== end' "$log" || fail "the commands did not come to their end"
section topo | check_placement "topo --verify"
section train | check_placement "train"
echo "8 workers on 8 cores of 4 NUMA nodes, their pages at home"
