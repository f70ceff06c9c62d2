// One pass adds, and collects as candidates all sums whose magnitude reaches a threshold. When there are many
// more than k of them, all but the k largest are put back; what comes later must exceed the k-th of those, so
// the threshold rises.
//
// That is exact from a threshold of 0, and from any other that k sums reach. So the pass begins with a guess
// from a sample, as Deep Gradient Compression does, but never ends with one: where fewer than k sums reach
// it, the candidates are put back and a second pass begins at 0.
#include "kernels/top_k.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/top_k.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

#ifndef ANNULUS_KERNELS_TOP_K_ONCE
#define ANNULUS_KERNELS_TOP_K_ONCE
namespace annulus {

inline constexpr uint32_t kNan = 0x7fc00000;
inline constexpr int32_t kMagnitudeBits = 0x7fffffff;

// hn::Iota would write one number after the other for each vector.
alignas(64) inline constexpr uint32_t kLaneNumbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Where the magnitude is at least the threshold. As integers absolute values are not negative.
template <class D>
HWY_INLINE hn::Mask<D> reaches(D d, hn::Vec<D> v, int32_t threshold) {
  const hn::RebindToSigned<D> bits;
  return hn::RebindMask(d, hn::Gt(hn::BitCast(bits, hn::Abs(v)), hn::Set(bits, threshold - 1)));
}

// Writes the lanes of the mask side by side, and anything after them, up to a vector in all. Returns how many
// they are. (CompressStore would write no more, in microcode on AMD's Zen 4: some ten times slower.)
template <class D>
HWY_INLINE int64_t pack(D d, hn::Mask<D> mask, hn::Vec<D> values, hn::Vec<hn::RebindToUnsigned<D>> indices,
                        float* to_values, uint32_t* to_indices) {
  const hn::RebindToUnsigned<D> du;
  hn::StoreU(hn::Compress(values, mask), d, to_values);
  hn::StoreU(hn::Compress(indices, hn::RebindMask(du, mask)), du, to_indices);
  return static_cast<int64_t>(hn::CountTrue(d, mask));
}

// new_residual[i] = the sum, or 0 where the sum reaches the threshold and becomes a candidate of index
// first + i. Without a gradient the sums are the residual. Returns how many candidates there are.
template <Store kStore>
int64_t collect(int64_t first, int64_t n, const float* gradient, const float* residual, float scale,
                float* new_residual, int32_t threshold, float* values, uint32_t* indices) {
  int64_t count = 0;
  for_each_vector(n, [&](auto d, int64_t i) {
    const hn::RebindToUnsigned<decltype(d)> du;
    auto sum = hn::LoadU(d, residual + i);
    if (gradient != nullptr) sum = hn::Add(hn::LoadU(d, gradient + i), hn::Mul(hn::Set(d, scale), sum));
    sum = hn::IfThenElse(hn::IsNaN(sum), hn::BitCast(d, hn::Set(du, kNan)), sum);
    const auto candidate = reaches(d, sum, threshold);
    put<hn::MaxLanes(d) == 1 ? Store::kCached : kStore>(hn::IfThenZeroElse(candidate, sum), d,
                                                        new_residual + i);
    const auto index = hn::Add(hn::Set(du, static_cast<uint32_t>(first + i)), hn::Load(du, kLaneNumbers));
    count += pack(d, candidate, sum, index, values + count, indices + count);
  });
  return count;
}

int64_t collect_block(int64_t first, int64_t n, const float* gradient, const float* residual, float scale,
                      float* new_residual, Store store, int32_t threshold, float* values, uint32_t* indices) {
  const bool streams = store == Store::kStreaming && reinterpret_cast<uintptr_t>(new_residual) % 64 == 0;
  return (streams ? collect<Store::kStreaming> : collect<Store::kCached>)(first, n, gradient, residual, scale,
                                                                          new_residual, threshold, values,
                                                                          indices);
}

// Of candidates [begin, end), moves those that reach the threshold to `kept` and on, which is at most
// `begin`; puts the others back. Returns where those that were moved end.
int64_t keep(int32_t threshold, int64_t begin, int64_t end, int64_t kept, float* values, uint32_t* indices,
             float* new_residual) {
  // Put back many at a time: the branch of a short loop is hard to predict.
  constexpr int64_t kMany = 256;
  float back[kMany + 16];
  uint32_t place[kMany + 16];
  int64_t dropped = 0;
  const auto put_back = [&] {
    for (int64_t i = 0; i < dropped; ++i) new_residual[place[i]] = back[i];
    dropped = 0;
  };
  for_each_vector(end - begin, [&](auto d, int64_t i) {
    const hn::RebindToUnsigned<decltype(d)> du;
    const auto v = hn::LoadU(d, values + begin + i);
    const auto index = hn::LoadU(du, indices + begin + i);
    const auto large = reaches(d, v, threshold);
    kept += pack(d, large, v, index, values + kept, indices + kept);
    dropped += pack(d, hn::Not(large), v, index, back + dropped, place + dropped);
    if (dropped >= kMany) put_back();
  });
  put_back();
  return kept;
}

// Those of n values whose magnitude is within [low, end), in order; `to` may be `from`. Returns how many.
int64_t within(int32_t low, int32_t end, int64_t n, const float* from, float* to) {
  int64_t count = 0;
  for_each_vector(n, [&](auto d, int64_t i) {
    const auto v = hn::LoadU(d, from + i);
    const auto mask = hn::And(reaches(d, v, low), hn::Not(reaches(d, v, end)));
    hn::StoreU(hn::Compress(v, mask), d, to + count);
    count += static_cast<int64_t>(hn::CountTrue(d, mask));
  });
  return count;
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(collect_block);
HWY_EXPORT(keep);
HWY_EXPORT(within);

namespace {

// Elements between two looks at how many candidates there are.
constexpr int64_t kBlock = 1024;
constexpr int64_t kMostLanes = 16;
constexpr int64_t kMostSamples = 4096;

// More than k by two blocks at least: after a pruning there is space for the next block.
int64_t most_candidates(int64_t k, int64_t n) { return std::min(2 * k, n) + 2 * kBlock; }

int32_t magnitude(float x) { return std::bit_cast<int32_t>(x) & kMagnitudeBits; }

// The k-th largest magnitude of some values.
struct Cut {
  int32_t magnitude;
  int64_t equal;  // how many have it
  int64_t kept;   // how many of those are among the k largest, at least 1
};

// Digit by digit from the top, each among the values that have the digits before. 1 <= k <= n; `scratch` has
// space for n values and a vector.
Cut find_cut(int64_t k, int64_t n, const float* values, float* scratch) {
  constexpr int kDigits = 1 << 11;
  int32_t above = 0;  // the digits so far
  for (int shift = 20;; shift -= 10) {
    // Neighbours often have the same digit, and an addition would wait for the one before: so in turns.
    uint32_t counts[4][kDigits] = {};
    const auto digit_of = [&](int64_t i) { return (magnitude(values[i]) - above) >> shift; };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
      for (int turn = 0; turn < 4; ++turn) ++counts[turn][digit_of(i + turn)];
    }
    for (; i < n; ++i) ++counts[0][digit_of(i)];

    int digit = kDigits;
    int64_t equal = 0;
    do {
      k -= equal;
      --digit;
      equal = int64_t{counts[0][digit]} + counts[1][digit] + counts[2][digit] + counts[3][digit];
    } while (k > equal);
    above |= digit << shift;
    if (shift == 0) return {above, equal, k};

    n = HWY_DYNAMIC_DISPATCH(within)(above, above + (1 << shift), n, values, scratch);
    values = scratch;
  }
}

// A magnitude that k of n sums are likely to reach, and not many more.
int32_t guess_threshold(int64_t k, int64_t n, const float* gradient, const float* residual, float scale,
                        float* scratch) {
  // One of every so many elements, at a place that follows no period of the tensor's layout.
  const int64_t samples = std::min<int64_t>(n / 512, kMostSamples);
  if (samples == 0) return 0;
  const int64_t stride = n / samples;
  std::minstd_rand place;
  for (int64_t j = 0; j < samples; ++j) {
    const int64_t i = j * stride + static_cast<int64_t>(place()) % stride;
    scratch[j] = gradient[i] + scale * residual[i];
  }
  // How many of the samples are among the k largest has about the deviation of a Poisson variable: we allow
  // for three of them.
  const double expected = static_cast<double>(k) * static_cast<double>(samples) / static_cast<double>(n);
  const auto rank = static_cast<int64_t>(expected + 3 * std::sqrt(expected)) + 1;
  if (rank > samples) return 0;
  std::nth_element(scratch, scratch + (rank - 1), scratch + samples,
                   [](float a, float b) { return magnitude(a) > magnitude(b); });
  return magnitude(scratch[rank - 1]);
}

}  // namespace

int64_t count_for(double ratio, int64_t n) {
  CHECK(ratio > 0 && ratio <= 1 && n >= 0, "ratio {}, n {}", ratio, n);
  // The ratio and the product are each off by up to 2^-53 of themselves.
  const double count = std::ceil(ratio * static_cast<double>(n) * (1 - 0x1p-51));
  return std::clamp(static_cast<int64_t>(count), std::min<int64_t>(n, 1), n);
}

SparseView TopK::select(int64_t k, int64_t n, const float* gradient, const float* residual,
                        float* new_residual, float scale, Store store) {
  CHECK((k >= 1 || n == 0) && k <= n && n <= int64_t{1} << 32, "k = {}, n = {}", k, n);
  if (n == 0) return {};

  const auto space = static_cast<size_t>(most_candidates(k, n) + kMostLanes);
  if (space > values_.size()) {
    values_.resize(space);
    indices_.resize(space);
    scratch_.resize(std::max<size_t>(space, kMostSamples));
  }
  collect(k, n, gradient, residual, scale, new_residual, store,
          guess_threshold(k, n, gradient, residual, scale, scratch_.data()));
  if (count_ < k) {
    for (int64_t i = 0; i < count_; ++i) new_residual[indices_[i]] = values_[i];
    collect(k, n, nullptr, new_residual, 1, new_residual, store, 0);
  }
  prune(k, new_residual);
  return {{indices_.data(), static_cast<size_t>(k)}, {values_.data(), static_cast<size_t>(k)}};
}

// Candidates are all sums that reach the threshold, or at least the k largest of them where there are more.
void TopK::collect(int64_t k, int64_t n, const float* gradient, const float* residual, float scale,
                   float* new_residual, Store store, int32_t threshold) {
  count_ = 0;
  for (int64_t first = 0; first < n; first += kBlock) {
    // As later sums have higher indices, they must be larger than those that are kept.
    if (count_ + kBlock > most_candidates(k, n)) threshold = prune(k, new_residual) + 1;
    count_ += HWY_DYNAMIC_DISPATCH(collect_block)(
        first, std::min(kBlock, n - first), gradient == nullptr ? nullptr : gradient + first,
        residual + first, scale, new_residual + first, store, threshold, values_.data() + count_,
        indices_.data() + count_);
  }
}

// Puts all but the k largest candidates back. Returns the magnitude of the smallest that is left.
int32_t TopK::prune(int64_t k, float* new_residual) {
  const Cut cut = find_cut(k, count_, values_.data(), scratch_.data());
  // Of those that equal the cut, the first ones are kept: up to `split`.
  int64_t split = count_;
  if (cut.kept < cut.equal) {
    split = 0;
    for (int64_t left = cut.kept; left > 0; ++split) left -= magnitude(values_[split]) == cut.magnitude;
  }
  int64_t kept = 0;
  const auto keep_among = [&](int32_t threshold, int64_t begin, int64_t end) {
    kept = HWY_DYNAMIC_DISPATCH(keep)(threshold, begin, end, kept, values_.data(), indices_.data(),
                                      new_residual);
  };
  keep_among(cut.magnitude, 0, split);
  keep_among(cut.magnitude + 1, split, count_);
  count_ = kept;
  CHECK(count_ == k, "{} candidates for k = {}", count_, k);
  return cut.magnitude;
}

void write_dense(const SparseView& sent, int64_t n, float* out) {
  std::fill_n(out, n, 0.0F);
  for (size_t i = 0; i < sent.indices.size(); ++i) out[sent.indices[i]] = sent.values[i];
}

SparseVector top_k_reference(int64_t k, int64_t n, const float* gradient, const float* residual,
                             float* new_residual, float scale) {
  for (int64_t i = 0; i < n; ++i) {
    const float sum = gradient[i] + scale * residual[i];
    new_residual[i] = std::isnan(sum) ? std::bit_cast<float>(kNan) : sum;
  }
  SparseVector sent;
  sent.indices.resize(n);
  std::iota(sent.indices.begin(), sent.indices.end(), 0U);
  std::stable_sort(sent.indices.begin(), sent.indices.end(), [&](uint32_t a, uint32_t b) {
    return magnitude(new_residual[a]) > magnitude(new_residual[b]);
  });
  sent.indices.resize(k);
  std::sort(sent.indices.begin(), sent.indices.end());
  for (const uint32_t index : sent.indices) {
    sent.values.push_back(new_residual[index]);
    new_residual[index] = 0;
  }
  return sent;
}

}  // namespace annulus
#endif  // HWY_ONCE
