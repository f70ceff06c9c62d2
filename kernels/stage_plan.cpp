#include "kernels/stage_plan.h"

#include <algorithm>

#include "kernels/convolution_algorithms.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

int64_t rounded_up(int64_t images, int64_t portion) { return (images + portion - 1) / portion * portion; }

bool treats_images_one_by_one(const LayerSpec& layer) {
  return layer.kind == LayerKind::kConvolution || layer.kind == LayerKind::kMaxPool;
}

bool is_chain_without_batch_norm(const NetworkSpec& spec) {
  for (int layer = 0; layer < static_cast<int>(spec.layers.size()); ++layer) {
    const LayerSpec& of = spec.layers[layer];
    if (of.kind == LayerKind::kBatchNorm || of.addend != kNoActivation || input_of(spec, layer) != layer) {
      return false;
    }
  }
  return true;
}

}  // namespace

int64_t choose_portion(int64_t images, int64_t most) {
  CHECK(images >= 1 && most >= 1, "{} images in portions of at most {}", images, most);
  if (images <= most) return images;
  int64_t best = most;
  for (int64_t portion = most - 1; portion >= (most + 1) / 2; --portion) {
    if (rounded_up(images, portion) < rounded_up(images, best)) best = portion;
  }
  return best;
}

Staging plan_stages(const NetworkSpec& spec, int64_t images, int threads, DataType type,
                    int64_t portion_bytes) {
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  const int count = static_cast<int>(spec.layers.size());
  Staging staging{.batch = images, .stages = {}};

  int trunk = 0;
  if (is_chain_without_batch_norm(spec)) {
    while (treats_images_one_by_one(spec.layers[trunk])) ++trunk;
  }
  if (trunk > 0) {
    int64_t largest = 0;  // bytes that a layer of the trunk reads and writes for one image
    for (int layer = 0; layer < trunk; ++layer) {
      largest = std::max(largest, (shapes[layer].pixels() + shapes[layer + 1].pixels()) * size_of(type));
    }
    const int64_t portion = choose_portion(images, std::max<int64_t>(portion_bytes * threads / largest, 1));
    staging.batch = rounded_up(images, portion);
    staging.stages.push_back({.first_layer = 0, .layers = trunk, .portion = portion});
  }
  for (int layer = trunk; layer < count; ++layer) {
    const LayerSpec& of = spec.layers[layer];
    int64_t portion = staging.batch;
    if (of.kind == LayerKind::kConvolution) {
      portion = images_per_call(of, shapes[input_of(spec, layer)], staging.batch, threads, type);
    }
    staging.stages.push_back({.first_layer = layer, .layers = 1, .portion = portion});
  }
  return staging;
}

}  // namespace annulus
