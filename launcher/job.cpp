#include "launcher/job.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/cpu_features.h"
#include "kernels/dnnl_compat.h"
#include "kernels/network.h"
#include "launcher/child_process.h"
#include "launcher/limits.h"
#include "launcher/options.h"
#include "launcher/residency.h"
#include "launcher/thresholds.h"
#include "launcher/topology_drawing.h"
#include "runtime/models.h"
#include "runtime/tune.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// A worker's libraries, oneDNN's generated code, stacks and tables: 23 MiB of private pages seen for
// SimpleCNN.
constexpr int64_t kWorkerOverheadBytes = int64_t{32} << 20;

NetworkPlan ask_planner(const NetworkSpec& spec, const NetworkOptions& options) {
  const std::string text = run_helper("annulus:plan", [&](int output) {
    const Network network(spec, options);
    return write_all(output, nlohmann::json(network.plan()).dump()) ? 0 : 1;
  });
  return nlohmann::json::parse(text).get<NetworkPlan>();
}

// --tune: what TrainConfig::convolutions shall be, measured where the first worker will run.
std::string measure_convolutions(const NetworkSpec& spec, const NetworkOptions& options,
                                 const Machine& machine, const WorkerPlace& place) {
  return run_helper("annulus:tune", [&](int output) {
    (void)bind_this_process(machine, place);  // a refusal is reported when the workers meet it
    return write_all(output, to_text(fastest_algorithms(spec, options))) ? 0 : 1;
  });
}

// `workers_in_memory`: what auto may take at most; 0: not known yet.
Placement place_workers(const TrainConfig& config, const Machine& machine, int workers_in_memory) {
  const CpuQuota quota = read_cpu_quota();
  PlacementRequest request{.workers = config.workers,
                           .threads_per_worker = config.threads_per_worker,
                           .bind = config.bind,
                           .smt = config.smt,
                           .cpu_quota = quota.cpus,
                           .cpu_quota_source = quota.source,
                           .workers_in_memory = workers_in_memory,
                           .comm_thread = config.comm_thread};
  Placement placement = plan_placement(machine, request);
  if (config.workers != 0) return placement;
  // auto takes no more workers than there is work for.
  const int64_t fed = std::max<int64_t>(config.batch_size / config.accumulate, 1);
  const int64_t most = std::min(fed, config.shards > 0 ? config.shards : fed);
  if (static_cast<int64_t>(placement.workers.size()) <= most) return placement;
  request.workers = static_cast<int>(most);
  placement = plan_placement(machine, request);
  placement.notes.push_back(fmt::format("{} workers, because {} cannot feed more", most,
                                        config.shards > 0
                                            ? fmt::format("--shards {}", config.shards)
                                            : fmt::format("--batch-size {}", config.batch_size)));
  return placement;
}

