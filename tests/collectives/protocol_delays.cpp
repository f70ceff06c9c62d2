#include "tests/collectives/protocol_delays.h"

#include <time.h>

#include <atomic>
#include <thread>

namespace annulus {
namespace {

thread_local uint64_t random_state = 0;
std::atomic<int64_t> visit_counts[kProtocolPoints];

uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

}  // namespace

void delay_this_thread(uint64_t seed) { random_state = seed * 0x9e3779b97f4a7c15ull; }

int64_t visits(ProtocolPoint point) { return visit_counts[static_cast<int>(point)]; }

void protocol_point(ProtocolPoint point) {
  if (random_state == 0) return;
  visit_counts[static_cast<int>(point)].fetch_add(1, std::memory_order_relaxed);
  const uint64_t x = next_random();
  switch (x % 64) {
    case 0: {
      const timespec nap{.tv_sec = 0, .tv_nsec = static_cast<long>(x >> 32) % 50'000};
      nanosleep(&nap, nullptr);
      break;
    }
    case 1:
    case 2:
    case 3:
    case 4:
      std::this_thread::yield();
      break;
    case 5:
    case 6:
    case 7:
    case 8:
      for (uint64_t i = (x >> 32) % 2000; i > 0; --i) std::atomic_signal_fence(std::memory_order_seq_cst);
      break;
    default:
      break;
  }
}

}  // namespace annulus
