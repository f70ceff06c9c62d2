// Update of parameters by stochastic gradient descent, as PyTorch's torch.optim.SGD defines it (no
// dampening):
//   d = g + weight_decay * w
//   m' = momentum * m + d
//   d = nesterov ? d + momentum * m' : m'
//   w' = w - lr * d
// Plain SGD: d unchanged, no moments.
//
// Reads one generation and writes every element of the other. Elementwise, so bits do not depend on how the
// elements were dealt out.
#pragma once

#include <cstdint>

#include "kernels/store.h"

namespace annulus {

struct SgdStep {
  float learning_rate = 0;
  float momentum = 0;  // 0: plain SGD, moments are neither read nor written and may be null
  float weight_decay = 0;
  bool nesterov = false;
};

// n is a multiple of 64; all pointers 64-byte aligned; old and new do not overlap.
void sgd_update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                const float* old_moments, float* new_weights, float* new_moments, UpdateStores stores = {});

// The same as a plain loop, with the same bits.
void sgd_update_reference(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                          const float* old_moments, float* new_weights, float* new_moments);

}  // namespace annulus
