// Layer: one layer of a Network with its primitives. It says what memory it needs, is given it call by call,
// and runs without allocating.
//
// A layer's primitives are made for one portion of images (kernels/stage_plan.h). A pass over a shard is one
// call per portion, in the same order every time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <dnnl.hpp>
#include <span>
#include <vector>

#include "kernels/data_type.h"
#include "kernels/network_plan.h"

namespace annulus {

// What a layer needs of the arena besides its activations and their gradients, in bytes, and what of those it
// uses again in its backward pass.
struct LayerNeeds {
  int64_t forward_scratch = 0;   // from the first to the last portion of its forward pass
  int64_t backward_scratch = 0;  // the same for its backward pass
  int64_t gradients = 0;         // one portion's gradients of the layer's parameters
  int64_t saved = 0;             // what a portion's forward leaves for its backward
  bool reads_src = false;        // backward reads what forward read
  bool reads_dst = false;        // backward reads what forward wrote
  // Where activations fork, their gradient comes in two parts: the layer adds them up itself.
  bool joins = false;
  // Backward writes diff_src (a layer with an addend: diff_addend) over diff_dst.
  bool in_place = false;
};

// One portion of images in the arena. An activation and its gradient have the same layout. Backward finds src
// and dst as forward left them where the layer reads them there, else with anything in them.
struct Portion {
  bool first = true;     // of its pass
  bool training = true;  // batch norm: with the statistics of these images, else with the running ones
  int64_t images = 0;    // that hold data; the ones behind them are filling, whose gradients are zero
  float share = 0;       // `images` over the images of the step
  const void* src = nullptr;
  const void* addend = nullptr;  // null without
  void* dst = nullptr;
  void* saved = nullptr;
  void* diff_src = nullptr;     // null where no layer before has parameters
  void* diff_addend = nullptr;  // the same
  void* diff_dst = nullptr;
  const void* diff_dst2 = nullptr;  // the gradient's second part, for layers that join
  void* scratch = nullptr;          // of this pass; later portions find there what earlier ones left
  void* gradients = nullptr;        // null in a stage of one portion
};

// Address of element `index` of a tensor of `type`.
inline void* element(DataType type, void* tensor, int64_t index) {
  return static_cast<std::byte*>(tensor) + index * size_of(type);
}
inline const void* element(DataType type, const void* tensor, int64_t index) {
  return static_cast<const std::byte*>(tensor) + index * size_of(type);
}

// Where the time of a network's kernels goes.
struct KernelTime {
  int64_t kernel_ns = 0;
  int64_t view_ns = 0;  // making the view that the kernel reads
};

// What layers share.
struct LayerContext {
  dnnl::engine engine;
  dnnl::stream stream;
  int threads = 1;
  DataType type = DataType::kF32;  // of activations, their gradients, and weights as kernels read them
  std::vector<KernelTime>* times = nullptr;  // per kernel of the plan; null: nobody measures

  // Runs a part of a kernel and adds its time up where somebody measures.
  template <typename Body>
  void timed(int kernel, int64_t KernelTime::*part, const Body& body) const {
    if (times == nullptr) return body();
    const auto begin = std::chrono::steady_clock::now();
    body();
    (*times)[kernel].*part +=
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin)
            .count();
  }
};

class Layer {
 public:
  virtual ~Layer() = default;

  // Layout of the output, chosen by the layer.
  virtual const dnnl::memory::desc& dst_desc() const = 0;
  virtual LayerNeeds needs() const = 0;

  // Appends its parameters (kernels/network_plan.h has their order) and its kernels. `index` is its place in
  // the network. Call once.
  virtual void describe(int index, NetworkPlan& plan) = 0;

  // Places of its parameters, in elements from the bases that forward and backward get; as many as it
  // described.
  virtual void set_parameter_offsets(std::span<const int64_t> offsets) = 0;

  virtual void forward(const Portion& portion, const float* weights) = 0;
  // Writes the gradients of its parameters in the first portion, and adds to them in later ones. May
  // overwrite diff_dst.
  virtual void backward(const Portion& portion, const float* weights, float* gradients) = 0;
};

}  // namespace annulus
