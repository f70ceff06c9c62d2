// Batch normalization (Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by
// Reducing Internal Covariate Shift") with what surrounds it in a residual network: the sum with a shortcut
// and the ReLU behind it; in backward the ReLU's mask and the sum of a fork's two gradients.
//
// Activations are stored as [images][channel blocks][pixels][block]: nChw16c has block 16, nchw block 1, nhwc
// block = channels. Channels are padded to whole blocks; the padding holds zeros in every input and is
// written as zeros. Elements are fp32 or bf16 and all arithmetic is fp32, sums are fp32 over at most 256
// terms and double across. Bits depend neither on the number of threads nor on the instruction set.
#pragma once

#include <cstdint>

#include "kernels/data_type.h"

namespace annulus {

inline constexpr double kBatchNormEpsilon = 1e-5;

struct BatchNormShape {
  int64_t tensor_images = 0;  // that every tensor has room for
  int64_t images = 0;  // of them hold data, at least one; the rest takes no part and is written as zeros
  int64_t channels = 0;
  int64_t pixels = 0;  // of one channel of one image
  int block = 16;
  DataType type = DataType::kF32;

  int64_t blocks() const { return (channels + block - 1) / block; }
  int64_t padded_channels() const { return blocks() * block; }
  int64_t elements() const { return tensor_images * padded_channels() * pixels; }
  // Place of an element in a tensor.
  int64_t offset(int64_t image, int64_t channel, int64_t pixel) const {
    return ((image * blocks() + channel / block) * pixels + pixel) * block + channel % block;
  }
};

// y = gamma * (x - mean) / sqrt(variance + epsilon) + beta (+ addend), then ReLU where asked for. x, addend
// and y are tensors, and y may be either of the others; gamma and beta have `channels` elements.
struct BatchNormForward {
  const void* x = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  const void* addend = nullptr;  // or null
  bool relu = false;
  void* y = nullptr;
};

// Statistics of a batch, over `images` images: what backward needs and what running statistics are made of.
// The pairs may share memory with nothing else.
struct BatchStatistics {
  float* mean = nullptr;               // padded channels
  float* inv_std = nullptr;            // padded channels: 1 / sqrt(biased variance + epsilon)
  float* batch_mean = nullptr;         // channels: the mean again
  float* unbiased_variance = nullptr;  // channels: the sum of squares over n - 1, or 0 where n = 1
};

// Normalizes with the batch's own statistics and writes those. Images >= `images` become zeros.
void batch_norm_forward(const BatchNormShape& shape, int threads, const BatchNormForward& tensors,
                        const BatchStatistics& statistics);

// Normalizes all tensor_images images with given statistics of `channels` elements.
void batch_norm_inference(const BatchNormShape& shape, int threads, const BatchNormForward& tensors,
                          const float* mean, const float* variance);

// With g = (y > 0 ? 1 : 0) * (dy + dy2), rounded to the type of the tensors, n = images * pixels and
// xhat = (x - mean) * inv_std:
//   dbeta = sum of g; dgamma = sum of g * xhat
//   dx = gamma * inv_std * (g - dbeta / n - xhat * dgamma / n)
struct BatchNormBackward {
  const void* x = nullptr;
  const void* y = nullptr;  // output of forward, where that had a ReLU; else null
  const void* dy = nullptr;
  const void* dy2 = nullptr;       // the other gradient of a fork at y, or null
  const float* mean = nullptr;     // of forward, padded channels
  const float* inv_std = nullptr;  // of forward, padded channels
  const float* gamma = nullptr;    // channels
  void* dx = nullptr;              // may be dy or dy2
  void* diff_addend = nullptr;     // g, or null; may be dy or dy2, not dx
  float* dgamma = nullptr;         // channels
  float* dbeta = nullptr;          // channels
};

// Images >= `images` get dx = g = 0.
void batch_norm_backward(const BatchNormShape& shape, int threads, const BatchNormBackward& tensors);

// The same as plain loops that sum in double. Where sums are exact, as those of small integers are, the bits
// are the same too.
void batch_norm_forward_reference(const BatchNormShape& shape, const BatchNormForward& tensors,
                                  const BatchStatistics& statistics);
void batch_norm_inference_reference(const BatchNormShape& shape, const BatchNormForward& tensors,
                                    const float* mean, const float* variance);
void batch_norm_backward_reference(const BatchNormShape& shape, const BatchNormBackward& tensors);

}  // namespace annulus
