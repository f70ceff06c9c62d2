#include "kernels/batch_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/parallel_for.h"
#include "kernels/rows.h"
#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/batch_norm.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

#ifndef ANNULUS_KERNELS_BATCH_NORM_ONCE
#define ANNULUS_KERNELS_BATCH_NORM_ONCE
namespace annulus {

// What one thread works on at a time: channels that fit into a row. All images of a group are read, then all
// are written, so that the second pass finds in the caches what the first one has read.
class ChannelGroup {
 public:
  static int64_t count(const BatchNormShape& shape) { return shape.blocks() * per_block(shape); }

  ChannelGroup(const BatchNormShape& shape, int64_t index)
      : shape_(shape),
        block_(index / per_block(shape)),
        lane_(static_cast<int>(index % per_block(shape)) * kRowLanes),
        channels_(std::min(kRowLanes, shape.block - lane_)) {}

  // Calls visit(Rows) for the stretches of one image; starts count from the start of the tensor.
  template <class Visit>
  void for_each_stretch(int64_t image, const Visit& visit) const {
    const int64_t plane = (image * shape_.blocks() + block_) * shape_.pixels * shape_.block;
    annulus::for_each_stretch(shape_.pixels, shape_.block, lane_, [&](Rows rows) {
      rows.start += plane;
      visit(rows);
    });
  }

  // The other way round: what was read last is written first, while it is still there.
  template <class Visit>
  void for_each_stretch_backwards(int64_t images, const Visit& visit) const {
    for (int64_t image = images - 1; image >= 0; --image) for_each_stretch(image, visit);
  }

  int channels() const { return channels_; }  // 1 where a row's lanes are pixels
  int64_t channel(int c) const { return block_ * shape_.block + lane_ + c; }
  bool is_padding(int c) const { return channel(c) >= shape_.channels; }
  // The group's channel that a row's lane belongs to.
  int channel_of_lane(int lane) const { return channels_ == 1 ? 0 : lane; }

  // Adds up the lanes that belong to one channel.
  void fold(const double (&lanes)[kRowLanes], double (&sums)[kRowLanes]) const {
    std::fill_n(sums, channels_, 0.0);
    const int used = channels_ == 1 ? kRowLanes : channels_;
    for (int lane = 0; lane < used; ++lane) sums[channel_of_lane(lane)] += lanes[lane];
  }

  // lanes[lane] = value_of(channel of the group), 0 for lanes of no channel.
  template <class ValueOf>
  void spread(const ValueOf& value_of, float (&lanes)[kRowLanes]) const {
    const int used = channels_ == 1 ? kRowLanes : channels_;
    for (int lane = 0; lane < used; ++lane) lanes[lane] = value_of(channel_of_lane(lane));
    std::fill(lanes + used, lanes + kRowLanes, 0.0F);
  }

 private:
  static int64_t per_block(const BatchNormShape& shape) { return (shape.block + kRowLanes - 1) / kRowLanes; }

  const BatchNormShape& shape_;
  int64_t block_;
  int lane_, channels_;
};

// Constants of a group's lanes.
struct ForwardLanes {
  alignas(64) float mean[kRowLanes], scale[kRowLanes], shift[kRowLanes];
};
struct BackwardLanes {
  alignas(64) float mean[kRowLanes], scale[kRowLanes], offset[kRowLanes], slope[kRowLanes];
};

}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums of x - pivot and of its square over the rows.
template <class T>
void add_shifted(const Rows& rows, const T* x, const float* pivot, Sums& sums) {
  add_rows(rows, sums, [&](auto d, int lane) {
    return [d, x, pivot = hn::LoadU(d, pivot + lane)](int64_t place, auto& first, auto& second) {
      const auto difference = hn::Sub(load(d, x + place), pivot);
      first = hn::Add(first, difference);
      second = hn::Add(second, hn::Mul(difference, difference));
    };
  });
}

