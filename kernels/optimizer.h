// Update of parameters by stochastic gradient descent, as PyTorch's torch.optim.SGD defines it (no
// dampening):
//   d = g + weight_decay * w
//   m' = momentum * m + d
//   d = nesterov ? d + momentum * m' : m'
//   w' = w - lr * d
// Plain SGD: d unchanged, no moments.
//
// Where momentum was applied before gradients were summed (runtime/momentum_correction.h), g holds the
// gradient's share of d already, and moments hold the decay's alone:
//   m' = momentum * m + weight_decay * w
//   d = g + (nesterov ? weight_decay * w + momentum * m' : m')
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
  bool corrected = false;  // the gradient has its momentum; only with momentum
};

// n is a multiple of 64; all pointers 64-byte aligned; old and new do not overlap.
void sgd_update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                const float* old_moments, float* new_weights, float* new_moments, UpdateStores stores = {});

// The gradient's share of the above, for momentum correction: the new velocity is momentum * the old one +
// gradient, and the gradient becomes the velocity, or with nesterov gradient + momentum * velocity. Of `step`
// no more is read. Any n, no alignment is needed, no two arrays overlap.
void velocity_update(const SgdStep& step, int64_t n, float* gradient, const float* old_velocity,
                     float* new_velocity);

// The same as plain loops, with the same bits.
void velocity_update_reference(const SgdStep& step, int64_t n, float* gradient, const float* old_velocity,
                               float* new_velocity);
void sgd_update_reference(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                          const float* old_moments, float* new_weights, float* new_moments);

}  // namespace annulus
