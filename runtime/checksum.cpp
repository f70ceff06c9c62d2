#include "runtime/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <memory>
#include <vector>

namespace annulus {

uint64_t weights_checksum(const NetworkPlan& plan, const BucketPlan& buckets, const float* weights) {
  const std::unique_ptr<XXH64_state_t, decltype(&XXH64_freeState)> state(XXH64_createState(),
                                                                         XXH64_freeState);
  XXH64_reset(state.get(), 0);
  std::vector<float> plain;
  for (std::size_t i = 0; i < plan.parameters.size(); ++i) {
    const TensorLayout& layout = plan.parameters[i].layout;
    plain.resize(layout.elements());
    to_plain(layout, weights + buckets.offsets[i], plain.data());
    XXH64_update(state.get(), plain.data(), plain.size() * sizeof(float));
  }
  return XXH64_digest(state.get());
}

uint64_t checksum(const float* values, int64_t count) { return XXH64(values, count * sizeof(float), 0); }

std::string format_checksum(uint64_t checksum) { return fmt::format("xxh64={:016x}", checksum); }

}  // namespace annulus
