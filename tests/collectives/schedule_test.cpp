// Schedules of all ranks side by side, in every order of turns that matters: nobody waits for ever, every
// post is awaited once and is what was due, nothing is read too early or written too soon, every element of
// every output is the promised sum of the promised inputs, and rings are empty in the end.
#include "collectives/schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "collectives/communicator.h"
#include "tests/collectives/schedule_simulator.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {
namespace {

using simulation::Address;
using simulation::Binding;
using simulation::Box;
using simulation::Fault;
using simulation::Order;
using simulation::Strand;
using simulation::Symbol;

#if defined(__SANITIZE_ADDRESS__)
// The simulator allocates at every turn, which AddressSanitizer makes ten times as slow.
constexpr int kMostRanks = 6;
const std::vector<int> kManyRanks{16};
#else
constexpr int kMostRanks = 9;
const std::vector<int> kManyRanks{16, 33, 64};
#endif

struct Turns {
  Order order;
  unsigned seed;
};
const std::vector<Turns> kFewOrders{{Order::kRoundRobin, 0}, {Order::kLastThatCan, 0}, {Order::kRandom, 1}};
const std::vector<Turns> kOrders{{Order::kRoundRobin, 0}, {Order::kFirstThatCan, 0}, {Order::kLastThatCan, 0},
                                 {Order::kRandom, 1},     {Order::kRandom, 2},       {Order::kRandom, 3}};

// The algorithm of a group of ranks, with its domains.
struct Way {
  Algorithm algorithm = Algorithm::kDirect;
  int ranks = 1;
  Domains domains;

  std::string text() const {
    return fmt::format("{}, {} ranks, {} domains", to_string(algorithm), ranks, domains.size());
  }
  // As CommunicatorSegment makes them.
  int64_t ring_capacity() const {
    const int64_t given = algorithm == Algorithm::kHierarchical ? static_cast<int64_t>(domains.size()) : 0;
    return SpscRing::capacity_for(std::max<int64_t>(16, 8 * given));
  }
};

std::vector<Way> ways(int ranks, int64_t shards) {
  std::vector<Way> ways{{Algorithm::kDirect, ranks, {}}, {Algorithm::kRing, ranks, {}}};
  for (int domains = 1; domains <= ranks; domains *= 2) {
    const Domains nodes = tree_domains(ranks, shards, domains);
    if (!nodes.empty()) ways.push_back({Algorithm::kHierarchical, ranks, nodes});
  }
  return ways;
}

// ---- calls of Communicator

// A call, and how its message is cut: slices `stride` apart, `part` elements of each at a time.
struct Call {
  Collective collective = Collective::kBarrier;
  int64_t whole = 0, stride = 1, part = 1;
  bool in_private = false, out_private = false;  // outside the heap
  bool in_place = false, shared = false;         // one array for in and out; one output for all
  int root = 0;

  bool reduces() const {
    return collective == Collective::kAllReduce || collective == Collective::kReduceScatter;
  }
  // Whether direct gives results back in the lines in which inputs were staged.
  bool is_returned() const {
    return collective == Collective::kAllReduce && in_private && out_private && !shared;
  }
  int64_t length(int slice, int64_t begin) const {
    return std::clamp<int64_t>(whole - slice * stride - begin, 0, std::min(part, stride - begin));
  }
  std::string text() const {
    return fmt::format("collective {} of {} elements, slices {}, parts {}{}{}{}{}, root {}",
                       static_cast<int>(collective), whole, stride, part, in_private ? ", in private" : "",
                       out_private ? ", out private" : "", in_place ? ", in place" : "",
                       shared ? ", one result" : "", root);
  }
};

// What Communicator puts together for the part that begins at `begin`.
Schedule schedule_of(const Way& way, const Call& call, int rank, int64_t begin) {
  const int ranks = way.ranks;
  std::vector<ShardRange> slices;
  for (int slice = 0; slice < ranks; ++slice) {
    slices.push_back({slice * call.part, slice * call.part + call.length(slice, begin)});
  }
  MessageShape shape{.collective = call.collective,
                     .algorithm = way.algorithm,
                     .deliver = Deliver::kOwner,
                     .root = call.root,
                     .slices = std::move(slices),
                     .domains = way.domains};
  if (call.collective == Collective::kAllReduce && way.algorithm == Algorithm::kDirect) {
    shape.deliver = call.shared          ? Deliver::kShared
                    : call.is_returned() ? Deliver::kReturned
                    : call.out_private   ? Deliver::kOwner
                                         : Deliver::kEverybody;
  }
  if (call.collective == Collective::kAllReduce && way.algorithm == Algorithm::kRing) {
    shape.deliver = call.shared || call.out_private ? Deliver::kOwner : Deliver::kNeighbor;
  }
  return message_schedule(rank, shape);
}

// Arrays of a rank: the caller's two, and halves of staging and scratch.
enum Array { kIn, kOut, kStagingIn, kStagingOut = kStagingIn + 2, kScratch = kStagingOut + 2 };

// Ranks that make calls one after the other. As a caller may, each writes its buffers before a call and
// looks at them and writes them again after it.
class Communicators {
 public:
  explicit Communicators(const Way& way)
      : way_(way), box_(way.ranks, [&](int, int) { return way.ring_capacity(); }), ranks_(way.ranks) {}

