// TensorLayout: where the elements of a tensor lie in memory, without oneDNN's types, so that the launcher,
// the segment and checkpoints can read parameters in any layout that oneDNN chose.
//
// A blocked layout as oneDNN describes it (dnnl_blocking_desc_t): per dimension a stride in elements, counted
// in whole blocks, and a list of inner blocks, outermost first. OIhw16i16o has inner_blocks {16, 16} and
// inner_dims {1, 0}.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace annulus {

struct TensorLayout {
  static constexpr int kMaxDims = 6;

  int dims_count = 0;
  std::array<int64_t, kMaxDims> dims{};         // logical sizes
  std::array<int64_t, kMaxDims> padded_dims{};  // sizes rounded up to whole blocks
  std::array<int64_t, kMaxDims> strides{};      // elements between neighbouring blocks of a dimension
  int inner_count = 0;
  std::array<int64_t, kMaxDims> inner_blocks{};
  std::array<int, kMaxDims> inner_dims{};

  // Row-major layout of these dimensions, last one innermost.
  static TensorLayout plain(std::span<const int64_t> dims);

  int64_t elements() const;         // logical elements
  int64_t padded_elements() const;  // elements that the tensor occupies, padding included
  bool is_plain() const;            // row-major without padding

  // Place of the element with this logical index, in elements from the start of the tensor.
  int64_t offset(std::span<const int64_t> index) const;

  // oneDNN's spelling with letters a, b, c...: upper case marks a blocked dimension, as in "ABcd16b16a".
  std::string tag() const;

  bool operator==(const TensorLayout&) const = default;
};

// Copies a tensor between its layout and row-major order. `plain` holds layout.elements() floats, `blocked`
// layout.padded_elements(); from_plain writes zeros into the padding.
void to_plain(const TensorLayout& layout, const float* blocked, float* plain);
void from_plain(const TensorLayout& layout, const float* plain, float* blocked);

}  // namespace annulus