// Mean and sum of squared differences from it, per channel of the group, in one pass over x: sums of
// differences from a pivot near the mean (Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample
// Variance", shifted data). The pivot is the mean of the group's first stretch; without it, the squares of a
// mean that is large beside the deviation would swallow the variance.
template <class T>
void measure(const BatchNormShape& shape, const ChannelGroup& group, const T* x, double (&mean)[kRowLanes],
             double (&squares)[kRowLanes]) {
  alignas(64) float pivot[kRowLanes] = {};
  double sums[kRowLanes];
  bool first = true;
  group.for_each_stretch(0, [&](const Rows& rows) {
    if (!first) return;
    first = false;
    Sums near;
    add_shifted(rows, x, pivot, near);
    group.fold(near.first, sums);
    const int64_t terms = rows.count * (group.channels() == 1 ? rows.lanes : 1);
    group.spread([&](int c) { return static_cast<float>(sums[c] / static_cast<double>(terms)); }, pivot);
  });

  Sums all;
  for (int64_t image = 0; image < shape.images; ++image) {
    group.for_each_stretch(image, [&](const Rows& rows) { add_shifted(rows, x, pivot, all); });
  }
  group.fold(all.first, sums);
  group.fold(all.second, squares);
  const auto n = static_cast<double>(shape.images * shape.pixels);
  for (int c = 0; c < group.channels(); ++c) {
    mean[c] = pivot[c] + sums[c] / n;
    squares[c] = std::max(0.0, squares[c] - sums[c] * (sums[c] / n));
  }
}

template <class T, bool kAddend, bool kRelu>
void normalize(const Rows& rows, const ForwardLanes& lanes, const BatchNormForward& tensors) {
  const T* const x = static_cast<const T*>(tensors.x);
  const T* const addend = static_cast<const T*>(tensors.addend);
  T* const y = static_cast<T*>(tensors.y);
  for_each_vector(rows, [&](auto d, int lane) {
    return [d, x, addend, y, mean = hn::LoadU(d, lanes.mean + lane), scale = hn::LoadU(d, lanes.scale + lane),
            shift = hn::LoadU(d, lanes.shift + lane)](int64_t place) {
      auto v = hn::Add(hn::Mul(hn::Sub(load(d, x + place), mean), scale), shift);
      if constexpr (kAddend) v = hn::Add(v, load(d, addend + place));
      if constexpr (kRelu) v = relu(d, v);
      store(v, d, y + place);
    };
  });
}

template <class T>
auto pick_normalize(const BatchNormForward& tensors) {
  constexpr decltype(&normalize<T, false, false>) kTable[2][2] = {
      {&normalize<T, false, false>, &normalize<T, false, true>},
      {&normalize<T, true, false>, &normalize<T, true, true>}};
  return kTable[tensors.addend != nullptr][tensors.relu];
}

template <class T>
void write_zeros(const BatchNormShape& shape, const ChannelGroup& group, T* to) {
  for (int64_t image = shape.images; image < shape.tensor_images; ++image) {
    group.for_each_stretch(image, [&](const Rows& rows) {
      for_each_vector(rows, [&](auto d, int /*lane*/) {
        return [d, to](int64_t place) { store_exact(hn::Zero(d), d, to + place); };
      });
    });
  }
}

// Constants of y = (x - mean) * (gamma * inv_std) + beta.
void prepare(const ChannelGroup& group, const BatchNormForward& tensors, const float* mean,
             const float* inv_std, ForwardLanes& lanes) {
  const auto gamma = [&](int c) { return group.is_padding(c) ? 0.0F : tensors.gamma[group.channel(c)]; };
  const auto beta = [&](int c) { return group.is_padding(c) ? 0.0F : tensors.beta[group.channel(c)]; };
  group.spread([&](int c) { return mean[c]; }, lanes.mean);
  group.spread([&](int c) { return gamma(c) * inv_std[c]; }, lanes.scale);
  group.spread(beta, lanes.shift);
}

