#!/usr/bin/env bash
# Tests bench/compare on an annulus and on peers that are tiny scripts: its table and ratios, and what it does when a
# peer is missing, fails, hangs or talks nonsense. Needs Python 3, none of the peers, and measures nothing.
# compare_test.sh SOURCE: the checkout whose bench/compare is tested.
set -uo pipefail
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
if ! python=$(command -v python3) || ! python=$("$python" -c 'import sys; print(sys.executable)'); then
  echo "SKIPPED: bench/compare needs Python 3, and there is none"
  exit 77
fi

expect() {  # WHAT CONDITION...
  local what=$1
  shift
  if "$@"; then echo "ok: $what"; else
    echo "FAILED: $what"
    sed 's/^/  | /' "$work/out" "$work/err" 2>/dev/null
    failures=$((failures + 1))
  fi
}
# The script finds nothing of this machine's: PATH is a folder without programs.
compare() {
  PATH="$work/empty" /usr/bin/timeout -k 5 120 "$python" "$source/bench/compare" --annulus "$work/annulus" \
    --peers "$work/peers" "$@" >"$work/out" 2>"$work/err" </dev/null
  status=$?
}
ends_with() { [[ $status == "$1" ]]; }
says() { grep -qF -- "$1" "$work/out"; }
# A line of the table, or of what was run; runs of spaces count as one.
has_line() { sed -E 's/ +/ /g; s/^ //; s/ $//' "$1" | grep -qxF -- "$2"; }
shows() { has_line "$work/out" "$1"; }
never() { ! "$@"; }
times_run() { [[ $(grep -c "^$1" "$work/log") == "$2" ]]; }
# Whom nobody has waited for yet has ended all the same.
none_alive() {
  local pid
  for pid in $(<"$work/pids"); do grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null && return 1; done
  return 0
}
is_json() { "$python" -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1])]' "$work/out"; }

fake() {  # FILE BODY
  mkdir -p "$(dirname "$1")"
  printf '#!/bin/bash\nPATH=/usr/bin:/bin\n%s\n' "$2" >"$1" && chmod +x "$1"
}
fake_torch() {  # BODY: a Python with torch 9.8.7, and without deepspeed; BODY is what torchrun does
  fake "$work/peers/torch/bin/python3" "if [[ \$1 == -c ]]; then [[ \$2 == *\'torch\'* ]] && echo 9.8.7; exit; fi
    echo \"torch \$*\" >>$work/log
    $1"
}
fake_mpi() {  # FOLDER VERSION_TEXT BODY
  fake "$work/peers/$1/bin/mpicc" ": >\"\${@: -1}\""
  fake "$work/peers/$1/bin/mpirun" "if [[ \$1 == --version ]]; then echo '$2'; exit; fi
    echo \"$1 \$*\" >>$work/log
    $3"
}
line='{"bytes": %s, "result": "each", "median_us": %s}\n'

everything_works() {
  rm -rf "$work/peers" "$work/log" "$work/rounds" && mkdir -p "$work/empty" "$work/peers"
  # 4K takes 30, 10 and 20 in the three rounds. A shared result takes 1, and bf16 nothing: neither is like the peers'.
  fake "$work/annulus" "
    if [[ \$1 == --version ]]; then printf 'annulus 1.2.3\ncommit:     abc-dirty\n'; exit; fi
    echo \"annulus \$*\" >>$work/log
    if [[ \$2 == train ]]; then printf '{\"model\": \"%s\", \"images_per_s\": 300, \"pss_mib\": 50}\n' \$4; exit; fi
    if [[ \$2 == bridge ]]; then
      printf '{\"bytes\": %s, \"median_us\": %s, \"gbps\": %s, \"iperf3_gbps\": 4}\n' 4096 20 0.2 1048576 500 2
      exit
    fi
    echo >>$work/rounds
    first=(0 30 10 20)
    line='{\"algorithm\": \"%s\", \"placement\": \"%s\", \"result\": \"%s\", \"dtype\": \"%s\", \"bytes\": %s, '
    line+='\"median_us\": %s, \"floor_us\": %s}\n'
    printf \"\$line\" direct private each f32 4096 \${first[\$(wc -l <$work/rounds)]} 5
    printf \"\$line\" direct private each f32 1048576 200 5 \
      ring private each f32 4096 40 5 ring private each f32 1048576 100 5 \
      direct shared each f32 4096 8 4 direct shared each f32 1048576 80 4 \
      direct shared shared f32 4096 1 3 direct shared shared f32 1048576 2 3 \
      direct private each bf16 4096 0.1 5"
  fake_torch "if [[ \$* == *torch_ddp* ]]; then
      [[ \$* == *--compile* ]] && speed=150 || speed=100
      [[ \$* == *mlp* ]] && model=mlp || model=simplecnn
      printf '{\"model\": \"%s\", \"images_per_s\": %s, \"pss_mib\": 100}\n' \$model \$speed; exit; fi
    if [[ \$* == *gloo_hosts* ]]; then
      printf '{\"bytes\": %s, \"median_us\": %s, \"gbps\": %s}\n' 4096 50 0.08 1048576 2000 0.5
      exit
    fi
    echo 'a warning'; printf '$line' 4096 50 1048576 900"
  fake_mpi a 'mpirun (Open MPI) 5.5' "printf '$line' 4096 60 1048576 300"
  fake_mpi b 'HYDRA build details:
    Version:                                 6.6' "printf '$line' 4096 70 1048576 400"
}

