// The synthetic objective, the serial run, and the comparison that `annulus check` rests on.
#include "runtime/exchange_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "runtime/checksum.h"

namespace annulus {
namespace {

ExchangeCheck check_of(Algorithm algorithm, int ranks, int64_t shards) {
  return {.algorithm = algorithm,
          .ranks = ranks,
          .shards = shards,
          .dim = 20'000,
          .steps = 40,
          .domains = {{0, ranks}},
          .waiting = {}};
}

// One rank needs no other process.
std::vector<float> exchanged_by_one(const ExchangeCheck& check, const SyntheticObjective& objective) {
  const SegmentInputs inputs = check.segment_inputs();
  const Segment segment(plan_segment(inputs), inputs, 0, [](void*, uint64_t, int) {});
  segment.versions().reset(0);
  train_rank(check, objective, segment, 0);
  EXPECT_EQ(segment.versions().committed(), check.steps);
  const float* weights = segment.weights(check.steps % 2);
  return {weights, weights + inputs.buckets.elements};
}

CheckResult result_of(const ExchangeCheck& check, const std::vector<float>& serial,
                      const std::vector<float>& exchanged) {
  return compare(check, check.objective(), serial.data(), exchanged.data());
}

TEST(SyntheticObjective, GradientsAreThoseOfTheSumOfSquares) {
  const SyntheticObjective objective(1000, 4096, 2, 7);
  std::vector<float> weights(4096), gradient(4096), again(8);
  objective.gradient(1, 3, 0, 4096, weights.data(), gradient.data());
  for (int i = 1000; i < 4096; ++i) EXPECT_EQ(gradient[i], 0.0f);
  // They depend on shard, step and coordinate alone, not on how the array is cut.
  objective.gradient(1, 3, 808, 8, weights.data(), again.data());
  for (int i = 0; i < 8; ++i) EXPECT_EQ(again[i], gradient[808 + i]);
  std::vector<float> other(4096);
  objective.gradient(0, 3, 0, 4096, weights.data(), other.data());
  EXPECT_NE(other, gradient);
  objective.gradient(1, 4, 0, 4096, weights.data(), other.data());
  EXPECT_NE(other, gradient);
}

TEST(SyntheticObjective, DistanceIsZeroAtTheOptimumOnly) {
  const SyntheticObjective objective(64, 4096, 1, 7);
  // One step of rate 1 along the gradient divided by its square leads to the optimum: find it by bisection of
  // nothing but the gradient's zero.
  std::vector<float> low(4096, -1.0f), high(4096, 1.0f), middle(4096), gradient(4096);
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 64; ++i) middle[i] = (low[i] + high[i]) / 2;
    objective.gradient(0, 1, 0, 4096, middle.data(), gradient.data());
    for (int i = 0; i < 64; ++i) (gradient[i] > 0 ? high : low)[i] = middle[i];
  }
  EXPECT_LT(objective.distance(middle.data()), 1e-6);
  middle[5] += 0.8f;
  EXPECT_NEAR(objective.distance(middle.data()), 0.1, 1e-3);
}

TEST(SyntheticObjective, TheSerialRunFollowsTheory) {
  for (const int64_t steps : {1, 5, 20, 60}) {
    ExchangeCheck check = check_of(Algorithm::kDirect, 1, 3);
    check.steps = steps;
    const SyntheticObjective objective = check.objective();
    const double distance = objective.distance(train_serially(check, objective).data());
    EXPECT_NEAR(distance / objective.expected_distance(check.sgd(), steps), 1, 0.05) << steps;
  }
}

TEST(SerialRun, DependsOnShardsNotOnRanksUnlessItIsARing) {
  std::set<uint64_t> trees, rings;
  for (const int ranks : {1, 2, 3, 5}) {
    ExchangeCheck check = check_of(Algorithm::kDirect, ranks, 10);
    const SyntheticObjective objective = check.objective();
    trees.insert(checksum(train_serially(check, objective).data(), check.dim));
    check.algorithm = Algorithm::kHierarchical;
    trees.insert(checksum(train_serially(check, objective).data(), check.dim));
    check.algorithm = Algorithm::kRing;
    rings.insert(checksum(train_serially(check, objective).data(), check.dim));
  }
  EXPECT_EQ(trees.size(), 1u);
  EXPECT_GE(rings.size(), 3u);
  EXPECT_TRUE(rings.contains(*trees.begin())) << "one rank, and two with a subtree each, add along the tree";
}

TEST(ExchangeCheck, OneRankPassesWithEveryAlgorithm) {
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kHierarchical}) {
    const ExchangeCheck check = check_of(algorithm, 1, 5);
    const SyntheticObjective objective = check.objective();
    const CheckResult result =
        result_of(check, train_serially(check, objective), exchanged_by_one(check, objective));
    EXPECT_TRUE(result.same_bits());
    EXPECT_TRUE(result.converges());
    EXPECT_TRUE(result.passed());
  }
}

TEST(ExchangeCheck, ASingleWrongBitFails) {
  const ExchangeCheck check = check_of(Algorithm::kDirect, 1, 2);
  const SyntheticObjective objective = check.objective();
  const std::vector<float> serial = train_serially(check, objective);
  std::vector<float> wrong = serial;
  wrong[check.dim - 1] = std::nextafter(wrong[check.dim - 1], 2.0f);
  const CheckResult result = result_of(check, serial, wrong);
  EXPECT_FALSE(result.same_bits());
  EXPECT_TRUE(result.converges());
  EXPECT_FALSE(result.passed());
}

TEST(ExchangeCheck, AWrongWayFailsThoughBothRunsAgree) {
  const ExchangeCheck check = check_of(Algorithm::kDirect, 1, 2);
  const SyntheticObjective objective = check.objective();
  ExchangeCheck fewer = check;
  fewer.steps -= 8;
  const std::vector<float> behind = train_serially(fewer, objective);
  const CheckResult result = result_of(check, behind, behind);
  EXPECT_TRUE(result.same_bits());
  EXPECT_FALSE(result.converges());
  EXPECT_FALSE(result.passed());
}

TEST(ExchangeCheck, ARunThatSumsInAnotherOrderFails) {
  ExchangeCheck check = check_of(Algorithm::kDirect, 3, 3);
  const SyntheticObjective objective = check.objective();
  const std::vector<float> tree = train_serially(check, objective);
  check.algorithm = Algorithm::kRing;
  const CheckResult result = result_of(check, train_serially(check, objective), tree);
  EXPECT_FALSE(result.same_bits());
  EXPECT_TRUE(result.converges());
}

}  // namespace
}  // namespace annulus