  // As Box tells it.
  void on_write_over(std::function<void(int rank, const Address&, int reader)> look) {
    box_.on_write_over = std::move(look);
  }
  // Changes a schedule before it runs, to see whether that is found.
  std::function<void(int rank, Schedule&)> break_it;

  void add(const Call& call) {
    ++calls_;
    for (int rank = 0; rank < way_.ranks; ++rank) add(call, rank, calls_);
    if (call.shared) add({});  // all have looked
  }
  // Throws Fault.
  void run(Order order, unsigned seed) {
    std::vector<Strand> strands;
    for (const Rank& rank : ranks_) strands.push_back(rank.strand);
    simulation::run(strands, order, seed);
    box_.check_rings_are_empty();
  }
  std::vector<Schedule*> schedules(int rank) {
    std::vector<Schedule*> all;
    for (const auto& schedule : ranks_[rank].schedules) all.push_back(schedule.get());
    return all;
  }

 private:
  struct Rank {
    Strand strand;
    std::vector<std::unique_ptr<Schedule>> schedules;
    int half = 0;  // that the next part takes
    std::shared_ptr<std::vector<int64_t>> in_use[2] = {std::make_shared<std::vector<int64_t>>(),
                                                       std::make_shared<std::vector<int64_t>>()};
  };

  // The caller's arrays; element i of what it brings, and of what it gets.
  static Address in(const Call& call, int rank, int64_t i) {
    if (call.collective == Collective::kBroadcast) return out(call, rank, i);
    return {kIn, rank, 0,
            i + (call.in_place && call.collective == Collective::kAllGather ? rank * call.stride : 0)};
  }
  static Address out(const Call& call, int rank, int64_t i) {
    if (call.shared) return {kOut, call.root, 0, i};
    if (!call.in_place) return {kOut, rank, 0, i};
    return {kIn, rank, 0, i + (call.collective == Collective::kReduceScatter ? rank * call.stride : 0)};
  }
  static int64_t in_count(const Call& call, int rank) {
    switch (call.collective) {
      case Collective::kBarrier:
        return 0;
      case Collective::kBroadcast:
      case Collective::kScatter:
        return rank == call.root ? call.whole : 0;
      case Collective::kAllReduce:
      case Collective::kReduceScatter:
        return call.whole;
      default:
        return call.stride;
    }
  }
  static int64_t out_count(const Call& call, int rank) {
    switch (call.collective) {
      case Collective::kReduceScatter:
      case Collective::kScatter:
        return call.stride;
      case Collective::kGather:
        return rank == call.root ? call.whole : 0;
      case Collective::kBarrier:
        return 0;
      default:
        return call.whole;
    }
  }
  // What element i of the output of `rank` must be.
  Symbol promised(const Call& call, int number, int rank, int64_t i) {
    const auto brought = [&](int by, int64_t at) { return box_.symbols.input(number, by, at); };
    if (call.reduces()) {
      const int64_t at = call.collective == Collective::kReduceScatter ? rank * call.stride + i : i;
      Symbol& known = promises_[{number, at}];  // most outputs hold the same
      if (known == simulation::kJunk) known = reduced(call, number, at);
      return known;
    }
    switch (call.collective) {
      case Collective::kBroadcast:
        return brought(call.root, i);
      case Collective::kScatter:
        return brought(call.root, rank * call.stride + i);
      default:
        return brought(static_cast<int>(i / call.stride), i % call.stride);
    }
  }
  Symbol reduced(const Call& call, int number, int64_t at) {
    if (way_.algorithm != Algorithm::kRing) return tree(number, at, 0, way_.ranks);
    const auto brought = [&](int64_t rank) { return box_.symbols.input(number, rank % way_.ranks, at); };
    const int64_t owner = at / call.stride;
    Symbol sum = brought(owner + 1);
    for (int k = 2; k <= way_.ranks; ++k) sum = box_.symbols.sum(sum, brought(owner + k));
    return sum;
  }
  Symbol tree(int number, int64_t at, int lo, int hi) {
    if (hi - lo == 1) return box_.symbols.input(number, lo, at);
    const int m = lo + (hi - lo + 1) / 2;
    const Symbol left = tree(number, at, lo, m);
    return box_.symbols.sum(left, tree(number, at, m, hi));
  }

