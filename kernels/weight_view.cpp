#include "kernels/weight_view.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "kernels/parallel_for.h"
#include "kernels/stored_element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/weight_view.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

#ifndef ANNULUS_KERNELS_WEIGHT_VIEW_ONCE
#define ANNULUS_KERNELS_WEIGHT_VIEW_ONCE
namespace annulus {

inline constexpr int kSide = 16;  // of a tile

// Walks the tiles [begin, end) of a view, last dimension fastest.
template <class Visit>
void for_each_tile(const WeightView& view, int64_t begin, int64_t end, const Visit& visit) {
  constexpr int kDims = TensorLayout::kMaxDims;
  std::array<int64_t, kDims> index{};
  int64_t rest = begin, from = 0, to = 0;
  for (int d = kDims - 1; d >= 0; --d) {
    index[d] = rest % view.tiles[d];
    rest /= view.tiles[d];
    from += index[d] * view.from_strides[d];
    to += index[d] * view.to_strides[d];
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    visit(from, to);
    for (int d = kDims - 1; d >= 0; --d) {
      from += view.from_strides[d];
      to += view.to_strides[d];
      if (++index[d] < view.tiles[d]) break;
      from -= view.tiles[d] * view.from_strides[d];
      to -= view.tiles[d] * view.to_strides[d];
      index[d] = 0;
    }
  }
}

}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// to[column][row] = from[row][column] for 16 rows of kColumns.
template <int kColumns>
HWY_INLINE void transpose(const uint32_t* from, uint32_t* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int row = 0; row < kSide; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      std::memcpy(to + column * kSide + row, from + row * kColumns + column, sizeof(uint32_t));
    }
  }
