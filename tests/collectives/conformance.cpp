#include "tests/collectives/conformance.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <thread>

#include "collectives/tcp_ranks.h"
#include "kernels/reduce.h"
#include "telemetry/error.h"
#include "tests/collectives/tree_domains.h"

namespace annulus::conformance {
namespace {

const char* name_of(DataType type) {
  return type == DataType::kF32 ? "f32" : type == DataType::kBf16 ? "bf16" : "f16";
}

// Numbers whose sums round, of size around 1 and different for every rank and element.
float value(int rank, int64_t i) {
  uint64_t x = rank * 0x9e3779b97f4a7c15ull + i * 0xc2b2ae3d27d4eb4full;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 32;
  return static_cast<float>(static_cast<int32_t>(x)) * 0x1p-30f;
}

std::vector<std::byte> rounded(DataType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * size_of(type));
  if (values.empty()) return bytes;
  if (type == DataType::kF32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
  } else {
    narrow_reference(type, static_cast<int64_t>(values.size()), values.data(), bytes.data());
  }
  return bytes;
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
// Sanitizers make every access many times as slow; the largest messages still come in several parts.
const std::vector<int64_t> kPrimes{1009, 2503};
constexpr int64_t kMost = 150'001;
#else
const std::vector<int64_t> kPrimes{7, 127, 1009, 40'009};
constexpr int64_t kMost = 1'000'003;
#endif
constexpr int kMostRanks = 9;

// What ranks bring, in every type. Made once, before ranks start: they share it, as threads do or as a
// parent's memory. Each call takes its elements from another place on, so that what is left of another call
// is seen.
class Inputs {
 public:
  static const Inputs& get() {
    static const Inputs inputs;
    return inputs;
  }
  // The `count` elements that `rank` brings to a call.
  std::span<const std::byte> bytes(DataType type, int rank, int call, int64_t count) const {
    const auto& all = bytes_[static_cast<int>(type)][rank];
    return {all.data() + start(call) * size_of(type), static_cast<std::size_t>(count * size_of(type))};
  }
  // The same as floats.
  std::vector<float> floats(DataType type, int rank, int call, int64_t count) const {
    std::vector<float> values(count);
    const auto from = bytes(type, rank, call, count);
    if (count == 0) return values;
    if (type == DataType::kF32) {
      std::memcpy(values.data(), from.data(), from.size());
    } else {
      widen_reference(type, count, from.data(), values.data());
    }
    return values;
  }

 private:
  static constexpr int64_t kStarts = 8192;
  static int64_t start(int call) { return call * int64_t{67} % kStarts; }

  Inputs() {
    std::vector<float> values(kMost + kStarts);
    for (int rank = 0; rank < kMostRanks; ++rank) {
      for (int64_t i = 0; i < kMost + kStarts; ++i) values[i] = value(rank, i);
      for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
        bytes_[static_cast<int>(type)].push_back(rounded(type, values));
      }
    }
  }

  std::vector<std::vector<std::byte>> bytes_[3];  // by DataType, then by rank
};

void combine_into(Operation operation, std::vector<float>& left, const std::vector<float>& right) {
  for (std::size_t i = 0; i < left.size(); ++i) {
    const float a = left[i], b = right[i];
    left[i] = operation == Operation::kMax ? (a > b ? a : b) : a + b;
  }
}

using Inputs32 = std::vector<std::vector<float>>;  // by rank

std::vector<float> tree(Operation operation, const Inputs32& in, int lo, int hi) {
  if (hi - lo == 1) return in[lo];
  const int m = lo + (hi - lo + 1) / 2;
  std::vector<float> sum = tree(operation, in, lo, m);
  combine_into(operation, sum, tree(operation, in, m, hi));
  return sum;
}

// All elements combined as the algorithm promises; slices[r] belongs to rank r.
std::vector<float> combined(Algorithm algorithm, Operation operation, const Inputs32& in,
                            const std::vector<ShardRange>& slices) {
  const int ranks = static_cast<int>(in.size());
  std::vector<float> all;
  if (algorithm == Algorithm::kRing) {
    for (int owner = 0; owner < ranks; ++owner) {
      const auto slice_of = [&](int rank) {
        return std::vector<float>(in[rank].begin() + slices[owner].begin,
                                  in[rank].begin() + slices[owner].end);
      };
      std::vector<float> sum = slice_of((owner + 1) % ranks);
      for (int k = 2; k <= ranks; ++k) combine_into(operation, sum, slice_of((owner + k) % ranks));
      all.insert(all.end(), sum.begin(), sum.end());
    }
  } else {
    all = tree(operation, in, 0, ranks);
  }
  if (operation == Operation::kAverage) {
    for (float& x : all) x *= 1.0f / static_cast<float>(ranks);
  }
  return all;
}

struct Case {
  Collective collective;
  int64_t count;
  DataType type;
  Operation operation;
  bool in_heap, in_place;
  int root;
  bool shared = false;  // one result for all ranks, in the heap of the root
  bool automatic = false;

