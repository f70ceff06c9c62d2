#include "runtime/top_k_packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/reduce.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

struct WeightHeader {
  uint32_t bytes;    // of the sparse vector
  int32_t exponent;  // its values are 2^exponent times what they stand for
};

// The largest value is brought below this power of two; fp16 has numbers below 2^16.
constexpr int kTopExponent = 15;

// So that the scale and its inverse are normal numbers.
int exponent_for(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  if (largest == 0) return 0;
  return std::clamp(kTopExponent - (std::ilogb(largest) + 1), -120, 120);
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

int64_t bound_for(int64_t elements, int64_t count) {
  return std::max(encoded_bound(elements, count, SparseFormat::kCompact),
                  encoded_bound(elements, count, SparseFormat::kExact));
}

}  // namespace

TopKPacking::TopKPacking(const StepSchedule& schedule, const NetworkPlan& network, const BucketPlan& buckets,
                         const std::vector<ShardRange>& slices, Arrays arrays)
    : buckets_(slices.size()), schedule_(schedule), arrays_(std::move(arrays)) {
  const double most_sent = schedule.top_k(1).ratio;  // it never rises
  for (int i = 0; i < std::ssize(network.parameters); ++i) {
    const ParameterPlan& parameter = network.parameters[i];
    const ShardRange& slice = slices[buckets.bucket_of[i]];
    const int64_t offset = buckets.offsets[i], elements = parameter.layout.padded_elements();
    const ShardRange own{std::max(offset, slice.begin), std::min(offset + elements, slice.end)};
    if (own.count() <= 0) continue;
    Bucket& bucket = buckets_[buckets.bucket_of[i]];
    if (!has_residual(parameter.role)) {
      bucket.whole.push_back(own);
      bucket.most_bytes += own.count() * sizeof(float);
      continue;
    }
    CHECK(own.count() == elements, "a slice ends within {}", parameter.name);
    const int64_t unpadded = parameter.layout.elements();
    bucket.weights.push_back({offset, elements, unpadded});
    bucket.most_bytes += sizeof(WeightHeader) + bound_for(elements, count_for(most_sent, unpadded));
  }
  std::size_t most = 0;
  for (const Bucket& bucket : buckets_) most = std::max(most, bucket.most_bytes);
  message_.resize(most);
}

std::span<const std::byte> TopKPacking::pack(uint32_t step, int index) {
  const Bucket& bucket = buckets_[index];
  const float* const gradients = arrays_.gradients(step);
  std::size_t at = 0;
  for (const ShardRange& range : bucket.whole) {
    std::memcpy(message_.data() + at, gradients + range.begin, range.count() * sizeof(float));
    at += range.count() * sizeof(float);
  }
  for (const Weight& weight : bucket.weights)
    at += pack_weight(step, weight, std::span(message_).subspan(at));
  return std::span(message_).first(at);
}

std::size_t TopKPacking::pack_weight(uint32_t step, const Weight& weight, std::span<std::byte> out) {
  float* const new_residual = arrays_.residual(step) + weight.offset;
  const TopKStep now = schedule_.top_k(step);
  const SparseView sent = top_k_.select(
      count_for(now.ratio, weight.unpadded), weight.elements, arrays_.gradients(step) + weight.offset,
      arrays_.residual(step - 1) + weight.offset, new_residual, now.residual_scale);
  WeightHeader header{};
  SparseFormat format = SparseFormat::kExact;
  std::span<const float> values = sent.values;
  if (all_finite(sent.values)) {
    format = SparseFormat::kCompact;
    header.exponent = exponent_for(sent.values);
    const float scale = std::ldexp(1.0f, header.exponent), back = std::ldexp(1.0f, -header.exponent);
    scaled_.resize(sent.values.size());
    for (std::size_t i = 0; i < scaled_.size(); ++i) scaled_[i] = scale * sent.values[i];
    rounded_.resize(scaled_.size());
    narrow(DataType::kF16, std::ssize(scaled_), scaled_.data(), rounded_.data());
    widen(DataType::kF16, std::ssize(scaled_), rounded_.data(), scaled_.data());
    for (std::size_t i = 0; i < scaled_.size(); ++i) {
      new_residual[sent.indices[i]] = sent.values[i] - back * scaled_[i];
    }
    values = scaled_;
  }
  header.bytes = static_cast<uint32_t>(
      encode(weight.elements, sent.indices, values, format, out.subspan(sizeof header)));
  std::memcpy(out.data(), &header, sizeof header);
  return sizeof header + header.bytes;
}

