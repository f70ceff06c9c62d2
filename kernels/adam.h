// Update of parameters by Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015) and
// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019), as torch.optim.Adam and
// torch.optim.AdamW define them, without AMSGrad. In update t, from 1:
//   g  = g + weight_decay * w                      Adam only
//   m' = beta1 * m + (1 - beta1) * g
//   v' = beta2 * v + (1 - beta2) * g * g
//   w  = w - lr * weight_decay * w                 AdamW only
//   w' = w - lr * (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + epsilon)
//
// Reads one generation and writes every element of the other. Elementwise, so bits do not depend on how the
// elements were dealt out. An element whose weight, moments and gradient are 0 stays 0: that is padding.
#pragma once

#include <cstdint>

#include "kernels/store.h"

namespace annulus {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999;  // at least 0, below 1
  double epsilon = 1e-8;              // above 0, as a float as well
  double weight_decay = 0;
  bool decoupled = false;  // AdamW: decay acts on the weight and not through the moments
};

// What all elements of one update have in common, rounded once.
struct AdamStep {
  float beta1 = 0, rest1 = 1;  // rest1 = 1 - beta1
  float beta2 = 0, rest2 = 1;
  float epsilon = 0;
  float decay = 0;       // added to the gradient, times the weight; 0 where decoupled
  float keep = 1;        // the weight is multiplied by it; 1 unless decoupled
  float rate = 0;        // lr / (1 - beta1^t)
  float root_scale = 1;  // 1 / sqrt(1 - beta2^t)
};

// Of update `t`, from 1.
AdamStep adam_step(const AdamOptions& options, double learning_rate, int64_t t);

// n is a multiple of 64; all pointers 64-byte aligned; old and new do not overlap. `first` are the means of
// gradients (m), `second` those of their squares (v).
void adam_update(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
                 const float* old_first, const float* old_second, float* new_weights, float* new_first,
                 float* new_second, UpdateStores stores = {});

// The same as a plain loop, with the same bits.
void adam_update_reference(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
                           const float* old_first, const float* old_second, float* new_weights,
                           float* new_first, float* new_second);

}  // namespace annulus
