#include "runtime/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2 << 20;
constexpr uint64_t kPortion = 32 << 20;  // populated between two beats

}  // namespace

Arena::Arena(int64_t bytes, const std::function<void()>& beat) {
  if (bytes == 0) return;
  const uint64_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    throw UserError::format(
        "cannot map {:.1f} MiB for activations: {}; use a smaller --batch-size or more --shards",
        size / 1048576.0, std::strerror(errno));
  }
  madvise(address, size, MADV_HUGEPAGE);
  populate(address, size, beat);
  bytes_ = {static_cast<std::byte*>(address), size};
}

Arena::~Arena() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

Arena::Arena(Arena&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

void populate(void* address, uint64_t bytes, const std::function<void()>& beat) {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;  // Linux 5.14
#endif
  const uint64_t begin = reinterpret_cast<uint64_t>(address) / kPage * kPage;
  const uint64_t end = (reinterpret_cast<uint64_t>(address) + bytes + kPage - 1) / kPage * kPage;
  for (uint64_t at = begin; at < end; at += kPortion) {
    madvise(reinterpret_cast<void*>(at), std::min(end - at, kPortion), MADV_POPULATE_WRITE);
    beat();
  }
}

}  // namespace annulus
