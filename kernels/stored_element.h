// One element of a tensor, for plain loops.
#pragma once

#include "kernels/data_type.h"
#include "kernels/reduce.h"

namespace annulus {

inline float read_element(DataType type, const void* tensor, int64_t place) {
  if (type == DataType::kF32) return static_cast<const float*>(tensor)[place];
  float value = 0;
  widen_reference(type, 1, static_cast<const Bf16*>(tensor) + place, &value);
  return value;
}

inline void write_element(DataType type, float value, void* tensor, int64_t place) {
  if (type == DataType::kF32) {
    static_cast<float*>(tensor)[place] = value;
  } else {
    narrow_reference(type, 1, &value, static_cast<Bf16*>(tensor) + place);
  }
}

}  // namespace annulus
