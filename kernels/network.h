// Network: the layers of one worker, each with its kernels and its place in the worker's arena.
//
// All primitives are made once, for the portions that the plan's stages say. A shard with fewer images than
// the plan's batch fills the rest with zero images whose loss gradient is zero, so one set of primitives
// serves every step and algorithms never depend on the size of a step.
//
// Parameters and gradients live outside (in the segment), in the plan's master layouts, fp32. Their base
// pointers are given to each call, because a step reads one generation and the next step the other.
//
// Not thread-safe; one worker owns one Network. Calls use the worker's threads through parallel_for and
// oneDNN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/convolution_algorithms.h"
#include "kernels/layer.h"
#include "kernels/loss.h"
#include "kernels/network_plan.h"
#include "kernels/network_spec.h"
#include "kernels/stage_plan.h"

namespace annulus {

struct NetworkOptions {
  int64_t images = 0;  // in the largest shard
  int threads = 1;
  DataType type = DataType::kF32;       // of activations and their gradients: kF32 or kBf16
  ChosenAlgorithms algorithms = {};     // instead of what the rule says
  std::optional<Staging> staging = {};  // instead of what plan_stages has for it
  bool measure = false;                 // fill times()
  std::function<void()> made = [] {};   // called after each layer that the constructor has made
};

class Network {
 public:
  // Chooses kernels and creates all primitives. Throws UserError where the spec is impossible (an image too
  // small for a layer: the text names layer and both shapes) and where oneDNN has no fast kernel. Touches no
  // arena memory.
  Network(const NetworkSpec& spec, const NetworkOptions& options);
  ~Network();

  const NetworkPlan& plan() const;

  // Gives the network its memory: plan().arena_bytes bytes, 64-byte aligned, that outlive it. Call once.
  void bind_arena(std::span<std::byte> arena);

  // Where each parameter lies, in elements from the base pointers that forward and backward are given; one
  // entry per plan().parameters, multiples of 16. Call once, before forward.
  void set_parameter_offsets(std::span<const int64_t> offsets);

  // Input of the first layer: batch x channels x height x width floats, plain. Valid after bind_arena.
  std::span<float> input();

  // What the calls that follow are about: of the batch, the first `images` hold data, and are `share` of the
  // images of the step. With `training`, batch norm uses their statistics, else the running ones.
  struct Pass {
    bool training = true;
    int64_t images = 0;
    float share = 0;
  };
  void begin(const Pass& pass);

  int portions(int stage) const;  // of a stage of plan().stages

  // Runs the layers of one stage forward on one portion of the images. `weights` is the base of one
  // generation of the parameters. Call for each stage in order, and in it for each portion in order.
  void forward(int stage, int portion, const float* weights);

  // Logits of the last forward: batch x classes floats, plain.
  std::span<const float> logits() const;

  // Loss of the images that hold data, and its gradient with respect to the logits, times `scale`, into the
  // arena; images behind them get a zero gradient. labels.size() is their number.
  LossSum loss(std::span<const uint8_t> labels, float scale);

  // Runs the layers of one stage backward on one portion. Call for each stage from last to first, and in it
  // for each portion in order. The first portion writes every element of the gradients of the stage's
  // parameters below `gradients`, padding included, the others add to them: they are complete after the last
  // portion. Gradients may have been written with non-temporal stores that are not fenced yet.
  void backward(int stage, int portion, const float* weights, float* gradients);

  // The same for one layer of a stage, to measure it alone.
  void forward_layer(int layer, int portion, const float* weights);
  void backward_layer(int layer, int portion, const float* weights, float* gradients);

  // Time spent in each of plan().kernels so far. Empty unless it was made to measure.
  std::vector<KernelTime>& times();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace annulus
