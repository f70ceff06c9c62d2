// Philox: random words as a pure function of what they are for. No generator state anywhere, so a worker that
// is forked again, or another number of workers, draws the same numbers.
//
// Philox4x32-10 of Random123 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): a keyed bijection of 128-bit counters. Each use fills the counter and the key like this:
//
//     key[0], key[1]          low and high half of the run's seed
//     counter[0], counter[1]  low and high half of the index: which draw
//     counter[2]              stream: which epoch, which parameter, which part of the data
//     counter[3]              domain: what the words are for
//
// Different uses differ in the domain, so no two of them ever see the same words.
#pragma once

#include <Random123/philox.h>

#include <array>
#include <cstdint>

namespace annulus {

enum class PhiloxDomain : uint32_t {
  kOrder = 1,             // stream: epoch; index: round of the Feistel network, half of the image's number
  kAugmentation = 2,      // stream: epoch; index: image
  kInitialWeights = 3,    // stream: parameter; index: element / 4
  kSyntheticPattern = 4,  // stream: class; index: cell of the pattern / 16
  kSyntheticLabels = 5,   // stream: train or test; index: image
  kSyntheticNoise = 6,  // stream: train or test; index: 16 bytes of all images, those of one image in one run
  kObjectiveOptimum = 7,  // index: coordinate / 8
  kObjectiveData = 8,     // stream: step; index: (shard, coordinate) / 8
};

using PhiloxWords = std::array<uint32_t, 4>;

// The bare function, as Random123's known answers describe it.
inline PhiloxWords philox4x32_10(const PhiloxWords& counter, const std::array<uint32_t, 2>& key) {
  const philox4x32_ctr_t in = {{counter[0], counter[1], counter[2], counter[3]}};
  const philox4x32_key_t seed = {{key[0], key[1]}};
  const philox4x32_ctr_t out = philox4x32_R(10, in, seed);
  return {out.v[0], out.v[1], out.v[2], out.v[3]};
}

// Four random words for (seed, domain, stream, index).
inline PhiloxWords philox(uint64_t seed, PhiloxDomain domain, uint32_t stream, uint64_t index) {
  return philox4x32_10({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream,
                        static_cast<uint32_t>(domain)},
                       {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// A number in [0, n) from a random word; no value is more than n / 2^32 likelier than another.
inline uint32_t philox_below(uint32_t word, uint32_t n) {
  return static_cast<uint32_t>((uint64_t{word} * n) >> 32);
}

}  // namespace annulus
