// checkpoint_logits MODEL DIRECTORY: a network as no training run has made it, for checkpoint_torch.py to
// compute once more. Writes into DIRECTORY a checkpoint, images.bin and logits.bin: what the network makes of
// these images in evaluation, as floats.
#include <cstdio>
#include <fstream>
#include <random>

#include "kernels/aligned_floats.h"
#include "kernels/network.h"
#include "runtime/arena.h"
#include "runtime/checkpoint.h"
#include "runtime/initial_weights.h"
#include "runtime/models.h"
#include "runtime/network_yaml.h"

namespace annulus {
namespace {

constexpr int64_t kImages = 6;

// Initial weights; factors, sums and statistics of batch norm as a run might have left them.
void fill(const NetworkPlan& plan, const BucketPlan& buckets, AlignedFloats& weights) {
  std::mt19937 random(17);
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const ParameterPlan& parameter = plan.parameters[i];
    const std::span<float> values(weights.data() + buckets.offsets[i],
                                  static_cast<size_t>(parameter.layout.padded_elements()));
    draw_initial_weights(parameter, 1, static_cast<uint32_t>(i), values);
    if (parameter.role == ParameterRole::kWeight || parameter.role == ParameterRole::kBias) continue;
    const bool about_one =
        parameter.role == ParameterRole::kScale || parameter.role == ParameterRole::kRunningVariance;
    std::uniform_real_distribution<float> any(about_one ? 0.5F : -0.5F, about_one ? 1.5F : 0.5F);
    for (int64_t k = 0; k < parameter.layout.elements(); ++k) values[k] = any(random);
  }
}

void write_floats(const std::string& path, std::span<const float> values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
}

void make(const std::string& model, const std::string& directory) {
  const NetworkSpec spec = make_network(model, {3, 32, 32}, 10, "cifar");
  Network network(spec, {.images = kImages});
  const NetworkPlan& plan = network.plan();
  const BucketPlan buckets = plan_buckets(plan, 25 << 20);
  AlignedFloats weights(buckets.elements), moments(buckets.elements);
  fill(plan, buckets, weights);
  moments = weights;

  const CheckpointPlan saved = plan_checkpoint(spec, plan, buckets, {"momentum_buffer"}, false);
  const std::string path = write_checkpoint(
      directory, saved, {.seed = 1, .config = "model: " + model + "\n", .model = to_yaml(spec)},
      {.step = 40, .epoch = 1, .weights = weights.data(), .moments = {moments.data(), nullptr}});

  const Arena arena(plan.arena_bytes);
  network.bind_arena(arena.bytes());
  network.set_parameter_offsets(buckets.offsets);
  std::mt19937 random(5);
  std::uniform_real_distribution<float> pixel(-2, 2);
  for (float& value : network.input()) value = pixel(random);
  const size_t pixels = static_cast<size_t>(kImages * spec.input.pixels());
  write_floats(directory + "/images.bin", network.input().first(pixels));
  network.begin({.training = false, .images = kImages});
  for (int stage = 0; stage < plan.stage_count(); ++stage) {
    for (int k = 0; k < network.portions(stage); ++k) network.forward(stage, k, weights.data());
  }
  write_floats(directory + "/logits.bin", network.logits().first(kImages * spec.classes));
  std::printf("%s\n", path.c_str());
}

}  // namespace
}  // namespace annulus

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    annulus::make(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
