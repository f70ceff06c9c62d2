#include "runtime/synthetic_data.h"

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>

#include <vector>

#include "runtime/philox.h"
#include "telemetry/check.h"

namespace annulus {

namespace {

// Fixed: synthetic data is one data set, as any other; the run's seed orders it.
constexpr uint64_t kSeed = 0x616e6e756c7573;
constexpr int kCell = 4;  // pixels

uint8_t byte_of(const PhiloxWords& words, uint64_t i) {
  return static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
}

// classes x pixels bytes: what the images of each class have in common.
std::vector<uint8_t> make_patterns(const ImageShape& shape, int classes) {
  const uint64_t across = static_cast<uint64_t>((shape.width + kCell - 1) / kCell);
  const uint64_t down = static_cast<uint64_t>((shape.height + kCell - 1) / kCell);
  std::vector<uint8_t> patterns(static_cast<size_t>(classes * shape.pixels()));
  auto out = patterns.begin();
  for (int label = 0; label < classes; ++label) {
    for (int c = 0; c < shape.channels; ++c) {
      for (int y = 0; y < shape.height; ++y) {
        for (int x = 0; x < shape.width; ++x) {
          const uint64_t cell =
              (static_cast<uint64_t>(c) * down + static_cast<uint64_t>(y / kCell)) * across +
              static_cast<uint64_t>(x / kCell);
          *out++ =
              byte_of(philox(kSeed, PhiloxDomain::kSyntheticPattern, static_cast<uint32_t>(label), cell / 16),
                      cell % 16);
        }
      }
    }
  }
  return patterns;
}

// One part of pattern to three of noise: a linear model learns it, though not from a handful of images.
uint8_t mix(uint8_t pattern, uint8_t noise) { return static_cast<uint8_t>((pattern + 3 * noise) / 4); }

}  // namespace

void make_synthetic_images(const ImageShape& shape, int classes, SyntheticPart part,
                           std::span<uint8_t> images, std::span<uint8_t> labels) {
  CHECK(classes >= 1 && classes <= 256, "{} classes", classes);
  const auto pixels = static_cast<size_t>(shape.pixels());
  CHECK(images.size() == labels.size() * pixels, "{} bytes, {} labels", images.size(), labels.size());
  const std::vector<uint8_t> patterns = make_patterns(shape, classes);
  const auto stream = static_cast<uint32_t>(part);
  const uint64_t draws = (pixels + 15) / 16;  // per image, of 16 bytes of noise each

  tbb::parallel_for(
      tbb::blocked_range<size_t>(0, labels.size()), [&](const tbb::blocked_range<size_t>& range) {
        for (size_t i = range.begin(); i < range.end(); ++i) {
          const uint32_t word = philox(kSeed, PhiloxDomain::kSyntheticLabels, stream, i)[0];
          labels[i] = static_cast<uint8_t>(philox_below(word, static_cast<uint32_t>(classes)));
          const uint8_t* pattern = &patterns[labels[i] * pixels];
          uint8_t* image = &images[i * pixels];
          for (uint64_t draw = 0; draw < draws; ++draw) {
            const PhiloxWords noise = philox(kSeed, PhiloxDomain::kSyntheticNoise, stream, i * draws + draw);
            const uint64_t first = draw * 16;
            const uint64_t some = pixels - first < 16 ? pixels - first : 16;
            for (uint64_t j = 0; j < some; ++j) image[first + j] = mix(pattern[first + j], byte_of(noise, j));
          }
        }
      });
}

}  // namespace annulus
