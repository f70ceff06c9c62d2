#include "runtime/segment_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "collectives/norm_meeting.h"
#include "parameter_list.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {
namespace {

using ResidualsOf = SegmentInputs::ResidualsOf;

SegmentInputs inputs_for(Algorithm algorithm, int ranks, int64_t shards, int state_arrays = 2,
                         int domains = 1, int staleness = 0, bool norms = false,
                         ResidualsOf residuals = ResidualsOf::kNobody, bool velocities = false) {
  return {
      .ranks = ranks,
      .shards = shards,
      .algorithm = algorithm,
      .domains = tree_domains(ranks, shards, domains),
      .buckets = plan_buckets(network_of({{0, 3000}, {1, 50'000}, {1, 77}, {2, 30'000}, {2, 10}}), 130'000),
      .state_arrays = state_arrays,
      .staleness = staleness,
      .norms = norms,
      .residuals = residuals,
      .velocities = velocities,
      .dataset = describe_synthetic({1, 7, 9}, 10, 1001, 33)};
}

struct Case {
  Algorithm algorithm;
  int ranks;
  int64_t shards;
  int state_arrays;
  int domains = 1;
  int staleness = 0;
  bool norms = false;
  ResidualsOf residuals = ResidualsOf::kNobody;
  bool velocities = false;
};

class SegmentLayoutOf : public testing::TestWithParam<Case> {
 protected:
  const SegmentInputs inputs = inputs_for(GetParam().algorithm, GetParam().ranks, GetParam().shards,
                                          GetParam().state_arrays, GetParam().domains, GetParam().staleness,
                                          GetParam().norms, GetParam().residuals, GetParam().velocities);
  const SegmentPlan plan = plan_segment(inputs);

  std::vector<Section> sections() const {
    return {{0, kPageBytes}, plan.rank_parts, plan.versions,  plan.norms, plan.rings,
            plan.state,      plan.gradients,  plan.residuals, plan.data};
  }
  // The rank whose home holds all of these bytes; -2 where none does.
  int home_of(uint64_t offset, uint64_t bytes) const {
    for (const SegmentPlan::Home& home : plan.homes) {
      if (home.range.offset <= offset && offset + bytes <= home.range.offset + home.range.bytes) {
        return home.rank;
      }
    }
    return -2;
  }
};

TEST_P(SegmentLayoutOf, sections_follow_each_other_on_pages_and_are_all_there_is) {
  uint64_t next = 0;
  for (const Section& section : sections()) {
    EXPECT_EQ(section.offset, next);
    EXPECT_EQ(section.offset % kPageBytes, 0U);
    EXPECT_EQ(section.bytes % kPageBytes, 0U);
    next = section.offset + section.bytes;
  }
  EXPECT_EQ(plan.bytes, next);
}

TEST_P(SegmentLayoutOf, homes_are_whole_pages_and_cover_every_page_behind_the_header_once) {
  std::vector<Section> ranges;
  for (const SegmentPlan::Home& home : plan.homes) {
    EXPECT_EQ(home.range.offset % kPageBytes, 0U);
    EXPECT_EQ(home.range.bytes % kPageBytes, 0U);
    EXPECT_GE(home.rank, -1);
    EXPECT_LT(home.rank, inputs.ranks);
    if (home.range.bytes > 0) ranges.push_back(home.range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Section& a, const Section& b) { return a.offset < b.offset; });
  uint64_t next = kPageBytes;
  for (const Section& range : ranges) {
    ASSERT_EQ(range.offset, next);
    next = range.offset + range.bytes;
  }
  EXPECT_EQ(next, plan.bytes);
}

TEST_P(SegmentLayoutOf, each_ranks_part_slices_and_gradients_are_at_home_with_it) {
  for (int rank = 0; rank < inputs.ranks; ++rank) {
    EXPECT_EQ(home_of(plan.rank_parts.offset + rank * plan.rank_part_stride, sizeof(RankPart)), rank);
    EXPECT_EQ(home_of(plan.gradient_offsets[rank],
                      (1 + inputs.staleness) * plan.gradient_buffers[rank] * plan.gradient_buffer_bytes),
              rank);
    EXPECT_EQ(plan.gradient_buffers[rank], inputs.exchange().rank_sum(rank).buffers);
    for (int array = 0; array < 2 * inputs.state_arrays + inputs.staleness; ++array) {
      for (const BucketExtent& bucket : inputs.buckets.extents) {
        const ShardRange slice = slice_of(rank, inputs.ranks, bucket);
        for (int64_t block = slice.begin; block < slice.end; ++block) {
          const int64_t element = bucket.offset + block * kBlockElements;
          EXPECT_EQ(home_of(plan.state.offset + array * plan.state_array_bytes + element * sizeof(float),
                            kBlockElements * sizeof(float)),
                    rank);
        }
      }
    }
  }
  EXPECT_EQ(home_of(plan.versions.offset, plan.versions.bytes), 0);
  EXPECT_EQ(home_of(plan.data.offset, plan.data.bytes), -1);
}

TEST_P(SegmentLayoutOf, rings_exist_where_the_algorithm_sends_hold_a_step_and_lie_with_the_receiver) {
  const std::vector<int64_t> descriptors = inputs.exchange().descriptors_per_step();
  std::vector<Section> rings;
  for (int from = 0; from < inputs.ranks; ++from) {
    for (int to = 0; to < inputs.ranks; ++to) {
      const int pair = from * inputs.ranks + to;
      const int64_t sent = descriptors[pair];
      EXPECT_EQ(plan.ring_offsets[pair] != 0, sent > 0) << from << " -> " << to;
      if (sent == 0) continue;
      EXPECT_GE(plan.ring_capacities[pair], sent);
      EXPECT_EQ(plan.ring_offsets[pair] % kRankSpacing, 0U);
      const Section ring{plan.ring_offsets[pair], SpscRing::bytes(plan.ring_capacities[pair])};
      EXPECT_EQ(home_of(ring.offset, ring.bytes), to);
      rings.push_back(ring);
    }
  }
  std::sort(rings.begin(), rings.end(),
            [](const Section& a, const Section& b) { return a.offset < b.offset; });
  for (std::size_t i = 1; i < rings.size(); ++i) {
    EXPECT_LE(rings[i - 1].offset + rings[i - 1].bytes, rings[i].offset);
  }
}

TEST_P(SegmentLayoutOf, data_arrays_are_aligned_and_have_headroom_of_their_own) {
  const DatasetInfo& info = inputs.dataset;
  const uint64_t pixels = info.shape.pixels();
  const std::vector<Section> arrays{{plan.train_images, info.train_count * pixels},
                                    {plan.train_labels, static_cast<uint64_t>(info.train_count)},
                                    {plan.test_images, info.test_count * pixels},
                                    {plan.test_labels, static_cast<uint64_t>(info.test_count)}};
  uint64_t next = plan.data.offset;
  for (const Section& array : arrays) {
    EXPECT_EQ(array.offset % 64, 0U);
    EXPECT_GE(array.offset, next + kDatasetHeadroom);
    next = array.offset + array.bytes;
  }
  EXPECT_LE(next, plan.data.offset + plan.data.bytes);
}

TEST_P(SegmentLayoutOf, versions_have_a_row_for_every_rank) {
  EXPECT_GE(plan.versions.bytes,
            inputs.ranks * Versions::row_words(inputs.buckets.extents.size()) * sizeof(uint32_t));
}

TEST_P(SegmentLayoutOf, the_parts_shown_to_people_add_up) {
  const uint64_t sum =
      std::accumulate(plan.parts.begin(), plan.parts.end(), uint64_t{0},
                      [](uint64_t bytes, const SegmentPlan::Part& part) { return bytes + part.bytes; });
  EXPECT_EQ(sum, plan.bytes);
}

INSTANTIATE_TEST_SUITE_P(
    AllShapes, SegmentLayoutOf,
    testing::Values(Case{Algorithm::kDirect, 1, 1, 1}, Case{Algorithm::kDirect, 1, 12, 2},
                    Case{Algorithm::kDirect, 2, 2, 2}, Case{Algorithm::kDirect, 3, 12, 1},
                    Case{Algorithm::kDirect, 40, 41, 2}, Case{Algorithm::kRing, 1, 1, 2},
                    Case{Algorithm::kRing, 2, 2, 1}, Case{Algorithm::kRing, 5, 12, 2},
                    Case{Algorithm::kRing, 33, 33, 2}, Case{Algorithm::kHierarchical, 1, 1, 2},
                    Case{Algorithm::kHierarchical, 4, 12, 2, 2}, Case{Algorithm::kHierarchical, 9, 9, 1, 4},
                    Case{Algorithm::kHierarchical, 32, 64, 2, 8}, Case{Algorithm::kDirect, 2, 2, 2, 1, 1},
                    Case{Algorithm::kRing, 3, 12, 1, 1, 1}, Case{Algorithm::kDirect, 2, 4, 3},
                    Case{Algorithm::kDirect, 3, 7, 2, 1, 0, true},
                    Case{Algorithm::kRing, 40, 40, 2, 1, 1, true}, Case{Algorithm::kDirect, 3, 3, 3, 1, 1},
                    Case{Algorithm::kDirect, 3, 7, 2, 1, 0, false, ResidualsOf::kShards},
                    Case{Algorithm::kDirect, 3, 7, 2, 1, 0, false, ResidualsOf::kShards, true},
                    Case{Algorithm::kDirect, 3, 7, 2, 1, 0, false, ResidualsOf::kHost},
                    Case{Algorithm::kDirect, 3, 7, 2, 1, 0, false, ResidualsOf::kHost, true}),
    [](const auto& info) {
      return fmt::format("{}_{}_ranks_{}_shards_{}_arrays_{}_domains_staleness_{}{}{}{}",
                         to_string(info.param.algorithm), info.param.ranks, info.param.shards,
                         info.param.state_arrays, info.param.domains, info.param.staleness,
                         info.param.norms ? "_norms" : "",
                         info.param.residuals == ResidualsOf::kShards ? "_residuals"
                         : info.param.residuals == ResidualsOf::kHost ? "_host_residual"
                                                                      : "",
                         info.param.velocities ? "_velocities" : "");
    });

TEST(SegmentLayout, has_room_for_norms_only_where_they_are_asked_for) {
  const SegmentInputs inputs = inputs_for(Algorithm::kDirect, 3, 12, 2, 1, 0, true);
  const SegmentPlan with = plan_segment(inputs),
                    without = plan_segment(inputs_for(Algorithm::kDirect, 3, 12));
  EXPECT_EQ(without.norms.bytes, 0U);
  EXPECT_GE(static_cast<int64_t>(with.norms.bytes), NormMeeting::bytes(inputs.exchange()));
  EXPECT_EQ(with.bytes - without.bytes, with.norms.bytes);
}

TEST(SegmentLayout, has_room_for_256_ranks) {
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kHierarchical}) {
    const SegmentPlan plan = plan_segment(inputs_for(algorithm, 256, 256, 2, 16));
    ASSERT_EQ(plan.gradient_offsets.size(), 256U);
    EXPECT_EQ(plan.rank_parts.bytes, 256 * plan.rank_part_stride);
    EXPECT_LT(plan.bytes, uint64_t{1} << 30);
  }
}

TEST(SegmentLayout, a_delayed_update_costs_one_array_of_weights_and_gradients_again) {
  const SegmentPlan plain = plan_segment(inputs_for(Algorithm::kDirect, 3, 12));
  const SegmentPlan delayed = plan_segment(inputs_for(Algorithm::kDirect, 3, 12, 2, 1, 1));
  EXPECT_EQ(delayed.bytes - plain.bytes, plain.state_array_bytes + plain.gradients.bytes);
  EXPECT_EQ(delayed.rings.bytes, plain.rings.bytes);
}

TEST(SegmentLayout, one_copy_of_the_state_serves_any_number_of_ranks) {
  const SegmentPlan one = plan_segment(inputs_for(Algorithm::kDirect, 1, 12));
  const SegmentPlan twelve = plan_segment(inputs_for(Algorithm::kDirect, 12, 12));
  EXPECT_EQ(one.state.bytes, twelve.state.bytes);
  EXPECT_EQ(one.data.bytes, twelve.data.bytes);
}

}  // namespace
}  // namespace annulus
