#include "runtime/top_k_packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "collectives/publish.h"
#include "kernels/reduce.h"
#include "runtime/segment_layout.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

struct WeightHeader {
  uint32_t bytes;    // of the sparse vector
  int32_t exponent;  // its values are 2^exponent times what they stand for
};

// The largest value is brought below 2 to this: fp16 has numbers below 2^16, E3M4 up to 124.
int top_exponent(SparseFormat format) { return format == SparseFormat::kTiny ? 7 : 15; }

constexpr int kMostExponent = 120;  // so that the scale and its inverse are normal numbers

int exponent_for(SparseFormat format, std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  if (largest == 0) return 0;
  return std::clamp(top_exponent(format) - (std::ilogb(largest) + 1), -kMostExponent, kMostExponent);
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

int64_t bound_for(SparseFormat format, int64_t elements, int64_t count) {
  return std::max(encoded_bound(elements, count, format),
                  encoded_bound(elements, count, SparseFormat::kExact));
}

}  // namespace

TopKPacking::TopKPacking(const StepSchedule& schedule, const NetworkPlan& network, const BucketPlan& buckets,
                         const std::vector<ShardRange>& slices, Arrays arrays, MomentumCorrection momentum,
                         SparseFormat format)
    : buckets_(slices.size()),
      schedule_(schedule),
      arrays_(std::move(arrays)),
      momentum_(std::move(momentum)),
      format_(format),
      store_(store_of_moments(buckets.elements)) {
  const double most_sent = schedule.top_k(1).ratio;  // it never rises
  for (int i = 0; i < std::ssize(network.parameters); ++i) {
    const ParameterPlan& parameter = network.parameters[i];
    const ShardRange& slice = slices[buckets.bucket_of[i]];
    const int64_t offset = buckets.offsets[i], elements = parameter.layout.padded_elements();
    const ShardRange own{std::max(offset, slice.begin), std::min(offset + elements, slice.end)};
    if (own.count() <= 0) continue;
    Bucket& bucket = buckets_[buckets.bucket_of[i]];
    if (!has_residual(parameter.role)) {
      bucket.small.push_back(own);
      continue;
    }
    CHECK(own.count() == elements, "a slice ends within {}", parameter.name);
    const int64_t unpadded = parameter.layout.elements();
    bucket.weights.push_back({offset, elements, unpadded});
    bucket.most_bytes += sizeof(WeightHeader) + bound_for(format, elements, count_for(most_sent, unpadded));
  }
  std::size_t most = 0;
  for (Bucket& bucket : buckets_) {
    int64_t elements = 0;
    for (const ShardRange& range : bucket.small) elements += range.count();
    bucket.whole.resize((elements + kBlockElements - 1) / kBlockElements * kBlockElements);
    most = std::max<std::size_t>(most, bucket.most_bytes);
  }
  message_.resize(most);
}

std::span<const std::byte> TopKPacking::pack(uint32_t step, int index) {
  Bucket& bucket = buckets_[index];
  const float* const gradients = arrays_.gradients(step);
  float* next = bucket.whole.data();
  for (const ShardRange& range : bucket.small) {
    next = std::copy(gradients + range.begin, gradients + range.end, next);
  }
  std::size_t at = 0;
  for (const Weight& weight : bucket.weights)
    at += pack_weight(step, weight, std::span(message_).subspan(at));
  store_fence();
  return std::span(message_).first(at);
}

std::size_t TopKPacking::pack_weight(uint32_t step, const Weight& weight, std::span<std::byte> out) {
  float* const new_residual = arrays_.residual(step) + weight.offset;
  const TopKStep now = schedule_.top_k(step);
  momentum_.apply(weight.offset, weight.elements, arrays_.gradients(step), arrays_.velocity(step - 1),
                  arrays_.velocity(step));
  const SparseView sent = top_k_.select(
      count_for(now.ratio, weight.unpadded), weight.elements, arrays_.gradients(step) + weight.offset,
      arrays_.residual(step - 1) + weight.offset, new_residual, now.residual_scale, store_);
  WeightHeader header{};
  SparseFormat format = SparseFormat::kExact;
  std::span<const float> values = sent.values;
  if (all_finite(sent.values)) {
    format = format_;
    header.exponent = exponent_for(format, sent.values);
    const float scale = std::ldexp(1.0f, header.exponent), back = std::ldexp(1.0f, -header.exponent);
    scaled_.resize(sent.values.size());
    for (std::size_t i = 0; i < scaled_.size(); ++i) scaled_[i] = scale * sent.values[i];
    round_values(format, scaled_);
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
  float* const gradients = arrays_.gradients(step);
  const float* next = bucket.whole.data();
  for (const ShardRange& range : bucket.small) {
    std::copy_n(next, range.count(), gradients + range.begin);
    next += range.count();
  }
  std::vector<std::span<const std::byte>> left = messages;
  const auto refuse = [](std::size_t host, const std::string& what) {
    throw LinkError(fmt::format("host {}'s message is refused: {}", host, what));
  };
  unpacked_.resize(left.size());
  for (const Weight& weight : bucket.weights) {
    for (std::size_t host = 0; host < left.size(); ++host) {
      try {
        unpack_weight(weight, left[host], unpacked_[host]);
      } catch (const SparseCodecError& error) {
        refuse(host, error.what());
      }
    }
    add_up(weight.elements, gradients + weight.offset);
  }
  store_fence();
  for (std::size_t host = 0; host < left.size(); ++host) {
    if (!left[host].empty()) refuse(host, "it is too long");
  }
}

// Piece by piece in the first-level cache, from where it goes to memory once.
void TopKPacking::add_up(int64_t elements, float* sum) {
  constexpr int64_t kPieceElements = 4096;
  alignas(64) float piece[kPieceElements];
  next_.assign(unpacked_.size(), 0);
  for (int64_t begin = 0; begin < elements; begin += kPieceElements) {
    const int64_t count = std::min(kPieceElements, elements - begin);
    std::fill_n(piece, count, 0.0f);
    for (std::size_t host = 0; host < unpacked_.size(); ++host) {
      const Sparse& sent = unpacked_[host];
      std::size_t& i = next_[host];
      for (; i < sent.indices.size() && sent.indices[i] < begin + count; ++i) {
        piece[sent.indices[i] - begin] += sent.values[i];
      }
    }
    copy(count * static_cast<int64_t>(sizeof(float)), piece, sum + begin, store_);
  }
}

void TopKPacking::unpack_weight(const Weight& weight, std::span<const std::byte>& message, Sparse& to) {
  WeightHeader header;
  if (message.size() < sizeof header) {
    throw SparseCodecError(SparseFault::kTruncated, "it ends before a weight");
  }
  std::memcpy(&header, message.data(), sizeof header);
  message = message.subspan(sizeof header);
  if (header.bytes > message.size()) {
    throw SparseCodecError(SparseFault::kTruncated, "it ends within a weight");
  }
  if (header.exponent < -kMostExponent || header.exponent > kMostExponent) {
    throw SparseCodecError(SparseFault::kRange, fmt::format("an exponent of {}", header.exponent));
  }
  decode(message.first(header.bytes), weight.elements, to.indices, to.values);
  message = message.subspan(header.bytes);
  const float back = std::ldexp(1.0f, -header.exponent);
  for (float& value : to.values) value *= back;
}

}  // namespace annulus
