// The one order in which gradients are summed: a binary tree over the shards of the global batch.
//
//   tree(lo, hi) = tree(lo, m) + tree(m, hi),  m = lo + ceil((hi - lo) / 2)
//
// The tree depends on the number of shards alone, so the sum has the same bits for any number of ranks. These
// functions split the work: a rank adds up the subtrees that lie wholly within its own shards (its partial
// sums), and the owner of a slice adds up all ranks' partial sums. Pure functions, no memory touched.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace annulus {

struct ShardRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool operator==(const ShardRange&) const = default;
};

// Part `index` of `count` things dealt out to `parts` in order: floor(index * count / parts) up to the next
// one's. Used for shards to ranks, blocks to owners, images to shards.
ShardRange deal(int64_t index, int64_t parts, int64_t count);

// What one rank does: shard by shard in order, computes into a buffer and then adds finished subtrees
// together.
struct RankSum {
  struct Add {
    int into, from;  // buffer[into] += buffer[from]
  };
  struct Shard {
    int buffer;             // where this shard's gradient is computed
    std::vector<Add> adds;  // done after it, in order
  };
  std::vector<Shard> shards;  // of deal(rank, ranks, shards)
  int buffers = 0;            // that are live at once
  int partials = 0;           // buffers 0 .. partials-1 hold the partial sums in the end, in order of shards
};
RankSum plan_rank_sum(int rank, int ranks, int64_t shards);

// The same with all partial sums added into buffer 0, for algorithms that take one sum per rank (ring).
RankSum plan_single_rank_sum(int rank, int ranks, int64_t shards);

// What the owner of a slice does. Operands below leaves.size() are leaves, others are temporaries
// (operand - leaves.size()).
struct TreeSum {
  struct Leaf {
    int rank, partial;
  };
  struct Add {
    int left, right, out;  // out = left + right; out is a temporary and may be one of the operands
  };
  std::vector<Leaf> leaves;  // in order of shards
  std::vector<Add> adds;     // in order
  int temporaries = 0;
  int result = 0;  // operand that holds the sum: the only leaf, or temporary 0
};
TreeSum plan_tree_sum(int ranks, int64_t shards);

// The same for the shards of the ranks [first, end) alone. Their shards must be a node of the tree.
TreeSum plan_subtree_sum(int ranks, int64_t shards, int first, int end);

// Whether the shards of the ranks [first, end) are exactly one node of tree(0, shards), `depth` levels below
// the root.
bool is_node(int ranks, int64_t shards, int first, int end, int depth);

// A TreeSum as a kernel runs it: perfect subtrees of 2, 4 or 8 operands are one combination each.
struct SumProgram {
  struct Combination {
    int operands[8];  // below `leaves`: a leaf; others: temporary (operand - leaves)
    int count;        // 1, 2, 4 or 8
    int out;          // temporary, or kResult
  };
  static constexpr int kResult = -1;
  std::vector<Combination> combinations;  // in order; the last one gives the result
  int leaves = 0;
  int temporaries = 0;
};
SumProgram compile(const TreeSum& tree);

}  // namespace annulus
