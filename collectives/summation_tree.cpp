#include "collectives/summation_tree.h"

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

int64_t middle(int64_t lo, int64_t hi) { return lo + (hi - lo + 1) / 2; }

// Whether tree(0, shards) has a node over [left.begin, right.end) whose children are left and right.
bool are_siblings(const ShardRange& left, const ShardRange& right, int64_t shards) {
  int64_t lo = 0, hi = shards;
  while (hi - lo > 1) {
    const int64_t m = middle(lo, hi);
    if (lo == left.begin && hi == right.end) return m == left.end;
    (left.begin < m ? hi : lo) = m;
  }
  return false;
}

// Finds the partial sums that tree(lo, hi) consists of, as plan_rank_sum leaves them, and how to add them.
class TreeBuilder {
 public:
  TreeBuilder(int ranks, int64_t shards) : ranks_(ranks), shards_(shards), next_partial_(ranks) {}

  TreeSum build(int64_t lo, int64_t hi) {
    visit_leaves(lo, hi);
    first_temporary_ = static_cast<int>(sum_.leaves.size());
    sum_.result = visit_adds(lo, hi, 0);
    return std::move(sum_);
  }

 private:
  // The rank that holds all of [lo, hi), or -1.
  int holder(int64_t lo, int64_t hi) const {
    for (int rank = 0; rank < ranks_; ++rank) {
      const ShardRange range = deal(rank, ranks_, shards_);
      if (range.begin <= lo && hi <= range.end) return rank;
    }
    return -1;
  }
  void visit_leaves(int64_t lo, int64_t hi) {
    if (const int rank = holder(lo, hi); rank >= 0) {
      sum_.leaves.push_back({rank, next_partial_[rank]++});
      return;
    }
    visit_leaves(lo, middle(lo, hi));
    visit_leaves(middle(lo, hi), hi);
  }
  // Emits the additions of tree(lo, hi), using temporaries from `free` on; returns the operand with its sum.
  int visit_adds(int64_t lo, int64_t hi, int free) {
    if (holder(lo, hi) >= 0) return next_leaf_++;
    const int left = visit_adds(lo, middle(lo, hi), free);
    const int right = visit_adds(middle(lo, hi), hi, left >= first_temporary_ ? free + 1 : free);
    const int out = first_temporary_ + free;
    sum_.adds.push_back({left, right, out});
    sum_.temporaries = std::max(sum_.temporaries, free + 1);
    return out;
  }

  int ranks_;
  int64_t shards_;
  std::vector<int> next_partial_;
  int next_leaf_ = 0;
  int first_temporary_ = 0;
  TreeSum sum_;
};

}  // namespace

ShardRange deal(int64_t index, int64_t parts, int64_t count) {
  CHECK(parts > 0 && index >= 0 && index < parts);
  return {index * count / parts, (index + 1) * count / parts};
}

RankSum plan_rank_sum(int rank, int ranks, int64_t shards) {
  const ShardRange own = deal(rank, ranks, shards);
  RankSum plan;
  std::vector<ShardRange> stack;  // subtrees in buffers 0, 1, ...
  for (int64_t shard = own.begin; shard < own.end; ++shard) {
    RankSum::Shard step;
    step.buffer = static_cast<int>(stack.size());
    stack.push_back({shard, shard + 1});
    plan.buffers = std::max(plan.buffers, static_cast<int>(stack.size()));
    while (stack.size() >= 2 && are_siblings(stack[stack.size() - 2], stack.back(), shards)) {
      const int from = static_cast<int>(stack.size()) - 1;
      step.adds.push_back({from - 1, from});
      stack[from - 1].end = stack[from].end;
      stack.pop_back();
    }
    plan.shards.push_back(std::move(step));
  }
  plan.partials = static_cast<int>(stack.size());
  return plan;
}

RankSum plan_single_rank_sum(int rank, int ranks, int64_t shards) {
  RankSum plan = plan_rank_sum(rank, ranks, shards);
  for (; plan.partials > 1; --plan.partials) {
    plan.shards.back().adds.push_back({plan.partials - 2, plan.partials - 1});
  }
  return plan;
}

TreeSum plan_tree_sum(int ranks, int64_t shards) { return TreeBuilder(ranks, shards).build(0, shards); }

TreeSum plan_subtree_sum(int ranks, int64_t shards, int first, int end) {
  return TreeBuilder(ranks, shards).build(deal(first, ranks, shards).begin, deal(end - 1, ranks, shards).end);
}

bool is_node(int ranks, int64_t shards, int first, int end, int depth) {
  const int64_t begin = deal(first, ranks, shards).begin, stop = deal(end - 1, ranks, shards).end;
  int64_t lo = 0, hi = shards;
  for (; depth > 0 && hi - lo > 1; --depth) {
    const int64_t m = middle(lo, hi);
    (begin < m ? hi : lo) = m;
  }
  return depth == 0 && begin == lo && stop == hi;
}

SumProgram compile(const TreeSum& tree) {
  const int leaves = static_cast<int>(tree.leaves.size());
  SumProgram program;
  program.leaves = leaves;
  if (tree.adds.empty()) {
    program.combinations.push_back({{tree.result}, 1, SumProgram::kResult});
    return program;
  }
  // Each addition becomes a node of its own, because temporaries are used again.
  struct Node {
    int left, right;  // operands of the tree below `leaves`, otherwise leaves + node
  };
  std::vector<Node> nodes;
  std::vector<int> holder(leaves + tree.temporaries);
  for (int i = 0; i < leaves; ++i) holder[i] = i;
  for (const TreeSum::Add& add : tree.adds) {
    nodes.push_back({holder[add.left], holder[add.right]});
    holder[add.out] = leaves + static_cast<int>(nodes.size()) - 1;
  }
  // How many times both halves of a node are alike perfect subtrees of leaves or of single results.
  const auto perfect = [&](auto&& self, int operand, int levels) -> bool {
    if (levels == 0) return true;
    if (operand < leaves) return false;
    const Node& node = nodes[operand - leaves];
    return self(self, node.left, levels - 1) && self(self, node.right, levels - 1);
  };
  const auto collect = [&](auto&& self, int operand, int levels, std::vector<int>& into) -> void {
    if (levels == 0) return into.push_back(operand);
    const Node& node = nodes[operand - leaves];
    self(self, node.left, levels - 1, into);
    self(self, node.right, levels - 1, into);
  };
  const auto emit = [&](auto&& self, int operand, int free, int out) -> void {
    int levels = 1;
    while (levels < 3 && perfect(perfect, operand, levels + 1)) ++levels;
    std::vector<int> operands;
    collect(collect, operand, levels, operands);
    SumProgram::Combination combination{.operands = {}, .count = 1 << levels, .out = out};
    for (int i = 0; i < combination.count; ++i) {
      if (operands[i] >= leaves) {
        self(self, operands[i], free, free);
        program.temporaries = std::max(program.temporaries, free + 1);
        operands[i] = leaves + free++;
      }
      combination.operands[i] = operands[i];
    }
    program.combinations.push_back(combination);
  };
  emit(emit, holder[tree.result], 0, SumProgram::kResult);
  return program;
}

}  // namespace annulus
