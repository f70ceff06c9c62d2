// NetworkPlan: all that the rest of the program must know of a network whose kernels have been chosen: where
// each parameter's elements lie, how much memory a worker needs, which kernel does which pass. The planner
// process makes it, the launcher lays the segment out by it, and every worker compares its hash with its own.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/data_type.h"
#include "kernels/tensor_layout.h"

namespace annulus {

// What a parameter is. Running statistics are no parameters in the optimizer's sense: what backward writes as
// their gradient is the statistic of its images, times their share of the step, and the update averages the
// sum in (runtime/worker.cpp).
enum class ParameterRole : uint8_t { kWeight, kBias, kScale, kShift, kRunningMean, kRunningVariance };

inline bool is_statistic(ParameterRole role) {
  return role == ParameterRole::kRunningMean || role == ParameterRole::kRunningVariance;
}

// Whether top-k sends a part of its gradient: all that is large.
inline bool has_residual(ParameterRole role) { return role == ParameterRole::kWeight; }

struct ParameterPlan {
  std::string name;     // "conv1.weight"
  TensorLayout layout;  // master layout, that of diff_weights; gradient, moments and weights share it
  int layer = 0;        // index into NetworkSpec::layers
  int64_t fan_in = 0;   // inputs that one output sums over (a bias has its layer's); 1 for batch norm
  ParameterRole role = ParameterRole::kWeight;
};

// Names of passes.
inline constexpr const char* kForward = "forward";
inline constexpr const char* kBackwardData = "backward-data";  // of layers without weights: all of backward
inline constexpr const char* kBackwardWeights = "backward-weights";
inline constexpr const char* kReluBackward = "relu-backward";
inline constexpr const char* kJoin = "join";  // of an activation's gradients

// One primitive of the step, or one kernel of our own.
struct KernelPlan {
  std::string layer;  // "conv1"
  std::string pass;
  std::string implementation;  // oneDNN's name, "jit:avx512_core", or ours, "maxpool"
  std::string weights;         // layout in which this pass reads or writes the weights, empty without weights
  // The pass reads a reordered copy, made in scratch just before use: of the weights, or, for
  // backward-weights, of the layer's input.
  bool view = false;
};

// Layers first_layer .. first_layer + layers - 1: all of them process one portion of the images before any
// processes the next one (kernels/stage_plan.h).
struct StagePlan {
  int first_layer = 0;
  int layers = 1;
  int64_t portion = 0;  // images

  bool operator==(const StagePlan&) const = default;
};

struct NetworkPlan {
  std::string network;             // NetworkSpec::name
  DataType type = DataType::kF32;  // of activations
  int64_t batch = 0;               // images of a pass: the nominal shard, filled up to whole portions
  int threads = 1;                 // threads per worker
  std::string isa;                 // oneDNN's effective instruction set, "avx512_core"
  std::string library;             // "oneDNN 2.6.3 OpenMP"
  std::vector<StagePlan> stages;   // in forward's order; every layer is in one
  // In order of use by forward; of a layer: weight, bias; of batch norm: scale, shift, running mean, running
  // variance.
  std::vector<ParameterPlan> parameters;
  std::vector<KernelPlan> kernels;
  int64_t arena_bytes = 0;  // one worker's activations, their gradients, views and scratch, together

  int stage_count() const { return static_cast<int>(stages.size()); }
  int stage_of(int layer) const;

  // xxh64 of the canonical JSON text: equal hashes mean equal layouts, algorithms and instruction set.
  uint64_t hash() const;
};

void to_json(nlohmann::json& json, const NetworkPlan& plan);
void from_json(const nlohmann::json& json, NetworkPlan& plan);

}  // namespace annulus
