// The 32 bytes that all processes of a job know, and nobody else.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

namespace annulus {

// Never printed, nor sent over a connection. Overwritten when it is destroyed.
class Secret {
 public:
  static constexpr size_t kBytes = 32;

  explicit Secret(std::span<const std::byte, kBytes> bytes);
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret();

  std::span<const std::byte, kBytes> bytes() const { return bytes_; }

 private:
  std::array<std::byte, kBytes> bytes_;
};

// The secret in a file: 64 hexadecimal digits, or the 32 bytes themselves. Throws UserError with a remedy
// where the file cannot be read, holds something else, or may be read by the owner's group or by others.
Secret read_secret(const std::string& path);

// One that nobody has had before, from the kernel.
Secret new_secret();

}  // namespace annulus
