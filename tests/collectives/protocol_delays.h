// Holds ranks up at the points of the protocol (collectives/protocol_point.h), at random.
#pragma once

#include <cstdint>

#include "collectives/protocol_point.h"

namespace annulus {

// From now on this thread, a rank, is held up now and then: it yields, spins, or sleeps for some
// microseconds. The same seed holds it up at the same visits of points. 0: not at all.
void delay_this_thread(uint64_t seed);

// How often ranks have come by a point while they were being held up.
int64_t visits(ProtocolPoint point);

}  // namespace annulus
