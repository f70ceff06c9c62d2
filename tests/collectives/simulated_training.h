// Training in the simulator: the exchange of every bucket, step after step.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/exchange.h"
#include "tests/collectives/schedule_ways.h"

namespace annulus::simulation {

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
  Symbol promised(int step, int64_t at) {
    if (plan_.algorithm != Algorithm::kRing) return box_.symbols.tree(step, 0, plan_.shards, at);
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

inline std::string fault_in_training(const Way& way, int64_t shards,
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

}  // namespace annulus::simulation
