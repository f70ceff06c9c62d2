#include "telemetry/record_ring.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace annulus {
namespace {

struct Record {
  uint64_t words[6];
};

// Every word follows from the record's number, so that a mixture of two records shows.
Record record(uint64_t n) {
  Record made;
  for (uint64_t i = 0; i < 6; ++i) made.words[i] = n * 0x9e3779b97f4a7c15ull + i;
  return made;
}

bool is_record(const Record& got, uint64_t n) {
  const Record expected = record(n);
  return std::equal(std::begin(got.words), std::end(got.words), std::begin(expected.words));
}

using Ring = RecordRing<Record, 8>;

TEST(RecordRing, keeps_the_last_records_and_says_which_it_has_not) {
  auto ring = std::make_unique<Ring>();
  Record got;
  EXPECT_EQ(ring->written(), 0U);
  EXPECT_FALSE(ring->read(0, got));
  for (uint64_t n = 0; n < 11; ++n) ring->push(record(n));
  EXPECT_EQ(ring->written(), 11U);
  for (uint64_t n = 0; n < 14; ++n) {
    const bool there = n >= 3 && n < 11;
    ASSERT_EQ(ring->read(n, got), there) << n;
    if (there) {
      EXPECT_TRUE(is_record(got, n)) << n;
    }
  }
}

TEST(RecordRing, that_wraps_many_times_reads_the_newest) {
  auto ring = std::make_unique<Ring>();
  Record got;
  for (uint64_t n = 0; n < 1000; ++n) {
    ring->push(record(n));
    ASSERT_TRUE(ring->read(n, got));
    ASSERT_TRUE(is_record(got, n));
    if (n >= 8) {
      ASSERT_FALSE(ring->read(n - 8, got));
    }
  }
}

TEST(RecordRing, never_shows_a_torn_record_to_readers_while_the_writer_overwrites) {
  constexpr uint64_t kRecords = 60'000;
  constexpr int kReaders = 2;
  auto ring = std::make_unique<Ring>();
  std::atomic<uint64_t> torn{0};
  std::vector<uint64_t> seen(kReaders), missed(kReaders);
  std::vector<std::thread> readers;
  for (int reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      Record got;
      for (uint64_t next = 0; next < kRecords;) {
        const uint64_t written = ring->written();
        if (written == next) std::this_thread::yield();
        if (reader == 1 && written - next > Ring::capacity()) {  // the second skips what is lost
          missed[reader] += written - Ring::capacity() - next;
          next = written - Ring::capacity();
        }
        for (; next < written; ++next) {
          if (!ring->read(next, got)) {
            ++missed[reader];
            continue;
          }
          ++seen[reader];
          torn += !is_record(got, next);
        }
      }
    });
  }
  for (uint64_t n = 0; n < kRecords; ++n) {
    ring->push(record(n));
    if (n % 100 == 0) std::this_thread::yield();
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(torn, 0U);
  for (int reader = 0; reader < kReaders; ++reader) {
    EXPECT_GT(seen[reader], 0U);
    EXPECT_EQ(seen[reader] + missed[reader], kRecords) << "every record is read or known to be lost";
  }
}

}  // namespace
}  // namespace annulus
