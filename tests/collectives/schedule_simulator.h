// All ranks' schedules side by side in one thread: what Executor and SpscRing do, on symbols in place of
// floats, in any order that a test picks.
//
// A cell holds the symbol of one element: an input, or the sum of two symbols in that order. So an output
// tells its own tree. Ranks have vector clocks, which a descriptor carries to its receiver and a line that is
// used again carries back (R0 -> A0 and R1 -> A1 of spsc_ring.h): every read and write of a cell must come
// after the writes, and every write after the reads, that happened before. So a payload that is written while
// it may still be read, or read before it was posted, is found in whatever order it happens.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "collectives/schedule.h"

namespace annulus::simulation {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Symbol = int;
inline constexpr Symbol kJunk = 0;

class Symbols {
 public:
  // Element `at` of what `who` brings to call number `call`.
  Symbol input(int call, int64_t who, int64_t at) { return number({0, call, who, at}); }
  Symbol sum(Symbol left, Symbol right) { return number({1, left, right, 0}); }
  // tree(lo, hi) of collectives/summation_tree.h, over element `at` of what each brings.
  Symbol tree(int call, int64_t lo, int64_t hi, int64_t at) {
    if (hi - lo == 1) return input(call, lo, at);
    const int64_t middle = lo + (hi - lo + 1) / 2;
    return sum(tree(call, lo, middle, at), tree(call, middle, hi, at));
  }
  std::string text(Symbol symbol) const {
    if (symbol == kJunk) return "junk";
    const auto& [kind, a, b, c] = made_[symbol - 1];
    return kind == 0 ? fmt::format("{}[{}]", b, c) : fmt::format("({} + {})", text(a), text(b));
  }

 private:
  struct Maker {
    int kind;
    int a;
    int64_t b, c;
    bool operator==(const Maker&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Maker& m) const {
      return ((m.kind * 31ul + m.a) * 0x9e3779b97f4a7c15ul + m.b) * 0x9e3779b97f4a7c15ul + m.c;
    }
  };
  Symbol number(const Maker& maker) {
    const auto [at, is_new] = numbers_.try_emplace(maker, static_cast<Symbol>(made_.size()) + 1);
    if (is_new) made_.push_back(maker);
    return at->second;
  }
  std::unordered_map<Maker, Symbol, Hash> numbers_;
  std::vector<Maker> made_;
};

// Where an element is: index of an array. What arrays there are is up to the test.
struct Address {
  int array = 0;  // which array of the rank's
  int rank = 0;
  int part = 0;
  int64_t index = 0;
  bool operator==(const Address&) const = default;
};
struct AddressHash {
  std::size_t operator()(const Address& a) const {
    return (static_cast<std::size_t>(a.index) * 64 + a.rank) * 64 + a.array * 8 + a.part;
  }
};

// How places of a schedule become addresses.
struct Binding {
  // As `by` uses it; by = kShared: as others see it.
  static constexpr int kShared = -1;
  std::function<Address(const Place&, int by)> locate;
  std::function<void(int64_t at, Symbol sum)> sink;
  uint64_t label = 0;  // of the call or step and of the part or bucket
};

class Box {
 public:
  // `capacity(from, to)`: lines of the ring between two ranks.
  Box(int ranks, const std::function<int64_t(int, int)>& capacity)
      : ranks_(ranks), clocks_(ranks, std::vector<uint32_t>(ranks)), rings_(ranks * ranks) {
    for (int from = 0; from < ranks; ++from) {
      for (int to = 0; to < ranks; ++to) ring(from, to).capacity = from == to ? 0 : capacity(from, to);
    }
  }

  // One action; false if it has to wait.
  bool step(int rank, const Schedule& schedule, const Action& action, const Binding& binding) {
    switch (action.kind) {
      case Action::Kind::kPost:
        return post(rank, action, binding);
      case Action::Kind::kAwait:
        return await(rank, action, binding);
      case Action::Kind::kRelease:
        release(rank, action.peer);
        return true;
      case Action::Kind::kSum:
        for (int64_t i = 0; i < action.count; ++i) sum(rank, schedule.sums[action.sum], i, binding);
        return true;
      case Action::Kind::kCopy:
        for (int64_t i = 0; i < action.count; ++i) {
          const Address from = binding.locate(moved(action.place, i), rank);
          const Address to = binding.locate(moved(action.to, i), rank);
          if (from != to) write(rank, to, read(rank, from));
        }
        return true;
    }
    return true;
  }