  void add(const Call& call, int rank, int number) {
    Rank& self = ranks_[rank];
    Strand& strand = self.strand;
    strand.push_back([=, this] {
      const bool writes_out = !call.in_place && (!call.shared || rank == call.root);
      for (int64_t i = 0; writes_out && i < out_count(call, rank); ++i) {
        box_.write(rank, out(call, rank, i), simulation::kJunk);
      }
      for (int64_t i = 0; i < in_count(call, rank); ++i) {
        box_.write(rank, in(call, rank, i), box_.symbols.input(number, rank, i));
      }
      return true;
    });
    const bool scratch = call.reduces() && way_.algorithm != Algorithm::kDirect && way_.ranks > 2;
    const bool halves = call.in_private || call.out_private || scratch;
    const bool alternates = halves && !(way_.algorithm == Algorithm::kDirect && call.is_returned());
    const Schedule* last = nullptr;
    int64_t begin = 0;
    do {
      self.schedules.push_back(std::make_unique<Schedule>(schedule_of(way_, call, rank, begin)));
      if (break_it) break_it(rank, *self.schedules.back());
      last = self.schedules.back().get();
      const int half = self.half;
      const auto in_use = self.in_use[half];
      if (halves) strand.push_back([=, this] { return box_.given_back(rank, *in_use); });
      const auto binding = std::make_shared<Binding>(bind(call, begin, half, number));
      for (std::size_t i = 0; i < last->actions.size(); ++i) {
        strand.push_back([=, this] { return box_.step(rank, *last, last->actions[i], *binding); });
      }
      if (alternates) {
        strand.push_back([=, this] {
          *in_use = box_.sent(rank);
          return true;
        });
        self.half ^= 1;
      }
      begin += call.part;
    } while (halves && begin < call.stride && begin < call.whole);
    if (last->leaves_readers) {
      const auto sent = std::make_shared<std::vector<int64_t>>();
      strand.push_back([=, this] {
        *sent = box_.sent(rank);
        return true;
      });
      strand.push_back([=, this] { return box_.given_back(rank, *sent); });
    }
    strand.push_back([=, this] {
      for (int64_t i = 0; i < out_count(call, rank); ++i) {
        const Symbol got = box_.read(rank, out(call, rank, i)), due = promised(call, number, rank, i);
        if (got == due) continue;
        throw Fault(fmt::format("{}: element {} of rank {} is {}, not {}", call.text(), i, rank,
                                box_.symbols.text(got), box_.symbols.text(due)));
      }
      return true;
    });
  }

  Binding bind(const Call& call, int64_t begin, int half, int number) const {
    const auto locate = [=](const Place& place, int by) -> Address {
      const int64_t index = place.at / call.part * call.stride + begin + place.at % call.part;
      switch (place.space) {
        case Space::kInput:
          if (call.in_private && by != place.rank) return {kStagingIn + half, place.rank, 0, place.at};
          return in(call, place.rank, index);
        case Space::kOutput:
          if (call.out_private && by != place.rank) return {kStagingOut + half, place.rank, 0, place.at};
          return out(call, place.rank, index);
        case Space::kReturned:
          return {kStagingIn + half, place.rank, 0, place.at};
        case Space::kScratch:
          break;
      }
      return {kScratch + half, place.rank, 0, place.at};
    };
    return {locate, {}, static_cast<uint64_t>(number) << 32 | begin};
  }

