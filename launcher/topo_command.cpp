#include "launcher/topo_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "launcher/placement_report.h"
#include "launcher/supervisor.h"
#include "launcher/topology_drawing.h"

namespace annulus {
namespace {

std::string draw_segment(const Job& job) {
  std::string text = fmt::format("segment: {}, one for all workers\n", format_bytes(job.segment.bytes));
  for (const SegmentPlan::Part& part : job.segment.parts) {
    text += fmt::format("  {:<34}{:>12}\n", part.name, format_bytes(part.bytes));
  }
  text += fmt::format("  {:<34}{:>12}\n", "(private to each worker: arena)",
                      format_bytes(job.run.network.arena_bytes));
  const SegmentInputs inputs = job.run.segment_inputs();
  text += fmt::format(
      "weights and optimizer state exist once: {} in each of 2 generations{}, whatever the workers\n",
      format_bytes(inputs.state_arrays * job.segment.state_array_bytes),
      inputs.staleness == 0 ? ""
                            : fmt::format(", {} more of weights alone",
                                          format_bytes(inputs.staleness * job.segment.state_array_bytes)));
  return text;
}

}  // namespace

int topo_command(const TopoOptions& options, int64_t began_ns) {
  const bool imagined = !options.synthetic.empty();
  if (imagined && options.verify) {
    throw UserError(
        "--verify starts real workers and cannot do so on a --synthetic machine; leave one of them out");
  }
  const Machine machine = imagined ? Machine::synthetic(options.synthetic) : Machine::this_machine();
  TrainConfig config = options.config;
  config.steps = 0;  // workers start, take their memory, and end
  const DatasetInfo dataset = describe_dataset(config.dataset, config.data);
  const Job job = plan_job(config, machine, dataset, !imagined);
  const std::vector<int64_t> bytes(job.run.config.workers, job.worker_bytes());
  fmt::print("{}{}", draw_machine(machine, job.placement), draw_workers(job.placement, bytes));
  fmt::print("domains: {}\n", describe_domains(job.domains));
  for (const std::string& note : job.notes) {
    const std::vector<std::string>& drawn = job.placement.notes;
    if (std::find(drawn.begin(), drawn.end(), note) == drawn.end()) fmt::print("note: {}\n", note);
  }
  fmt::print("{}", draw_segment(job));
  if (!options.verify) return 0;

  JobObserver observer;
  observer.warning = [](const std::string& text) { fmt::print("warning: {}\n", text); };
  const JobOutcome outcome = run_job(job, machine, observer, began_ns);
  fmt::print("read back from running workers:\n{}placement: {}\n", describe_ranks(outcome.placement),
             describe_placement(outcome.placement));
  std::fflush(stdout);
  if (!outcome.failure.empty()) std::fprintf(stderr, "annulus: %s\n", outcome.failure.c_str());
  return outcome.exit_code;
}

}  // namespace annulus
