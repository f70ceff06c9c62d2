#include "kernels/stage_plan.h"

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

int64_t rounded_up(int64_t images, int64_t portion) { return (images + portion - 1) / portion * portion; }

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

Staging plan_stages(const NetworkSpec& spec, int64_t images, int threads, int64_t portion_bytes) {
  int trunk = 0;
  int64_t largest = 0;  // floats that a layer of the trunk reads and writes for one image
  ImageShape shape = spec.input;
  for (const LayerSpec& layer : spec.layers) {
    if (layer.kind == LayerKind::kLinear) break;
    const ImageShape out = output_shape(layer, shape);
    largest = std::max(largest, shape.pixels() + out.pixels());
    shape = out;
    ++trunk;
  }

  Staging staging{.batch = images, .stages = {}};
  if (trunk > 0) {
    const int64_t fitting = portion_bytes * threads / (largest * static_cast<int64_t>(sizeof(float)));
    const int64_t portion = choose_portion(images, std::max<int64_t>(fitting, 1));
    staging.batch = rounded_up(images, portion);
    staging.stages.push_back({.first_layer = 0, .layers = trunk, .portion = portion});
  }
  for (int layer = trunk; layer < static_cast<int>(spec.layers.size()); ++layer) {
    staging.stages.push_back({.first_layer = layer, .layers = 1, .portion = staging.batch});
  }
  return staging;
}

}  // namespace annulus
