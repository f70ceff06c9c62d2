#include "launcher/thresholds.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/cpu_features.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"

namespace annulus {
namespace {

constexpr int64_t kSizes[] = {16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
constexpr Algorithm kAlgorithms[] = {Algorithm::kDirect, Algorithm::kHierarchical};
constexpr int kRounds = 9, kWarmupRounds = 2;
constexpr int64_t kLimitNs = 10'000'000'000;

// Nanoseconds by size, algorithm and round.
struct Times {
  int64_t ns[std::size(kSizes)][std::size(kAlgorithms)][kRounds];
};

Times time_rank(const CommunicatorSegment& segment, int rank) {
  Communicator communicator(segment, rank);
  float* const buffer = communicator.allocate<float>(kSizes[std::size(kSizes) - 1] / 4);
  Times times{};
  for (std::size_t size = 0; size < std::size(kSizes); ++size) {
    for (int round = -kWarmupRounds; round < kRounds; ++round) {
      for (std::size_t which = 0; which < std::size(kAlgorithms); ++which) {
        std::fill_n(buffer, kSizes[size] / 4, 1.0f);  // as a backward pass writes it
        communicator.barrier();
        const int64_t begin = now_ns();
        communicator.all_reduce(buffer, buffer, kSizes[size] / 4, {.algorithm = kAlgorithms[which]});
        if (round >= 0) times.ns[size][which][round] = now_ns() - begin;
      }
    }
  }
  return times;
}

// Median over rounds of the slowest rank.
int64_t typical(const std::vector<Times>& ranks, std::size_t size, std::size_t which) {
  int64_t slowest[kRounds] = {};
  for (const Times& times : ranks) {
    for (int round = 0; round < kRounds; ++round)
      slowest[round] = std::max(slowest[round], times.ns[size][which][round]);
  }
  std::nth_element(slowest, slowest + kRounds / 2, slowest + kRounds);
  return slowest[kRounds / 2];
}

nlohmann::json read_json(const std::filesystem::path& file) {
  std::ifstream in(file);
  nlohmann::json json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : nlohmann::json::object();
}

}  // namespace

std::filesystem::path thresholds_file() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::filesystem::path(cache) / "annulus" / "thresholds.json";
  const char* const home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return {};
  return std::filesystem::path(home) / ".cache" / "annulus" / "thresholds.json";
}

std::string thresholds_key(const Machine& machine, const DomainPlan& plan, int ranks) {
  return fmt::format("{}; {} cores, {} nodes, {} L3; {} ranks in {} domains by {}", cpu_name(),
                     machine.cores().size(), machine.nodes().size(), machine.l3_caches(), ranks,
                     plan.domains.size(), plan.level);
}

std::optional<Thresholds> read_thresholds(const std::filesystem::path& file, const std::string& key) {
  const nlohmann::json json = read_json(file);
  const auto found = json.find(key);
  if (found == json.end() || !found->is_object()) return std::nullopt;
  const auto bytes = found->find("hierarchical_bytes");
  if (bytes == found->end() || !bytes->is_number_integer() || *bytes < 0) return std::nullopt;
  return Thresholds{.hierarchical_bytes = bytes->get<int64_t>()};
}

bool write_thresholds(const std::filesystem::path& file, const std::string& key,
                      const Thresholds& thresholds) {
  if (file.empty()) return false;
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  nlohmann::json json = read_json(file);
  json[key] = {{"hierarchical_bytes", thresholds.hierarchical_bytes}};
  // Readers see the old file or the new one.
  const std::filesystem::path temporary = fmt::format("{}.{}", file.string(), getpid());
  std::ofstream out(temporary);
  out << json.dump(2) << '\n';
  out.close();
  if (out) std::filesystem::rename(temporary, file, error);
  if (!out || error) std::filesystem::remove(temporary, error);
  return static_cast<bool>(out) && !error;
}

Thresholds measure_thresholds(const Machine& machine, const Placement& placement, const Domains& domains) {
  const int ranks = static_cast<int>(placement.workers.size());
  const CommunicatorSegment segment({.ranks = ranks,
                                     .heap_bytes = kSizes[std::size(kSizes) - 1],
                                     .domains = domains,
                                     .waiting = wait_policy(placement, 30),
                                     .thresholds = {}},
                                    on_nodes_of(machine, placement));
  const std::vector<std::string> results =
      run_ranks(machine, placement,
                {.body =
                     [&](int rank) {
                       const Times times = time_rank(segment, rank);
                       return std::string(reinterpret_cast<const char*>(&times), sizeof times);
                     },
                 .abort = [&] { segment.abort(); },
                 .limit_ns = kLimitNs});
  std::vector<Times> times(ranks);
  for (int rank = 0; rank < ranks; ++rank) std::memcpy(&times[rank], results[rank].data(), sizeof(Times));

  // The smallest size from which on hierarchical is faster at every one.
  Thresholds thresholds{.hierarchical_bytes = std::numeric_limits<int64_t>::max()};
  for (std::size_t size = std::size(kSizes); size-- > 0;) {
    if (typical(times, size, 1) >= typical(times, size, 0)) break;
    thresholds.hierarchical_bytes = kSizes[size];
  }
  return thresholds;
}

std::optional<Thresholds> machine_thresholds(const Machine& machine, const Placement& placement,
                                             const DomainPlan& plan, bool may_measure) {
  const int ranks = static_cast<int>(placement.workers.size());
  if (plan.domains.size() < 2 || !placement.exclusive || !machine.is_this_machine()) return std::nullopt;
  if (!why_not_hierarchical(plan.domains, ranks, ranks).empty()) return std::nullopt;
  const std::filesystem::path file = thresholds_file();
  const std::string key = thresholds_key(machine, plan, ranks);
  if (std::optional<Thresholds> kept = read_thresholds(file, key)) return kept;
  if (!may_measure) return std::nullopt;
  const CommunicatorSpec spec{.ranks = ranks, .heap_bytes = kSizes[std::size(kSizes) - 1]};
  if (static_cast<int64_t>(CommunicatorSegment::bytes(spec)) > available_memory().bytes / 4)
    return std::nullopt;
  try {
    const Thresholds measured = measure_thresholds(machine, placement, plan.domains);
    write_thresholds(file, key, measured);
    return measured;
  } catch (const std::exception&) {  // a run goes on without
    return std::nullopt;
  }
}

}  // namespace annulus