  Way way_;
  Box box_;
  std::vector<Rank> ranks_;
  int calls_ = 0;
  std::map<std::pair<int, int64_t>, Symbol> promises_;  // by call and element
};

// Runs calls in all orders of turns; says what was found, or nothing.
std::string fault_in(const Way& way, const std::vector<Call>& calls,
                     const std::function<void(int, Schedule&)>& break_it = {},
                     const std::vector<Turns>& orders = kOrders) {
  for (const auto& [order, seed] : orders) {
    Communicators communicators(way);
    communicators.break_it = break_it;
    for (const Call& call : calls) communicators.add(call);
    try {
      communicators.run(order, seed);
    } catch (const Fault& fault) {
      return fmt::format("{}, order {} seed {}: {}", way.text(), static_cast<int>(order), seed, fault.what());
    }
  }
  return "";
}

// The shapes in which a collective is cut and its buffers lie.
std::vector<Call> shapes(Collective collective, int ranks) {
  std::vector<Call> calls;
  if (collective == Collective::kBarrier) return {{}};
  const bool moves_one = collective == Collective::kBroadcast;
  for (const auto& [stride, part] : {std::pair{1, 1}, {2, 2}, {5, 2}}) {
    std::vector<int64_t> wholes{moves_one ? stride : ranks * stride};
    // Slices of an all-reduce end early: some are shorter, some empty.
    if (collective == Collective::kAllReduce) {
      wholes.insert(wholes.end(), {0, 1, ranks * stride - 1, (ranks + 1) / 2 * stride});
    }
    for (const int64_t whole : wholes) {
      for (const int flags : {0, 1, 2, 3, 4, 8, 9}) {
        Call call{collective, whole, stride, part};
        call.in_private = (flags & 1) != 0;
        call.out_private = (flags & 2) != 0;
        call.in_place = (flags & 4) != 0;
        call.shared = (flags & 8) != 0;
        call.root = static_cast<int>((whole + flags) % ranks);
        const bool in_parts =
            call.in_private || call.out_private || (call.reduces() && ranks > 2);  // or where scratch is used
        if (!in_parts && part < stride) call.part = stride;
        if (moves_one) {
          if (flags != 0 && flags != 3) continue;  // one buffer
        }
        if (call.shared && collective != Collective::kAllReduce) continue;
        if (call.in_place && (collective == Collective::kGather || collective == Collective::kScatter)) {
          continue;
        }
        calls.push_back(call);
      }
    }
  }
  return calls;
}

constexpr Collective kAllCollectives[] = {
    Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather, Collective::kBroadcast,
    Collective::kGather,    Collective::kScatter,       Collective::kBarrier};

// Parts are only taken where the algorithm works part by part.
Call fitted(Call call, const Way& way) {
  const bool scratch = call.reduces() && way.algorithm != Algorithm::kDirect && way.ranks > 2;
  if (!call.in_private && !call.out_private && !scratch) call.part = call.stride;
  return call;
}

class SchedulesOf : public testing::TestWithParam<int> {};

TEST_P(SchedulesOf, every_collective_gives_every_element_in_every_order_of_turns) {
  const int ranks = GetParam();
  for (const Way& way : ways(ranks, ranks)) {
    for (const Collective collective : kAllCollectives) {
      for (const Call& shape : shapes(collective, ranks)) {
        const Call call = fitted(shape, way);
        // Twice, so that the second call meets what the first one leaves behind.
        ASSERT_EQ(fault_in(way, {call, call}, {}, kFewOrders), "") << call.text();
      }
    }
  }
}

TEST_P(SchedulesOf, calls_of_all_kinds_follow_each_other) {
  const int ranks = GetParam();
  std::mt19937 random(ranks);
  for (const Way& way : ways(ranks, ranks)) {
    for (int i = 0; i < 12; ++i) {
      std::vector<Call> calls;
      std::string text;
      for (int k = 0; k < 8; ++k) {
        const std::vector<Call> all = shapes(kAllCollectives[random() % 7], ranks);
        calls.push_back(fitted(all[random() % all.size()], way));
        text += calls.back().text() + "\n";
      }
      ASSERT_EQ(fault_in(way, calls), "") << text;
    }
  }
}

// What makes short messages fast: a line that another core has read since is expensive to write.
TEST_P(SchedulesOf, private_all_reduces_stage_in_lines_that_their_writer_has_read_last) {
  const int ranks = GetParam();
  for (const Call& call : shapes(Collective::kAllReduce, ranks)) {
    if (!call.is_returned()) continue;
    Communicators communicators({Algorithm::kDirect, ranks, {}});
    communicators.on_write_over([&](int rank, const Address& address, int reader) {
      if (address.array == kIn || address.array == kOut || reader == rank) return;
      throw Fault(fmt::format("rank {} writes element {} of rank {}'s array {}, which rank {} has read", rank,
                              address.index, address.rank, address.array, reader));
    });
    communicators.add(call);
    communicators.add(call);
    ASSERT_NO_THROW(communicators.run(Order::kRandom, ranks)) << call.text();
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, SchedulesOf, testing::Range(1, kMostRanks + 1));

TEST(Schedules, of_many_ranks_fit_the_rings_of_a_communicator) {
  for (const int ranks : kManyRanks) {
    for (const Way& way : ways(ranks, ranks)) {
      for (const Collective collective : kAllCollectives) {
        const int64_t stride = ranks < 40 ? 3 : 1;
        const int64_t whole = collective == Collective::kBroadcast ? stride : stride * ranks;
        for (const bool outside : {false, true}) {
          Call call{collective, whole, stride, 1, outside, outside};
          call.root = ranks / 3;
          call = fitted(call, way);
          Communicators communicators(way);
          communicators.add(call);
          communicators.add(call);
          ASSERT_NO_THROW(communicators.run(Order::kRandom, ranks)) << way.text() << call.text();
        }
      }
    }
  }
}

// ---- training

// Two steps of a training run: every rank publishes its buckets one after the other while it works on those
// that it has published, and begins a step when all have ended the one before (Rule G).
class Training {
 public:
  explicit Training(const ExchangePlan& plan, std::function<void(Schedule&)> break_it = {})
      : plan_(plan),
        per_step_(plan.descriptors_per_step()),
        box_(plan.ranks,
             [&](int from, int to) {
               const int64_t lines = per_step_[from * plan.ranks + to];
               return lines == 0 ? 0 : static_cast<int64_t>(SpscRing::capacity_for(lines));
             }),
        published_(plan.ranks),
        ended_(plan.ranks),
        knowledge_(plan.ranks),
        break_it_(std::move(break_it)) {}

  void run(Order order, unsigned seed) {
    std::vector<Strand> strands(2 * plan_.ranks);
    for (int rank = 0; rank < plan_.ranks; ++rank) {
      schedules_.emplace_back();
      for (int bucket = 0; bucket < buckets(); ++bucket) {
        schedules_.back().push_back(in_blocks(plan_.schedule(rank, bucket)));
        if (break_it_) break_it_(schedules_.back().back());
      }
    }
    for (int rank = 0; rank < plan_.ranks; ++rank) {
      for (int step = 1; step <= 2; ++step) add(rank, step, strands[2 * rank], strands[2 * rank + 1]);
    }
    simulation::run(strands, order, seed);
    box_.check_rings_are_empty();
    const BucketExtent& last = plan_.buckets.back();
    const int64_t blocks = last.offset / kBlockElements + last.blocks;
    for (int step = 1; step <= 2; ++step) {
      for (int64_t at = 0; at < blocks; ++at) {
        const auto got = sums_.find({step, at});
        if (got == sums_.end()) throw Fault(fmt::format("nobody got the sum of block {}", at));
        const Symbol due = promised(step, at);
        if (got->second != due) {
          throw Fault(fmt::format("block {} is {}, not {}", at, box_.symbols.text(got->second),
                                  box_.symbols.text(due)));
        }
      }
    }
    if (static_cast<int64_t>(sums_.size()) != 2 * blocks) throw Fault("sums of blocks that do not exist");
  }

 private:
  int buckets() const { return static_cast<int>(plan_.buckets.size()); }

  // Slices are whole blocks: a block takes the place of an element.
  static Schedule in_blocks(Schedule schedule) {
    const auto divide = [](int64_t& x) {
      if (x % kBlockElements != 0) throw Fault("a place within a block");
      x /= kBlockElements;
    };
    for (Action& action : schedule.actions) {
      divide(action.place.at);
      divide(action.count);
    }
    for (Sum& sum : schedule.sums) {
      for (Place& place : sum.sources) divide(place.at);
      for (Place& place : sum.destinations) divide(place.at);
    }
    return schedule;
  }
  // The partial sums of a rank, in its buffers.
  std::vector<Symbol> partial_sums(int rank, int step, int64_t at) {
    const RankSum plan = plan_.rank_sum(rank);
    const int64_t first = deal(rank, plan_.ranks, plan_.shards).begin;
    std::vector<Symbol> buffers(plan.buffers);
    for (std::size_t i = 0; i < plan.shards.size(); ++i) {
      buffers[plan.shards[i].buffer] = box_.symbols.input(step, first + static_cast<int64_t>(i), at);
      for (const RankSum::Add& add : plan.shards[i].adds) {
        buffers[add.into] = box_.symbols.sum(buffers[add.into], buffers[add.from]);
      }
    }
    buffers.resize(plan.partials);
    return buffers;
  }
  Symbol tree(int step, int64_t at, int64_t lo, int64_t hi) {
    if (hi - lo == 1) return box_.symbols.input(step, lo, at);
    const int64_t m = lo + (hi - lo + 1) / 2;
    const Symbol left = tree(step, at, lo, m);
    return box_.symbols.sum(left, tree(step, at, m, hi));
  }
  Symbol promised(int step, int64_t at) {
    if (plan_.algorithm != Algorithm::kRing) return tree(step, at, 0, plan_.shards);
    const int owner = owner_of(at);
    Symbol sum = partial_sums((owner + 1) % plan_.ranks, step, at)[0];
    for (int k = 2; k <= plan_.ranks; ++k) {
      sum = box_.symbols.sum(sum, partial_sums((owner + k) % plan_.ranks, step, at)[0]);
    }
    return sum;
  }
  int owner_of(int64_t at) const {
    for (const BucketExtent& bucket : plan_.buckets) {
      for (int rank = 0; rank < plan_.ranks; ++rank) {
        const ShardRange slice = slice_of(rank, plan_.ranks, bucket);
        const int64_t within = at - bucket.offset / kBlockElements;
        if (slice.begin <= within && within < slice.end) return rank;
      }
    }
    return -1;
  }

  void add(int rank, int step, Strand& backward, Strand& exchange) {
    backward.push_back([=, this] {
      for (const int ended : ended_) {
        if (ended < step - 1) return false;
      }
      for (const auto& known : knowledge_) {
        if (step > 1) box_.join(rank, known);
      }
      published_[rank] = 0;
      return true;
    });
    for (int bucket = 0; bucket < buckets(); ++bucket) {
      const Schedule& schedule = schedules_[rank][bucket];
      const auto binding = std::make_shared<Binding>(
          Binding{[](const Place& place, int) -> Address {
                    return {0, place.rank, place.part, place.at};
                  },
                  [=, this](int64_t at, Symbol sum) {
                    if (owner_of(at) != rank)
                      throw Fault(fmt::format("rank {} gets block {} of another", rank, at));
                    if (!sums_.emplace(std::pair{step, at}, sum).second) throw Fault("a sum came twice");
                  },
                  static_cast<uint64_t>(step) << 32 | bucket});
      const auto act = [=, this, &schedule](std::size_t i, bool may_wait) {
        const bool went = box_.step(rank, schedule, schedule.actions[i], *binding);
        if (!went && !may_wait) throw Fault("a ring with room for a whole step is full");
        return went;
      };
      backward.push_back([=, this] {
        const int64_t begin = plan_.buckets[bucket].offset / kBlockElements;
        for (int64_t at = begin; at < begin + plan_.buckets[bucket].blocks; ++at) {
          int part = 0;
          for (const Symbol sum : partial_sums(rank, step, at)) box_.write(rank, {0, rank, part++, at}, sum);
        }
        return true;
      });
      for (int i = 0; i < schedule.announce; ++i) backward.push_back([=] { return act(i, false); });
      backward.push_back([=, this] {
        published_[rank] = bucket + 1;
        return true;
      });
      exchange.push_back([=, this] { return ended_[rank] == step - 1 && published_[rank] > bucket; });
      for (std::size_t i = schedule.announce; i < schedule.actions.size(); ++i) {
        const bool waits = schedule.actions[i].kind == Action::Kind::kAwait;
        exchange.push_back([=] { return act(i, waits); });
      }
    }
    exchange.push_back([=, this] {
      ended_[rank] = step;
      knowledge_[rank] = box_.knowledge(rank);
      published_[rank] = 0;
      return true;
    });
  }

  ExchangePlan plan_;
  std::vector<int64_t> per_step_;
  Box box_;
  std::vector<std::vector<Schedule>> schedules_;  // by rank and bucket
  std::vector<int> published_, ended_;            // by rank
  std::vector<std::vector<uint32_t>> knowledge_;
  std::function<void(Schedule&)> break_it_;
  std::map<std::pair<int, int64_t>, Symbol> sums_;  // by step and block
};

std::string fault_in_training(const Way& way, int64_t shards,
                              const std::function<void(Schedule&)>& break_it = {}) {
  // Fewer blocks than ranks, as many, and more; a slice of the last has several chunks of a ring.
  const int ranks = way.ranks;
  std::vector<BucketExtent> buckets{{0, 1}};
  for (const int64_t blocks : {ranks, 2 * ranks + 1, ranks < 5 ? 20 * ranks : 1}) {
    buckets.push_back({buckets.back().offset + buckets.back().blocks * kBlockElements, blocks});
  }
  for (const auto& [order, seed] : kOrders) {
    try {
      Training({way.algorithm, ranks, shards, buckets, way.domains}, break_it).run(order, seed);
    } catch (const Fault& fault) {
      return fmt::format("{}, {} shards, order {} seed {}: {}", way.text(), shards, static_cast<int>(order),
                         seed, fault.what());
    }
  }
  return "";
}

TEST_P(SchedulesOf, training_sums_every_block_once_and_never_finds_a_ring_full) {
  const int ranks = GetParam();
  for (const int64_t shards : {ranks, ranks + 2, 2 * ranks, 12}) {
    if (shards < ranks) continue;
    for (const Way& way : ways(ranks, shards)) EXPECT_EQ(fault_in_training(way, shards), "");
  }
}

TEST(Schedules, of_training_on_many_ranks_fit_their_rings) {
  const int ranks = kManyRanks.back() / 2;
  for (const int64_t shards : {ranks + 8, 2 * ranks}) {
    for (const Way& way : ways(ranks, shards)) EXPECT_EQ(fault_in_training(way, shards), "");
  }
}

// ---- the simulator finds what is wrong

TEST(Simulator, misses_no_action_that_is_left_out) {
  for (const int ranks : {2, 3, 4}) {
    for (const Way& way : ways(ranks, ranks)) {
      for (const Collective collective : kAllCollectives) {
        for (const bool outside : {false, true}) {
          const int64_t whole = collective == Collective::kBroadcast ? 2 : 2 * ranks;
          const Call call = fitted({collective, whole, 2, 1, outside, outside}, way);
          if (collective == Collective::kBarrier && outside) continue;
          const Schedule plain = schedule_of(way, call, ranks - 1, 0);
          for (std::size_t left_out = 0; left_out < plain.actions.size(); ++left_out) {
            // Of the first call's last rank only, so that the second call meets what is left.
            int seen = 0;
            const std::string fault = fault_in(way, {call, call}, [&](int rank, Schedule& schedule) {
              if (rank != ranks - 1) return;
              if (seen++ % (collective == Collective::kBarrier || !outside ? 2 : 4) != 0) return;
              if (left_out < schedule.actions.size()) {
                schedule.actions.erase(schedule.actions.begin() + static_cast<int64_t>(left_out));
              }
            });
            EXPECT_NE(fault, "") << way.text() << ": " << call.text() << ", without action " << left_out
                                 << " of kind " << static_cast<int>(plain.actions[left_out].kind);
          }
        }
      }
    }
  }
}

// A schedule of the last rank broken by `change`, in an all-reduce of three ranks.
std::string fault_with(Algorithm algorithm, bool outside, const std::function<void(Schedule&)>& change) {
  const Way way{algorithm, 3, {}};
  const Call call{Collective::kAllReduce, 6, 2, 2, outside, outside};
  return fault_in(way, {call, call}, [&](int rank, Schedule& schedule) {
    if (rank == 2) change(schedule);
  });
}

std::size_t first(const Schedule& schedule, Action::Kind kind) {
  std::size_t at = 0;
  while (schedule.actions[at].kind != kind) ++at;
  return at;
}
Action& first_of(Schedule& schedule, Action::Kind kind) { return schedule.actions[first(schedule, kind)]; }

TEST(Simulator, finds_what_a_hand_made_schedule_does_wrong) {
  using Kind = Action::Kind;
  EXPECT_EQ(fault_with(Algorithm::kDirect, false, [](Schedule&) {}), "");
  const std::vector<std::pair<std::string, std::function<void(Schedule&)>>> faults = {
      {"took from rank 2 what was not due", [](Schedule& s) { ++first_of(s, Kind::kPost).slice; }},
      {"took from rank 2 what was not due", [](Schedule& s) { ++first_of(s, Kind::kPost).place.at; }},
      {"took from rank 0 what was not due", [](Schedule& s) { --first_of(s, Kind::kAwait).count; }},
      {"read before it was handed over",  // sums before it has heard of the last input
       [](Schedule& s) { std::swap(first_of(s, Kind::kSum), s.actions[first(s, Kind::kSum) - 1]); }},
      {"is (", [](Schedule& s) { std::swap(s.sums[0].sources[0], s.sums[0].sources[1]); }},
      {"is (", [](Schedule& s) { s.sums[0].sources[2] = s.sums[0].sources[1]; }},
      {"written", [](Schedule& s) { --s.sums[0].destinations[0].at; }},  // another's slice
      {"releases a line",
       [](Schedule& s) { std::swap(first_of(s, Kind::kAwait), first_of(s, Kind::kRelease)); }}};
  for (const auto& [text, change] : faults) {
    const std::string fault = fault_with(Algorithm::kDirect, false, change);
    EXPECT_NE(fault.find(text), std::string::npos) << "due: " << text << "; found: " << fault;
  }
}

TEST(Simulator, finds_that_all_wait_for_each_other) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call call{Collective::kReduceScatter, 3, 1, 1};
  const std::string fault = fault_in(way, {call}, [](int, Schedule& s) {  // first takes, then gives
    std::rotate(s.actions.begin(), s.actions.begin() + 2, s.actions.end());
  });
  EXPECT_NE(fault.find("nobody can go on"), std::string::npos) << fault;
}

TEST(Simulator, finds_a_payload_that_is_copied_for_every_reader) {
  const Call gather{Collective::kAllGather, 6, 2, 2, true, true};
  const std::string fault = fault_in({Algorithm::kDirect, 3, {}}, {gather}, [](int, Schedule& s) {
    for (Action& action : s.actions) action.again = false;
  });
  EXPECT_NE(fault, "");
}

TEST(Simulator, finds_a_call_that_ends_while_others_read) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call gather{Collective::kGather, 3, 1, 1};
  const auto forget = [](int, Schedule& schedule) { schedule.leaves_readers = false; };
  EXPECT_NE(fault_in(way, {gather, gather}, forget), "");
}

TEST(Simulator, finds_an_announcement_that_overtakes_what_the_ring_still_carries) {
  const auto announce = [](Schedule& schedule) {
    schedule.announce = schedule.actions.front().kind == Action::Kind::kPost;
  };
  const std::string fault = fault_in_training({Algorithm::kRing, 3, {}}, 3, announce);
  EXPECT_NE(fault.find("what was not due"), std::string::npos) << fault;
}

TEST(Simulator, finds_a_line_that_is_given_back_before_its_payload_is_read) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call gather{Collective::kGather, 3, 1, 1};
  const std::string fault = fault_in(way, {gather, gather}, [&](int rank, Schedule& s) {
    if (rank == 0) {
      std::swap(s.actions[first(s, Action::Kind::kRelease)], s.actions[first(s, Action::Kind::kRelease) - 1]);
    }
  });
  EXPECT_NE(fault, "");
}

}  // namespace
}  // namespace annulus