template <class T>
void forward_group(const BatchNormShape& shape, const ChannelGroup& group, const BatchNormForward& tensors,
                   const BatchStatistics& statistics) {
  double mean[kRowLanes], squares[kRowLanes];
  measure(shape, group, static_cast<const T*>(tensors.x), mean, squares);

  const auto n = static_cast<double>(shape.images * shape.pixels);
  float* const kept_mean = statistics.mean + group.channel(0);
  float* const kept_inv_std = statistics.inv_std + group.channel(0);
  for (int c = 0; c < group.channels(); ++c) {
    kept_mean[c] = static_cast<float>(mean[c]);
    kept_inv_std[c] = static_cast<float>(1 / std::sqrt(squares[c] / n + kBatchNormEpsilon));
    if (group.is_padding(c)) continue;
    statistics.batch_mean[group.channel(c)] = kept_mean[c];
    statistics.unbiased_variance[group.channel(c)] = static_cast<float>(squares[c] / std::max(1.0, n - 1));
  }
  ForwardLanes lanes;
  prepare(group, tensors, kept_mean, kept_inv_std, lanes);
  const auto run = pick_normalize<T>(tensors);
  group.for_each_stretch_backwards(shape.images, [&](const Rows& rows) { run(rows, lanes, tensors); });
  write_zeros(shape, group, static_cast<T*>(tensors.y));
}

template <class T>
void inference_group(const BatchNormShape& shape, const ChannelGroup& group, const BatchNormForward& tensors,
                     const float* running_mean, const float* running_variance) {
  float mean[kRowLanes] = {}, inv_std[kRowLanes] = {};
  for (int c = 0; c < group.channels() && !group.is_padding(c); ++c) {
    mean[c] = running_mean[group.channel(c)];
    const double variance = running_variance[group.channel(c)];
    inv_std[c] = static_cast<float>(1 / std::sqrt(variance + kBatchNormEpsilon));
  }
  ForwardLanes lanes;
  prepare(group, tensors, mean, inv_std, lanes);
  const auto run = pick_normalize<T>(tensors);
  group.for_each_stretch_backwards(shape.tensor_images, [&](const Rows& rows) { run(rows, lanes, tensors); });
}

// Writes g to `to` unless that is null, and adds up g and g * (x - mean).
template <class T, bool kRelu, bool kJoins>
void add_gradients(const Rows& rows, const float* mean, const BatchNormBackward& tensors, T* to, Sums& sums) {
  const T* const x = static_cast<const T*>(tensors.x);
  const T* const y = static_cast<const T*>(tensors.y);
  const T* const dy = static_cast<const T*>(tensors.dy);
  const T* const dy2 = static_cast<const T*>(tensors.dy2);
  add_rows(rows, sums, [&](auto d, int lane) {
    return
        [d, x, y, dy, dy2, to, mean = hn::LoadU(d, mean + lane)](int64_t place, auto& first, auto& second) {
          auto g = load(d, dy + place);
          if constexpr (kJoins) g = rounded<T>(d, hn::Add(g, load(d, dy2 + place)));
          if constexpr (kRelu) g = hn::IfThenElseZero(hn::Gt(load(d, y + place), hn::Zero(d)), g);
          if (to != nullptr) store_exact(g, d, to + place);
          first = hn::Add(first, g);
          second = hn::Add(second, hn::Mul(g, hn::Sub(load(d, x + place), mean)));
        };
  });
}

template <class T>
auto pick_add_gradients(const BatchNormBackward& tensors) {
  constexpr decltype(&add_gradients<T, false, false>) kTable[2][2] = {
      {&add_gradients<T, false, false>, &add_gradients<T, false, true>},
      {&add_gradients<T, true, false>, &add_gradients<T, true, true>}};
  return kTable[tensors.y != nullptr][tensors.dy2 != nullptr];
}

// dx = scale * (g - offset - (x - mean) * slope); dx may be g.
template <class T>
void write_dx(const Rows& rows, const BackwardLanes& lanes, const T* x, const T* g, T* dx) {
  for_each_vector(rows, [&](auto d, int lane) {
    return [d, x, g, dx, mean = hn::LoadU(d, lanes.mean + lane), scale = hn::LoadU(d, lanes.scale + lane),
            offset = hn::LoadU(d, lanes.offset + lane),
            slope = hn::LoadU(d, lanes.slope + lane)](int64_t place) {
      const auto trend = hn::Mul(hn::Sub(load(d, x + place), mean), slope);
      const auto rest = hn::Sub(hn::Sub(load(d, g + place), offset), trend);
      store(hn::Mul(scale, rest), d, dx + place);
    };
  });
}