  bool reduces() const {
    return collective == Collective::kAllReduce || collective == Collective::kReduceScatter;
  }
  // Elements that a rank brings.
  int64_t in_count(int ranks) const {
    const bool whole = collective == Collective::kReduceScatter || collective == Collective::kScatter;
    return whole ? ranks * count : count;
  }
};

// What must come out, of all ranks together.
std::vector<std::byte> expect(const Case& c, Algorithm algorithm, int ranks, int call) {
  const Inputs& inputs = Inputs::get();
  const int64_t in_count = c.in_count(ranks);
  std::vector<std::byte> all;
  if (c.reduces()) {
    Inputs32 values;
    std::vector<ShardRange> slices;
    for (int rank = 0; rank < ranks; ++rank) {
      values.push_back(inputs.floats(c.type, rank, call, in_count));
      slices.push_back(c.collective == Collective::kAllReduce
                           ? Communicator::slice(rank, ranks, c.count)
                           : ShardRange{rank * c.count, (rank + 1) * c.count});
    }
    return rounded(c.type, combined(algorithm, c.operation, values, slices));
  }
  const bool of_root = c.collective == Collective::kBroadcast || c.collective == Collective::kScatter;
  for (int rank = 0; rank < ranks; ++rank) {
    if (of_root && rank != c.root) continue;
    const auto bytes = inputs.bytes(c.type, rank, call, in_count);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

// What a rank must get of that.
std::span<const std::byte> share(const Case& c, const std::vector<std::byte>& all, int rank) {
  const std::size_t own = c.count * size_of(c.type);
  switch (c.collective) {
    case Collective::kReduceScatter:
    case Collective::kScatter:
      return {all.data() + rank * own, own};
    case Collective::kGather:
      return {all.data(), rank == c.root ? all.size() : 0};
    default:
      return all;
  }
}

std::string describe(const Case& c) {
  static const char* const kNames[] = {"all-reduce", "reduce-scatter", "all-gather", "broadcast",
                                       "gather",     "scatter",        "barrier"};
  return fmt::format("{}{} of {} {} {}, {}{}, root {}", c.automatic ? "auto " : "",
                     kNames[static_cast<int>(c.collective)], c.count, name_of(c.type),
                     c.operation == Operation::kSum   ? "sum"
                     : c.operation == Operation::kMax ? "max"
                                                      : "average",
                     c.in_heap ? "in the heap" : "outside",
                     c.in_place ? ", in place"
                     : c.shared ? ", one result"
                                : "",
                     c.root);
}

std::vector<Case> cases(const Group& group) {
  const int ranks = group.ranks;
  const Algorithm algorithm = group.algorithm;
  const bool over_tcp = group.transport == Over::kTcp;
  std::vector<Case> cases;
  // Over TCP buffers are all alike, and there is no memory to share a result in.
  const std::vector<bool> heaps = over_tcp ? std::vector{false} : std::vector{false, true};
  std::vector<int64_t> counts{0, 1, ranks - 1, ranks, ranks + 1};
  counts.insert(counts.end(), kPrimes.begin(), kPrimes.end());
  if (group.brief) counts = {1, ranks + 1, 1009};
  for (const Collective collective :
       {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather, Collective::kBroadcast,
        Collective::kGather, Collective::kScatter, Collective::kBarrier}) {
    const bool same_for_all = collective == Collective::kGather || collective == Collective::kScatter ||
                              collective == Collective::kBarrier;
    if (same_for_all && algorithm != Algorithm::kDirect) continue;
    for (const int64_t count : counts) {
      if (collective == Collective::kBarrier && count > 0) continue;
      for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
        for (const Operation operation : {Operation::kSum, Operation::kAverage, Operation::kMax}) {
          for (const bool in_heap : heaps) {
            Case c{collective, count, type, operation, in_heap, false, static_cast<int>(count % ranks)};
            if (!c.reduces() && (type == DataType::kF16 || operation != Operation::kSum)) continue;
            if (operation == Operation::kMax && type != DataType::kF32) continue;
            c.in_place = collective == Collective::kAllReduce && count % 2 == 1;
            cases.push_back(c);
            const bool shares = collective == Collective::kAllReduce && operation != Operation::kAverage;
            if (!shares || over_tcp) continue;
            c.in_place = false;
            c.shared = true;
            cases.push_back(c);
          }
        }
      }
    }
  }
  if (group.brief) return cases;
  // Messages of many parts, the largest of all.
  for (const bool in_heap : heaps) {
    const auto add = [&](Collective collective, int64_t count, DataType type, bool automatic = false) {
      cases.push_back({collective, count, type, Operation::kSum, in_heap,
                       in_heap && collective == Collective::kAllReduce, ranks - 1, false, automatic});
    };
    for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
      add(Collective::kAllReduce, kMost, type);
    }
    cases.push_back(
        {Collective::kAllReduce, kMost, DataType::kF32, Operation::kAverage, in_heap, !in_heap, 0});
    if (algorithm != Algorithm::kRing) add(Collective::kAllReduce, kMost, DataType::kF32, true);
    add(Collective::kReduceScatter, kMost / ranks, DataType::kBf16);
    add(Collective::kReduceScatter, kMost / ranks, DataType::kF32);
    add(Collective::kAllGather, kMost / ranks, DataType::kF32);
    add(Collective::kBroadcast, kMost, DataType::kF32);
    if (algorithm != Algorithm::kDirect) continue;
    add(Collective::kGather, kMost / ranks, DataType::kF32);
    add(Collective::kScatter, kMost / ranks, DataType::kF32);
  }
  return cases;
}

constexpr int64_t kBufferBytes = 4 * kMost + 8192;

[[noreturn]] void fail(const Case& c, const std::string& what) {
  throw std::runtime_error(describe(c) + ": " + what);
}

constexpr int64_t kDeadlineNs = 60'000'000'000;

// What the ranks of a group meet on. Made before they start.
class Meeting {
 public:
  explicit Meeting(const Group& group)
      : spec_{
            .ranks = group.ranks,
            .heap_bytes = 2 * kBufferBytes + 8192,
            .domains = group.domains == 1 ? Domains{} : tree_domains(group.ranks, group.ranks, group.domains),
            .waiting = {.spin_ns = 0, .deadline_ns = kDeadlineNs},
            .thresholds = {}} {
    if (group.transport == Over::kTcp) {
      connections_.emplace(group.ranks);
    } else {
      segment_.emplace(spec_);
    }
  }
  std::unique_ptr<Communicator> join(int rank) const {
    if (!connections_) return std::make_unique<Communicator>(*segment_, rank);
    return std::make_unique<Communicator>(spec_, connections_->connect(rank, kDeadlineNs));
  }
  std::byte* heap(int rank) const { return segment_->heap(rank).data(); }
  // Makes ranks give up. Over TCP they do by themselves: who fails closes its connections, and there is a
  // deadline.
  void abort() const {
    if (segment_) segment_->abort();
  }

