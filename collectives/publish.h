// publish: the one way in which a payload is handed to another rank.
#pragma once

#include "collectives/spsc_ring.h"

namespace annulus {

// Orders non-temporal stores before all later stores. C++'s release order does not cover them: oneDNN's
// kernels and ours write gradients with MOVNT and end without a fence, and without this fence another core
// reads stale data (tests/collectives/publish_litmus_test.cpp sees it happen).
inline void store_fence() {
#if defined(__x86_64__)
  asm volatile("sfence" ::: "memory");
#elif defined(__aarch64__)
  asm volatile("dmb ishst" ::: "memory");
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// Fences, then sends. False if the ring has no free line (nothing was sent). Memory ordering: all that this
// thread wrote before, non-temporal stores included, is visible to the receiver that takes the descriptor.
// The receiver may sleep: wake it (Waiter::wake) afterwards.
inline bool publish(SpscRing::Sender& sender, const Descriptor& descriptor) {
  protocol_point(ProtocolPoint::kPublish);
  store_fence();
  return sender.try_send(descriptor);
}

}  // namespace annulus
