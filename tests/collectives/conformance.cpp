#include "tests/collectives/conformance.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <thread>

#include "kernels/reduce.h"

namespace annulus::conformance {
namespace {

const char* name_of(Algorithm algorithm) {
  return algorithm == Algorithm::kDirect ? "direct" : algorithm == Algorithm::kRing ? "ring" : "hierarchical";
}

const char* name_of(DataType type) {
  return type == DataType::kF32 ? "f32" : type == DataType::kBf16 ? "bf16" : "f16";
}

// Numbers whose sums round, of size around 1 and different for every rank, element and call.
float value(int rank, int64_t i, int call) {
  uint64_t x = rank * 0x9e3779b97f4a7c15ull + i * 0xc2b2ae3d27d4eb4full + call * 0x165667b19e3779f9ull;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 32;
  return static_cast<float>(static_cast<int32_t>(x)) * 0x1p-30f;
}

// A message in its type, and as floats after rounding to it.
struct Message {
  DataType type;
  std::vector<std::byte> bytes;
  Message(DataType type, int64_t count) : type(type), bytes(count * size_of(type)) {}
  static Message of(int rank, int64_t count, int call, DataType type) {
    Message message(type, count);
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = value(rank, i, call);
    narrow_reference(type, count, values.data(), message.bytes.data());
    if (type == DataType::kF32) std::memcpy(message.bytes.data(), values.data(), message.bytes.size());
    return message;
  }
  std::vector<float> floats() const {
    std::vector<float> values(bytes.size() / size_of(type));
    if (type == DataType::kF32) {
      std::memcpy(values.data(), bytes.data(), bytes.size());
    } else {
      widen_reference(type, values.size(), bytes.data(), values.data());
    }
    return values;
  }
};

float combine_two(Operation operation, float a, float b) {
  return operation == Operation::kMax ? (a > b ? a : b) : a + b;
}

float tree(Operation operation, const std::vector<std::vector<float>>& in, int64_t i, int lo, int hi) {
  if (hi - lo == 1) return in[lo][i];
  const int m = lo + (hi - lo + 1) / 2;
  return combine_two(operation, tree(operation, in, i, lo, m), tree(operation, in, i, m, hi));
}

// Element i of the message, whose slice belongs to `owner`, combined as the algorithm promises.
float combined(Algorithm algorithm, Operation operation, const std::vector<std::vector<float>>& in, int64_t i,
               int owner) {
  const int ranks = static_cast<int>(in.size());
  float sum;
  if (algorithm == Algorithm::kRing) {
    sum = in[(owner + 1) % ranks][i];
    for (int k = 2; k <= ranks; ++k) sum = combine_two(operation, sum, in[(owner + k) % ranks][i]);
  } else {
    sum = tree(operation, in, i, 0, ranks);
  }
  return operation == Operation::kAverage ? sum * (1.0f / static_cast<float>(ranks)) : sum;
}

struct Case {
  Collective collective;
  int64_t count;
  DataType type;
  Operation operation;
  bool in_heap, in_place;
  int root;
};

// What each rank brings and must get; empty: it gets nothing.
struct Expected {
  std::vector<Message> in;
  std::vector<std::vector<std::byte>> out;
};

Expected expect(const Case& c, Algorithm algorithm, int ranks, int call) {
  Expected e;
  const bool ins_are_whole =
      c.collective == Collective::kReduceScatter || c.collective == Collective::kScatter;
  const int64_t in_count = ins_are_whole ? ranks * c.count : c.count;
  std::vector<std::vector<float>> values;
  for (int rank = 0; rank < ranks; ++rank) {
    e.in.push_back(Message::of(rank, in_count, call, c.type));
    values.push_back(e.in.back().floats());
  }
  e.out.resize(ranks);
  const auto rounded = [&](const std::vector<float>& x) {
    Message message(c.type, x.size());
    if (c.type == DataType::kF32) {
      std::memcpy(message.bytes.data(), x.data(), message.bytes.size());
    } else {
      narrow_reference(c.type, x.size(), x.data(), message.bytes.data());
    }
    return message.bytes;
  };
  std::vector<std::byte> all;
  for (const Message& m : e.in) all.insert(all.end(), m.bytes.begin(), m.bytes.end());
  switch (c.collective) {
    case Collective::kAllReduce: {
      std::vector<float> sum(c.count);
      for (int owner = 0; owner < ranks; ++owner) {
        const ShardRange slice = Communicator::slice(owner, ranks, c.count);
        for (int64_t i = slice.begin; i < slice.end; ++i)
          sum[i] = combined(algorithm, c.operation, values, i, owner);
      }
      e.out.assign(ranks, rounded(sum));
      break;
    }
    case Collective::kReduceScatter:
      for (int owner = 0; owner < ranks; ++owner) {
        std::vector<float> sum(c.count);
        for (int64_t i = 0; i < c.count; ++i)
          sum[i] = combined(algorithm, c.operation, values, owner * c.count + i, owner);
        e.out[owner] = rounded(sum);
      }
      break;
    case Collective::kAllGather:
      e.out.assign(ranks, all);
      break;
    case Collective::kBroadcast:
      e.out.assign(ranks, e.in[c.root].bytes);
      break;
    case Collective::kGather:
      e.out[c.root] = all;
      break;
    case Collective::kScatter:
      for (int rank = 0; rank < ranks; ++rank) {
        const auto begin = e.in[c.root].bytes.begin() + rank * c.count * size_of(c.type);
        e.out[rank].assign(begin, begin + c.count * size_of(c.type));
      }
      break;
    case Collective::kBarrier:
      break;
  }
  return e;
}

std::string describe(const Case& c) {
  static const char* const kNames[] = {"all-reduce", "reduce-scatter", "all-gather", "broadcast",
                                       "gather",     "scatter",        "barrier"};
  return fmt::format("{} of {} {} {}, {}{}, root {}", kNames[static_cast<int>(c.collective)], c.count,
                     name_of(c.type),
                     c.operation == Operation::kSum   ? "sum"
                     : c.operation == Operation::kMax ? "max"
                                                      : "average",
                     c.in_heap ? "in the heap" : "outside", c.in_place ? ", in place" : "", c.root);
}

std::vector<Case> cases(int ranks, Algorithm algorithm) {
  std::vector<int64_t> counts{0, 1, ranks - 1, ranks, ranks + 1, 7, 127, 1009, 40009};
  std::vector<Case> cases;
  for (const Collective collective :
       {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather, Collective::kBroadcast,
        Collective::kGather, Collective::kScatter, Collective::kBarrier}) {
    const bool same_for_all = collective == Collective::kGather || collective == Collective::kScatter ||
                              collective == Collective::kBarrier;
    if (same_for_all && algorithm != Algorithm::kDirect) continue;
    const bool reduces = collective == Collective::kAllReduce || collective == Collective::kReduceScatter;
    for (const int64_t count : counts) {
      if (collective == Collective::kBarrier && count > 0) continue;
      for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
        if (!reduces && type == DataType::kF16) continue;  // moved as bf16 is
        for (const Operation operation : {Operation::kSum, Operation::kAverage, Operation::kMax}) {
          if (!reduces && operation != Operation::kSum) continue;
          if (operation == Operation::kMax && type != DataType::kF32) continue;
          for (const bool in_heap : {false, true}) {
            const bool in_place = collective == Collective::kAllReduce && count % 2 == 1;
            cases.push_back(
                {collective, count, type, operation, in_heap, in_place, static_cast<int>(count % ranks)});
          }
        }
      }
    }
  }
  // A message of many parts and the largest counts once.
  for (const bool in_heap : {false, true}) {
    cases.push_back(
        {Collective::kAllReduce, 1'000'003, DataType::kF32, Operation::kSum, in_heap, in_heap, 0});
    cases.push_back(
        {Collective::kReduceScatter, 1'000'003 / ranks, DataType::kBf16, Operation::kSum, in_heap, false, 0});
    cases.push_back(
        {Collective::kBroadcast, 1'000'003, DataType::kF32, Operation::kSum, in_heap, false, ranks - 1});
  }
  return cases;
}

constexpr int64_t kBufferBytes = int64_t{9} << 20;

// All cases on one rank. Returns the first that went wrong.
std::string run_rank(const CommunicatorSegment& segment, const Group& group, int rank) {
  try {
    Communicator communicator(segment, rank);
    std::byte* const heap_in = communicator.allocate<std::byte>(kBufferBytes);
    std::byte* const heap_out = communicator.allocate<std::byte>(kBufferBytes);
    std::vector<std::byte> outside_in(kBufferBytes), outside_out(kBufferBytes);
    int call = 0;
    for (const Case& c : cases(group.ranks, group.algorithm)) {
      ++call;
      const Expected expected = expect(c, group.algorithm, group.ranks, call);
      std::byte* in = c.in_heap ? heap_in : outside_in.data();
      std::byte* out = c.in_heap ? heap_out : outside_out.data();
      if (c.in_place) out = in;
      if (c.collective == Collective::kBroadcast) in = out;
      if (!c.in_place)
        std::memset(out, 0xee, std::min<int64_t>(kBufferBytes, 4 * c.count * group.ranks + 64));
      const auto& bytes = expected.in[rank].bytes;
      if (c.collective != Collective::kBroadcast || rank == c.root)
        std::memcpy(in, bytes.data(), bytes.size());
      const Communicator::Options options{c.type, c.operation, group.algorithm};
      const Communicator::Call asked{c.collective, in, out, c.count, c.root, false, options};
      if (call % 2 == 0) {
        communicator.start(asked).wait();
      } else {
        const auto handle = communicator.start(asked);
        while (!handle.done()) {
          communicator.progress();
          std::this_thread::yield();
        }
      }
      const auto& wanted = expected.out[rank];
      if (std::memcmp(out, wanted.data(), wanted.size()) != 0) {
        std::size_t at = 0;
        while (out[at] == wanted[at]) ++at;
        return fmt::format("rank {}: {}: element {} differs", rank, describe(c), at / size_of(c.type));
      }
      if (c.in_heap && !c.in_place && c.collective != Collective::kBroadcast &&
          std::memcmp(in, bytes.data(), bytes.size()) != 0) {
        return fmt::format("rank {}: {}: the input was changed", rank, describe(c));
      }
    }
    return "";
  } catch (const std::exception& error) {
    segment.abort();
    return fmt::format("rank {}: {}", rank, error.what());
  }
}

}  // namespace

