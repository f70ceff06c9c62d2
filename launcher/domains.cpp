#include "launcher/domains.h"

#include <algorithm>
#include <optional>
#include <set>

#include "telemetry/error.h"

namespace annulus {
namespace {

// The one domain that all CPUs of a worker are in; nothing where there is no such domain.
std::optional<int> domain_of(const Machine& machine, const WorkerPlace& place, int MachineCore::*level) {
  std::set<int> domains;
  for (const MachineCore& core : machine.cores()) {
    const bool mine = std::any_of(core.cpus.begin(), core.cpus.end(), [&](int cpu) {
      return std::binary_search(place.cpus.begin(), place.cpus.end(), cpu);
    });
    if (mine) domains.insert(core.*level);
  }
  if (domains.size() != 1 || *domains.begin() < 0) return std::nullopt;
  return *domains.begin();
}

// Fills plan.domains with runs of ranks in the same domain; whether that can be done.
bool split_by(const Machine& machine, const Placement& placement, int MachineCore::*level,
              const std::string& name, DomainPlan& plan) {
  plan = {};
  std::set<int> seen;
  int last = -1;
  const int ranks = static_cast<int>(placement.workers.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const std::optional<int> domain = domain_of(machine, placement.workers[rank], level);
    if (!domain || !placement.workers[rank].pinned) {
      plan.why_one = fmt::format("rank {} is not kept within one {}", rank, name);
      return false;
    }
    if (plan.domains.empty() || *domain != last) {
      if (!seen.insert(*domain).second) {
        plan.why_one = fmt::format("ranks go to and fro between {}s", name);
        return false;
      }
      plan.domains.push_back({rank, rank});
    }
    plan.domains.back().end = rank + 1;
    last = *domain;
  }
  if (plan.domains.size() < 2) {
    plan.why_one = fmt::format("all ranks share one {}", name);
    return false;
  }
  plan.level = name;
  return true;
}

void split(int first, int end, int domains, Domains& into) {
  if (domains == 1) {
    into.push_back({first, end});
    return;
  }
  const int middle = first + (end - first + 1) / 2;
  split(first, middle, (domains + 1) / 2, into);
  split(middle, end, domains / 2, into);
}

}  // namespace

DomainPlan find_domains(const Machine& machine, const Placement& placement) {
  DomainPlan plan;
  if (split_by(machine, placement, &MachineCore::node, "NUMA node", plan)) return plan;
  const bool one_node = plan.domains.size() == 1 && plan.why_one.starts_with("all ");
  if (one_node && machine.l3_caches() > 0 && split_by(machine, placement, &MachineCore::l3, "L3", plan)) {
    return plan;
  }
  plan.domains = {{0, static_cast<int64_t>(placement.workers.size())}};
  return plan;
}

Domains pretend_domains(int ranks, int domains) {
  Domains result;
  split(0, ranks, domains, result);
  return result;
}

std::string describe_domains(const DomainPlan& plan) {
  if (plan.level.empty()) return fmt::format("one for all ranks: {}", plan.why_one);
  std::string text = fmt::format("{} {}s, ranks ", plan.domains.size(), plan.level);
  for (const ShardRange& domain : plan.domains) {
    if (domain.begin > 0) text += ", ";
    text += domain.count() == 1 ? fmt::format("{}", domain.begin)
                                : fmt::format("{}-{}", domain.begin, domain.end - 1);
  }
  return text;
}

AlgorithmChoice choose_algorithm(const std::string& wanted, const DomainPlan& plan, int ranks, int64_t shards,
                                 std::optional<int64_t> hierarchical_from, int64_t bytes) {
  if (wanted == "ring") return {Algorithm::kRing, ""};
  if (wanted == "direct") return {Algorithm::kDirect, ""};
  const std::string why_not = why_not_hierarchical(plan.domains, ranks, shards);
  if (wanted == "hierarchical") {
    if (why_not.empty()) return {Algorithm::kHierarchical, ""};
    throw UserError::format(
        "--algorithm hierarchical: {}; give --algorithm direct, which has the same bits, or a number of "
        "--workers (and --shards, a multiple of it) that falls evenly into 2, 4, 8, ... domains (--bind numa "
        "and --bind l3 spread them, annulus topo shows them)",
        why_not);
  }
  const auto direct = [](const std::string& why) {
    return AlgorithmChoice{Algorithm::kDirect, "--algorithm auto: direct, because " + why};
  };
  if (plan.level.empty()) return direct(plan.why_one);
  if (!why_not.empty()) return direct("halving does not fit: " + why_not);
  const int domains = static_cast<int>(plan.domains.size());
  if (hierarchical_from && bytes < *hierarchical_from) {
    return direct(fmt::format("it was measured to be faster here for buckets of {} bytes", bytes));
  }
  if (!hierarchical_from && ranks < domains * kRanksPerDomain) {
    return direct(
        fmt::format("{} {}s with {:.3g} ranks each are too few for hierarchical to pay (it takes {})",
                    domains, plan.level, static_cast<double>(ranks) / domains, kRanksPerDomain));
  }
  return {Algorithm::kHierarchical,
          fmt::format("--algorithm auto: hierarchical, direct within each of {} {}s and halving between them",
                      domains, plan.level)};
}

}  // namespace annulus
