#include "collectives/hierarchical.h"

#include <fmt/format.h>

#include <bit>

#include "telemetry/check.h"

namespace annulus {
namespace {

int domain_of(const Domains& domains, int rank) {
  int domain = 0;
  while (rank >= domains[domain].end) ++domain;
  return domain;
}

// The rank that stands for `owner`'s slice in a domain.
int delegate(const Domains& domains, int owner, int domain) {
  const ShardRange& own = domains[domain_of(domains, owner)];
  return static_cast<int>(domains[domain].begin + (owner - own.begin) % domains[domain].count());
}

int levels(const Domains& domains) { return std::bit_width(domains.size()) - 1; }

}  // namespace

std::string why_not_hierarchical(const Domains& domains, int ranks, int64_t shards) {
  if (!std::has_single_bit(domains.size())) {
    return fmt::format("{} domains: halving needs 1, 2, 4, 8, ...", domains.size());
  }
  for (std::size_t i = 0; i < domains.size(); ++i) {
    const int first = static_cast<int>(domains[i].begin), end = static_cast<int>(domains[i].end);
    if (first >= end || !is_node(ranks, shards, first, end, levels(domains))) {
      return fmt::format(
          "domain {} (ranks {} to {}) does not hold a whole subtree of the sum over {} shards on {} ranks", i,
          first, end - 1, shards, ranks);
    }
  }
  return "";
}

void hierarchical_reduce(ScheduleBuilder& builder, const Reduction& reduction, const Domains& domains) {
  const int rank = builder.rank(), ranks = reduction.ranks;
  const int home = domain_of(domains, rank);
  const ShardRange& local = domains[home];
  const auto label = [](Payload type, int round, int partial, int owner) {
    return ScheduleBuilder::Label{type, static_cast<uint32_t>(round), static_cast<uint32_t>(partial),
                                  static_cast<uint32_t>(owner)};
  };
  const auto is_mine = [&](int owner) {
    return delegate(domains, owner, home) == rank && reduction.slices[owner].count() > 0;
  };

  // What a delegate holds of a slice before the exchanges of a level: its own input where it is alone in its
  // domain, and a running sum otherwise.
  const auto leaves_in = [&](int domain) {
    return plan_subtree_sum(ranks, reduction.shards, static_cast<int>(domains[domain].begin),
                            static_cast<int>(domains[domain].end))
        .leaves.size();
  };
  const auto held = [&](int by, int level, int64_t at) {
    return level == 0 && leaves_in(domain_of(domains, by)) == 1 ? builder.input(by, at)
                                                                : reduction.running(by, at);
  };

  for (int owner = 0; owner < ranks; ++owner) {
    const ShardRange slice = reduction.slices[owner];
    const int to = delegate(domains, owner, home);
    if (to == rank || slice.count() == 0) continue;
    for (int partial = 0; partial < reduction.partials(rank); ++partial) {
      builder.post(to, builder.input(rank, slice.begin, partial), slice.count(),
                   label(Payload::kInput, 0, partial, owner));
    }
  }
  builder.end_announcement();

  // Inside the domain: direct.
  const TreeSum tree =
      plan_subtree_sum(ranks, reduction.shards, static_cast<int>(local.begin), static_cast<int>(local.end));
  for (int owner = 0; owner < ranks; ++owner) {
    if (!is_mine(owner)) continue;
    const ShardRange slice = reduction.slices[owner];
    for (int peer = static_cast<int>(local.begin); peer < local.end; ++peer) {
      for (int partial = 0; peer != rank && partial < reduction.partials(peer); ++partial) {
        builder.await(peer, builder.input(peer, slice.begin, partial), slice.count(),
                      label(Payload::kInput, 0, partial, owner));
      }
    }
    std::vector<Place> sources;
    for (const TreeSum::Leaf& leaf : tree.leaves) {
      sources.push_back(builder.input(leaf.rank, slice.begin, leaf.partial));
    }
    const bool last = domains.size() == 1;
    if (!last && sources.size() == 1) continue;
    builder.sum(
        std::move(sources), tree,
        last ? reduction.destinations(rank, slice.begin) : std::vector{reduction.running(rank, slice.begin)},
        slice.count(), last);
    for (int peer = static_cast<int>(local.begin); peer < local.end; ++peer) {
      for (int partial = 0; peer != rank && partial < reduction.partials(peer); ++partial) {
        builder.release(peer);
      }
    }
  }

  // Between domains: in each round the partner gets those slices whose owner is on its side.
  for (int level = 0; level < levels(domains); ++level) {
    const int other = home ^ (1 << level);
    const auto still_here = [&](int owner) {
      return is_mine(owner) && ((domain_of(domains, owner) ^ home) & ((1 << level) - 1)) == 0;
    };
    const auto leaves = [&](int owner) { return ((domain_of(domains, owner) ^ home) >> level & 1) != 0; };
    for (int owner = 0; owner < ranks; ++owner) {
      if (!still_here(owner) || !leaves(owner)) continue;
      const ShardRange slice = reduction.slices[owner];
      builder.post(delegate(domains, owner, other), held(rank, level, slice.begin), slice.count(),
                   label(Payload::kRunningSum, level + 1, 0, owner));
    }
    for (int owner = 0; owner < ranks; ++owner) {
      if (!still_here(owner) || leaves(owner)) continue;
      const ShardRange slice = reduction.slices[owner];
      const int peer = delegate(domains, owner, other);
      const Place mine = held(rank, level, slice.begin), theirs = held(peer, level, slice.begin);
      const bool last = level + 1 == levels(domains);
      builder.await(peer, theirs, slice.count(), label(Payload::kRunningSum, level + 1, 0, owner));
      builder.sum(home < other ? mine : theirs, home < other ? theirs : mine,
                  last ? reduction.destinations(rank, slice.begin)
                       : std::vector{reduction.running(rank, slice.begin)},
                  slice.count(), last);
      builder.release(peer);
    }
  }
  if (reduction.deliver != Deliver::kSink) builder.readers_may_linger();
}

void hierarchical_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices,
                                const Domains& domains) {
  const int rank = builder.rank(), ranks = static_cast<int>(slices.size());
  const int home = domain_of(domains, rank);
  const ShardRange& local = domains[home];
  const auto place = [&](int of, int owner) { return builder.output(of, slices[owner].begin); };
  const auto fetch = [&](int from, int owner, int round) {
    const ScheduleBuilder::Label label{.type = Payload::kResult,
                                       .round = static_cast<uint32_t>(round),
                                       .slice = static_cast<uint32_t>(owner)};
    builder.await(from, place(from, owner), slices[owner].count(), label);
    builder.copy(place(from, owner), place(rank, owner), slices[owner].count());
    builder.release(from);
  };
  const auto offer = [&](int to, int owner, int round) {
    builder.post(to, place(rank, owner), slices[owner].count(),
                 {.type = Payload::kResult,
                  .round = static_cast<uint32_t>(round),
                  .slice = static_cast<uint32_t>(owner)});
  };
  // Between domains: the way of the reduction back.
  int round = 0;
  for (int level = levels(domains) - 1; level >= 0; --level, ++round) {
    const int other = home ^ (1 << level);
    for (const bool sends : {true, false}) {
      for (int owner = 0; owner < ranks; ++owner) {
        const int distance = domain_of(domains, owner) ^ home;
        if (delegate(domains, owner, home) != rank || slices[owner].count() == 0) continue;
        if ((distance & ((1 << level) - 1)) != 0) continue;  // comes in a later round
        if (((distance >> level & 1) == 0) != sends) continue;
        sends ? offer(delegate(domains, owner, other), owner, round)
              : fetch(delegate(domains, owner, other), owner, round);
      }
    }
  }
  // Inside the domain: from the delegates.
  for (int owner = 0; owner < ranks; ++owner) {
    if (delegate(domains, owner, home) != rank || slices[owner].count() == 0) continue;
    for (int i = 1; i < local.count(); ++i) {
      offer(static_cast<int>(local.begin + (rank - local.begin + i) % local.count()), owner, round);
    }
  }
  for (int owner = 0; owner < ranks; ++owner) {
    const int from = delegate(domains, owner, home);
    if (from != rank && slices[owner].count() > 0) fetch(from, owner, round);
  }
  builder.readers_may_linger();
}

void hierarchical_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count,
                            const Domains& domains) {
  // The root owns everything: a gathering of its one slice.
  std::vector<ShardRange> slices(ranks);
  slices[root] = {0, count};
  hierarchical_gather_slices(builder, slices, domains);
}

}  // namespace annulus