std::string Group::name() const {
  return fmt::format("{}_{}_ranks_{}_domains", name_of(algorithm), ranks, domains);
}

std::vector<Group> groups() {
  std::vector<Group> groups;
  for (int ranks = 1; ranks <= 9; ++ranks) {
    groups.push_back({Algorithm::kDirect, ranks, 1});
    groups.push_back({Algorithm::kRing, ranks, 1});
    for (int domains = 1; domains <= ranks && domains <= 4; domains *= 2) {
      groups.push_back({Algorithm::kHierarchical, ranks, domains});
    }
  }
  groups.push_back({Algorithm::kHierarchical, 8, 8});
  return groups;
}

Domains tree_domains(int ranks, int domains) {
  Domains nodes{{0, ranks}};
  while (static_cast<int>(nodes.size()) < domains) {
    Domains halves;
    for (const ShardRange& node : nodes) {
      const int64_t middle = node.begin + (node.count() + 1) / 2;
      halves.push_back({node.begin, middle});
      halves.push_back({middle, node.end});
    }
    nodes = halves;
  }
  return nodes;
}

std::string run_as_threads(const CommunicatorSegment& segment, const std::function<std::string(int)>& body) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string first;
  for (int rank = 0; rank < segment.spec().ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string wrong = body(rank);
      const std::lock_guard lock(mutex);
      if (first.empty()) first = wrong;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return first;
}

