#!/usr/bin/env bash
# numa_test.sh ANNULUS: trains a few steps with 8 workers on an emulated machine of 2 sockets, 4 NUMA nodes and 8
# cores, and checks what Annulus reads back about itself: every worker on a core of its own, at least 99 % of its
# pages on its node; and that hierarchical finds the four nodes and sums as it should. Exits 77, after a loud line,
# where QEMU cannot be had (see numa_vm.sh).
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
annulus=$(readlink -f "$1")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Checks what `topo --verify` reads back: on stdin a line for each rank,
#
#   rank 3: CPU 3, NUMA node 1, 2048 pages, 0 remote
#
# among other lines. Two cores belong to each node.
check_ranks() {
  awk '
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
    function bad(text) { print "FAILED: topo --verify: " text; failed = 1 }
    END {
      if (ranks != 8) bad(ranks + 0 " ranks were read back instead of 8")
      exit failed
    }'
}

# Checks the one line of a summary on stdin:
#
#   placement  all 8 workers are on the planned CPUs; 12 of 9,876 pages are remote
check_summary() {
  awk '
    /^placement +all 8 workers are on the planned CPUs; [0-9,]+ of [0-9,]+ pages are remote$/ {
      gsub(",", "")
      remote = $(NF - 5); pages = $(NF - 3)
      if (pages < 8 || remote > 0.01 * pages) bad(remote " of " pages " pages are remote")
      lines++
    }
    function bad(text) { print "FAILED: train: " text; failed = 1 }
    END {
      if (lines != 1) bad(lines + 0 " summaries tell that all 8 workers are in their places")
      exit failed
    }'
}

# The part of the log between "== NAME" and the next "== ".
section() { sed -n "/^== $1\$/,/^== /p" "$log"; }

# An emulated core is slow.
small="--model mlp --dataset synthetic --batch-size 64"
status=0
"$here/numa_vm.sh" "$annulus" -- "
  echo '== topo'
  '$annulus' topo --verify --workers 8 $small || exit 1
  echo '== train'
  '$annulus' train --workers 8 $small --steps 3 --deadline 120 --run-dir /tmp/run || exit 1
  echo '== check'
  '$annulus' check hierarchical --workers 8 --steps 20 --dim 50000 || exit 1
  echo '== end'" >"$log" || status=$?
cat "$log"
[ "$status" = 0 ] || exit "$status"
grep -qx '== end' "$log" || fail "the commands did not come to their end"
section topo | check_ranks
section train | check_summary
section check | grep -qx 'workers     8, shards 8, domains 4' || fail "check: hierarchical did not find the four nodes"
echo "8 workers on 8 cores of 4 NUMA nodes, their pages at home"
