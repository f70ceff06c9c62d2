// Layer: one layer of a Network with its primitives. It says what memory it needs, is given it call by call,
// and runs without allocating.
//
// A layer's primitives are made for one portion of images (kernels/stage_plan.h). A pass over a shard is one
// call per portion, in the same order every time.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <span>

#include "kernels/network_plan.h"

namespace annulus {

// What a layer needs of the arena besides its activations and their gradients. All in bytes.
struct LayerNeeds {
  int64_t forward_scratch = 0;   // from the first to the last portion of its forward pass
  int64_t backward_scratch = 0;  // the same for its backward pass
  int64_t gradients = 0;         // one portion's gradients of the layer's parameters
  int64_t saved = 0;             // what a portion's forward leaves for its backward
  bool reads_src = false;        // backward reads what forward read
  bool reads_dst = false;        // backward reads what forward wrote
};

// One portion of images in the arena. Activations and their gradients have the same layout. Backward finds
// src and dst as forward left them where the layer reads them there, else with anything in them.
struct Portion {
  bool first = true;  // of its pass
  void* src = nullptr;
  void* dst = nullptr;
  void* saved = nullptr;
  void* diff_src = nullptr;  // null where no layer before has parameters
  void* diff_dst = nullptr;
  void* scratch = nullptr;    // of this pass; later portions find there what earlier ones left
  void* gradients = nullptr;  // null in a stage of one portion
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

  // Places of its parameters, in elements from the bases that forward and backward get; as many as it
  // described.
  virtual void set_parameter_offsets(std::span<const int64_t> offsets) = 0;

  virtual void forward(const Portion& portion, const float* weights) = 0;
  // Writes the gradients of its parameters in the first portion, and adds to them in later ones. Overwrites
  // diff_dst where the layer has to mask it by its ReLU.
  virtual void backward(const Portion& portion, const float* weights, float* gradients) = 0;
};

}  // namespace annulus
