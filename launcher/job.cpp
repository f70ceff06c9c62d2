#include "launcher/job.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

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
#include "runtime/network_yaml.h"
#include "runtime/tune.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// A worker's libraries, oneDNN's generated code, stacks and tables: 23 MiB of private pages seen for
// SimpleCNN.
constexpr int64_t kWorkerOverheadBytes = int64_t{32} << 20;

// What the planner process finds out.
struct Planned {
  NetworkPlan network;
  onednn::Bf16Support bf16 = {};
};

// Plans in fp32 where bf16 is asked for, the processor lacks it and the user said that it need not be.
Planned ask_planner(const NetworkSpec& spec, const TrainConfig& config) {
  const std::string text = run_helper("annulus:plan", [&](int output) {
    NetworkOptions options = network_options(config, spec);
    const onednn::Bf16Support bf16 = onednn::bf16_support();
    if (options.type == DataType::kBf16 && bf16 != onednn::Bf16Support::kNative) {
      if (config.precision_fallback) {
        options.type = DataType::kF32;
      } else if (bf16 == onednn::Bf16Support::kNone) {
        throw UserError::format(
            "--precision bf16: oneDNN has it only with AVX-512, and uses {} on this processor; give "
            "--precision "
            "fp32, or --precision-fallback on",
            onednn::effective_isa());
      }
    }
    const Network network(spec, options);
    return write_all(output, nlohmann::json{network.plan(), bf16}.dump()) ? 0 : 1;
  });
  const nlohmann::json json = nlohmann::json::parse(text);
  return {json.at(0).get<NetworkPlan>(), json.at(1).get<onednn::Bf16Support>()};
}

// Makes the configuration's precision the planned one. Returns what the user should know of it.
std::vector<std::string> settle_precision(const Planned& planned, TrainConfig& config) {
  if (config.precision != "bf16" || planned.bf16 == onednn::Bf16Support::kNative) return {};
  if (planned.network.type == DataType::kF32) {
    config.precision = "fp32";
    return {fmt::format(
        "--precision bf16: no bf16 instructions on this processor, on which oneDNN uses {}; training "
        "in fp32, as --precision-fallback on says",
        planned.network.isa)};
  }
  return {fmt::format(
      "--precision bf16: no bf16 instructions on this processor, so oneDNN emulates them with {}, "
      "which is several times slower than fp32; give --precision-fallback on",
      planned.network.isa)};
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
  const int64_t most =
      std::max<int64_t>(std::min(fed, config.shards > 0 ? config.shards : fed) / config.host_count, 1);
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
              const NetworkSpec& spec, int workers_in_memory, bool may_measure,
              const std::shared_ptr<const Checkpoint>& resumed, const HostPlan& hosts) {
  Placement placement = place_workers(config, machine, workers_in_memory);
  const int workers = static_cast<int>(placement.workers.size());
  std::vector<std::string> notes = placement.notes;
  for (std::string& note : check_combinations(config, workers)) notes.push_back(std::move(note));
  TrainConfig resolved = annulus::resolved(config, workers);
  DomainPlan domains = find_domains(machine, placement);

  const StepSchedule schedule(resolved, dataset.train_count);
  Planned planned = ask_planner(spec, resolved);
  std::vector<std::string> warnings = placement.warnings;
  for (std::string& warning : settle_precision(planned, resolved)) warnings.push_back(std::move(warning));
  BucketPlan buckets = plan_buckets(planned.network, static_cast<int64_t>(resolved.bucket_mb * (1 << 20)),
                                    keeps_host_residual(resolved));
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
                  .network = std::move(planned.network),
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
          .warnings = std::move(warnings)};
  RunPlan& run = job.run;
  const SegmentInputs inputs = run.segment_inputs();
  run.checkpoint =
      plan_checkpoint(run.spec, run.network, run.buckets, moment_names(run.config), run.config.staleness != 0,
                      inputs.residual_arrays(), inputs.velocity_arrays());
  run.resumed = resumed;
  run.hosts = hosts;
  job.segment = plan_segment(inputs);
  return job;
}

// The network of the run that made the checkpoint, where the configuration names the same: its file may be
// elsewhere by now.
NetworkSpec network_for(const TrainConfig& config, const DatasetInfo& dataset, const Checkpoint* resumed) {
  if (resumed != nullptr && is_network_file(config.model) &&
      config.model == parse_saved({resumed->config(), resumed->path()}).model) {
    return resolve_network(parse_network(resumed->model(), config.model), dataset.shape, dataset.classes);
  }
  return choose_network(config.model, config.stem, dataset.shape, dataset.classes);
}