void TopKPacking::unpack(uint32_t step, int index, const std::vector<std::span<const std::byte>>& messages) {
  const Bucket& bucket = buckets_[index];
  const int hosts = static_cast<int>(messages.size());
  float* const gradients = arrays_.gradients(step);
  std::vector<std::span<const std::byte>> left = messages;
  sums_.resize(hosts);
  const auto refuse = [](int host, const std::string& what) {
    throw LinkError(fmt::format("host {}'s message is refused: {}", host, what));
  };

  // All hosts have equal lengths of what is whole.
  for (const ShardRange& range : bucket.whole) {
    const std::size_t bytes = range.count() * sizeof(float);
    for (int host = 0; host < hosts; ++host) {
      if (left[host].size() < bytes) refuse(host, "it ends within what is sent whole");
      Sparse& sum = sums_[host];
      sum.values.resize(range.count());
      std::memcpy(sum.values.data(), left[host].data(), bytes);
      left[host] = left[host].subspan(bytes);
    }
    sum_whole(0, hosts);
    std::copy(sums_[0].values.begin(), sums_[0].values.end(), gradients + range.begin);
  }
  for (const Weight& weight : bucket.weights) {
    for (int host = 0; host < hosts; ++host) {
      try {
        unpack_weight(weight, left[host], sums_[host]);
      } catch (const SparseCodecError& error) {
        refuse(host, error.what());
      }
    }
    sum_sparse(0, hosts);
    write_dense({sums_[0].indices, sums_[0].values}, weight.elements, gradients + weight.offset);
  }
  for (int host = 0; host < hosts; ++host) {
    if (!left[host].empty()) refuse(host, "it is too long");
  }
}

void TopKPacking::unpack_weight(const Weight& weight, std::span<const std::byte>& message,
                                Sparse& into) const {
  WeightHeader header;
  if (message.size() < sizeof header)
    throw SparseCodecError(SparseFault::kTruncated, "it ends before a weight");
  std::memcpy(&header, message.data(), sizeof header);
  message = message.subspan(sizeof header);
  if (header.bytes > message.size())
    throw SparseCodecError(SparseFault::kTruncated, "it ends within a weight");
  if (header.exponent < -120 || header.exponent > 120) {
    throw SparseCodecError(SparseFault::kRange, fmt::format("an exponent of {}", header.exponent));
  }
  decode(message.first(header.bytes), weight.elements, into.indices, into.values);
  message = message.subspan(header.bytes);
  const float back = std::ldexp(1.0f, -header.exponent);
  for (float& value : into.values) value *= back;
}

void TopKPacking::sum_sparse(int lo, int hi) {
  if (hi - lo < 2) return;
  const int middle = lo + (hi - lo + 1) / 2;
  sum_sparse(lo, middle);
  sum_sparse(middle, hi);
  merge(sums_[lo].indices, sums_[lo].values, sums_[middle].indices, sums_[middle].values, merged_.indices,
        merged_.values);
  std::swap(sums_[lo], merged_);
}

void TopKPacking::sum_whole(int lo, int hi) {
  if (hi - lo < 2) return;
  const int middle = lo + (hi - lo + 1) / 2;
  sum_whole(lo, middle);
  sum_whole(middle, hi);
  std::vector<float>& sum = sums_[lo].values;
  add(std::ssize(sum), sum.data(), sums_[middle].values.data(), sum.data());
}

}  // namespace annulus
