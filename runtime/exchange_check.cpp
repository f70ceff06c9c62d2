#include "runtime/exchange_check.h"

#include <algorithm>
#include <cmath>

#include "kernels/reduce.h"
#include "runtime/arena.h"
#include "runtime/checksum.h"

namespace annulus {
namespace {

constexpr int64_t kMostBuckets = 4;
constexpr int64_t kArraysApart = 5;  // weights and moments, old and new, and gradients

// Sums of one block over all shards, by plain loops.
class SerialSum {
 public:
  SerialSum(const ExchangeCheck& check, const SyntheticObjective& objective)
      : check_(check), objective_(objective) {}

  using Block = std::vector<float>;

  // Of `count` elements from `begin` on, which belong to `owner`.
  Block operator()(uint32_t step, int64_t begin, int64_t count, int owner, const float* weights) {
    count_ = count;
    if (check_.algorithm != Algorithm::kRing) return tree(step, begin, weights, 0, check_.shards);
    Block sum = of_rank(step, begin, weights, (owner + 1) % check_.ranks);
    for (int i = 2; i <= check_.ranks; ++i) {
      add_to(sum, of_rank(step, begin, weights, (owner + i) % check_.ranks));
    }
    return sum;
  }

 private:
  static void add_to(Block& sum, const Block& other) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
  }

  Block of_shard(uint32_t step, int64_t begin, const float* weights, int64_t shard) const {
    Block gradient(count_);
    objective_.gradient(shard, step, begin, count_, weights + begin, gradient.data());
    return gradient;
  }

  Block tree(uint32_t step, int64_t begin, const float* weights, int64_t lo, int64_t hi) const {
    if (hi - lo == 1) return of_shard(step, begin, weights, lo);
    const int64_t middle = lo + (hi - lo + 1) / 2;
    Block sum = tree(step, begin, weights, lo, middle);
    add_to(sum, tree(step, begin, weights, middle, hi));
    return sum;
  }

  // What a rank of a ring brings.
  Block of_rank(uint32_t step, int64_t begin, const float* weights, int rank) const {
    const RankSum plan = plan_single_rank_sum(rank, check_.ranks, check_.shards);
    std::vector<Block> buffers(plan.buffers);
    int64_t shard = deal(rank, check_.ranks, check_.shards).begin;
    for (const RankSum::Shard& part : plan.shards) {
      buffers[part.buffer] = of_shard(step, begin, weights, shard++);
      for (const RankSum::Add& sum : part.adds) add_to(buffers[sum.into], buffers[sum.from]);
    }
    return buffers[0];
  }

  const ExchangeCheck& check_;
  const SyntheticObjective& objective_;
  int64_t count_ = 0;
};

}  // namespace

SegmentInputs ExchangeCheck::segment_inputs() const {
  const int64_t blocks = (dim + kBlockElements - 1) / kBlockElements;
  const int64_t count = std::min(blocks, kMostBuckets);
  BucketPlan buckets;
  for (int64_t i = 0; i < count; ++i) {
    const ShardRange part = deal(i, count, blocks);
    buckets.extents.push_back({part.begin * kBlockElements, part.count()});
  }
  buckets.elements = blocks * kBlockElements;
  return {.ranks = ranks,
          .shards = shards,
          .algorithm = algorithm,
          .domains = domains,
          .buckets = std::move(buckets),
          .state_arrays = 2,
          .dataset = {}};
}

SyntheticObjective ExchangeCheck::objective() const {
  return {dim, segment_inputs().buckets.elements, shards, seed};
}

ShardRange ExchangeCheck::slice(int owner, const BucketExtent& bucket) const {
  if (!shares_memory) return Communicator::slice(owner, ranks, bucket.blocks * kBlockElements);
  const ShardRange blocks = slice_of(owner, ranks, bucket);
  return {blocks.begin * kBlockElements, blocks.end * kBlockElements};
}

CommunicatorSpec ExchangeCheck::communicator_spec() const {
  const int64_t array = segment_inputs().buckets.elements * static_cast<int64_t>(sizeof(float));
  return {.ranks = ranks, .heap_bytes = kArraysApart * array, .domains = domains, .waiting = waiting};
}

