// TopKPacking: what hosts send of a slice with --compress topk: of each weight the largest elements of this
// host's sum with what was left of earlier ones, all else whole.
//
//   message, per weight   | bytes u32 | exponent i32 | sparse vector |
//
// All hosts add the messages up in the order of hosts, so they have the same bits. Values are scaled by a
// power of two, so that the largest fits the format well, and rounded to it; what rounding takes away is left
// for later too (Basu et al., "Qsparse-local-SGD", NeurIPS 2019). So in every step sent + new residual = sum
// + residual, element by element, residuals scaled as TopKStep says, which also says how many are sent. With
// momentum correction the sum is first replaced by what momentum makes of it (runtime/momentum_correction.h).
// Where a value is not finite the vector has fp32 values, and everybody sees it.
//
// Weights are those of whole parameters: BucketPlan cuts slices accordingly.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "collectives/bridge.h"
#include "collectives/sparse_codec.h"
#include "kernels/network_plan.h"
#include "kernels/top_k.h"
#include "runtime/buckets.h"
#include "runtime/momentum_correction.h"
#include "runtime/step_schedule.h"
#include "runtime/train_config.h"

namespace annulus {

// What --topk-values asks for.
inline SparseFormat sparse_format_of(const TrainConfig& config) {
  return config.topk_values == "fp8" ? SparseFormat::kTiny : SparseFormat::kCompact;
}

class TopKPacking final : public BridgePacking {
 public:
  // Arrays of BucketPlan::elements floats, by step: the rank's gradients, of which it owns `slices` (by
  // bucket), and this host's residual after a step, and its velocity where momentum is corrected.
  struct Arrays {
    std::function<float*(uint32_t step)> gradients;
    std::function<float*(uint32_t step)> residual;
    std::function<float*(uint32_t step)> velocity = [](uint32_t) { return nullptr; };
  };
  TopKPacking(const StepSchedule& schedule, const NetworkPlan& network, const BucketPlan& buckets,
              const std::vector<ShardRange>& slices, Arrays arrays, MomentumCorrection momentum = {},
              SparseFormat format = SparseFormat::kCompact);

  std::span<float> whole(int bucket) override { return buckets_[bucket].whole; }
  std::span<const std::byte> pack(uint32_t step, int bucket) override;
  uint64_t most_bytes(int bucket) const override { return buckets_[bucket].most_bytes; }
  void unpack(uint32_t step, int bucket, const std::vector<std::span<const std::byte>>& messages) override;

 private:
  struct Weight {
    int64_t offset = 0, elements = 0;  // padding included
    int64_t unpadded = 0;
  };
  struct Bucket {
    std::vector<Weight> weights;
    std::vector<ShardRange> small;  // parameters, or parts of them, that go whole
    std::vector<float> whole;       // them, one after the other
    uint64_t most_bytes = 0;
  };
  struct Sparse {
    std::vector<uint32_t> indices;
    std::vector<float> values;
  };
  std::size_t pack_weight(uint32_t step, const Weight& weight, std::span<std::byte> out);
  // Takes the next weight off the message's front.
  static void unpack_weight(const Weight& weight, std::span<const std::byte>& message, Sparse& to);
  // sum = of what unpacked_ has of each host.
  void add_up(int64_t elements, float* sum);

  std::vector<Bucket> buckets_;
  const StepSchedule schedule_;
  const Arrays arrays_;
  const MomentumCorrection momentum_;
  const SparseFormat format_;  // of finite values
  TopK top_k_;
  std::vector<std::byte> message_;
  std::vector<float> scaled_;
  std::vector<Sparse> unpacked_;   // of one weight, by host
  std::vector<std::size_t> next_;  // by host: the first of those that are not added up yet
  Store store_;                    // of what no cache keeps until it is read
};

}  // namespace annulus