// What the checkpoint's run had otherwise, of what decides which tensors there are; empty: nothing.
std::string changed_since(const Checkpoint& checkpoint, const TrainConfig& config) {
  const TrainConfig saved = parse_saved({checkpoint.config(), checkpoint.path()});
  const auto text = [](const auto& value) { return fmt::format("{}", value); };
  const auto on_or_off = [](bool value) { return std::string(value ? "on" : "off"); };
  const std::tuple<const char*, std::string, std::string> options[] = {
      {"model", saved.model, config.model},
      {"stem", saved.stem, config.stem},
      {"dataset", saved.dataset, config.dataset},
      {"optimizer", saved.optimizer, config.optimizer},
      {"staleness", text(saved.staleness), text(config.staleness)},
      {"compress", saved.compress, config.compress},
      {"compress-where", saved.compress_where, config.compress_where},
      {"momentum-correction", on_or_off(saved.momentum_correction), on_or_off(config.momentum_correction)},
      // Residuals are those of shards.
      {"shards", text(saved.shards),
       keeps_residuals(config) && keeps_residuals(saved) ? text(config.shards) : text(saved.shards)}};
  std::string changes;
  for (const auto& [name, before, now] : options) {
    if (before == now) continue;
    changes +=
        fmt::format("{}--{} {} (it is of a run with {})", changes.empty() ? "" : ", ", name, now, before);
  }
  return changes;
}

void check_resumed(const RunPlan& run) {
  try {
    run.resumed->check_fits(run.checkpoint);
  } catch (const UserError& error) {
    const std::string changes = changed_since(*run.resumed, run.config);
    if (changes.empty()) throw;
    throw UserError::format(
        "--resume: {} does not go with {}; leave that out, or begin anew without --resume",
        run.resumed->path(), changes);
  }
  if (run.resumed->step() < run.schedule.steps()) return;
  throw UserError::format(
      "--resume: {} is of step {}, and the run has {} steps: nothing is left to do; give more --epochs or "
      "--steps",
      run.resumed->path(), run.resumed->step(), run.schedule.steps());
}

}  // namespace

int64_t Job::worker_bytes() const { return run.network.arena_bytes + kWorkerOverheadBytes; }

int64_t Job::total_bytes() const {
  return static_cast<int64_t>(segment.bytes) + run.config.workers * worker_bytes();
}

int count_workers(const TrainConfig& config, const Machine& machine) {
  return static_cast<int>(place_workers(config, machine, 0).workers.size());
}

Job plan_job(const TrainConfig& config, const Machine& machine, const DatasetInfo& dataset, bool check_memory,
             std::shared_ptr<const Checkpoint> resumed, const HostPlan& hosts) {
  // Read once: it may come through a pipe.
  const NetworkSpec spec = network_for(config, dataset, resumed.get());
  int workers_in_memory = 0;  // no limit known
  const auto plan = [&](const TrainConfig& of) {
    return plan_with(of, machine, dataset, spec, workers_in_memory, check_memory, resumed, hosts);
  };
  Job job = plan(config);
  if (resumed) check_resumed(job.run);
  if (!check_memory) return job;
  const AvailableMemory memory = available_memory();
  // Fewer workers have larger shards each, so what fits is found one by one.
  while (job.total_bytes() > memory.bytes && config.workers == 0 && job.run.config.workers > 1) {
    workers_in_memory = job.run.config.workers - 1;
    job = plan(config);
  }
  if (job.total_bytes() > memory.bytes) {
    const int64_t arenas = job.total_bytes() - static_cast<int64_t>(job.segment.bytes);
    const char* const remedy =
        arenas > job.total_bytes() / 2
            ? "a smaller batch, a larger --accumulate (fewer images at a time), fewer --workers"
            : "fewer --workers, fewer --shards";
    throw UserError::format(
        "not enough memory: the run needs {} ({} shared, {} for {} worker{}), and {} leaves {}; use {}, or "
        "raise the limit",
        format_bytes(job.total_bytes()), format_bytes(job.segment.bytes), format_bytes(job.worker_bytes()),
        job.run.config.workers == 1 ? "the only" : fmt::format("each of {}", job.run.config.workers),
        job.run.config.workers == 1 ? "" : "s", memory.source, format_bytes(memory.bytes), remedy);
  }
  if (!config.tune) return job;
  // Only now, because measuring takes the memory of a worker.
  TrainConfig tuned = config;
  tuned.tune = false;
  tuned.precision = job.run.config.precision;
  tuned.convolutions = measure_convolutions(spec, network_options(job.run.config, spec), machine,
                                            job.placement.workers.front());
  std::vector<std::string> warnings = std::move(job.warnings);
  job = plan(tuned);
  job.warnings = std::move(warnings);
  job.notes.push_back(tuned.convolutions.empty() ? "--tune: no convolution has a choice of algorithms"
                                                 : "--tune chose --convolutions " + tuned.convolutions);
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
