#include "launcher/check_command.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "collectives/tcp_ranks.h"
#include "launcher/domains.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/residency.h"
#include "launcher/topology_drawing.h"
#include "runtime/checksum.h"
#include "runtime/exchange_check.h"
#include "runtime/run_plan.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

// A worker's private pages: libraries, stack, schedules.
constexpr int64_t kWorkerOverheadBytes = int64_t{8} << 20;

Domains choose_domains(const CheckOptions& options, const DomainPlan& machine, int ranks, int64_t shards) {
  if (options.algorithm != "hierarchical") return {{0, ranks}};
  if (options.domains > ranks) {
    throw UserError::format("--domains {}: more than the {} workers; give at most that, or more --workers",
                            options.domains, ranks);
  }
  const Domains domains = options.domains > 0 ? pretend_domains(ranks, options.domains) : machine.domains;
  const std::string why_not = why_not_hierarchical(domains, ranks, shards);
  if (!why_not.empty()) {
    throw UserError::format(
        "{}: {}; give --domains 2, 4, 8, ... and --workers and --shards that are multiples of it",
        options.domains > 0 ? fmt::format("--domains {}", options.domains)
                            : "the machine's domains cannot be used",
        why_not);
  }
  return domains;
}

void check_memory(const ExchangeCheck& check, const SegmentPlan& plan) {
  // The objective, and the serial run's weights and moments.
  const int64_t launcher_bytes = 4 * static_cast<int64_t>(plan.state_array_bytes);
  const int64_t workers_bytes = check.shares_memory ? static_cast<int64_t>(plan.bytes)
                                                    : check.ranks * check.communicator_spec().heap_bytes;
  const int64_t bytes = workers_bytes + launcher_bytes + check.ranks * kWorkerOverheadBytes;
  const AvailableMemory memory = available_memory();
  if (bytes > memory.bytes) {
    throw UserError::format(
        "not enough memory: --dim {} on {} workers needs {}, and {} leaves {}; use a smaller --dim or fewer "
        "--workers",
        check.dim, check.ranks, format_bytes(bytes), memory.source, format_bytes(memory.bytes));
  }
}

struct Traffic {
  uint64_t descriptors = 0, bytes = 0;
  double seconds = 0;  // from the last rank's begin to the last rank's end
};

Traffic add_up(const std::vector<std::string>& reports) {
  Traffic traffic;
  int64_t begin = 0, end = 0;
  for (const std::string& text : reports) {
    const nlohmann::json report = nlohmann::json::parse(text);
    traffic.descriptors += report.at(0).get<uint64_t>();
    traffic.bytes += report.at(1).get<uint64_t>();
    begin = std::max(begin, report.at(2).get<int64_t>());
    end = std::max(end, report.at(3).get<int64_t>());
  }
  traffic.seconds = (end - begin) * 1e-9;
  return traffic;
}

// What came of it.
struct Trained {
  Traffic traffic;
  std::vector<float> weights;       // where each rank has its own: rank 0's
  std::vector<uint64_t> checksums;  // then: of all of them
};

Trained train_apart(const ExchangeCheck& check, const SyntheticObjective& objective, const Machine& machine,
                    const Placement& placement, const std::function<void(const std::string&)>& warn) {
  const TcpRanks connections(check.ranks);
  const RankGroup group{.body =
                            [&](int rank) {
                              Communicator communicator(check.communicator_spec(),
                                                        connections.connect(rank, check.waiting.deadline_ns));
                              RankReport report;
                              const std::vector<float> weights =
                                  train_rank_apart(check, objective, communicator, report);
                              const nlohmann::json said{report.descriptors, report.bytes, report.begin_ns,
                                                        report.end_ns, checksum(weights.data(), check.dim)};
                              const std::string bytes(reinterpret_cast<const char*>(weights.data()),
                                                      rank == 0 ? weights.size() * sizeof(float) : 0);
                              return said.dump() + "\n" + bytes;
                            },
                        .warning = warn};
  std::vector<std::string> reports = run_ranks(machine, placement, group);
  Trained trained;
  const std::size_t head = reports[0].find('\n') + 1;
  trained.weights.resize((reports[0].size() - head) / sizeof(float));
  std::memcpy(trained.weights.data(), reports[0].data() + head, reports[0].size() - head);
  for (std::string& report : reports) {
    report.resize(report.find('\n'));
    trained.checksums.push_back(nlohmann::json::parse(report).at(4).get<uint64_t>());
  }
  trained.traffic = add_up(reports);
  return trained;
}

Trained train_in_segment(const ExchangeCheck& check, const SyntheticObjective& objective,
                         const SegmentInputs& inputs, const SegmentPlan& plan, const Machine& machine,
                         const Placement& placement, const std::function<void(const std::string&)>& warn) {
  const Segment segment(plan, inputs, 0, [&](void* address, uint64_t bytes, int rank) {
    // Refused where the ranks' own binding is, which is reported.
    if (rank >= 0) (void)bind_range(machine, address, bytes, placement.workers[rank].memory_node);
  });
  segment.versions().reset(0);  // fresh pages are the initial weights: 0
  const RankGroup group{
      .body =
          [&](int rank) {
            const RankReport report = train_rank(check, objective, segment, rank);
            return nlohmann::json{report.descriptors, report.bytes, report.begin_ns, report.end_ns}.dump();
          },
      .abort = [&] { segment.abort(); },
      .warning = warn};
  const Traffic traffic = add_up(run_ranks(machine, placement, group));
  const float* const weights = segment.weights(check.steps % 2);
  return {traffic, {weights, weights + inputs.buckets.elements}, {}};
}

