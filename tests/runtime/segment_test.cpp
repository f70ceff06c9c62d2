#include "runtime/segment.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "parameter_list.h"
#include "telemetry/error.h"
#include "tests/open_descriptors.h"

namespace annulus {
namespace {

const auto kNoBind = [](void*, uint64_t, int) {};

SegmentInputs inputs_for(int ranks, int state_arrays = 2, int staleness = 0) {
  return {.ranks = ranks,
          .shards = ranks,
          .domains = {},
          .buckets = plan_buckets(network_of({{0, 3000}, {1, 50'000}, {2, 30'000}}), 130'000),
          .state_arrays = state_arrays,
          .staleness = staleness,
          .dataset = describe_synthetic({1, 8, 8}, 10, 100, 10)};
}

TEST(Segment, can_neither_shrink_nor_grow) {
  const SegmentInputs inputs = inputs_for(2);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  const int seals = fcntl(segment.descriptor(), F_GET_SEALS);
  EXPECT_EQ(seals, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  const off_t bytes = static_cast<off_t>(segment.plan().bytes);
  EXPECT_EQ(ftruncate(segment.descriptor(), bytes / 2), -1);
  EXPECT_EQ(ftruncate(segment.descriptor(), bytes * 2), -1);
}

TEST(Segment, has_all_its_pages_before_anyone_touches_them) {
  const SegmentInputs inputs = inputs_for(3);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  struct stat file;
  ASSERT_EQ(fstat(segment.descriptor(), &file), 0);
  EXPECT_EQ(static_cast<uint64_t>(file.st_size), segment.plan().bytes);
  EXPECT_GE(static_cast<uint64_t>(file.st_blocks) * 512, segment.plan().bytes);
}

TEST(Segment, is_bound_range_by_range_before_any_page_exists) {
  const SegmentInputs inputs = inputs_for(3);
  const SegmentPlan plan = plan_segment(inputs);
  std::vector<std::tuple<void*, uint64_t, int>> bound;
  int64_t pages = 0;
  const Segment segment(plan, inputs, 0, [&](void* address, uint64_t bytes, int rank) {
    std::vector<unsigned char> resident(bytes / kPageBytes);
    ASSERT_EQ(mincore(address, bytes, resident.data()), 0);
    for (const unsigned char page : resident) pages += page & 1;
    bound.emplace_back(address, bytes, rank);
  });
  EXPECT_EQ(pages, 0);
  std::vector<std::tuple<void*, uint64_t, int>> expected;
  for (const SegmentPlan::Home& home : plan.homes) {
    if (home.range.bytes > 0)
      expected.emplace_back(segment.base() + home.range.offset, home.range.bytes, home.rank);
  }
  EXPECT_EQ(bound, expected);
}

TEST(Segment, starts_with_a_header_that_says_where_everything_is) {
  const SegmentInputs inputs = inputs_for(2);
  const Segment segment(plan_segment(inputs), inputs, 0xabcdef, kNoBind);
  const SegmentHeader& header = segment.header();
  EXPECT_EQ(std::memcmp(segment.base(), "ANNULUS1", 8), 0);
  EXPECT_EQ(header.version, kSegmentVersion);
  EXPECT_EQ(header.ranks, 2U);
  EXPECT_EQ(header.bytes, segment.plan().bytes);
  EXPECT_EQ(header.plan_hash, 0xabcdefU);
  EXPECT_EQ(header.buckets, inputs.buckets.extents.size());
  EXPECT_EQ(header.state_arrays, 2U);
  EXPECT_EQ(header.weight_generations, 2U);
  EXPECT_EQ(header.gradient_sets, 1U);
  EXPECT_EQ(header.state.offset, segment.plan().state.offset);
  EXPECT_EQ(header.gradients.bytes, segment.plan().gradients.bytes);
  EXPECT_EQ(header.data.offset, segment.plan().data.offset);
  EXPECT_EQ(header.attempt, 1U);
  for (const auto* word : {&header.stop_requested, &header.data_ready, &header.dismissed, &header.last_step,
                           &header.wait.abort}) {
    EXPECT_EQ(word->load(), 0U);
  }
}

TEST(Segment, starts_without_weights_with_empty_rings_and_records) {
  const SegmentInputs inputs = inputs_for(3);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  EXPECT_EQ(segment.versions().committed(), Versions::kNone);
  for (int from = 0; from < 3; ++from) {
    EXPECT_EQ(segment.rank(from).state.load(), RankState::kStarting);
    EXPECT_EQ(segment.rank(from).steps.written(), 0U);
    EXPECT_EQ(segment.rank(from).evaluations.written(), 0U);
    for (int to = 0; to < 3; ++to) {
      if (from == to) continue;
      SpscRing::Sender sender = segment.ring(from, to).sender();
      SpscRing::Receiver receiver = segment.ring(from, to).receiver();
      EXPECT_EQ(receiver.peek(), nullptr);
      EXPECT_TRUE(sender.try_send({.step = 5}));
      ASSERT_NE(receiver.peek(), nullptr);
      EXPECT_EQ(receiver.peek()->step, 5U);
    }
  }
}

TEST(Segment, arrays_lie_where_the_plan_says) {
  const SegmentInputs inputs = inputs_for(2);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  const SegmentPlan& plan = segment.plan();
  const auto place = [&](const void* address) {
    return static_cast<uint64_t>(static_cast<const std::byte*>(address) - segment.base());
  };
  EXPECT_EQ(place(segment.weights(0)), plan.state.offset);
  EXPECT_EQ(place(segment.moments(0)), plan.state.offset + plan.state_array_bytes);
  EXPECT_EQ(place(segment.weights(1)), plan.state.offset + 2 * plan.state_array_bytes);
  EXPECT_EQ(place(segment.moments(1)), plan.state.offset + 3 * plan.state_array_bytes);
  EXPECT_EQ(place(segment.gradients(1, 0)), plan.gradient_offsets[1]);
  EXPECT_EQ(place(&segment.rank(1)), plan.rank_parts.offset + plan.rank_part_stride);
  EXPECT_EQ(place(&segment.controls()[1]), place(&segment.rank(1).control));
  const DatasetView data = segment.data(inputs.dataset);
  EXPECT_EQ(place(data.train_images.data()), plan.train_images);
  EXPECT_EQ(data.train_images.size(), 100U * 64);
  EXPECT_EQ(place(data.test_labels.data()), plan.test_labels);
  EXPECT_EQ(data.test_labels.size(), 10U);
  const ExchangeMemory memory = segment.exchange_memory();
  ASSERT_EQ(memory.gradients.size(), 1U);
  EXPECT_EQ(memory.gradients[0], (std::vector{segment.gradients(0, 0), segment.gradients(1, 0)}));
  EXPECT_EQ(memory.buffer_stride, inputs.buckets.elements);
  EXPECT_TRUE(memory.has_ring(0, 1) && memory.has_ring(1, 0));
  EXPECT_FALSE(memory.has_ring(0, 0));

  const SegmentInputs plain = inputs_for(2, 1);
  const Segment without(plan_segment(plain), plain, 0, kNoBind);
  EXPECT_EQ(without.moments(0), nullptr);
  EXPECT_EQ(without.weights(1) - without.weights(0), plain.buckets.elements);

  const SegmentInputs adam = inputs_for(2, 3);
  const Segment two(plan_segment(adam), adam, 0, kNoBind);
  EXPECT_EQ(segment.moments(0, 1), nullptr);
  for (const int generation : {0, 1}) {
    const float* weights = two.weights(0) + 3 * generation * adam.buckets.elements;
    EXPECT_EQ(two.weights(generation), weights);
    EXPECT_EQ(two.moments(generation), weights + adam.buckets.elements);
    EXPECT_EQ(two.moments(generation, 1), weights + 2 * adam.buckets.elements);
  }
}

TEST(Segment, with_delayed_updates_has_a_third_generation_of_weights_and_a_second_set_of_gradients) {
  for (const int state_arrays : {1, 2, 3}) {
    const SegmentInputs inputs = inputs_for(2, state_arrays, 1);
    const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
    const int64_t elements = inputs.buckets.elements;
    EXPECT_EQ(segment.header().weight_generations, 3U);
    EXPECT_EQ(segment.header().gradient_sets, 2U);
    EXPECT_EQ(segment.weights(2) - segment.weights(0), 2 * state_arrays * elements);
    EXPECT_EQ(reinterpret_cast<std::byte*>(segment.weights(2) + elements) - segment.base(),
              static_cast<int64_t>(segment.plan().state.offset + segment.plan().state.bytes));
    for (const uint32_t step : {0U, 1U, 2U, 3U, 11U}) {
      EXPECT_EQ(segment.weights_after(step), segment.weights(static_cast<int>(step % 3)));
      EXPECT_EQ(segment.moments_after(step), segment.moments(static_cast<int>(step % 2)));
    }
    const int buffers = segment.plan().gradient_buffers[0];
    EXPECT_EQ(segment.gradients(0, 0, 1) - segment.gradients(0, 0), buffers * elements);
    EXPECT_EQ(reinterpret_cast<std::byte*>(segment.gradients(1, 0)) - segment.base(),
              static_cast<int64_t>(segment.plan().gradient_offsets[1]));
    EXPECT_GE(segment.gradients(1, 0) - segment.gradients(0, 0), 2 * buffers * elements);
    const ExchangeMemory memory = segment.exchange_memory();
    ASSERT_EQ(memory.gradients.size(), 2U);
    EXPECT_EQ(memory.gradients[1], (std::vector{segment.gradients(0, 0, 1), segment.gradients(1, 0, 1)}));
  }
}

class SegmentThatKeeps : public testing::TestWithParam<SegmentInputs::ResidualsOf> {};

INSTANTIATE_TEST_SUITE_P(AShard, SegmentThatKeeps, testing::Values(SegmentInputs::ResidualsOf::kShards));
INSTANTIATE_TEST_SUITE_P(AHost, SegmentThatKeeps, testing::Values(SegmentInputs::ResidualsOf::kHost));

TEST_P(SegmentThatKeeps, two_generations_of_residuals_and_velocities_has_room_for_them) {
  SegmentInputs inputs = inputs_for(2, 2);
  EXPECT_EQ(Segment(plan_segment(inputs), inputs, 0, kNoBind).residual_after(1, 0), nullptr);
  inputs.shards = 5;
  inputs.residuals = GetParam();
  const int64_t kept = GetParam() == SegmentInputs::ResidualsOf::kHost ? 1 : 5;
  EXPECT_EQ(Segment(plan_segment(inputs), inputs, 0, kNoBind).velocity_after(1, 0), nullptr);
  inputs.velocities = true;
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  const Section all = segment.header().residuals;
  std::set<float*> arrays;
  for (uint32_t step = 0; step < 2; ++step) {
    for (int64_t shard = 0; shard < kept; ++shard) {
      EXPECT_EQ(segment.residual_after(step + 2, shard), segment.residual_after(step, shard));
      EXPECT_EQ(segment.velocity_after(step + 2, shard), segment.velocity_after(step, shard));
      for (float* const array : {segment.residual_after(step, shard), segment.velocity_after(step, shard)}) {
        const int64_t offset = reinterpret_cast<std::byte*>(array) - segment.base();
        EXPECT_GE(offset, static_cast<int64_t>(all.offset));
        EXPECT_LE(offset + inputs.buckets.elements * 4, static_cast<int64_t>(all.offset + all.bytes));
        for (float* const other : arrays) EXPECT_GE(std::abs(array - other), inputs.buckets.elements);
        arrays.insert(array);
      }
    }
  }
  const CheckpointState state = segment.state_after(3);
  ASSERT_EQ(std::ssize(state.residuals), kept);
  EXPECT_EQ(state.residuals[kept - 1], segment.residual_after(1, kept - 1));
  ASSERT_EQ(std::ssize(state.velocities), kept);
  EXPECT_EQ(state.velocities[kept - 1], segment.velocity_after(1, kept - 1));
}

TEST(Segment, is_shared_with_forked_children_at_the_same_address) {
  const SegmentInputs inputs = inputs_for(1);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  const pid_t child = fork();
  if (child == 0) {
    segment.weights(1)[17] = 4.5f;
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(segment.weights(1)[17], 4.5f);
}

TEST(Segment, that_cannot_be_had_is_the_users_error_and_leaves_no_descriptor_open) {
  const int before = open_descriptors();
  const SegmentInputs inputs = inputs_for(2);
  for (const uint64_t bytes : {uint64_t{1} << 50, uint64_t{1} << 62, ~uint64_t{0} / 4096 * 4096}) {
    SegmentPlan plan = plan_segment(inputs);
    plan.bytes = bytes;
    try {
      const Segment segment(plan, inputs, 0, kNoBind);
      FAIL() << bytes << " bytes";
    } catch (const UserError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("shared memory"), std::string::npos) << text;
      EXPECT_NE(text.find("--workers"), std::string::npos) << text;
    }
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Segment, leaves_nothing_behind) {
  const int before = open_descriptors();
  {
    const SegmentInputs inputs = inputs_for(1);
    const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
    EXPECT_EQ(open_descriptors(), before + 1);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(SegmentDeathTest, has_no_ring_from_a_rank_to_itself) {
  const SegmentInputs inputs = inputs_for(2);
  const Segment segment(plan_segment(inputs), inputs, 0, kNoBind);
  EXPECT_DEATH(segment.ring(1, 1), "no ring 1 -> 1");
}

}  // namespace
}  // namespace annulus
