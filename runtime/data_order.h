// The order in which images are visited, how each is augmented, and the numbers initial weights are made of:
// pure functions of the seed and of what is asked for (see runtime/philox.h). Thread-safe, no state, no
// allocation.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/image_batch.h"

namespace annulus {

// The order of one epoch: a bijection of [0, n), different for each seed and epoch. Position i of the epoch
// is image permutation(i). Needs no table: memory is O(1), and any rank can ask for any position.
//
// A balanced Feistel network over the smallest 2^(2b) >= n, with Philox as round function, whose values are
// put through it again until they fall below n (fewer than four times on average). Why it is a bijection, and
// a good one: Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions",
// SIAM J. Comput. 17(2), 1988; Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (cycle
// walking); Patarin, "Security of random Feistel schemes with 5 or more rounds", CRYPTO 2004 (small domains);
// Salmon et al., SC 2011.
class Permutation {
 public:
  // n may be 0 (then there is no position to ask for). epoch < 2^32.
  Permutation(uint64_t seed, uint64_t epoch, uint64_t n);

  uint64_t size() const { return n_; }

  // The image at position i < size().
  uint64_t operator()(uint64_t i) const;

 private:
  uint64_t feistel(uint64_t value) const;

  uint64_t seed_;
  uint32_t epoch_;
  uint64_t n_;
  int half_bits_;
};

// How image `image_index` (its number in the data set, not its position in the epoch) is shifted and mirrored
// in `epoch` < 2^32: dy and dx uniform in [-padding, padding], a flip for every second image where allowed.
ImageShift augmentation(uint64_t seed, uint64_t epoch, uint64_t image_index, int padding, bool flip_allowed);

// Number `index` of a stream of uniform numbers in [0, 1), multiples of 2^-24. For initial weights: a stream
// is a parameter, an index the element's place in its plain (OIHW) layout.
float uniform_unit(uint64_t seed, uint32_t stream, uint64_t index);

// out[i] = uniform_unit(seed, stream, first + i), at a quarter of the cost.
void uniform_units(uint64_t seed, uint32_t stream, uint64_t first, std::span<float> out);

}  // namespace annulus
