#!/usr/bin/env bash
# Checks the models in this folder exhaustively with spin, for two and three ranks, and demands that each of them fails
# once an ordering or a rule is broken: a model that cannot fail proves nothing.
#
#   models_test.sh [MODEL...]     MODEL: spsc_ring, step, sleep, recovery, ring_allreduce; all by default
#
# One line per run: model, ranks, flags, verdict, states, seconds. Exits 77 after a line "SKIPPED: reason" where spin
# cannot be had. Installs it (Debian's package spin) when it is root on a system with apt, unless ANNULUS_NO_INSTALL=1.
set -uo pipefail

here=$(dirname -- "$(readlink -f -- "$0")")
megabytes=1900   # that a search may take
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0 chosen=("$@")

skip() {
  echo "SKIPPED: $*: no model was checked" >&2
  exit 77
}

need_spin() {
  command -v gcc >/dev/null || skip "needs gcc, which compiles what spin makes of a model"
  command -v spin >/dev/null && return
  if [[ ${ANNULUS_NO_INSTALL:-0} == 1 || $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    skip "needs spin (apt-get install spin)"
  fi
  local install=(timeout -k 5 300 apt-get -q -y -o DPkg::Lock::Timeout=200 install --no-install-recommends spin)
  export DEBIAN_FRONTEND=noninteractive
  echo "installing spin" >&2
  { "${install[@]}" || { timeout -k 5 100 apt-get -q update && "${install[@]}"; }; } >"$work/apt" 2>&1 ||
    { cat "$work/apt" >&2; skip "cannot install spin"; }
}

# search MODEL RANKS DEPTH SEARCH OPTIMIZE FLAGS...: sets `out`, what the search says, `states` and `seconds`. SEARCH:
# safety (assertions, deadlocks) or cycles (no cycle without a progress label). Never an approximate one (BITSTATE, HC).
search() {
  local model=$1 ranks=$2 depth=$3 kind=$4 compile=("$5" -DSAFETY) run=() start
  [[ $kind == safety ]] || { compile=("$5" -DNP) run=(-l); }
  shift 5
  rm -rf "$work/run" && mkdir "$work/run" && cd "$work/run" || exit 1
  out=$( { timeout -k 5 60 spin -DRANKS="$ranks" "$@" -a "$here/$model.pml" &&
    timeout -k 5 120 gcc -w "${compile[@]}" -DMEMLIM=$megabytes -o pan pan.c; } 2>&1) || return
  start=${EPOCHREALTIME/./}
  out=$(timeout -k 5 600 ./pan -m"$depth" "${run[@]}" 2>&1) || out+=$'\n'"pan ended with $?"
  seconds=$(((${EPOCHREALTIME/./} - start) / 100000))
  seconds=$((seconds / 10)).$((seconds % 10))
  states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' <<<"$out")
}

report() {  # VERDICT TEXT
  printf '%-6s %-14s %d ranks  %s\n' "$1" "$model" "$ranks" "$2"
}
fail() {  # TEXT
  report FAILED "$1"
  sed 's/^/  | /' <<<"$out"
  failures=$((failures + 1))
}
is_chosen() { [[ ${#chosen[@]} == 0 || " ${chosen[*]} " == *" $model "* ]]; }

# holds MODEL RANKS SEARCH FLAGS...: all states were visited, and in none of them is anything wrong.
holds() {
  local model=$1 ranks=$2 kind=$3
  shift 3
  is_chosen || return
  search "$model" "$ranks" 3000000 "$kind" -O2 "$@"
  if ! grep -q 'errors: 0$' <<<"$out" || ! grep -q '^Full statespace search' <<<"$out" ||
    grep -qiE 'depth too small|not completed|out of memory|memory limit|aborting|truncated|pan ended' <<<"$out"; then
    fail "$kind $*: an error, or not all states visited"
  else
    report ok "$(printf '%s%s: holds, %s states, %s s' "$kind" "${*:+ $*}" "$states" "$seconds")"
  fi
}

# breaks MODEL RANKS ERROR FLAGS...: with the flags, spin finds an error of this kind.
breaks() {
  local model=$1 ranks=$2 error=$3 kind=safety found
  shift 3
  is_chosen || return
  [[ $error != non-progress* ]] || kind=cycles
  search "$model" "$ranks" 1000000 "$kind" -O0 "$@"   # soon found: compiling takes longer
  found=$(grep -m1 "^pan:1: $error" <<<"$out")
  if [[ -z $found ]] || ! grep -q 'errors: 1$' <<<"$out"; then
    fail "$*: must break with '$error', and does not"
  else
    report ok "$(printf '%s: breaks, %s %s, %s states' "$*" "$error" "${found##* (}" "$states" | tr -d ')')"
  fi
}

for model in "${chosen[@]}"; do
  [[ -e $here/$model.pml ]] || { echo "no model $model in $here" >&2; exit 2; }
done
need_spin

holds spsc_ring 2 safety
holds spsc_ring 3 safety
breaks spsc_ring 2 'assertion violated' -DSEQUENCE_FIRST   # sequence word before the descriptor
breaks spsc_ring 2 'assertion violated' -DTAKE_FIRST       # line given back before it is read
breaks spsc_ring 2 'assertion violated' -DNO_SFENCE        # non-temporal payload published unfenced
breaks spsc_ring 2 'assertion violated' -DIGNORE_FULL      # full line overwritten
breaks spsc_ring 2 'assertion violated' -DCAPACITY=1       # "full" and "free again" are one number

holds step 2 safety
holds step 3 safety
holds step 2 cycles
breaks step 2 'assertion violated' -DNO_RULE_G
breaks step 3 'assertion violated' -DNO_RULE_G
breaks step 2 'assertion violated' -DVERSION_FIRST         # version before the update's stores
breaks step 2 'assertion violated' -DNO_SFENCE_PUBLISH     # non-temporal gradients published unfenced
breaks step 2 'assertion violated' -DNO_SFENCE_UPDATE      # version stored before non-temporal weights are out
breaks step 2 'invalid end state' -DSTOP_LATE              # last_step set after publishing
holds step 2 safety -DCLIP                                 # two passes with a meeting between them
holds step 2 cycles -DCLIP
holds step 3 safety -DCLIP
breaks step 2 'assertion violated' -DCLIP -DNO_MEETING     # updates before all ranks have summed
breaks step 2 'assertion violated' -DCLIP -DTOLD_FIRST     # says so before its norms are written
breaks step 2 'assertion violated' -DCLIP -DNO_RULE_G      # norms overwritten while they are read

holds sleep 2 safety
holds sleep 2 cycles
holds sleep 3 safety -DNO_LAUNCHER                         # rounds without end
holds sleep 3 safety -DROUNDS=1                            # one round, then an abort alone ends the waits
breaks sleep 2 'assertion violated' -DNO_FENCE_SLEEPER     # S1
breaks sleep 3 'assertion violated' -DNO_FENCE_SLEEPER -DNO_LAUNCHER
breaks sleep 2 'invalid end state' -DNO_FENCE_WAKER        # W1
breaks sleep 3 'assertion violated' -DNO_FENCE_WAKER -DNO_LAUNCHER
breaks sleep 2 'assertion violated' -DDOORBELL_LATE        # doorbell read after the second look
breaks sleep 2 'assertion violated' -DNO_ABORT_CHECK       # abort word not read between S2 and S3
breaks sleep 2 'invalid end state' -DABORT_SILENT          # abort word raised, doorbells not rung
breaks sleep 2 'assertion violated' -DDOORBELLS=2          # doorbell that wraps between S2 and S3

holds recovery 2 safety
holds recovery 2 cycles
holds recovery 3 safety
breaks recovery 2 'assertion violated' -DPARKED_NOT_AWAITED    # launcher does not wait for survivors
breaks recovery 2 'assertion violated' -DLARGEST_VERSION       # goes on after the largest version, not the smallest
breaks recovery 2 'assertion violated' -DRINGS_KEPT            # rings not cleared
breaks recovery 2 'invalid end state' -DPARKED_FLAG            # parked: a flag that the rank itself takes back
breaks recovery 2 'invalid end state' -DCLEAR_DOORBELLS        # doorbells cleared under ranks that sleep
breaks recovery 2 'invalid end state' -DATTEMPT_FIRST          # abort word down after the release
breaks recovery 2 'assertion violated' -DRELEASE_BY_ABORT      # released by the abort word, not by the attempt
breaks recovery 2 'invalid end state' -DFORKED_READS_ATTEMPT   # a forked rank reads, when it starts, what it waits for
breaks recovery 2 'non-progress cycle' -DENDLESS_DEATHS        # a run in which ranks die for ever does not end

holds ring_allreduce 2 safety
holds ring_allreduce 3 safety
holds ring_allreduce 2 cycles
breaks ring_allreduce 3 'assertion violated' -DNO_RULE_G
breaks ring_allreduce 3 'assertion violated' -DSEND_BEFORE_ADD # running sum published before it is written
breaks ring_allreduce 2 'assertion violated' -DNO_DUE          # takes what a neighbour sends for the next step

echo "$failures failed, $SECONDS s"
[[ $failures == 0 ]]
