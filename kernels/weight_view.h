// Reads of a convolution's or linear layer's weights in another layout than their master's: passes want the
// inside of the 16x16 tiles of (output, input) channels in another order, and in bf16. oneDNN's names, with o
// for dimension 0, i for dimension 1 and any order of the dimensions around the tiles:
//
//   from fp32 OIhw16i16o to bf16 OIhw8i16o2i   pairs of inputs side by side: bf16 forward
//                        to bf16 OIhw8o16i2o   pairs of outputs side by side: bf16 backward-data
//                        to fp32 OIhw16o16i    transposed tiles: fp32 backward-data
//   and from fp32 OIhw16o16i to fp32 OIhw16i16o.
//
// Biases and other plain parameters become bf16 by narrow() (reduce.h).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "kernels/data_type.h"
#include "kernels/tensor_layout.h"

namespace annulus {

// Order of the elements inside a tile of the view.
enum class ViewTile : uint8_t {
  kPairsOfInputs,   // 8i16o2i
  kPairsOfOutputs,  // 8o16i2o
  kTransposed,      // 16o16i from 16i16o or the other way round
};

struct WeightView {
  ViewTile tile = ViewTile::kTransposed;
  DataType type = DataType::kF32;
  // Around the tiles: how many along each dimension, and how far apart in elements on both sides. Unused
  // dimensions have one tile.
  std::array<int64_t, TensorLayout::kMaxDims> tiles{}, from_strides{}, to_strides{};

  int64_t tile_count() const;
};

// How to make a view, or nothing where it is none of the above: then oneDNN's reorder serves.
std::optional<WeightView> plan_weight_view(const TensorLayout& from, const TensorLayout& to,
                                           DataType to_type);

// Writes every element of the view, padding (zeros in the master) included. `from` and `to` are the starts of
// the tensors and do not overlap. Rounds to nearest even.
void make_view(const WeightView& view, int threads, const float* from, void* to);

// The same element by element.
void make_view_reference(const TensorLayout& from_layout, const TensorLayout& to_layout, DataType to_type,
                         const float* from, void* to);

}  // namespace annulus