 private:
  CommunicatorSpec spec_;
  std::optional<CommunicatorSegment> segment_;
  std::optional<TcpRanks> connections_;
};

// One rank's buffers, and the calls on them.
class Rank {
 public:
  Rank(const Meeting& meeting, Algorithm algorithm, int rank)
      : meeting_(meeting),
        algorithm_(algorithm),
        rank_(rank),
        own_(meeting.join(rank)),
        communicator_(*own_),
        heap_in_(communicator_.allocate<std::byte>(kBufferBytes)),
        heap_out_(communicator_.allocate<std::byte>(kBufferBytes)),
        outside_in_(kBufferBytes),
        outside_out_(kBufferBytes) {}

  // Throws when something else comes out than `all`.
  void check(const Case& c, const std::vector<std::byte>& all, int call) {
    std::byte* in = c.in_heap ? heap_in_ : outside_in_.data();
    std::byte* out = c.in_heap ? heap_out_ : outside_out_.data();
    if (c.shared) out = meeting_.heap(c.root) + (heap_out_ - meeting_.heap(rank_));
    if (c.in_place) out = in;
    const bool brings = c.collective != Collective::kBroadcast || rank_ == c.root;
    if (c.collective == Collective::kBroadcast) in = out;

    const auto wanted = share(c, all, rank_);
    const bool writes_out = !c.shared || rank_ == c.root;
    if (writes_out && !c.in_place) std::memset(out, 0xee, std::min<int64_t>(all.size() + 64, kBufferBytes));
    const auto bytes = Inputs::get().bytes(c.type, rank_, call, c.in_count(communicator_.ranks()));
    if (brings && !bytes.empty()) std::memcpy(in, bytes.data(), bytes.size());

    run({c.collective,
         in,
         out,
         c.count,
         c.root,
         c.shared,
         {c.type, c.operation, c.automatic ? std::nullopt : std::optional(algorithm_)}},
        call % 2 == 0);
    expect_equal(c, wanted, out, "of the result differs");
    const bool in_stays = !c.in_place && c.collective != Collective::kBroadcast;
    if (in_stays) expect_equal(c, bytes, in, "of the input was changed");
    if (!c.in_place && !c.shared && !wanted.empty() && out[wanted.size()] != std::byte{0xee}) {
      fail(c, "there is more than there should be");
    }
    if (c.shared) communicator_.barrier();  // all have looked
  }

