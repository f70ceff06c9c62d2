#!/usr/bin/env bash
# Has PyTorch compute ResNet-18's gradient again and compares it with the stored one. Needs a Python with torch: the one
# that ANNULUS_TORCH_PYTHON names, or python3.
# resnet_torch_test.sh SOURCE: the checkout whose tests/kernels/resnet18_gradient.json is compared.
set -uo pipefail
source=$1
python=${ANNULUS_TORCH_PYTHON:-python3}
if ! "$python" -c 'import numpy, torch' 2>/dev/null; then
  echo "SKIPPED: $python has no PyTorch; name a Python that has, with ANNULUS_TORCH_PYTHON"
  exit 77
fi
exec "$python" "$source/tests/kernels/resnet_torch.py" --check "$source/tests/kernels/resnet18_gradient.json"
