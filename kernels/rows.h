// How kernels that sum over pixels walk a plane of activations, [pixels][block]: in rows of at most 16 lanes.
//
// With a block of channels the lanes are channels and a row is a pixel; wider blocks (nhwc) are walked in
// parts of 16 channels. With block 1 (nchw) the lanes are 16 neighbouring pixels of one channel.
#pragma once

#include <algorithm>
#include <cstdint>

namespace annulus {

inline constexpr int kRowLanes = 16;

// Rows are summed up in fp32 in stretches of at most this many, and across stretches in double. A stretch is
// 16 KiB of fp32, so that it stays in the first-level cache where registers have fewer than 16 lanes.
inline constexpr int64_t kStretch = 256;

struct Rows {
  int64_t start;   // first element, from the start of the plane
  int64_t count;   // rows
  int64_t stride;  // elements from row to row
  int lanes;       // elements side by side in each
};

struct Sums {
  double first[kRowLanes] = {}, second[kRowLanes] = {};
};

// Calls visit(Rows) for the stretches of a plane: of channels [lane, lane + 16) of its block, or of all
// pixels where the block is 1.
template <class Visit>
void for_each_stretch(int64_t pixels, int block, int lane, const Visit& visit) {
  const bool along = block == 1;
  const int lanes = along ? kRowLanes : std::min(kRowLanes, block - lane);
  const int64_t stride = along ? kRowLanes : block;
  const int64_t count = along ? pixels / kRowLanes : pixels;
  for (int64_t row = 0; row < count; row += kStretch) {
    visit(Rows{lane + row * stride, std::min(kStretch, count - row), stride, lanes});
  }
  const int64_t rest = along ? pixels % kRowLanes : 0;
  if (rest != 0) visit(Rows{count * kRowLanes, 1, stride, static_cast<int>(rest)});
}

}  // namespace annulus