template <class T>
void backward_group(const BatchNormShape& shape, const ChannelGroup& group,
                    const BatchNormBackward& tensors) {
  const float* const mean = tensors.mean + group.channel(0);
  const float* const inv_std = tensors.inv_std + group.channel(0);
  T* const dx = static_cast<T*>(tensors.dx);
  T* const diff_addend = static_cast<T*>(tensors.diff_addend);
  // The second pass reads g where the first one has written it: where it is asked for, else in place of dx.
  const bool is_dy = tensors.y == nullptr && tensors.dy2 == nullptr;
  T* const written = diff_addend != nullptr ? diff_addend : is_dy ? nullptr : dx;
  const T* const g = written != nullptr ? written : static_cast<const T*>(tensors.dy);

  BackwardLanes lanes;
  group.spread([&](int c) { return mean[c]; }, lanes.mean);
  Sums all;
  const auto run = pick_add_gradients<T>(tensors);
  for (int64_t image = 0; image < shape.images; ++image) {
    group.for_each_stretch(image, [&](const Rows& rows) { run(rows, lanes.mean, tensors, written, all); });
  }
  double sums[kRowLanes], products[kRowLanes];
  group.fold(all.first, sums);
  group.fold(all.second, products);

  const auto n = static_cast<double>(shape.images * shape.pixels);
  for (int c = 0; c < group.channels() && !group.is_padding(c); ++c) {
    tensors.dbeta[group.channel(c)] = static_cast<float>(sums[c]);
    tensors.dgamma[group.channel(c)] = static_cast<float>(products[c] * inv_std[c]);
  }
  const auto gamma = [&](int c) { return group.is_padding(c) ? 0.0F : tensors.gamma[group.channel(c)]; };
  group.spread([&](int c) { return gamma(c) * inv_std[c]; }, lanes.scale);
  group.spread([&](int c) { return static_cast<float>(sums[c] / n); }, lanes.offset);
  group.spread([&](int c) { return static_cast<float>(products[c] * inv_std[c] * inv_std[c] / n); },
               lanes.slope);
  group.for_each_stretch_backwards(shape.images, [&](const Rows& rows) {
    write_dx(rows, lanes, static_cast<const T*>(tensors.x), g, dx);
  });
  write_zeros(shape, group, dx);
  if (diff_addend != nullptr) write_zeros(shape, group, diff_addend);
}

void forward_groups(const BatchNormShape& shape, int64_t begin, int64_t end, const BatchNormForward& tensors,
                    const BatchStatistics& statistics) {
  with_element(shape.type, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) {
      forward_group<T>(shape, ChannelGroup(shape, i), tensors, statistics);
    }
  });
}

void inference_groups(const BatchNormShape& shape, int64_t begin, int64_t end,
                      const BatchNormForward& tensors, const float* mean, const float* variance) {
  with_element(shape.type, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) {
      inference_group<T>(shape, ChannelGroup(shape, i), tensors, mean, variance);
    }
  });
}

void backward_groups(const BatchNormShape& shape, int64_t begin, int64_t end,
                     const BatchNormBackward& tensors) {
  with_element(shape.type, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) backward_group<T>(shape, ChannelGroup(shape, i), tensors);
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(forward_groups);
HWY_EXPORT(inference_groups);
HWY_EXPORT(backward_groups);

namespace {

void check(const BatchNormShape& shape) {
  CHECK(1 <= shape.images && shape.images <= shape.tensor_images, "{} of {} images", shape.images,
        shape.tensor_images);
}

}  // namespace

void batch_norm_forward(const BatchNormShape& shape, int threads, const BatchNormForward& tensors,
                        const BatchStatistics& statistics) {
  check(shape);
  parallel_for(threads, ChannelGroup::count(shape), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward_groups)(shape, begin, end, tensors, statistics);
  });
}

void batch_norm_inference(const BatchNormShape& shape, int threads, const BatchNormForward& tensors,
                          const float* mean, const float* variance) {
  check(shape);
  parallel_for(threads, ChannelGroup::count(shape), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(inference_groups)(shape, begin, end, tensors, mean, variance);
  });
}

void batch_norm_backward(const BatchNormShape& shape, int threads, const BatchNormBackward& tensors) {
  check(shape);
  CHECK(tensors.dx != tensors.diff_addend, "dx and diff_addend share a buffer");
  parallel_for(threads, ChannelGroup::count(shape), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(backward_groups)(shape, begin, end, tensors);
  });
}

}  // namespace annulus
#endif  // HWY_ONCE