std::string run_as_processes(const CommunicatorSegment& segment,
                             const std::function<std::string(int)>& body) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return "no pipe";
  std::vector<pid_t> children;
  for (int rank = 0; rank < segment.spec().ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      const std::string wrong = body(rank);
      const bool told = wrong.empty() || write(pipe_ends[1], wrong.data(), wrong.size()) > 0;
      _exit(wrong.empty() && told ? 0 : 1);
    }
    children.push_back(child);
  }
  close(pipe_ends[1]);
  std::string said(4096, '\0');
  said.resize(std::max<ssize_t>(read(pipe_ends[0], said.data(), said.size()), 0));
  close(pipe_ends[0]);
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    if (said.empty() && status != 0) said = fmt::format("a rank ended with status {:#x}", status);
  }
  return said;
}

void run_group(const Group& group, const Runner& run) {
  const CommunicatorSegment segment(
      {.ranks = group.ranks,
       .heap_bytes = 2 * kBufferBytes + 8192,
       .domains = group.domains == 1 ? Domains{} : tree_domains(group.ranks, group.domains),
       .waiting = {.spin_ns = 0, .deadline_ns = 60'000'000'000},
       .thresholds = {}});
  const std::string wrong = run(segment, [&](int rank) { return run_rank(segment, group, rank); });
  EXPECT_EQ(wrong, "");
}

}  // namespace annulus::conformance
