// Element types of messages and tensors.
#pragma once

#include <cstdint>

namespace annulus {

enum class DataType : uint8_t {
  kF32,   // IEEE 754 binary32
  kBf16,  // bfloat16: the upper half of a binary32
  kF16,   // IEEE 754 binary16
};

using Bf16 = uint16_t;  // the bits of a stored bf16 number

inline constexpr int64_t size_of(DataType type) { return type == DataType::kF32 ? 4 : 2; }

}  // namespace annulus
