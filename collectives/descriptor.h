// Descriptor: what travels through a ring. It says where a payload lies in the segment and which one it is;
// the payload itself stays where it was written and is read in place.
#pragma once

#include <cstdint>
#include <type_traits>

namespace annulus {

enum class Phase : uint16_t { kStep = 1 };

enum class Payload : uint16_t {
  kGradient = 1,    // this rank's partial sum of a bucket's slice (direct)
  kRunningSum = 2,  // sum over the ranks that a chunk has passed through (ring)
};

struct Descriptor {
  uint32_t step = 0;     // training step, from 1
  uint32_t attempt = 0;  // how often steps have been done again: 0, since a failed step ends the run
  Phase phase = Phase::kStep;
  Payload type = Payload::kGradient;
  uint32_t round = 0;   // of the collective
  uint32_t source = 0;  // rank that sends
  uint32_t bucket = 0;
  uint32_t chunk = 0;   // direct: which partial sum of the source; ring: which chunk of the slice
  uint32_t slice = 0;   // rank that owns the slice which the payload belongs to
  uint64_t place = 0;   // bytes from the start of the segment
  uint64_t length = 0;  // bytes
  uint64_t reserved = 0;

  bool operator==(const Descriptor&) const = default;
};
static_assert(sizeof(Descriptor) == 56 && std::is_trivially_copyable_v<Descriptor>);

// Throws StepError that names both sides, the first field that differs and both its values, unless `got`
// equals `expected` in every field. `reader` is the rank that took the descriptor.
void validate(const Descriptor& got, const Descriptor& expected, uint32_t reader);

}  // namespace annulus