  Symbol read(int rank, const Address& address) {
    Cell& cell = cells_[address];
    check_after(rank, cell.write, address, "read before it was handed over");
    const auto known = std::find_if(cell.reads.begin(), cell.reads.end(),
                                    [&](const Event& event) { return event.rank == rank; });
    const Event now{rank, tick(rank)};
    known == cell.reads.end() ? cell.reads.push_back(now) : void(*known = now);
    return cell.symbol;
  }
  void write(int rank, const Address& address, Symbol symbol) {
    Cell& cell = cells_[address];
    check_after(rank, cell.write, address, "written by two at once");
    for (const Event& event : cell.reads) {
      check_after(rank, event, address, "written while it may be read");
      if (on_write_over) on_write_over(rank, address, event.rank);
    }
    cell.reads.clear();
    cell.write = {rank, tick(rank)};
    cell.symbol = symbol;
  }

  // As Executor::sent() and given_back(): the mark of a rank, and whether peers have read all before it.
  std::vector<int64_t> sent(int rank) {
    std::vector<int64_t> mark(ranks_);
    for (int peer = 0; peer < ranks_; ++peer) mark[peer] = ring(rank, peer).sent;
    return mark;
  }
  bool given_back(int rank, const std::vector<int64_t>& mark) {
    for (int peer = 0; peer < static_cast<int>(mark.size()); ++peer) {
      if (ring(rank, peer).released < mark[peer]) return false;
    }
    for (int peer = 0; peer < static_cast<int>(mark.size()); ++peer) {
      if (mark[peer] > 0) join(rank, ring(rank, peer).release_clocks[mark[peer] - 1]);
    }
    return true;
  }

  // What one rank knows, for another to know it too (a version that it stores and the other reads).
  const std::vector<uint32_t>& knowledge(int rank) const { return clocks_[rank]; }
  void join(int rank, const std::vector<uint32_t>& other) {
    for (int i = 0; i < ranks_; ++i) clocks_[rank][i] = std::max(clocks_[rank][i], other[i]);
  }

  // Throws unless every ring is empty and every line given back.
  void check_rings_are_empty() {
    for (int from = 0; from < ranks_; ++from) {
      for (int to = 0; to < ranks_; ++to) {
        const Ring& r = ring(from, to);
        if (r.sent == r.accepted && r.sent == r.released) continue;
        throw Fault(fmt::format("ring {} -> {}: {} sent, {} awaited, {} released", from, to, r.sent,
                                r.accepted, r.released));
      }
    }
  }
  int64_t most_in_a_ring() const { return most_in_a_ring_; }

 private:
  struct Event {
    int rank = -1;
    uint32_t when = 0;
  };
  struct Cell {
    Symbol symbol = kJunk;
    Event write;
    std::vector<Event> reads;  // since the write; the last of each rank
  };
  struct Message {
    Action action;
    Address place;
    uint64_t label;
    std::vector<uint32_t> clock;
  };
  struct Ring {
    int64_t capacity = 0, sent = 0, accepted = 0, released = 0;
    std::deque<Message> messages;  // not yet awaited
    std::vector<std::vector<uint32_t>> release_clocks;
  };

  Ring& ring(int from, int to) { return rings_[from * ranks_ + to]; }
  static Place moved(Place place, int64_t by) {
    place.at += by;
    return place;
  }
  uint32_t tick(int rank) { return ++clocks_[rank][rank]; }
  void check_after(int rank, const Event& event, const Address& address, const char* what) const {
    if (event.rank < 0 || clocks_[rank][event.rank] >= event.when) return;
    throw Fault(fmt::format("array {} of rank {}, element {}: {} (by rank {}, after rank {})", address.array,
                            address.rank, address.index, what, rank, event.rank));
  }