everything_works
compare --bytes 4K,1M
expect "all systems that work end with 0" ends_with 0
expect "the header tells the version" shows "annulus: annulus 1.2.3"
expect "and its commit" shows "commit: abc-dirty"
expect "and the peers" shows "peers: Gloo, torch 9.8.7, Open MPI 5.5, MPICH 6.6"
expect "the columns are the sizes" shows "result in each rank's buffer 4K 1M"
expect "a figure is the median over rounds" shows "Annulus direct, private 20.0 200"
expect "below it is the range over rounds" shows "10.0..30.0 200..200"
expect "each configuration of Annulus has its row" shows "Annulus ring, private 40.0 100"
expect "each peer has its row" shows "Gloo, torch 9.8.7 50.0 900"
expect "an MPI has its own name and version" shows "MPICH 6.6 70.0 400"
expect "the best peer is named for each size" shows "best peer Gloo Open MPI"
expect "the ratio is best peer over Annulus' best with private buffers" shows \
  "best peer / Annulus, private 2.50x 3.00x"
expect "and with buffers in the segment" shows "best peer / Annulus, shared 6.25x 3.75x"
expect "a shared result has its own figures" shows "Annulus direct, shared 1.00 2.00"
expect "the floor of results in each buffer is there" shows "floor, private 5.00 5.00"
expect "the floor of a shared result is there" shows "floor, shared 3.00 3.00"
expect "a missing peer is named" says "not found: DeepSpeed shm"
expect "and how to install it" says "$work/peers/torch/bin/pip install torch==2.13.0 numpy deepspeed"
expect "a missing MPI is named" says "not found: Intel MPI"
expect "systems take turns" test "$(cut -d' ' -f1 "$work/log" | tr '\n' ' ')" == \
  "annulus torch a b annulus torch a b annulus torch a b "
expect "Annulus gets sizes and workers" has_line "$work/log" \
  "annulus bench collectives --collective allreduce --workers 2 --bytes 4K,1M --json"
expect "peers get bytes" grep -q "^torch .*torch_allreduce.py 4096 1048576$" "$work/log"
root=$([[ $(id -u) == 0 ]] && echo yes)
expect "Open MPI runs as root, and is told so only then" test \
  "$root" == "$(grep -q -- '^a .*--allow-run-as-root' "$work/log" && echo yes)"

everything_works
compare --bytes 4K,1M --rounds 1 --workers 1000
expect "more workers than cores are oversubscribed" grep -q -- "^a .*--bind-to none --oversubscribe" "$work/log"
expect "and not bound" grep -q -- "^b -bind-to none -n 1000" "$work/log"

everything_works
compare --bytes 4K,1M --rounds 1 --workers 1 --json
expect "ranks are bound to cores where there are enough" grep -q -- "^b -bind-to core -n 1" "$work/log"
expect "and not oversubscribed" never grep -q -- "--oversubscribe" "$work/log"
expect "json is one object a line" is_json
expect "json has the figures" says '"system": "Open MPI 5.5", "column": "1M", "median": 300'
expect "json has the ratios" says \
  '"placement": "private", "column": "1M", "best_peer": "Open MPI 5.5", "best_peer_over_annulus": 3.0'
expect "json has what is missing" says '{"missing": "Intel MPI"'

everything_works
compare --rounds 2 --training mlp,resnet18-bf16 --no-collectives
expect "training has its table" shows "Annulus, 2 workers 300 300"
expect "threads of one worker are measured beside it" shows "Annulus, 1 worker of 2 threads 300 300"
expect "eager and compiled are two systems" shows "PyTorch 9.8.7, DDP, compiled 150 150"
expect "one process is another" shows "PyTorch, one process of 2 threads, eager 100 100"
expect "Annulus is compared with the better one" shows "workers / best DDP 2.00x 2.00x"
expect "also of one process" shows "workers / best one process 2.00x 2.00x"
expect "memory has its table" shows "memory of workers / least of DDP 0.50x 0.50x"
expect "bf16 is asked for" grep -q -- "^annulus .*resnet18 .*--precision bf16" "$work/log"
expect "of both" grep -q -- "^torch .*resnet18 .*--bf16" "$work/log"
expect "no collective runs" never grep -q collectives "$work/log"