#else
  const hn::Full128<uint32_t> d;
  const hn::Full128<uint64_t> wide;
  const auto lower = [&](auto a, auto b) {
    return hn::BitCast(d, hn::InterleaveLower(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
  };
  const auto upper = [&](auto a, auto b) {
    return hn::BitCast(d, hn::InterleaveUpper(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
  };
  for (int column = 0; column < kColumns; column += 4) {
    for (int row = 0; row < kSide; row += 4) {
      const uint32_t* const in = from + row * kColumns + column;
      uint32_t* const out = to + column * kSide + row;
      const auto r0 = hn::LoadU(d, in), r1 = hn::LoadU(d, in + kColumns);
      const auto r2 = hn::LoadU(d, in + 2 * kColumns), r3 = hn::LoadU(d, in + 3 * kColumns);
      const auto low01 = hn::InterleaveLower(d, r0, r1), high01 = hn::InterleaveUpper(d, r0, r1);
      const auto low23 = hn::InterleaveLower(d, r2, r3), high23 = hn::InterleaveUpper(d, r2, r3);
      hn::StoreU(lower(low01, low23), d, out);
      hn::StoreU(upper(low01, low23), d, out + kSide);
      hn::StoreU(lower(high01, high23), d, out + 2 * kSide);
      hn::StoreU(upper(high01, high23), d, out + 3 * kSide);
    }
  }
#endif
}

// Rows 2k and 2k + 1 of the tile, element by element beside each other.
HWY_INLINE void pair_rows(const float* from, Bf16* to) {
  const hn::CappedTag<float, kSide> d;
  const hn::Rebind<uint32_t, decltype(d)> bits;
  for (int row = 0; row < kSide; row += 2) {
    for (int lane = 0; lane < kSide; lane += static_cast<int>(hn::Lanes(d))) {
      const float* const in = from + row * kSide + lane;
      const auto even = hn::BitCast(bits, rounded<Bf16>(d, hn::LoadU(d, in)));
      const auto odd = hn::BitCast(bits, rounded<Bf16>(d, hn::LoadU(d, in + kSide)));
      hn::StoreU(hn::Or(hn::ShiftRight<16>(even), odd), bits,
                 reinterpret_cast<uint32_t*>(to + (row * kSide + 2 * lane)));
    }
  }
}

void make_tiles(const WeightView& view, int64_t begin, int64_t end, const float* from, void* to) {
  for_each_tile(view, begin, end, [&](int64_t in, int64_t out) {
    switch (view.tile) {
      case ViewTile::kPairsOfInputs:
        return pair_rows(from + in, static_cast<Bf16*>(to) + out);
      case ViewTile::kPairsOfOutputs: {
        // A pair of outputs is a 32-bit number, and the rows of those are transposed.
        alignas(64) Bf16 narrowed[kSide * kSide];
        for_each_vector(Rows{0, kSide, kSide, kSide}, [&](auto d, int /*lane*/) {
          return [d, in = from + in, &narrowed](int64_t k) { store(hn::LoadU(d, in + k), d, narrowed + k); };
        });
        return transpose<kSide / 2>(reinterpret_cast<const uint32_t*>(narrowed),
                                    reinterpret_cast<uint32_t*>(static_cast<Bf16*>(to) + out));
      }
      case ViewTile::kTransposed:
        return transpose<kSide>(reinterpret_cast<const uint32_t*>(from + in),
                                reinterpret_cast<uint32_t*>(static_cast<float*>(to) + out));
    }
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(make_tiles);

namespace {

// The inner blocks of a layout, outermost first: sizes and dimensions.
struct Inner {
  std::array<int64_t, 3> blocks;
  std::array<int, 3> dims;
  int count;
};

constexpr Inner kInputsOutside{{16, 16}, {1, 0}, 2};        // 16i16o
constexpr Inner kOutputsOutside{{16, 16}, {0, 1}, 2};       // 16o16i
constexpr Inner kPairsOfInputs{{8, 16, 2}, {1, 0, 1}, 3};   // 8i16o2i
constexpr Inner kPairsOfOutputs{{8, 16, 2}, {0, 1, 0}, 3};  // 8o16i2o

struct Conversion {
  Inner from, to;
  DataType type;
  ViewTile tile;
};

constexpr Conversion kConversions[] = {
    {kInputsOutside, kPairsOfInputs, DataType::kBf16, ViewTile::kPairsOfInputs},
    {kInputsOutside, kPairsOfOutputs, DataType::kBf16, ViewTile::kPairsOfOutputs},
    {kInputsOutside, kOutputsOutside, DataType::kF32, ViewTile::kTransposed},
    {kOutputsOutside, kInputsOutside, DataType::kF32, ViewTile::kTransposed},
};

bool has_inside(const TensorLayout& layout, const Inner& inner) {
  return layout.inner_count == inner.count &&
         std::equal(inner.blocks.begin(), inner.blocks.begin() + inner.count, layout.inner_blocks.begin()) &&
         std::equal(inner.dims.begin(), inner.dims.begin() + inner.count, layout.inner_dims.begin());
}

}  // namespace

int64_t WeightView::tile_count() const {
  int64_t product = 1;
  for (const int64_t count : tiles) product *= count;
  return product;
}

std::optional<WeightView> plan_weight_view(const TensorLayout& from, const TensorLayout& to,
                                           DataType to_type) {
  if (from.dims_count != to.dims_count || from.dims != to.dims || from.padded_dims != to.padded_dims) {
    return std::nullopt;
  }
  for (const Conversion& conversion : kConversions) {
    if (conversion.type != to_type || !has_inside(from, conversion.from) || !has_inside(to, conversion.to)) {
      continue;
    }
    WeightView view{.tile = conversion.tile, .type = to_type};
    view.tiles.fill(1);
    for (int d = 0; d < from.dims_count; ++d) {
      view.tiles[d] = d < 2 ? from.padded_dims[d] / kSide : from.padded_dims[d];
      view.from_strides[d] = from.strides[d];
      view.to_strides[d] = to.strides[d];
    }
    return view;
  }
  return std::nullopt;
}

void make_view(const WeightView& view, int threads, const float* from, void* to) {
  parallel_for(threads, view.tile_count(), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(make_tiles)(view, begin, end, from, to);
  });
}

void make_view_reference(const TensorLayout& from_layout, const TensorLayout& to_layout, DataType to_type,
                         const float* from, void* to) {
  for (int64_t place = 0; place < to_layout.padded_elements(); ++place) {
    write_element(to_type, 0, to, place);
  }
  std::array<int64_t, TensorLayout::kMaxDims> index{};
  const std::span<const int64_t> position(index.data(), from_layout.dims_count);
  for (int64_t left = from_layout.elements(); left > 0; --left) {
    write_element(to_type, from[from_layout.offset(position)], to, to_layout.offset(position));
    for (int d = from_layout.dims_count - 1; d >= 0 && ++index[d] == from_layout.dims[d]; --d) index[d] = 0;
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
