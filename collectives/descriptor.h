// Descriptor: what travels through a ring. It says where a payload lies in the segment and which one it is;
// the payload itself stays where it was written and is read in place.
#pragma once

#include <cstdint>
#include <type_traits>

namespace annulus {

enum class Phase : uint16_t {
  kStep = 1,     // a training step's exchange of gradients
  kMessage = 2,  // a call of Communicator
};

enum class Payload : uint16_t {
  kInput = 1,       // what the rank brought: a partial sum of gradients, a message
  kRunningSum = 2,  // sum over some of the ranks
  kResult = 3,      // what the collective delivers
  kNothing = 4,     // no payload: a barrier's token
};

struct Descriptor {
  uint32_t step = 0;     // training step, or number of the Communicator's call; from 1
  uint32_t attempt = 0;  // the run's, in which it was sent; of a call 0
  Phase phase = Phase::kStep;
  Payload type = Payload::kInput;
  uint32_t round = 0;   // of the collective
  uint32_t source = 0;  // rank that sends
  uint32_t bucket = 0;  // of a step; of a call: which part of the message
  uint32_t chunk = 0;   // direct: which partial sum of the source; ring: which chunk of the slice
  uint32_t slice = 0;   // rank that owns the slice which the payload belongs to
  uint64_t place = 0;   // bytes from the start of the segment
  uint64_t length = 0;  // bytes
  uint64_t call = 0;    // of a message: what else all ranks must agree on, mixed into one number

  bool operator==(const Descriptor&) const = default;
};
static_assert(sizeof(Descriptor) == 56 && std::is_trivially_copyable_v<Descriptor>);

// Throws StepError that names both sides, the first field that differs and both its values, unless `got`
// equals `expected` in every field. `reader` is the rank that took the descriptor.
void validate(const Descriptor& got, const Descriptor& expected, uint32_t reader);

}  // namespace annulus
