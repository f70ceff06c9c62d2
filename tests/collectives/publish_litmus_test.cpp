// Litmus test of publishing after non-temporal stores: message passing with MOVNT payload. Without the fence
// the reader sees the descriptor before the payload; with it, never.
#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <vector>

#include "collectives/publish.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace annulus {
namespace {

constexpr int kLines = 4;  // of payload: fewer than there are write-combining buffers, so that they linger
constexpr int kRounds = 30'000;

struct alignas(kRankSpacing) Shared {
  std::byte ring[sizeof(RingHeader) + 4 * sizeof(RingLine)];
  alignas(kRankSpacing) int payload[kLines * 16];
};

void store_non_temporal(int* place, int value) {
#if defined(__x86_64__)
  _mm_stream_si32(place, value);
#else
  *place = value;
#endif
}

// Spins without a system call, which would drain the write-combining buffers; yields now and then for the
// case that both threads share a CPU.
template <typename Ready>
void spin_until(Ready ready) {
  for (int i = 1; !ready(); ++i) {
    if (i % 100'000 == 0) std::this_thread::yield();
  }
}

// The two threads must run on two CPUs at the same time.
void pin_to_allowed_cpu(int index) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &one);
  }
  if (CPU_COUNT(&one) == 1) sched_setaffinity(0, sizeof one, &one);
}

// Rounds in which the reader saw a stale payload behind a taken descriptor.
template <typename Send>
int stale_rounds(Send send) {
  auto shared = std::make_unique<Shared>();
  SpscRing ring(shared->ring, 4);
  ring.reset();
  std::atomic<int> taken{0};
  std::thread writer([&] {
    pin_to_allowed_cpu(0);
    SpscRing::Sender sender = ring.sender();
    for (int round = 1; round <= kRounds; ++round) {
      // Partly filled lines linger in the write-combining buffers, which is what a kernel's last stores do.
      for (int line = 0; line < kLines; ++line) store_non_temporal(&shared->payload[line * 16], round);
      while (!send(sender, Descriptor{.step = static_cast<uint32_t>(round)})) {
      }
      spin_until([&] { return taken.load(std::memory_order_acquire) >= round; });
    }
  });
  int stale = 0;
  std::thread reader([&] {
    pin_to_allowed_cpu(1);
    SpscRing::Receiver receiver = ring.receiver();
    for (int round = 1; round <= kRounds; ++round) {
      spin_until([&] { return receiver.peek() != nullptr; });
      bool whole = true;
      for (int line = kLines - 1; line >= 0; --line) {
        whole &= *static_cast<volatile int*>(&shared->payload[line * 16]) == round;
      }
      stale += !whole;
      receiver.accept();
      receiver.release();
      taken.store(round, std::memory_order_release);
    }
  });
  writer.join();
  reader.join();
  return stale;
}

TEST(Publish, makes_non_temporal_stores_visible_before_the_descriptor) {
  EXPECT_EQ(stale_rounds([](SpscRing::Sender& sender, const Descriptor& d) { return publish(sender, d); }),
            0);
}

TEST(Publish, without_its_fence_would_hand_over_stale_payload) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "SKIPPED: non-temporal stores are written for x86-64 only";
#endif
  if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "SKIPPED: one CPU cannot show it";
  const int stale =
      stale_rounds([](SpscRing::Sender& sender, const Descriptor& d) { return sender.try_send(d); });
  RecordProperty("stale_rounds", stale);
  std::printf("without the fence: %d of %d rounds stale\n", stale, kRounds);
  EXPECT_GT(stale, 0) << "this CPU did not show the fault; the test above proves nothing here";
}

}  // namespace
}  // namespace annulus