everything_works
compare --rounds 2 --bridge --no-collectives --bytes 4K,1M
expect "the bridge has its table" shows "Annulus, bridge 20.0 500"
expect "Gloo between hosts is beside it" shows "Gloo, torch 9.8.7 50.0 2,000"
expect "the ratio is Gloo's time over Annulus'" shows "Gloo's time / Annulus' 2.50x 4.00x"
expect "and rates are set beside iperf3's" shows "Annulus' rate / iperf3's 0.05x 0.50x"
expect "they take turns" test "$(cut -d' ' -f1 "$work/log" | tr '\n' ' ')" == "annulus torch annulus torch "
expect "Annulus makes two hosts" has_line "$work/log" "annulus bench bridge --nodes 2 --bytes 4K,1M --json"
expect "Gloo gets bytes" grep -q "^torch .*gloo_hosts.py 4096 1048576$" "$work/log"
compare --rounds 1 --bridge --no-collectives --bytes 4K,1M --json
expect "the bridge's json is one object a line" is_json
expect "with its ratios" says '"what": "Gloo'"'"'s time / Annulus'"'"'", "column": "1M", "ratio": 4.0'
rm -r "$work/peers/torch"
compare --rounds 1 --bridge --no-collectives --bytes 4K,1M
expect "the bridge is shown without Gloo" shows "Annulus, bridge 20.0 500"
expect "and how to install Gloo" says "not found: Gloo between hosts"

everything_works
compare --training mlp,alexnet
expect "an unknown workload is refused" ends_with 2
expect "with the names there are" grep -q "alexnet.*resnet50" "$work/err"
compare --no-collectives
expect "nothing to compare is refused" ends_with 2

# A peer that fails, one that hangs with a child in a session of its own, and one whose lines cannot be read.
everything_works
fake_torch "printf '$line' 4096 50; { echo 'last words of torch'
  echo 'E1121 16:36:09.4 19 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1)'
  seq 20; } >&2; exit 3"
fake_mpi a 'mpirun (Open MPI) 5.5' "trap '' TERM; echo \$\$ >>$work/pids
  setsid bash -c 'echo \$\$ >>$work/pids; sleep 1000' & sleep 1000"
fake_mpi c 'Intel(R) MPI Library for Linux* OS, Version 2021.1 Build 1' "echo '{\"bytes\": 4096}'"
compare --bytes 4K,1M --timeout 3
expect "a failed peer ends it with 1" ends_with 1
expect "the failure has its exit code" says "FAILED: Gloo, torch 9.8.7 ended with code 3"
expect "and its last lines, without its launcher's" says "last words of torch"
expect "what it measured before is shown" shows "Gloo, torch 9.8.7 50.0 -"
expect "a hanging peer is stopped" says "FAILED: Open MPI 5.5 stopped: still running after 3 s"
expect "with all its processes" none_alive
expect "a line without figures is a failure" says "FAILED: Intel MPI 2021.1 KeyError, 'median_us', in its line"
expect "a peer that failed is not run again" times_run "a " 1
expect "the rest goes on" times_run "b " 3
expect "and is compared" shows "best peer / Annulus, private 2.50x 4.00x"

everything_works
fake "$work/peers/a/bin/mpicc" "echo 'no mpi.h' >&2; exit 1"
compare --bytes 4K,1M --rounds 1
expect "a peer that does not compile is reported" says "no mpi.h"
expect "and not run" times_run "a " 0

everything_works
fake "$work/annulus" "[[ \$1 == --version ]] && exit; echo 'no such benchmark' >&2; exit 2"
compare --bytes 4K,1M --rounds 1
expect "Annulus failing ends it with 1" ends_with 1
expect "Annulus failing is reported" says "no such benchmark"
expect "peers are shown without it" shows "MPICH 6.6 70.0 400"
expect "there is no ratio without it" shows "best peer / Annulus, private - -"

# Stopped from outside, it takes along what it runs.
everything_works
fake_torch "echo \$\$ >$work/pids; sleep 1000"
rm -f "$work/pids"
PATH="$work/empty" "$python" "$source/bench/compare" --annulus "$work/annulus" --peers "$work/peers" \
  >"$work/out" 2>"$work/err" </dev/null &
for _ in {1..600}; do [[ -s $work/pids ]] && break; sleep 0.05; done
kill $!
wait $!
expect "SIGTERM ends it with 143" test $? == 143
expect "SIGTERM stops what it runs" none_alive

rm "$work/annulus"
compare
expect "a missing Annulus ends it with 1" ends_with 1
expect "a missing Annulus is named" grep -qF "$work/annulus" "$work/err"
compare --bytes 4K,huge
expect "bad sizes end it with 2" ends_with 2
expect "bad sizes are named" grep -q "huge" "$work/err"

echo "$failures failures"
[[ $failures == 0 ]]
