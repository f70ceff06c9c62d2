// NetworkPlan: all that the rest of the program must know of a network whose kernels have been chosen: where
// each parameter's elements lie, how much memory a worker needs, which kernel does which pass. The planner
// process makes it, the launcher lays the segment out by it, and every worker compares its hash with its own.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/tensor_layout.h"

namespace annulus {

struct ParameterPlan {
  std::string name;     // "conv1.weight"
  TensorLayout layout;  // master layout, that of diff_weights; gradient, moments and weights share it
  int layer = 0;        // index into NetworkSpec::layers
  int64_t fan_in = 0;   // inputs that one output sums over (a bias has its layer's)
};

// One primitive of the step.
struct KernelPlan {
  std::string layer;           // "conv1"
  std::string pass;            // "forward", "backward-data", "backward-weights"
  std::string implementation;  // oneDNN's name, "jit:avx512_core", or ours, "maxpool"
  std::string weights;         // layout in which this pass reads or writes the weights, empty without weights
  // The pass reads a reordered copy, made in scratch just before use: of the weights, or, for
  // backward-weights, of the layer's input.
  bool view = false;
};

struct NetworkPlan {
  std::string network;                    // NetworkSpec::name
  int64_t batch = 0;                      // images that every primitive is made for (the nominal shard)
  int threads = 1;                        // threads per worker
  std::string isa;                        // oneDNN's effective instruction set, "avx512_core"
  std::string library;                    // "oneDNN 2.6.3 OpenMP"
  std::vector<ParameterPlan> parameters;  // in order of use by forward
  std::vector<KernelPlan> kernels;
  int64_t arena_bytes = 0;  // one worker's activations, their gradients, views and scratch, together

  // xxh64 of the canonical JSON text: equal hashes mean equal layouts, algorithms and instruction set.
  uint64_t hash() const;
};

void to_json(nlohmann::json& json, const NetworkPlan& plan);
void from_json(const nlohmann::json& json, NetworkPlan& plan);

}  // namespace annulus
