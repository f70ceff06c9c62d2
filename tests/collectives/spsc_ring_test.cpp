#include "collectives/spsc_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace annulus {
namespace {

struct Memory {
  explicit Memory(uint32_t capacity)
      : capacity(capacity), lines(SpscRing::bytes(capacity) / kRankSpacing + 1) {
    ring().reset();
  }
  SpscRing ring() { return {lines[0].bytes, capacity}; }
  struct alignas(kRankSpacing) Line {
    std::byte bytes[kRankSpacing];
  };
  uint32_t capacity;
  std::vector<Line> lines;
};

Descriptor message(uint64_t i) {
  return {.step = static_cast<uint32_t>(i), .bucket = static_cast<uint32_t>(~i), .place = i, .length = i * i};
}

TEST(SpscRing, hands_over_every_descriptor_once_and_in_order_between_threads) {
  for (const uint32_t capacity : {2u, 8u, 64u}) {
    // With few lines each message needs a turn of the other thread.
    const uint64_t messages = std::min(4'000u * capacity, 50'000u);
    Memory memory(capacity);
    std::thread producer([&] {
      SpscRing::Sender sender = memory.ring().sender();
      for (uint64_t i = 0; i < messages;) {
        if (sender.try_send(message(i))) {
          ++i;
        } else {
          std::this_thread::yield();
        }
      }
    });
    SpscRing::Receiver receiver = memory.ring().receiver();
    for (uint64_t i = 0; i < messages;) {
      const Descriptor* got = receiver.peek();
      if (got == nullptr) {
        std::this_thread::yield();
        continue;
      }
      ASSERT_EQ(*got, message(i));
      receiver.accept();
      receiver.release();
      ++i;
    }
    EXPECT_EQ(receiver.peek(), nullptr);
    producer.join();
  }
}

TEST(SpscRing, takes_as_many_as_its_capacity_and_one_more_for_each_that_is_taken) {
  Memory memory(4);
  SpscRing::Sender sender = memory.ring().sender();
  SpscRing::Receiver receiver = memory.ring().receiver();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(sender.try_send(message(i)));
  EXPECT_FALSE(sender.try_send(message(4)));
  EXPECT_EQ(*receiver.peek(), message(0));
  EXPECT_EQ(*receiver.peek(), message(0));  // peeking takes nothing
  EXPECT_FALSE(sender.try_send(message(4)));
  receiver.accept();
  receiver.release();
  EXPECT_TRUE(sender.try_send(message(4)));
  EXPECT_FALSE(sender.try_send(message(5)));
}

TEST(SpscRing, payload_written_before_sending_is_seen_by_who_takes) {
  Memory memory(2);
  std::vector<uint64_t> payload(1000);
  std::thread producer([&] {
    SpscRing::Sender sender = memory.ring().sender();
    for (uint64_t i = 0; i < payload.size(); ++i) {
      payload[i] = i + 1;
      while (!sender.try_send(message(i))) std::this_thread::yield();
    }
  });
  SpscRing::Receiver receiver = memory.ring().receiver();
  for (uint64_t i = 0; i < payload.size(); ++i) {
    while (receiver.peek() == nullptr) std::this_thread::yield();
    EXPECT_EQ(payload[receiver.peek()->place], i + 1);
    receiver.accept();
    receiver.release();
  }
  producer.join();
}

TEST(SpscRingDeathTest, gives_each_end_out_once) {
  Memory memory(4);
  memory.ring().sender();
  memory.ring().receiver();
  EXPECT_DEATH(memory.ring().sender(), "a second sender");
  EXPECT_DEATH(memory.ring().receiver(), "a second receiver");
  memory.ring().reset();
  memory.ring().sender();
}

TEST(SpscRingDeathTest, wants_a_power_of_two_of_at_least_two_lines) {
  EXPECT_DEATH(SpscRing(nullptr, 3), "ring capacity 3");
  EXPECT_DEATH(SpscRing(nullptr, 1), "ring capacity 1");
}

}  // namespace
}  // namespace annulus