Job plan_with(const TrainConfig& config, const Machine& machine, const DatasetInfo& dataset,
              const NetworkSpec& spec, int workers_in_memory, bool may_measure) {
  Placement placement = place_workers(config, machine, workers_in_memory);
  const int workers = static_cast<int>(placement.workers.size());
  std::vector<std::string> notes = placement.notes;
  for (std::string& note : check_combinations(config, workers)) notes.push_back(std::move(note));
  TrainConfig resolved = annulus::resolved(config, workers);
  DomainPlan domains = find_domains(machine, placement);

  const StepSchedule schedule(resolved, dataset.train_count);
  if (resolved.tune) {
    resolved.convolutions =
        measure_convolutions(spec, network_options(resolved, spec), machine, placement.workers.front());
    notes.push_back(resolved.convolutions.empty()
                        ? "--tune: no convolution has a choice of algorithms"
                        : fmt::format("--tune chose --convolutions {}", resolved.convolutions));
    resolved.tune = false;
  }
  NetworkPlan network = ask_planner(spec, network_options(resolved, spec));
  BucketPlan buckets = plan_buckets(network, static_cast<int64_t>(resolved.bucket_mb * (1 << 20)));
  int64_t largest_bucket = 0;
  for (const BucketExtent& bucket : buckets.extents) {
    largest_bucket = std::max<int64_t>(largest_bucket, bucket.blocks * kBlockElements * sizeof(float));
  }
  const std::optional<Thresholds> thresholds =
      resolved.algorithm == "auto" ? machine_thresholds(machine, placement, domains, may_measure)
                                   : std::nullopt;
  AlgorithmChoice choice = choose_algorithm(
      resolved.algorithm, domains, resolved.workers, resolved.shards,
      thresholds ? std::optional(thresholds->hierarchical_bytes) : std::nullopt, largest_bucket);
  resolved.algorithm = to_string(choice.algorithm);
  if (!choice.note.empty()) notes.push_back(std::move(choice.note));
  const WaitPolicy waiting = wait_policy(placement, 3 * resolved.deadline);
  std::vector<int> comm_cpus;
  for (const WorkerPlace& place : placement.workers) {
    if (place.comm_cpu >= 0) comm_cpus.push_back(place.comm_cpu);
  }
  Job job{.run = {.config = std::move(resolved),
                  .dataset = dataset,
                  .spec = spec,
                  .network = std::move(network),
                  .buckets = std::move(buckets),
                  .schedule = schedule,
                  .algorithm = choice.algorithm,
                  .domains = domains.domains,
                  .waiting = waiting,
                  .comm_cpus = std::move(comm_cpus)},
          .placement = placement,
          .domains = std::move(domains),
          .segment = {},
          .notes = std::move(notes),
          .warnings = placement.warnings};
  job.segment = plan_segment(job.run.segment_inputs());
  return job;
}

}  // namespace

int64_t Job::worker_bytes() const { return run.network.arena_bytes + kWorkerOverheadBytes; }

int64_t Job::total_bytes() const {
  return static_cast<int64_t>(segment.bytes) + run.config.workers * worker_bytes();
}

int count_workers(const TrainConfig& config, const Machine& machine) {
  return static_cast<int>(place_workers(config, machine, 0).workers.size());
}

Job plan_job(const TrainConfig& config, const Machine& machine, const DatasetInfo& dataset,
             bool check_memory) {
  // Read once: it may come through a pipe.
  const NetworkSpec spec = choose_network(config.model, config.stem, dataset.shape, dataset.classes);
  Job job = plan_with(config, machine, dataset, spec, 0, check_memory);
  if (!check_memory) return job;
  const AvailableMemory memory = available_memory();
  // Fewer workers have larger shards each, so what fits is found one by one.
  while (job.total_bytes() > memory.bytes && config.workers == 0 && job.run.config.workers > 1) {
    job = plan_with(config, machine, dataset, spec, job.run.config.workers - 1, check_memory);
  }
  if (job.total_bytes() > memory.bytes) {
    throw UserError::format(
        "not enough memory: the run needs {} ({} shared, {} for each of {} workers), and {} leaves {}; use "
        "fewer "
        "--workers, fewer --shards, a smaller --batch-size, or raise the limit",
        format_bytes(job.total_bytes()), format_bytes(job.segment.bytes), format_bytes(job.worker_bytes()),
        job.run.config.workers, memory.source, format_bytes(memory.bytes));
  }
  return job;
}

OneDnnVersion ask_onednn_version() {
  const std::string text = run_helper("annulus:version", [](int output) {
    const nlohmann::json json = {onednn::library_name(), onednn::effective_isa()};
    return write_all(output, json.dump()) ? 0 : 1;
  });
  // "oneDNN 2.6.3 OpenMP"
  const nlohmann::json json = nlohmann::json::parse(text);
  const std::string library = json.at(0);
  const std::size_t first = library.find(' '), second = library.find(' ', first + 1);
  const std::string isa = json.at(1);
  return {library.substr(first + 1, second - first - 1), library.substr(second + 1),
          fmt::format("{}; oneDNN uses {}, own loops {}", cpu_features(), isa, dispatched_target())};
}

}  // namespace annulus