  bool post(int rank, const Action& action, const Binding& binding) {
    Ring& to = ring(rank, action.peer);
    if (to.sent - to.released >= to.capacity) {
      if (to.capacity == 0) throw Fault(fmt::format("no ring {} -> {}", rank, action.peer));
      return false;
    }
    if (to.sent >= to.capacity) join(rank, to.release_clocks[to.sent - to.capacity]);
    for (int64_t i = 0; action.place.rank == rank && !action.again && i < action.count; ++i) {
      const Address own = binding.locate(moved(action.place, i), rank);
      const Address shared = binding.locate(moved(action.place, i), Binding::kShared);
      if (own != shared) write(rank, shared, read(rank, own));
    }
    tick(rank);
    to.messages.push_back(
        {action, binding.locate(action.place, Binding::kShared), binding.label, clocks_[rank]});
    ++to.sent;
    most_in_a_ring_ = std::max(most_in_a_ring_, to.sent - to.released);
    return true;
  }
  bool await(int rank, const Action& action, const Binding& binding) {
    Ring& from = ring(action.peer, rank);
    if (from.messages.empty()) return false;
    const Message& got = from.messages.front();
    const Action& a = got.action;
    if (a.type != action.type || a.round != action.round || a.chunk != action.chunk ||
        a.slice != action.slice || a.count != action.count || got.label != binding.label ||
        (action.type != Payload::kNothing && got.place != binding.locate(action.place, Binding::kShared))) {
      throw Fault(fmt::format(
          "rank {} took from rank {} what was not due: type {} round {} chunk {} slice {} count {} place "
          "{}.{}[{}], due type {} round {} chunk {} slice {} count {} place {}.{}[{}]",
          rank, action.peer, static_cast<int>(a.type), a.round, a.chunk, a.slice, a.count,
          static_cast<int>(a.place.space), a.place.rank, a.place.at, static_cast<int>(action.type),
          action.round, action.chunk, action.slice, action.count, static_cast<int>(action.place.space),
          action.place.rank, action.place.at));
    }
    join(rank, got.clock);
    from.messages.pop_front();
    ++from.accepted;
    return true;
  }
  void release(int rank, int peer) {
    Ring& from = ring(peer, rank);
    if (from.released == from.accepted) {
      throw Fault(fmt::format("rank {} releases a line of rank {} that it has not awaited", rank, peer));
    }
    tick(rank);
    from.release_clocks.push_back(clocks_[rank]);
    ++from.released;
  }
  void sum(int rank, const Sum& sum, int64_t i, const Binding& binding) {
    const SumProgram& program = sum.program;
    std::vector<Symbol> temporaries(program.temporaries);
    Symbol result = kJunk;
    for (const SumProgram::Combination& combination : program.combinations) {
      std::vector<Symbol> operands;
      for (int k = 0; k < combination.count; ++k) {
        const int operand = combination.operands[k];
        operands.push_back(operand < program.leaves
                               ? read(rank, binding.locate(moved(sum.sources[operand], i), rank))
                               : temporaries.at(operand - program.leaves));
      }
      for (; operands.size() > 1; operands.resize(operands.size() / 2)) {
        for (std::size_t k = 0; k < operands.size() / 2; ++k) {
          operands[k] = symbols.sum(operands[2 * k], operands[2 * k + 1]);
        }
      }
      (combination.out == SumProgram::kResult ? result : temporaries.at(combination.out)) = operands[0];
    }
    for (const Place& place : sum.destinations) write(rank, binding.locate(moved(place, i), rank), result);
    if (sum.destinations.empty()) binding.sink(sum.sources[0].at + i, result);
  }

  int ranks_;
  std::vector<std::vector<uint32_t>> clocks_;
  std::vector<Ring> rings_;
  std::unordered_map<Address, Cell, AddressHash> cells_;
  int64_t most_in_a_ring_ = 0;

 public:
  Symbols symbols;
  // Told of each rank that has read what is written over.
  std::function<void(int rank, const Address&, int reader)> on_write_over;
};

// What runs in order: each part says whether it is done or has to wait.
using Strand = std::vector<std::function<bool()>>;

// In which order strands take their turns.
enum class Order { kRoundRobin, kFirstThatCan, kLastThatCan, kRandom };

// Runs strands until all are done. Throws Fault where none can go on.
inline void run(const std::vector<Strand>& strands, Order order, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::size_t> next(strands.size());
  const auto turn = [&](std::size_t s) {
    if (next[s] == strands[s].size() || !strands[s][next[s]]()) return false;
    ++next[s];
    return true;
  };
  const auto any_in_order = [&](bool all) {
    bool went = false;
    for (std::size_t i = 0; i < strands.size() && (all || !went); ++i) {
      went |= turn(order == Order::kLastThatCan ? strands.size() - 1 - i : i);
    }
    return went;
  };
  for (;;) {
    bool went = false;
    if (order == Order::kRandom) {
      for (int tries = 0; !went && tries < 8; ++tries) {
        const std::size_t s = random() % strands.size();
        const unsigned burst = 1 + random() % 6;
        for (unsigned i = 0; i < burst && turn(s); ++i) went = true;
      }
      if (!went) went = any_in_order(true);
    } else {
      went = any_in_order(order == Order::kRoundRobin);
    }
    if (went) continue;
    for (std::size_t s = 0; s < strands.size(); ++s) {
      if (next[s] < strands[s].size()) {
        throw Fault(
            fmt::format("nobody can go on: strand {} stands at {} of {}", s, next[s], strands[s].size()));
      }
    }
    return;
  }
}

}  // namespace annulus::simulation
