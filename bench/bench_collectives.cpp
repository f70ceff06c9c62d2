#include "bench/bench_collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "bench/collective_rounds.h"
#include "bench/statistics.h"
#include "collectives/tcp_ranks.h"
#include "kernels/cpu_features.h"
#include "launcher/domains.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/residency.h"
#include "launcher/thresholds.h"
#include "launcher/topology_drawing.h"
#include "launcher/version.h"
#include "runtime/run_plan.h"

namespace annulus {
namespace {

const std::map<std::string, Collective> kCollectives{
    {"allreduce", Collective::kAllReduce}, {"reduce-scatter", Collective::kReduceScatter},
    {"allgather", Collective::kAllGather}, {"broadcast", Collective::kBroadcast},
    {"gather", Collective::kGather},       {"scatter", Collective::kScatter},
    {"barrier", Collective::kBarrier}};

std::string name_of(Collective collective) {
  for (const auto& [name, value] : kCollectives) {
    if (value == collective) return name;
  }
  return "";
}

DataType type_of(const std::string& name) {
  return name == "bf16" ? DataType::kBf16 : name == "f16" ? DataType::kF16 : DataType::kF32;
}

constexpr int64_t kLimitNs = 900'000'000'000;  // a rank that is stopped would be waited for for ever

// One series of rounds.
struct Series {
  CollectiveCase c;
  Way way;
};

// What is compared with each other: the same collective and size. Their rounds are made in turn.
struct Group {
  std::vector<Series> series;
  int rounds = 0;
};

// The floor of a case is that of buffers in the segment.
bool same_floor(const CollectiveCase& a, const CollectiveCase& b) {
  return a.shared_result == b.shared_result;
}

// Whether each rank has a share of the message of its own.
bool is_shared_out(Collective collective) {
  return collective != Collective::kAllReduce && collective != Collective::kBroadcast &&
         collective != Collective::kBarrier;
}

std::vector<Group> plan_groups(const BenchCollectivesOptions& options, bool exclusive, int ranks) {
  std::vector<Group> groups;
  for (const auto& [name, collective] : kCollectives) {
    if (options.collective != "all" && options.collective != name) continue;
    for (const int64_t bytes : collective == Collective::kBarrier ? std::vector<int64_t>{0} : options.bytes) {
      Group group;
      CollectiveCase c{.collective = collective,
                       .bytes = bytes,
                       .type = type_of(options.dtype),
                       .algorithm = options.algorithm == "auto"
                                        ? std::nullopt
                                        : std::optional(algorithm_named(options.algorithm))};
      // What is moved: whole elements, the same for all ranks.
      c.bytes = c.count(ranks) * size_of(c.type) * (is_shared_out(collective) ? ranks : 1);
      if (c.bytes == 0 && collective != Collective::kBarrier) {
        throw UserError::format(
            "--bytes {}: holds no {} element for each of {} ranks in {}; give at least {}", bytes,
            options.dtype, ranks, name, ranks * size_of(c.type));
      }
      const auto add = [&](bool is_private, bool shared_result) {
        c.private_buffers = is_private;
        c.shared_result = shared_result;
        group.series.push_back({c, Way::kCommunicator});
      };
      const bool over_tcp = options.transport == "tcp";
      if (options.placement != "private" && (!over_tcp || collective == Collective::kBarrier)) {
        if (collective == Collective::kAllReduce) add(false, true);
        add(false, false);
      }
      if (options.placement != "shared" && collective != Collective::kBarrier) add(true, false);
      for (const bool shared_result : {false, true}) {
        c.private_buffers = false;
        c.shared_result = shared_result;
        const bool needed = std::any_of(group.series.begin(), group.series.end(),
                                        [&](const Series& s) { return same_floor(s.c, c); });
        for (const Way way : {Way::kFloor, Way::kFloorStreaming}) {
          if (needed) group.series.push_back({c, way});
        }
      }
      // Enough rounds for a median; few where ranks have to take turns on a core.
      group.rounds =
          static_cast<int>(exclusive ? std::clamp<int64_t>((200 << 20) / std::max<int64_t>(bytes, 1), 7, 1000)
                                     : std::clamp<int64_t>((20 << 20) / std::max<int64_t>(bytes, 1), 3, 20));
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

// All groups on one rank: nanoseconds of each round of each series, in the order of the plan.
// `connections`: over which the calls go; nothing: over the segment.
std::vector<int64_t> run_groups(const CommunicatorSegment& segment,
                                const std::optional<TcpRanks>& connections, int rank,
                                const std::vector<Group>& groups, int64_t most_bytes) {
  Communicator communicator(segment, rank);
  std::optional<Communicator> over_tcp;
  if (connections) {
    CommunicatorSpec spec = segment.spec();
    spec.heap_bytes = 0;
    over_tcp.emplace(spec, connections->connect(rank, spec.waiting.deadline_ns));
  }
  CollectiveRounds rounds(segment, communicator, over_tcp ? *over_tcp : communicator, most_bytes);
  std::vector<int64_t> times;
  std::mt19937 order(1);  // the same on all ranks
  for (const Group& group : groups) {
    const std::size_t first = times.size(), series = group.series.size();
    times.resize(first + series * group.rounds);
    std::vector<std::size_t> turn(series);
    for (std::size_t i = 0; i < series; ++i) turn[i] = i;
    for (int round = -(group.rounds / 10 + 2); round < group.rounds; ++round) {
      // What one leaves in the caches must not favour the same other each time.
      std::shuffle(turn.begin(), turn.end(), order);
      for (const std::size_t i : turn) {
        const int64_t time = rounds.round(group.series[i].c, group.series[i].way);
        if (round >= 0) times[first + i * group.rounds + round] = time;
      }
    }
  }
  return times;
}

struct Summary {
  double min, median, p99, max;  // microseconds; each round's is that of its slowest rank
};

// Of the series whose times begin at `first`.
Summary summarize(const std::vector<std::vector<int64_t>>& by_rank, std::size_t first, int rounds) {
  const auto time_ns = [first](const std::vector<int64_t>& times, int round) { return times[first + round]; };
  const std::vector<double> slowest = times_of_slowest(by_rank, rounds, time_ns);
  return {slowest.front(), quantile(slowest, 0.5), quantile(slowest, 0.99), slowest.back()};
}

void print_header(const Placement& placement, const DomainPlan& domains, const std::string& transport) {
  fmt::print("annulus {}, commit {}\n{}, {}\n{} ranks{}; {}{}\n", program_version(), program_commit(),
             cpu_name(), cpu_features(), placement.workers.size(),
             placement.exclusive ? "" : ", which take turns on their cores", describe_domains(domains),
             transport == "tcp" ? "; over TCP on loopback" : "");
  for (const std::string& warning : placement.warnings) fmt::print("warning: {}\n", warning);
  fmt::print(
      "microseconds of the slowest rank; floor: plain loops over all ranks' buffers in the segment\n\n"
      "{:<14} {:>10} {:<12} {:<8} {:<7} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10} {:>7}\n",
      "collective", "bytes", "algorithm", "buffers", "result", "min", "median", "p99", "max", "GB/s", "floor",
      "ratio");
}

}  // namespace

int bench_collectives(const BenchCollectivesOptions& options) {
  const Machine machine = Machine::this_machine();
  const Placement placement =
      place_ranks(machine, options.config.workers, options.config.bind, options.config.smt);
  const int ranks = static_cast<int>(placement.workers.size());
  const DomainPlan domains = find_domains(machine, placement);
  const int64_t most_bytes = *std::max_element(options.bytes.begin(), options.bytes.end());
  const std::vector<Group> groups = plan_groups(options, placement.exclusive, ranks);

  CommunicatorSpec spec{.ranks = ranks,
                        .heap_bytes = CollectiveRounds::heap_bytes(ranks, most_bytes),
                        .domains = domains.domains,
                        .waiting = wait_policy(placement, 30),
                        .thresholds = {}};
  // The segment, and as many buffers outside.
  const int64_t needed = static_cast<int64_t>(CommunicatorSegment::bytes(spec)) + ranks * spec.heap_bytes;
  if (const AvailableMemory memory = available_memory(); needed > memory.bytes) {
    throw UserError::format(
        "--bytes {}: {} ranks need {} for it, and {} leaves {}; use smaller messages or fewer --workers",
        most_bytes, ranks, format_bytes(needed), memory.source, format_bytes(memory.bytes));
  }
  spec.thresholds = machine_thresholds(machine, placement, domains, true).value_or(Thresholds{});
  for (const Group& group : groups) {  // where the algorithm does not fit, before anything is started
    const CollectiveCase& c = group.series[0].c;
    Communicator::choose(spec, c.collective, c.bytes, {.type = c.type, .algorithm = c.algorithm});
  }
  const CommunicatorSegment segment(spec, on_nodes_of(machine, placement));
  std::optional<TcpRanks> connections;
  if (options.transport == "tcp") connections.emplace(ranks);
  if (!options.json) print_header(placement, domains, options.transport);

  const std::vector<std::string> results = run_ranks(
      machine, placement,
      {.body =
           [&](int rank) {
             const std::vector<int64_t> times = run_groups(segment, connections, rank, groups, most_bytes);
             return std::string(reinterpret_cast<const char*>(times.data()), times.size() * sizeof(int64_t));
           },
       .abort = [&] { segment.abort(); },
       .warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); },
       .limit_ns = kLimitNs});
  std::vector<std::vector<int64_t>> by_rank;
  for (const std::string& result : results) {
    by_rank.emplace_back(result.size() / sizeof(int64_t));
    std::memcpy(by_rank.back().data(), result.data(), result.size());
  }

  std::size_t first = 0;
  for (const Group& group : groups) {
    std::vector<Summary> summaries;
    for (std::size_t i = 0; i < group.series.size(); ++i, first += group.rounds) {
      summaries.push_back(summarize(by_rank, first, group.rounds));
    }
    for (std::size_t i = 0; i < group.series.size(); ++i) {
      const CollectiveCase& c = group.series[i].c;
      if (group.series[i].way != Way::kCommunicator) continue;
      // Stores of the kind that suits the machine and size better.
      double floor = std::numeric_limits<double>::infinity();
      for (std::size_t k = 0; k < group.series.size(); ++k) {
        if (group.series[k].way != Way::kCommunicator && same_floor(group.series[k].c, c))
          floor = std::min(floor, summaries[k].median);
      }
      const Summary& s = summaries[i];
      const double gbps = static_cast<double>(c.bytes) / s.median * 1e-3;
      const char* const buffers = c.private_buffers ? "private" : "shared";
      const char* const result = c.shared_result ? "shared" : "each";
      const std::string algorithm = to_string(Communicator::choose(
          segment.spec(), c.collective, c.bytes, {.type = c.type, .algorithm = c.algorithm}));
      if (options.json) {
        fmt::print("{}\n", nlohmann::ordered_json{{"collective", name_of(c.collective)},
                                                  {"algorithm", algorithm},
                                                  {"transport", options.transport},
                                                  {"workers", ranks},
                                                  {"bytes", c.bytes},
                                                  {"dtype", options.dtype},
                                                  {"placement", buffers},
                                                  {"result", result},
                                                  {"rounds", group.rounds},
                                                  {"min_us", s.min},
                                                  {"median_us", s.median},
                                                  {"p99_us", s.p99},
                                                  {"max_us", s.max},
                                                  {"gbps", gbps},
                                                  {"floor_us", floor},
                                                  {"ratio_to_floor", s.median / floor}}
                               .dump());
      } else {
        fmt::print(
            "{:<14} {:>10} {:<12} {:<8} {:<7} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.2f} {:>10.2f} "
            "{:>7.2f}\n",
            name_of(c.collective), c.bytes, algorithm, buffers, result, s.min, s.median, s.p99, s.max, gbps,
            floor, s.median / floor);
      }
    }
  }
  return 0;
}

}  // namespace annulus
