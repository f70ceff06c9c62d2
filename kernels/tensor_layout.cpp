#include "kernels/tensor_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "telemetry/check.h"

namespace annulus {
namespace {

// Elements of dimension `dim` in one inner block, over all levels of blocking.
int64_t block_of(const TensorLayout& layout, int dim) {
  int64_t block = 1;
  for (int k = 0; k < layout.inner_count; ++k) {
    if (layout.inner_dims[k] == dim) block *= layout.inner_blocks[k];
  }
  return block;
}

// Calls visit(offset) for each logical element in row-major order.
template <typename Visit>
void for_each_element(const TensorLayout& layout, Visit visit) {
  if (layout.elements() == 0) return;
  // An element's place is a sum over the dimensions; what each index contributes is looked up, since taking
  // it apart into blocks costs several divisions.
  std::array<std::vector<int64_t>, TensorLayout::kMaxDims> places;
  std::array<int64_t, TensorLayout::kMaxDims> index{};
  const std::span<const int64_t> position(index.data(), layout.dims_count);
  for (int d = 0; d < layout.dims_count; ++d) {
    for (; index[d] < layout.dims[d]; ++index[d]) places[d].push_back(layout.offset(position));
    index[d] = 0;
  }
  const int last = layout.dims_count - 1;
  if (last < 0) return visit(0);
  for (int d = 0; d >= 0;) {
    int64_t row = 0;
    for (int k = 0; k < last; ++k) row += places[k][index[k]];
    for (const int64_t place : places[last]) visit(row + place);
    for (d = last - 1; d >= 0 && ++index[d] == layout.dims[d]; --d) index[d] = 0;
  }
}

}  // namespace

TensorLayout TensorLayout::plain(std::span<const int64_t> dims) {
  CHECK(dims.size() <= kMaxDims, "{} dimensions", dims.size());
  TensorLayout layout;
  layout.dims_count = static_cast<int>(dims.size());
  int64_t stride = 1;
  for (int d = layout.dims_count - 1; d >= 0; --d) {
    layout.dims[d] = layout.padded_dims[d] = dims[d];
    layout.strides[d] = stride;
    stride *= dims[d];
  }
  return layout;
}

int64_t TensorLayout::elements() const {
  int64_t product = 1;
  for (int d = 0; d < dims_count; ++d) product *= dims[d];
  return product;
}

int64_t TensorLayout::padded_elements() const {
  int64_t product = 1;
  for (int d = 0; d < dims_count; ++d) product *= padded_dims[d];
  return product;
}

bool TensorLayout::is_plain() const {
  int64_t stride = 1;
  for (int d = dims_count - 1; d >= 0; --d) {
    // The stride of a dimension of one element never matters.
    if (padded_dims[d] != dims[d] || (dims[d] != 1 && strides[d] != stride)) return false;
    stride *= dims[d];
  }
  return inner_count == 0;
}

int64_t TensorLayout::offset(std::span<const int64_t> index) const {
  std::array<int64_t, kMaxDims> rest{};
  std::copy(index.begin(), index.end(), rest.begin());
  int64_t offset = 0, inner_stride = 1;
  for (int k = inner_count - 1; k >= 0; --k) {
    int64_t& left = rest[inner_dims[k]];
    offset += left % inner_blocks[k] * inner_stride;
    left /= inner_blocks[k];
    inner_stride *= inner_blocks[k];
  }
  for (int d = 0; d < dims_count; ++d) offset += rest[d] * strides[d];
  return offset;
}

std::string TensorLayout::tag() const {
  std::array<int, kMaxDims> order{};
  for (int d = 0; d < dims_count; ++d) order[d] = d;
  // Equal strides mean that one of the dimensions has a single block; it goes to the inner side.
  std::stable_sort(order.begin(), order.begin() + dims_count, [&](int a, int b) {
    if (strides[a] != strides[b]) return strides[a] > strides[b];
    return padded_dims[a] / block_of(*this, a) > padded_dims[b] / block_of(*this, b);
  });
  std::string text;
  for (int k = 0; k < dims_count; ++k) {
    const int d = order[k];
    text += static_cast<char>((block_of(*this, d) > 1 ? 'A' : 'a') + d);
  }
  for (int k = 0; k < inner_count; ++k) {
    text += fmt::format("{}{}", inner_blocks[k], static_cast<char>('a' + inner_dims[k]));
  }
  return text;
}

void to_plain(const TensorLayout& layout, const float* blocked, float* plain) {
  for_each_element(layout, [&](int64_t offset) { *plain++ = blocked[offset]; });
}

void from_plain(const TensorLayout& layout, const float* plain, float* blocked) {
  std::fill_n(blocked, layout.padded_elements(), 0.0F);
  for_each_element(layout, [&](int64_t offset) { blocked[offset] = *plain++; });
}

}  // namespace annulus
