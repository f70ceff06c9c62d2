// Tensors of fp32 or bf16 elements for the tests of kernels.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/aligned_floats.h"
#include "kernels/reduce.h"

namespace annulus {

inline constexpr DataType kStoredTypes[] = {DataType::kF32, DataType::kBf16};

inline std::string name_of(DataType type) { return type == DataType::kF32 ? "fp32" : "bf16"; }

// Bytes that hold elements of a type, on a 64-byte boundary and filled with NaN until they are written.
class StoredTensor {
 public:
  StoredTensor(DataType type, int64_t elements)
      : type_(type), elements_(elements), bytes_(elements * size_of(type), 0xff) {}
  StoredTensor(DataType type, const std::vector<float>& values)
      : StoredTensor(type, static_cast<int64_t>(values.size())) {
    narrow(type, elements_, values.data(), data());
  }

  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  int64_t elements() const { return elements_; }
  std::vector<float> floats() const {
    std::vector<float> values(elements_);
    widen(type_, elements_, bytes_.data(), values.data());
    return values;
  }
  // As memory: NaN equals itself, and zeros of different sign differ.
  bool operator==(const StoredTensor&) const = default;

 private:
  DataType type_;
  int64_t elements_;
  std::vector<uint8_t, CacheLineAllocator<uint8_t>> bytes_;
};

inline std::vector<float> integers(int64_t count, int largest, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>(static_cast<int>(random() % (2 * largest + 1)) - largest);
  }
  return values;
}

inline std::vector<float> normals(int64_t count, unsigned seed, float mean = 0, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace annulus
