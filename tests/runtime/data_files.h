// Data files for tests: bytes of every format, good and broken, in a directory that goes away with the test.
#pragma once

#include <gtest/gtest.h>
#include <libdeflate.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "telemetry/error.h"

namespace annulus {

using Bytes = std::vector<uint8_t>;

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "annulus-test-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string path(const std::string& name = "") const { return name.empty() ? path_ : path_ + "/" + name; }

  std::string write(const std::string& name, const Bytes& bytes) const {
    std::filesystem::remove(path(name));  // ext4 writes a truncated file to the disk at once, a new one later
    std::ofstream file(path(name), std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    EXPECT_TRUE(file.good());
    return path(name);
  }

 private:
  std::string path_;
};

inline void append_big_endian(Bytes& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

// An IDX file: header of the given sizes, then the payload, whatever its length.
inline Bytes idx_bytes(const std::vector<uint32_t>& sizes, const Bytes& payload) {
  Bytes bytes;
  append_big_endian(bytes, 0x800u + static_cast<uint32_t>(sizes.size()));
  for (uint32_t size : sizes) append_big_endian(bytes, size);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

// `size` bytes without a pattern that deflate would find, all below `limit`.
inline Bytes noise_bytes(size_t size, int limit = 256) {
  Bytes bytes(size);
  uint32_t state = 12345;
  for (uint8_t& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>((state >> 16) % static_cast<uint32_t>(limit));
  }
  return bytes;
}

inline Bytes gzip_bytes(const Bytes& plain) {
  const std::unique_ptr<libdeflate_compressor, decltype(&libdeflate_free_compressor)> compressor(
      libdeflate_alloc_compressor(6), libdeflate_free_compressor);
  Bytes out(libdeflate_gzip_compress_bound(compressor.get(), plain.size()));
  out.resize(libdeflate_gzip_compress(compressor.get(), plain.data(), plain.size(), out.data(), out.size()));
  return out;
}

// Runs `action`, which must throw a UserError, and returns its text; other exceptions fail the test.
template <typename Action>
std::string user_error(Action action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no UserError was thrown";
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

#define EXPECT_CONTAINS(text, part) EXPECT_TRUE(::annulus::contains(text, part)) << (text)

}  // namespace annulus
