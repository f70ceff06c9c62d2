// Layer: one layer of a Network with its primitives. It says what memory it needs, is bound to it once, and
// then runs without allocating.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <span>

#include "kernels/network_plan.h"

namespace annulus {

// What a layer needs of the arena besides its activations and their gradients.
struct LayerNeeds {
  int64_t forward_scratch = 0;   // bytes, during its forward pass only
  int64_t backward_scratch = 0;  // bytes, during its backward pass only
  bool keeps_dst = false;        // backward reads what forward wrote
  bool in_place = false;         // the gradient of the input may lie where the input lies
};

// Addresses in the arena, 64-byte aligned. Activations and their gradients have the same layout.
struct LayerBuffers {
  void* src = nullptr;
  void* dst = nullptr;
  void* diff_src = nullptr;  // null where no layer before has parameters
  void* diff_dst = nullptr;
  void* forward_scratch = nullptr;
  void* backward_scratch = nullptr;
};

// What layers share.
struct LayerContext {
  dnnl::engine engine;
  dnnl::stream stream;
  int threads = 1;
};

class Layer {
 public:
  virtual ~Layer() = default;

  // Layout of the output, chosen by the layer.
  virtual const dnnl::memory::desc& dst_desc() const = 0;
  virtual LayerNeeds needs() const = 0;

  // Appends its parameters (weight, then bias) and its kernels. `index` is its place in the network.
  virtual void describe(int index, NetworkPlan& plan) const = 0;

  // Once, before any pass.
  virtual void bind(const LayerBuffers& buffers) = 0;

  // Places of its parameters, in elements from the bases that forward and backward get; as many as it
  // described.
  virtual void set_parameter_offsets(std::span<const int64_t> offsets) = 0;

  virtual void forward(const float* weights) = 0;
  // Overwrites diff_dst where the layer has to mask it by its ReLU.
  virtual void backward(const float* weights, float* gradients) = 0;
};

}  // namespace annulus
