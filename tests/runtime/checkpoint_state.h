// States of runs for tests of checkpoints: networks with their real layouts, arrays full of random numbers.
#pragma once

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "kernels/network.h"
#include "runtime/checkpoint.h"
#include "runtime/models.h"

namespace annulus {

// The arrays of one generation, laid out as in the segment.
struct StateOfRun {
  std::vector<float> weights, moments[2], previous;

  float* array(StateArray which) {
    switch (which) {
      case StateArray::kCount:
        return nullptr;
      case StateArray::kWeights:
        return weights.data();
      case StateArray::kFirstMoment:
        return moments[0].data();
      case StateArray::kSecondMoment:
        return moments[1].data();
      case StateArray::kPrevious:
        return previous.data();
      case StateArray::kResidual:
      case StateArray::kVelocity:
        return nullptr;  // its plans keep none
    }
    return nullptr;
  }
};

// A network with its kernels chosen, and a checkpoint's plan for it.
struct RunToSave {
  NetworkSpec spec;
  NetworkPlan network;
  BucketPlan buckets;
  CheckpointPlan plan;
  CheckpointTexts texts{.seed = 18'000'000'000'000'000'000U,
                        .config = "model: \"my\\nnet\"\nlr: 0.1\n",
                        .model = "name: net\nlayers: [linear: {out: classes}]\n"};

  RunToSave(const NetworkSpec& net, const std::vector<std::string>& moments, bool previous)
      : spec(net),
        network(Network(net, {.images = 4}).plan()),
        buckets(plan_buckets(network, 1 << 20)),
        plan(plan_checkpoint(spec, network, buckets, moments, previous)) {}

  // Zeros; none for arrays that the plan does not have.
  StateOfRun empty() const {
    StateOfRun state;
    state.weights.resize(buckets.elements);
    for (size_t m = 0; m < plan.moments.size(); ++m) state.moments[m].resize(buckets.elements);
    if (plan.previous) state.previous.resize(buckets.elements);
    return state;
  }

  // Random values in all that a checkpoint keeps, any bits among them; zeros in padding and elsewhere.
  StateOfRun random(unsigned seed) const {
    StateOfRun state = empty();
    std::mt19937 random(seed);
    std::vector<float> plain;
    for (const CheckpointTensor& tensor : plan.tensors) {
      if (tensor.array == StateArray::kCount) continue;
      plain.resize(tensor.layout.elements());
      for (float& value : plain) value = static_cast<float>(random()) / 4e9F - 0.5F;
      plain[0] = -0.0F;
      plain.back() = 1e-42F;  // a denormal
      from_plain(tensor.layout, plain.data(), state.array(tensor.array) + tensor.offset);
    }
    return state;
  }

  std::string write(const std::string& directory, uint32_t step, StateOfRun& state,
                    FileCalls& calls = posix_calls()) const {
    const CheckpointState arrays{.step = step,
                                 .epoch = 3,
                                 .weights = state.weights.data(),
                                 .moments = {state.moments[0].data(), state.moments[1].data()},
                                 .previous = state.previous.data()};
    return write_checkpoint(directory, plan, texts, arrays, calls);
  }

  // All that the checkpoint holds, into zeros.
  StateOfRun restored(const Checkpoint& checkpoint) const {
    checkpoint.check_fits(plan);
    StateOfRun state = empty();
    for (const CheckpointTensor& tensor : plan.tensors) {
      if (tensor.array == StateArray::kCount) continue;
      checkpoint.restore(tensor, state.array(tensor.array) + tensor.offset);
    }
    return state;
  }
};

// Every kind of layer that has parameters, channels that fill no block, a linear layer behind an image.
inline NetworkSpec small_network(int channels = 5) {
  return {.name = "small",
          .input = {2, 6, 6},
          .classes = 3,
          .layers = {{.kind = LayerKind::kConvolution,
                      .name = "conv1",
                      .out = channels,
                      .kernel = 3,
                      .padding = 1,
                      .bias = false},
                     {.kind = LayerKind::kBatchNorm, .name = "bn1", .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 3},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = 7, .relu = true},
                     {.kind = LayerKind::kLinear, .name = "fc2", .out = 3}}};
}

}  // namespace annulus
