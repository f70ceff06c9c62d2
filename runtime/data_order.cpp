#include "runtime/data_order.h"

#include <limits>

#include "runtime/philox.h"
#include "telemetry/check.h"

namespace annulus {

namespace {

// Five would do for domains of many bits; the sixth is for data sets of a few images.
constexpr uint64_t kFeistelRounds = 6;

uint32_t stream_of_epoch(uint64_t epoch) {
  CHECK(epoch <= std::numeric_limits<uint32_t>::max(), "epoch {}", epoch);
  return static_cast<uint32_t>(epoch);
}

// The top 24 bits of a word: all that a float between 1/2 and 1 can hold.
float unit_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace

Permutation::Permutation(uint64_t seed, uint64_t epoch, uint64_t n)
    : seed_(seed), epoch_(stream_of_epoch(epoch)), n_(n), half_bits_(1) {
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
}

uint64_t Permutation::feistel(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint64_t round = 0; round < kFeistelRounds; ++round) {
    const uint64_t word = philox(seed_, PhiloxDomain::kOrder, epoch_, round << 32 | right)[0];
    const uint64_t next = left ^ (word & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t Permutation::operator()(uint64_t i) const {
  CHECK(i < n_, "position {} of {}", i, n_);
  // The walk ends: it follows a cycle of the bijection, and i itself, which lies below n, is on that cycle.
  do {
    i = feistel(i);
  } while (i >= n_);
  return i;
}

ImageShift augmentation(uint64_t seed, uint64_t epoch, uint64_t image_index, int padding, bool flip_allowed) {
  CHECK(padding >= 0, "padding {}", padding);
  const PhiloxWords words = philox(seed, PhiloxDomain::kAugmentation, stream_of_epoch(epoch), image_index);
  const uint32_t shifts = 2 * static_cast<uint32_t>(padding) + 1;
  return {.dy = static_cast<int>(philox_below(words[0], shifts)) - padding,
          .dx = static_cast<int>(philox_below(words[1], shifts)) - padding,
          .flip = flip_allowed && (words[2] >> 31) != 0};
}

float uniform_unit(uint64_t seed, uint32_t stream, uint64_t index) {
  return unit_float(philox(seed, PhiloxDomain::kInitialWeights, stream, index / 4)[index % 4]);
}

void uniform_units(uint64_t seed, uint32_t stream, uint64_t first, std::span<float> out) {
  size_t i = 0;
  while (i < out.size()) {
    const uint64_t index = first + i;
    const PhiloxWords words = philox(seed, PhiloxDomain::kInitialWeights, stream, index / 4);
    for (uint64_t word = index % 4; word < 4 && i < out.size(); ++word) out[i++] = unit_float(words[word]);
  }
}

}  // namespace annulus
