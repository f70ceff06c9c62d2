// libFuzzer's entry to sparse messages, which come from other hosts:
//
//   cmake --preset fuzz && cmake --build --preset fuzz && build/fuzz/bin/sparse_codec_fuzz -max_total_time=30
#include <algorithm>
#include <cmath>
#include <cstring>

#include "collectives/sparse_codec.h"
#include "telemetry/check.h"

using namespace annulus;

// The first four bytes are the n that the receiver expects; the rest is the message.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint32_t n;
  if (size < sizeof n) return 0;
  std::memcpy(&n, data, sizeof n);
  const auto message = std::as_bytes(std::span(data, size)).subspan(sizeof n);
  std::vector<uint32_t> indices;
  std::vector<float> values;
  try {
    decode(message, n, indices, values);
  } catch (const SparseCodecError&) {
    return 0;
  }
  CHECK(indices.size() == values.size() && indices.size() <= message.size());
  CHECK(std::ranges::adjacent_find(indices, std::ranges::greater_equal()) == indices.end());
  CHECK(indices.empty() || indices.back() < n);

  // It is the vector's only message, but for NaN, which conversions make quiet.
  SparseFormat format;
  std::memcpy(&format, message.data(), sizeof format);
  std::vector<std::byte> again(encoded_bound(n, indices.size(), format));
  again.resize(encode(n, indices, values, format, again));
  const bool has_nan = std::ranges::any_of(values, [](float x) { return std::isnan(x); });
  CHECK(again.size() == message.size());
  CHECK(has_nan || std::ranges::equal(again, message));
  return 0;
}
