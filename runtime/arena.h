// Arena: one worker's private memory, taken and filled with pages in one call before the first step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace annulus {

class Arena {
 public:
  Arena() = default;
  // Huge pages where the kernel gives them; every page present on return. Throws UserError if there is no
  // memory.
  explicit Arena(
      int64_t bytes, const std::function<void()>& beat = [] {});
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

// Maps every page of a range into this process now, writable, instead of by one page fault each. Best effort.
// `beat` is called now and then: gigabytes take seconds.
void populate(
    void* address, uint64_t bytes, const std::function<void()>& beat = [] {});

}  // namespace annulus
