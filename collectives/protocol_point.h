// protocol_point: the steps of the protocol at which a rank may be held up for any time, or die, by name.
// Tests compile the libraries once more with ANNULUS_PROTOCOL_POINTS and wait there
// (tests/collectives/protocol_delays.h) or die (tests/launcher/kill_points.h); otherwise nothing is left of
// it.
#pragma once

#include <cstdint>

namespace annulus {

enum class ProtocolPoint : uint8_t {
  kPublish,       // payload written, not yet fenced
  kSend,          // line written, its sequence word not yet (R0)
  kPeek,          // before a sequence word is read (A0)
  kAccept,        // descriptor read, not yet accepted
  kRelease,       // payload read, line not yet given back (R1)
  kReuse,         // before a sequence word is read for room (A1)
  kVersionStore,  // slice written, version not yet (V0)
  kVersionLoad,   // before a version is read (V1)
  kLieDown,       // sleeper's bit set, doorbell not yet read (S0, S1)
  kSleep,         // condition looked at in vain, not yet asleep (S2, S3)
  kWake,          // stored what is awaited, sleepers not yet looked at (W0, W1)
  kRing,          // sleeper seen, doorbell not yet rung (W2, W3)
  kSum,           // inputs awaited, not yet summed
  kCopy,          // payload awaited, not yet copied
  // Those of a worker (runtime/worker.cpp).
  kInitialize,  // the initial value of a parameter written, others not yet
  kForward,     // a portion of a stage's forward done, before it waits for others' updates again
  kBackward,    // a portion of a stage's backward done, its gradients not all there
  kUpdate,      // a piece of the own slice's update done, the slice not yet whole
  kStepEnd,     // the own slices updated, others' perhaps not
  kEvaluate,    // a batch of the evaluation done
  kUnwind,      // aborted, not yet parked
  kPark,        // parked, not yet released
  kResume,      // released, nothing of the new attempt done
  kDismiss,     // finished, not yet dismissed
};
inline constexpr int kExchangePoints = 14;  // the first so many are met in any exchange
inline constexpr int kProtocolPoints = 24;

#if defined(ANNULUS_PROTOCOL_POINTS)
void protocol_point(ProtocolPoint point);
#else
inline void protocol_point(ProtocolPoint /*point*/) {}
#endif

}  // namespace annulus