RankReport train_rank(const ExchangeCheck& check, const SyntheticObjective& objective, const Segment& segment,
                      int rank) {
  const ExchangePlan plan = check.segment_inputs().exchange();
  const RankSum sums = plan.rank_sum(rank);
  const ShardRange shards = deal(rank, check.ranks, check.shards);
  const Versions versions = segment.versions();
  const SgdStep sgd = check.sgd();
  Waiter waiter(segment.header().wait, segment.controls(), rank, check.waiting);
  uint32_t step = 1;
  Exchange exchange(plan, segment.exchange_memory(), versions, waiter,
                    [&](int64_t at, int64_t count, const float* sum) {
                      const int from = (step - 1) % 2, to = step % 2;
                      sgd_update(sgd, count, sum, segment.weights(from) + at, segment.moments(from) + at,
                                 segment.weights(to) + at, segment.moments(to) + at);
                    });
  const SegmentPlan& layout = segment.plan();
  populate(segment.base() + layout.state.offset, layout.state.bytes);
  populate(segment.gradients(rank, 0), layout.gradient_buffers[rank] * layout.gradient_buffer_bytes);
  populate(segment.base(), layout.state.offset);  // header, ranks, versions, rings

  RankReport report{.begin_ns = now_ns()};
  for (; step <= static_cast<uint32_t>(check.steps); ++step) {
    exchange.begin(step);
    // Rule G; and the weights of the step before are whole.
    versions.wait_all(waiter, step - 1);
    const float* weights = segment.weights((step - 1) % 2);
    for (int64_t shard = shards.begin; shard < shards.end; ++shard) {
      const RankSum::Shard& part = sums.shards[shard - shards.begin];
      for (const BucketExtent& bucket : plan.buckets) {
        const int64_t at = bucket.offset, count = bucket.blocks * kBlockElements;
        objective.gradient(shard, step, at, count, weights + at, segment.gradients(rank, part.buffer) + at);
        for (const RankSum::Add& sum : part.adds) {
          float* into = segment.gradients(rank, sum.into) + at;
          add(count, into, segment.gradients(rank, sum.from) + at, into);
        }
        waiter.beat();
        if (shard + 1 == shards.end) exchange.publish();
      }
    }
    exchange.finish();
  }
  report.end_ns = now_ns();
  report.descriptors = exchange.counts().descriptors;
  report.bytes = exchange.counts().bytes;
  return report;
}

std::vector<float> train_rank_apart(const ExchangeCheck& check, const SyntheticObjective& objective,
                                    Communicator& communicator, RankReport& report) {
  const BucketPlan buckets = check.segment_inputs().buckets;
  const SgdStep sgd = check.sgd();
  float *weights[2], *moments[2];
  for (float*& array : weights) array = communicator.allocate<float>(buckets.elements);
  for (float*& array : moments) array = communicator.allocate<float>(buckets.elements);
  float* const gradients = communicator.allocate<float>(buckets.elements);
  communicator.barrier();
  report.begin_ns = now_ns();
  for (uint32_t step = 1; step <= static_cast<uint32_t>(check.steps); ++step) {
    const int from = (step - 1) % 2, to = step % 2;
    std::vector<Communicator::Handle> sums;
    for (const BucketExtent& bucket : buckets.extents) {
      float* const gradient = gradients + bucket.offset;
      const int64_t count = bucket.blocks * kBlockElements;
      objective.gradient(communicator.rank(), step, bucket.offset, count, weights[from] + bucket.offset,
                         gradient);
      sums.push_back(communicator.start({.collective = Collective::kAllReduce,
                                         .in = gradient,
                                         .out = gradient,
                                         .count = count,
                                         .options = {.algorithm = check.algorithm}}));
    }
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const int64_t at = buckets.extents[i].offset, count = buckets.extents[i].blocks * kBlockElements;
      sums[i].wait();
      sgd_update(sgd, count, gradients + at, weights[from] + at, moments[from] + at, weights[to] + at,
                 moments[to] + at);
    }
  }
  report.end_ns = now_ns();
  report.descriptors = communicator.counts().descriptors;
  report.bytes = communicator.counts().bytes;
  const float* const last = weights[check.steps % 2];
  return {last, last + buckets.elements};
}

std::vector<float> train_serially(const ExchangeCheck& check, const SyntheticObjective& objective) {
  const BucketPlan buckets = check.segment_inputs().buckets;
  SerialSum sum(check, objective);
  std::vector<float> weights(buckets.elements), moments(buckets.elements);
  std::vector<float> new_weights(kBlockElements), new_moments(kBlockElements);
  for (uint32_t step = 1; step <= static_cast<uint32_t>(check.steps); ++step) {
    for (const BucketExtent& bucket : buckets.extents) {
      for (int owner = 0; owner < check.ranks; ++owner) {
        const ShardRange slice = check.slice(owner, bucket);
        for (int64_t begin = slice.begin; begin < slice.end; begin += kBlockElements) {
          const int64_t at = bucket.offset + begin, count = std::min(kBlockElements, slice.end - begin);
          const std::vector<float> gradient = sum(step, at, count, owner, weights.data());
          sgd_update_reference(check.sgd(), count, gradient.data(), &weights[at], &moments[at],
                               new_weights.data(), new_moments.data());
          std::copy_n(new_weights.begin(), count, &weights[at]);
          std::copy_n(new_moments.begin(), count, &moments[at]);
        }
      }
    }
  }
  return weights;
}

// Over many coordinates the mean squared error comes close to its expectation. fp32 stops where an update is
// less than half a unit in the last place of a weight.
bool CheckResult::converges() const {
  constexpr double kFloor = 5e-6;
  const double chance = 0.1 + 30 / std::sqrt(static_cast<double>(dim));
  return std::abs(distance - expected) <= chance * expected + kFloor;
}

CheckResult compare(const ExchangeCheck& check, const SyntheticObjective& objective, const float* serial,
                    const float* exchanged) {
  const std::vector<float> start(check.segment_inputs().buckets.elements);
  return {.serial = checksum(serial, check.dim),
          .exchanged = checksum(exchanged, check.dim),
          .start = objective.distance(start.data()),
          .distance = objective.distance(exchanged),
          .expected = objective.expected_distance(check.sgd(), check.steps),
          .dim = check.dim};
}

}  // namespace annulus
