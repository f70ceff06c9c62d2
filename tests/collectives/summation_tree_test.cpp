#include "collectives/summation_tree.h"

#include <gtest/gtest.h>

#include <string>

namespace annulus {
namespace {

// A sum as text, brackets and all: equal texts are equal orders of summation.
std::string reference(int64_t lo, int64_t hi) {
  if (hi - lo == 1) return std::to_string(lo);
  const int64_t m = lo + (hi - lo + 1) / 2;
  return "(" + reference(lo, m) + "+" + reference(m, hi) + ")";
}

std::vector<std::string> rank_partials(const RankSum& plan, int64_t first_shard) {
  std::vector<std::string> buffers(plan.buffers);
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    buffers.at(plan.shards[i].buffer) = std::to_string(first_shard + i);
    for (const RankSum::Add& add : plan.shards[i].adds) {
      buffers.at(add.into) = "(" + buffers.at(add.into) + "+" + buffers.at(add.from) + ")";
    }
  }
  buffers.resize(plan.partials);
  return buffers;
}

TEST(SummationTree, has_the_same_order_for_every_number_of_ranks) {
  for (int64_t shards = 1; shards <= 40; ++shards) {
    for (int ranks = 1; ranks <= shards; ++ranks) {
      std::vector<std::vector<std::string>> partials;
      for (int rank = 0; rank < ranks; ++rank) {
        partials.push_back(
            rank_partials(plan_rank_sum(rank, ranks, shards), deal(rank, ranks, shards).begin));
      }
      const TreeSum tree = plan_tree_sum(ranks, shards);
      std::vector<std::string> operands;
      for (const TreeSum::Leaf& leaf : tree.leaves)
        operands.push_back(partials.at(leaf.rank).at(leaf.partial));
      operands.resize(tree.leaves.size() + tree.temporaries);
      for (const TreeSum::Add& add : tree.adds) {
        ASSERT_GE(add.out, static_cast<int>(tree.leaves.size()));  // leaves are others' memory
        operands.at(add.out) = "(" + operands.at(add.left) + "+" + operands.at(add.right) + ")";
      }
      ASSERT_EQ(operands.at(tree.result), reference(0, shards)) << shards << " shards, " << ranks << " ranks";
    }
  }
}

TEST(SummationTree, uses_every_partial_sum_once) {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    const TreeSum tree = plan_tree_sum(ranks, 12);
    std::size_t partials = 0;
    for (int rank = 0; rank < ranks; ++rank) partials += plan_rank_sum(rank, ranks, 12).partials;
    EXPECT_EQ(tree.leaves.size(), partials);
  }
}

TEST(SummationTree, needs_few_buffers) {
  EXPECT_EQ(plan_rank_sum(0, 1, 1).buffers, 1);
  EXPECT_EQ(plan_rank_sum(0, 2, 2).buffers, 1);
  EXPECT_EQ(plan_rank_sum(0, 1, 2).buffers, 2);
  EXPECT_EQ(plan_rank_sum(0, 1, 1024).buffers, 11);  // log2(shards) + 1
  EXPECT_LE(plan_tree_sum(256, 256).temporaries, 8);
}

TEST(SummationTree, single_rank_sum_leaves_one_partial) {
  for (int ranks = 1; ranks <= 7; ++ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      const RankSum plan = plan_single_rank_sum(rank, ranks, 12);
      EXPECT_EQ(plan.partials, 1);
      const std::string sum = rank_partials(plan, deal(rank, ranks, 12).begin).at(0);
      for (int64_t shard = deal(rank, ranks, 12).begin; shard < deal(rank, ranks, 12).end; ++shard) {
        EXPECT_NE(sum.find(std::to_string(shard)), std::string::npos) << sum;
      }
    }
  }
}

TEST(Deal, covers_everything_once_with_sizes_that_differ_by_at_most_one) {
  for (int64_t count : {0, 1, 5, 12, 97}) {
    for (int64_t parts = 1; parts <= 13; ++parts) {
      int64_t next = 0;
      for (int64_t i = 0; i < parts; ++i) {
        const ShardRange range = deal(i, parts, count);
        EXPECT_EQ(range.begin, next);
        EXPECT_TRUE(range.count() == count / parts || range.count() == count / parts + 1);
        next = range.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace annulus