std::string to_text(const ExchangeCheck& check, const Traffic& traffic, const CheckResult& result,
                    double serial_seconds) {
  const auto line = [](const char* name, const std::string& value) {
    return fmt::format("{:<12}{}\n", name, value);
  };
  const auto judge = [](bool good) { return good ? "ok" : "WRONG"; };
  return line("algorithm", to_string(check.algorithm)) +
         line("workers",
              fmt::format("{}, shards {}, domains {}", check.ranks, check.shards, check.domains.size())) +
         line("steps",
              fmt::format("{}, of {} parameters", with_thousands(check.steps), with_thousands(check.dim))) +
         line(check.shares_memory ? "rings" : "TCP",
              fmt::format("{} descriptors, {} {}", with_thousands(static_cast<int64_t>(traffic.descriptors)),
                          format_bytes(static_cast<int64_t>(traffic.bytes)),
                          check.shares_memory ? "handed over in place" : "sent with them")) +
         line("time", fmt::format("{:.3f} s, {:.3f} ms a step; serial run {:.3f} s", traffic.seconds,
                                  1e3 * traffic.seconds / static_cast<double>(check.steps), serial_seconds)) +
         line("distance",
              fmt::format("{:.3g} to the optimum, from {:.3g}; theory {:.3g}: {}", result.distance,
                          result.start, result.expected, judge(result.converges()))) +
         line("serial", format_checksum(result.serial)) +
         line("exchanged", format_checksum(result.exchanged) + ": " + judge(result.same_bits())) +
         (result.passed() ? "PASS" : "FAIL");
}

nlohmann::ordered_json to_json(const ExchangeCheck& check, const Traffic& traffic, const CheckResult& result,
                               double serial_seconds) {
  return {{"algorithm", to_string(check.algorithm)},
          {"transport", check.shares_memory ? "memory" : "tcp"},
          {"workers", check.ranks},
          {"shards", check.shards},
          {"domains", check.domains.size()},
          {"steps", check.steps},
          {"dim", check.dim},
          {"ring_descriptors", traffic.descriptors},
          {"ring_bytes", traffic.bytes},
          {"seconds", traffic.seconds},
          {"step_ms", 1e3 * traffic.seconds / static_cast<double>(check.steps)},
          {"serial_seconds", serial_seconds},
          {"start_distance", result.start},
          {"distance", result.distance},
          {"expected_distance", result.expected},
          {"serial", format_checksum(result.serial)},
          {"exchanged", format_checksum(result.exchanged)},
          {"passed", result.passed()}};
}

}  // namespace

int check_command(const CheckOptions& options) {
  const Machine machine = Machine::this_machine();
  const Placement placement = place_ranks(machine, options.workers);
  const DomainPlan machine_domains = find_domains(machine, placement);
  ExchangeCheck check{.algorithm = algorithm_named(options.algorithm),
                      .ranks = static_cast<int>(placement.workers.size()),
                      .dim = options.dim,
                      .steps = options.steps,
                      .domains = {},
                      .waiting = wait_policy(placement, 30),
                      .shares_memory = options.transport == "memory"};
  check.shards = options.shards > 0 ? options.shards : check.ranks;
  if (check.shards < check.ranks) {
    throw UserError::format(
        "--shards {}: fewer than the {} workers; give at least --shards {}, or --workers {}", check.shards,
        check.ranks, check.ranks, check.shards);
  }
  if (!check.shares_memory && check.shards != check.ranks) {
    throw UserError::format(
        "--shards {} with --transport tcp: each of the {} workers brings one shard there; leave --shards out",
        check.shards, check.ranks);
  }
  check.domains = choose_domains(options, machine_domains, check.ranks, check.shards);

  const SegmentInputs inputs = check.segment_inputs();
  const SegmentPlan plan = plan_segment(inputs);
  check_memory(check, plan);
  const auto warn = [&](const std::string& text) {
    if (!options.json) fmt::print("warning: {}\n", text);
  };
  for (const std::string& warning : placement.warnings) warn(warning);

  const SyntheticObjective objective = check.objective();
  const Trained trained = check.shares_memory
                              ? train_in_segment(check, objective, inputs, plan, machine, placement, warn)
                              : train_apart(check, objective, machine, placement, warn);
  const int64_t begin = now_ns();
  const std::vector<float> serial = train_serially(check, objective);
  const double serial_seconds = (now_ns() - begin) * 1e-9;
  CheckResult result = compare(check, objective, serial.data(), trained.weights.data());
  for (const uint64_t of_rank : trained.checksums) {
    if (of_rank != result.serial) result.exchanged = of_rank;
  }
  if (options.json) {
    fmt::print("{}\n", to_json(check, trained.traffic, result, serial_seconds).dump());
  } else {
    fmt::print("{}\n", to_text(check, trained.traffic, result, serial_seconds));
  }
  return result.passed() ? 0 : 1;
}

}  // namespace annulus
