// Images out of nothing, for benchmarks and for trying things out without a data set. The same on every
// machine, and learnable: each class has a pattern of 4 x 4 pixel cells, each image is its class's pattern
// under noise.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/network_spec.h"

namespace annulus {

enum class SyntheticPart : uint32_t { kTrain = 0, kTest = 1 };  // the same patterns, other noise

// Fills labels.size() labels below `classes` (at most 256) and as many images (shape.pixels() bytes each).
// Image i does not depend on how many there are. Runs on oneTBB's threads.
void make_synthetic_images(const ImageShape& shape, int classes, SyntheticPart part,
                           std::span<uint8_t> images, std::span<uint8_t> labels);

}  // namespace annulus
