#!/usr/bin/env bash
# Exports checkpoints and has PyTorch load them (checkpoint_torch.py). Needs a Python with torch and safetensors: the one
# that ANNULUS_TORCH_PYTHON names, or python3.
# checkpoint_torch_test.sh SOURCE ANNULUS CHECKPOINT_LOGITS: the checkout, the program, the test's own executable.
set -uo pipefail
source=$1 annulus=$2 checkpoint_logits=$3
python=${ANNULUS_TORCH_PYTHON:-python3}
if ! "$python" -c 'import numpy, torch, safetensors' 2>/dev/null; then
  echo "SKIPPED: $python lacks PyTorch or safetensors; name a Python that has them, with ANNULUS_TORCH_PYTHON"
  exit 77
fi
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
for model in resnet18 simplecnn; do
  mkdir "$directory/$model"
  checkpoint=$("$checkpoint_logits" "$model" "$directory/$model") &&
    "$annulus" checkpoint verify "$checkpoint" &&
    "$annulus" checkpoint export "$checkpoint" "$directory/$model.safetensors" &&
    "$python" "$source/tests/runtime/checkpoint_torch.py" "$model" "$directory/$model" "$directory/$model.safetensors" ||
    exit 1
done
