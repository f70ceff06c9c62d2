#include "runtime/arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr int64_t kPage = 4096;

// Pages of this range that are in memory.
int64_t resident_pages(void* address, int64_t bytes) {
  std::vector<unsigned char> pages((bytes + kPage - 1) / kPage);
  EXPECT_EQ(mincore(address, bytes, pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
}

bool kernel_can_populate() {
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool can = madvise(page, kPage, 23 /* MADV_POPULATE_WRITE, Linux 5.14 */) == 0;
  munmap(page, kPage);
  return can;
}

TEST(Arena, is_zero_aligned_and_at_least_as_large_as_asked_for) {
  for (const int64_t bytes : {1L, 4096L, 3'000'000L}) {
    const Arena arena(bytes);
    ASSERT_GE(static_cast<int64_t>(arena.bytes().size()), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.bytes().data()) % kPage, 0U);
    EXPECT_TRUE(std::all_of(arena.bytes().begin(), arena.bytes().end(),
                            [](std::byte value) { return value == std::byte{0}; }));
    arena.bytes().front() = arena.bytes().back() = std::byte{1};
  }
}

TEST(Arena, has_every_page_from_the_start) {
  if (!kernel_can_populate()) GTEST_SKIP() << "SKIPPED: this kernel has no MADV_POPULATE_WRITE";
  const Arena arena(3'000'000);
  const int64_t bytes = arena.bytes().size();
  EXPECT_EQ(resident_pages(arena.bytes().data(), bytes), bytes / kPage);
}

TEST(Arena, of_no_bytes_is_empty) {
  EXPECT_TRUE(Arena().bytes().empty());
  EXPECT_TRUE(Arena(0).bytes().empty());
}

TEST(Arena, hands_its_memory_over_when_it_is_moved) {
  Arena first(100'000);
  first.bytes()[7] = std::byte{42};
  std::byte* const address = first.bytes().data();
  Arena second(std::move(first));
  EXPECT_EQ(second.bytes().data(), address);
  Arena third(50'000);
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), address);
  EXPECT_EQ(third.bytes()[7], std::byte{42});
}

TEST(Arena, that_cannot_be_had_is_the_users_error_with_remedies) {
  try {
    Arena arena(int64_t{1} << 60);
    FAIL() << "an exbibyte";
  } catch (const UserError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("--batch-size"), std::string::npos) << text;
    EXPECT_NE(text.find("1099511627776.0 MiB"), std::string::npos) << text;
  }
}

TEST(Populate, maps_the_pages_that_a_range_touches_and_no_others) {
  if (!kernel_can_populate()) GTEST_SKIP() << "SKIPPED: this kernel has no MADV_POPULATE_WRITE";
  constexpr int64_t kPages = 64;
  auto* pages = static_cast<std::byte*>(
      mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  madvise(pages, kPages * kPage, MADV_NOHUGEPAGE);
  EXPECT_EQ(resident_pages(pages, kPages * kPage), 0);
  populate(pages + 3 * kPage + 100, 2 * kPage);  // ends in the third page
  EXPECT_EQ(resident_pages(pages, kPages * kPage), 3);
  EXPECT_EQ(resident_pages(pages + 3 * kPage, 3 * kPage), 3);
  populate(pages, 0);
  EXPECT_EQ(resident_pages(pages, kPages * kPage), 3);
  munmap(pages, kPages * kPage);
}

}  // namespace
}  // namespace annulus