 private:
  void run(const Communicator::Call& call, bool blocking) {
    const auto handle = communicator_.start(call);
    if (blocking) return handle.wait();
    while (!handle.done()) {
      communicator_.progress();
      std::this_thread::yield();
    }
  }
  static void expect_equal(const Case& c, std::span<const std::byte> wanted, const std::byte* got,
                           const char* what) {
    if (wanted.empty() || std::memcmp(got, wanted.data(), wanted.size()) == 0) return;
    std::size_t at = 0;
    while (got[at] == wanted[at]) ++at;
    fail(c, fmt::format("element {} {}", at / size_of(c.type), what));
  }

  const Meeting& meeting_;
  Algorithm algorithm_;
  int rank_;
  const std::unique_ptr<Communicator> own_;
  Communicator& communicator_;
  std::byte *heap_in_, *heap_out_;
  std::vector<std::byte> outside_in_, outside_out_;
};

}  // namespace

std::string Group::name() const {
  return fmt::format("{}_{}_ranks_{}_domains", to_string(algorithm), ranks, domains);
}

std::vector<Group> groups(Over transport) {
  std::vector<Group> groups;
  for (int ranks = 1; ranks <= 9; ++ranks) {
    groups.push_back({Algorithm::kDirect, ranks, 1});
    groups.push_back({Algorithm::kRing, ranks, 1});
    for (int domains = 1; domains <= ranks && domains <= 4; domains *= 2) {
      groups.push_back({Algorithm::kHierarchical, ranks, domains});
    }
  }
  groups.push_back({Algorithm::kHierarchical, 8, 8});
  for (Group& group : groups) group.transport = transport;
  return groups;
}

std::string run_as_threads(int ranks, const std::function<std::string(int)>& body) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string first;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string wrong = body(rank);
      const std::lock_guard lock(mutex);
      if (first.empty()) first = wrong;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return first;
}

std::string run_as_processes(int ranks, const std::function<std::string(int)>& body) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return "no pipe";
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
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

namespace {

// Aborts ranks that hang.
class Watchdog {
 public:
  explicit Watchdog(const Meeting& meeting)
      : thread_([&] {
          std::unique_lock lock(mutex_);
          expired_ = !done_.wait_for(lock, std::chrono::seconds(100), [&] { return is_done_; });
          if (expired_) meeting.abort();
        }) {}
  // Whether it had to.
  bool stop() {
    {
      const std::lock_guard lock(mutex_);
      is_done_ = true;
    }
    done_.notify_one();
    thread_.join();
    return expired_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false, expired_ = false;
  std::thread thread_;
};

}  // namespace

void run_group(const Group& group, const Runner& run) {
  const Meeting meeting(group);
  const std::vector<Case> all = cases(group);
  std::vector<std::vector<std::byte>> expected;
  for (std::size_t call = 0; call < all.size(); ++call) {
    expected.push_back(expect(all[call], group.algorithm, group.ranks, static_cast<int>(call)));
  }
  Watchdog watchdog(meeting);
  const std::string wrong = run(group.ranks, [&](int rank) -> std::string {
    try {
      Rank self(meeting, group.algorithm, rank);
      for (std::size_t call = 0; call < all.size(); ++call) {
        self.check(all[call], expected[call], static_cast<int>(call));
      }
      return "";
    } catch (const StepAborted&) {
      return "";  // another rank says why
    } catch (const std::exception& error) {
      meeting.abort();
      return fmt::format("rank {}: {}", rank, error.what());
    }
  });
  EXPECT_EQ(wrong, "");
  EXPECT_FALSE(watchdog.stop()) << "ranks wait for each other for ever";
}

}  // namespace annulus::conformance
