// Calls of a Communicator in the simulator: the schedules it puts together, part by part, with the arrays and
// halves that they use.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/communicator.h"
#include "tests/collectives/schedule_ways.h"

namespace annulus::simulation {

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
inline Schedule schedule_of(const Way& way, const Call& call, int rank, int64_t begin) {
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
      if (known == kJunk) known = reduced(call, number, at);
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
    if (way_.algorithm != Algorithm::kRing) return box_.symbols.tree(number, 0, way_.ranks, at);
    const auto brought = [&](int64_t rank) { return box_.symbols.input(number, rank % way_.ranks, at); };
    const int64_t owner = at / call.stride;
    Symbol sum = brought(owner + 1);
    for (int k = 2; k <= way_.ranks; ++k) sum = box_.symbols.sum(sum, brought(owner + k));
    return sum;
  }

  void add(const Call& call, int rank, int number) {
    Rank& self = ranks_[rank];
    Strand& strand = self.strand;
    strand.push_back([=, this] {
      const bool writes_out = !call.in_place && (!call.shared || rank == call.root);
      for (int64_t i = 0; writes_out && i < out_count(call, rank); ++i) {
        box_.write(rank, out(call, rank, i), kJunk);
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
inline std::string fault_in(const Way& way, const std::vector<Call>& calls,
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
inline std::vector<Call> shapes(Collective collective, int ranks) {
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

inline constexpr Collective kAllCollectives[] = {
    Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather, Collective::kBroadcast,
    Collective::kGather,    Collective::kScatter,       Collective::kBarrier};

// Parts are only taken where the algorithm works part by part.
inline Call fitted(Call call, const Way& way) {
  const bool scratch = call.reduces() && way.algorithm != Algorithm::kDirect && way.ranks > 2;
  if (!call.in_private && !call.out_private && !scratch) call.part = call.stride;
  return call;
}

}  // namespace annulus::simulation
