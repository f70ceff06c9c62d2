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

// What a plan adds up, as text; leaves by rank and partial sum.
std::string evaluated(const TreeSum& tree, const std::vector<std::vector<std::string>>& partials) {
  std::vector<std::string> operands;
  for (const TreeSum::Leaf& leaf : tree.leaves) operands.push_back(partials.at(leaf.rank).at(leaf.partial));
  operands.resize(tree.leaves.size() + tree.temporaries);
  for (const TreeSum::Add& add : tree.adds) {
    operands.at(add.out) = "(" + operands.at(add.left) + "+" + operands.at(add.right) + ")";
  }
  return operands.at(tree.result);
}

// The same of a program, each of whose combinations is a perfect tree.
std::string evaluated(const SumProgram& program, const TreeSum& tree,
                      const std::vector<std::vector<std::string>>& partials) {
  std::vector<std::string> temporaries(program.temporaries);
  std::string result;
  for (const SumProgram::Combination& combination : program.combinations) {
    std::vector<std::string> terms;
    for (int i = 0; i < combination.count; ++i) {
      const int operand = combination.operands[i];
      if (operand < program.leaves) {
        terms.push_back(partials.at(tree.leaves.at(operand).rank).at(tree.leaves.at(operand).partial));
      } else {
        terms.push_back(temporaries.at(operand - program.leaves));
        EXPECT_NE(terms.back(), "") << "a temporary that nobody wrote";
        temporaries.at(operand - program.leaves).clear();  // each is used once
      }
    }
    for (; terms.size() > 1; terms.resize(terms.size() / 2)) {
      for (std::size_t i = 0; i < terms.size() / 2; ++i) {
        terms[i] = "(" + terms[2 * i] + "+" + terms[2 * i + 1] + ")";
      }
    }
    EXPECT_EQ(combination.out == SumProgram::kResult, &combination == &program.combinations.back());
    if (combination.out == SumProgram::kResult) {
      result = terms[0];
    } else {
      EXPECT_EQ(temporaries.at(combination.out), "") << "a temporary that is still needed is overwritten";
      temporaries.at(combination.out) = terms[0];
    }
  }
  return result;
}

std::vector<std::vector<std::string>> all_partials(int ranks, int64_t shards) {
  std::vector<std::vector<std::string>> partials;
  for (int rank = 0; rank < ranks; ++rank) {
    partials.push_back(rank_partials(plan_rank_sum(rank, ranks, shards), deal(rank, ranks, shards).begin));
  }
  return partials;
}

TEST(SumProgram, has_the_trees_order_in_combinations_of_1_2_4_or_8_and_few_temporaries) {
  for (int64_t shards = 1; shards <= 70; ++shards) {
    for (int ranks = 1; ranks <= 9 && ranks <= shards; ++ranks) {
      const TreeSum tree = plan_tree_sum(ranks, shards);
      const SumProgram program = compile(tree);
      ASSERT_EQ(evaluated(program, tree, all_partials(ranks, shards)), reference(0, shards))
          << shards << " shards, " << ranks << " ranks";
      ASSERT_LE(program.temporaries, 15);
      for (const SumProgram::Combination& c : program.combinations) {
        ASSERT_TRUE(c.count == 1 || c.count == 2 || c.count == 4 || c.count == 8) << c.count;
      }
    }
  }
}

TEST(SumProgram, is_one_pass_for_2_4_or_8_ranks) {
  for (const int ranks : {1, 2, 4, 8}) {
    const SumProgram program = compile(plan_tree_sum(ranks, ranks));
    ASSERT_EQ(program.combinations.size(), 1u);
    EXPECT_EQ(program.combinations[0].count, ranks);
    EXPECT_EQ(program.temporaries, 0);
  }
  EXPECT_EQ(compile(plan_tree_sum(64, 64)).combinations.size(), 9u);  // eight of 8, and one of those
}

TEST(SumProgram, needs_few_temporaries_on_any_number_of_ranks) {
  for (int ranks = 1; ranks <= 256; ++ranks) {
    for (const int64_t shards : {int64_t{ranks}, int64_t{ranks} + 3}) {
      const TreeSum tree = plan_tree_sum(ranks, shards);
      const SumProgram program = compile(tree);
      ASSERT_LE(program.temporaries, 15) << ranks << " ranks, " << shards << " shards";
      if (ranks % 16 > 1) continue;
      ASSERT_EQ(evaluated(program, tree, all_partials(ranks, shards)), reference(0, shards)) << ranks;
    }
  }
}

// The nodes of tree(lo, hi) at a depth, and those ranges of shards that are none.
bool is_node_of_shards(int64_t lo, int64_t hi, int depth, int64_t begin, int64_t end) {
  if (depth == 0) return lo == begin && hi == end;
  if (hi - lo == 1) return false;
  const int64_t m = lo + (hi - lo + 1) / 2;
  return is_node_of_shards(lo, m, depth - 1, begin, end) || is_node_of_shards(m, hi, depth - 1, begin, end);
}

TEST(SubtreeSum, of_the_ranks_of_a_node_is_that_nodes_sum) {
  int nodes = 0;
  for (int ranks = 1; ranks <= 9; ++ranks) {
    for (const int64_t shards : {int64_t{ranks}, int64_t{ranks} + 1, int64_t{2} * ranks, int64_t{24}}) {
      const auto partials = all_partials(ranks, shards);
      for (int first = 0; first < ranks; ++first) {
        for (int end = first + 1; end <= ranks; ++end) {
          const int64_t begin = deal(first, ranks, shards).begin, stop = deal(end - 1, ranks, shards).end;
          bool any = false;
          for (int depth = 0; depth <= 6; ++depth) {
            const bool node = is_node_of_shards(0, shards, depth, begin, stop);
            ASSERT_EQ(is_node(ranks, shards, first, end, depth), node)
                << "ranks " << first << " to " << end - 1 << " of " << ranks << ", " << shards
                << " shards, depth " << depth;
            any |= node;
          }
          if (!any) continue;
          ++nodes;
          const TreeSum tree = plan_subtree_sum(ranks, shards, first, end);
          const std::string due = reference(begin, stop);
          EXPECT_EQ(evaluated(tree, partials), due);
          EXPECT_EQ(evaluated(compile(tree), tree, partials), due);
          for (const TreeSum::Leaf& leaf : tree.leaves) {
            EXPECT_TRUE(first <= leaf.rank && leaf.rank < end);
          }
        }
      }
    }
  }
  EXPECT_GT(nodes, 100);
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
