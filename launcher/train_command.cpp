#include "launcher/train_command.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "launcher/compression_governor.h"
#include "launcher/host_session.h"
#include "launcher/options.h"
#include "launcher/placement_report.h"
#include "launcher/run_files.h"
#include "launcher/signals.h"
#include "launcher/supervisor.h"
#include "launcher/terminal.h"
#include "launcher/topology_drawing.h"
#include "runtime/checksum.h"
#include "runtime/network_yaml.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

// What a run has come to, for the summary on the terminal and the one in the run directory.
struct RunSummary {
  const Job& job;
  const JobOutcome& outcome;
  const Progress& progress;
  std::optional<EvalSummary> evaluation;
  std::optional<CompressionEstimate> compression;  // of top-k between hosts
  double planned_s = 0, total_s = 0;               // since the command began
  int64_t began_ns = 0;

  int64_t steps() const { return outcome.committed_step - job.run.initial_step(); }
  double whole_wire_bytes() const { return job.run.whole_wire_bytes() * static_cast<double>(steps()); }
  double saved() const { return wire_saved(outcome.wire.bytes, whole_wire_bytes()); }
  double first_step_s() const { return (progress.first_step_end_ns() - began_ns) * 1e-9; }
};

std::string headline(const Job& job) {
  const TrainConfig& config = job.run.config;
  return fmt::format(
      "{} on {}: {}{} worker{} x {} thread{} ({}), batch {} in {} shard{}, {}, {}, lr {}, {} steps",
      job.run.spec.name, config.dataset,
      job.run.hosts.several() ? fmt::format("{} hosts x ", job.run.hosts.count) : "", config.workers,
      config.workers == 1 ? "" : "s", config.threads_per_worker, config.threads_per_worker == 1 ? "" : "s",
      job.run.network.isa, config.batch_size, config.shards, config.shards == 1 ? "" : "s", config.precision,
      config.optimizer, config.learning_rate, job.run.schedule.steps());
}

std::string wire_text(const RunSummary& summary) {
  const WireUse& wire = summary.outcome.wire;
  const double ms = 1e-6 / static_cast<double>(std::max<int64_t>(summary.steps(), 1));  // of a step
  std::string text = fmt::format("wire       {} sent to other hosts", format_bytes(wire.bytes));
  if (summary.whole_wire_bytes() > 0) {
    text += fmt::format(", {:.1f} % less than whole gradients are", 100 * summary.saved());
  }
  text +=
      fmt::format("; a step {:.2f} ms on the way at up to {:.2f} Gbit/s and {:.2f} ms of processor time",
                  wire.link_ns * ms, static_cast<double>(wire.bytes) * 8 / std::max<double>(wire.link_ns, 1),
                  wire.cpu_ns * ms);
  if (wire.encode_ns + wire.decode_ns > 0) {
    text += fmt::format(", of that {:.2f} to encode and {:.2f} to decode", wire.encode_ns * ms,
                        wire.decode_ns * ms);
  }
  text += "\n";
  if (summary.compression && !summary.compression->pays()) {
    text += "           " + describe(*summary.compression) + "\n";
  }
  return text;
}

std::string to_text(const RunSummary& summary) {
  const JobOutcome& outcome = summary.outcome;
  const Progress& progress = summary.progress;
  const Progress::Means means = progress.means();
  const uint32_t begun = summary.job.run.initial_step();
  std::string text = fmt::format(
      "time       {:.2f} s for {} steps{}, {} images\n", summary.total_s, outcome.committed_step - begun,
      begun == 0 ? "" : fmt::format(" after step {}", begun), with_thousands(progress.images()));
  if (progress.steps_done() > 0) {
    const StartupTimes& startup = outcome.startup;
    text += fmt::format(
        "start      first step after {:.3f} s: plan {:.3f}, reserve {:.3f}, fork {:.3f}, data at {:.3f}, "
        "kernels at "
        "{:.3f}\n",
        summary.first_step_s(), summary.planned_s, startup.reserved - summary.planned_s,
        startup.forked - startup.reserved, startup.loaded, startup.ready);
  }
  if (progress.steps_done() > 1) {
    text += fmt::format(
        "speed      {} images/s; step {:.3f} ms = T_compute {:.3f} + T_comm {:.3f} + T_sync {:.3f}; exchange "
        "hidden "
        "{:.3f} ms, exposed {:.3f} ms\n",
        with_thousands(std::llround(means.images_per_s)), means.step_ms, means.compute_ms, means.comm_ms,
        means.sync_ms, means.hidden_ms, means.comm_ms + means.sync_ms);
  }
  if (summary.job.run.hosts.several()) {
    text += fmt::format("hosts      {}; this one is {}\n", summary.job.run.hosts.count,
                        summary.job.run.hosts.names[summary.job.run.hosts.node]) +
            wire_text(summary);
  }
  text += fmt::format("rings      {} descriptors, {} handed over in place\n",
                      with_thousands(static_cast<int64_t>(outcome.descriptors)), format_bytes(outcome.bytes));
  text += fmt::format("placement  {}\n", describe_placement(outcome.placement));
  if (outcome.restarts > 0) {
    text += fmt::format("restarts   {} process{} replaced\n", outcome.restarts,
                        outcome.restarts == 1 ? " was" : "es were");
  }
  const CheckpointCounts& checkpoints = outcome.checkpoints;
  if (checkpoints.written + checkpoints.failed + checkpoints.skipped > 0) {
    text += fmt::format(
        "checkpoint {} written, {} failed, {} left out; copied in {:.1f} ms, written in {:.1f} ms "
        "at most, training held up {:.1f} ms in all\n",
        checkpoints.written, checkpoints.failed, checkpoints.skipped, checkpoints.copy_ns * 1e-6,
        checkpoints.write_ns * 1e-6, outcome.held_ns * 1e-6);
  }
  if (!checkpoints.last.empty()) {
    text += fmt::format("           {} ({})\n", checkpoints.last, format_bytes(checkpoints.bytes));
  }
  if (outcome.pss_bytes > 0) {
    text += fmt::format("memory     {} in all processes, segment {}\n", format_bytes(outcome.pss_bytes),
                        format_bytes(summary.job.segment.bytes));
  }
  if (summary.evaluation) {
    text += fmt::format("accuracy   {:.2f} % of {} test images after step {}, loss {:.4f}\n",
                        100 * summary.evaluation->accuracy, with_thousands(summary.evaluation->images),
                        summary.evaluation->step, summary.evaluation->loss);
  }
  return text + fmt::format("weights {}", format_checksum(outcome.checksum));
}

std::string to_json(const RunSummary& summary) {
  const JobOutcome& outcome = summary.outcome;
  const Progress::Means means = summary.progress.means();
  nlohmann::ordered_json json = {
      {"exit_code", outcome.exit_code},
      {"failure", outcome.failure},
      {"hosts", summary.job.run.hosts.count},
      {"steps", outcome.committed_step},
      {"images", summary.progress.images()},
      {"seconds", summary.total_s},
      {"images_per_s", means.images_per_s},
      {"step_ms", means.step_ms},
      {"compute_ms", means.compute_ms},
      {"comm_ms", means.comm_ms},
      {"sync_ms", means.sync_ms},
      {"hidden_ms", means.hidden_ms},
      {"ring_descriptors", outcome.descriptors},
      {"ring_bytes", outcome.bytes},
      {"wire_bytes", outcome.wire.bytes},
      {"wire_saved", summary.saved()},
      {"wire_saved_bytes", std::llround(summary.saved() * summary.whole_wire_bytes())},
      {"wire_ms", outcome.wire.link_ns * 1e-6},
      {"wire_cpu_ms", outcome.wire.cpu_ns * 1e-6},
      {"encode_ms", outcome.wire.encode_ns * 1e-6},
      {"decode_ms", outcome.wire.decode_ns * 1e-6},
      {"pages", outcome.placement.pages()},
      {"remote_pages", outcome.placement.remote()},
      {"pss_bytes", outcome.pss_bytes},
      {"restarts", outcome.restarts},
      {"checkpoints",
       {{"written", outcome.checkpoints.written},
        {"failed", outcome.checkpoints.failed},
        {"skipped", outcome.checkpoints.skipped},
        {"last", outcome.checkpoints.last},
        {"copy_ms", outcome.checkpoints.copy_ns * 1e-6},
        {"write_ms", outcome.checkpoints.write_ns * 1e-6},
        {"held_ms", outcome.held_ns * 1e-6}}},
      {"weights", format_checksum(outcome.checksum)}};
  if (summary.compression) {
    json["compression"] = {{"pays", summary.compression->pays()},
                           {"coding_ms", summary.compression->coding_ms},
                           {"saved_wire_ms", summary.compression->saved_wire_ms},
                           {"saved_cpu_ms", summary.compression->saved_cpu_ms},
                           {"gbit_per_s", summary.compression->gbit_per_s}};
  }
  if (summary.progress.steps_done() > 0) json["first_step_s"] = summary.first_step_s();
  if (summary.evaluation) json["test_accuracy"] = summary.evaluation->accuracy;
  return json.dump(1) + "\n";
}

// Data found below the working directory is named in the saved configuration, which then works from anywhere.
TrainConfig with_data_found(const TrainConfig& config, const DatasetInfo& dataset) {
  TrainConfig result = config;
  if (!dataset.files.empty()) {
    const std::filesystem::path found = dataset.files.front().path;
    if (found.is_relative()) result.data = std::filesystem::absolute(found.parent_path()).lexically_normal();
  }
  return result;
}

// What other hosts print goes through the terminal as long as there is one.
class SharedTerminal {
 public:
  SharedTerminal(Terminal& terminal, HostSession* session) : session_(session) {
    if (session_ != nullptr) {
      session_->control().set_say([&terminal](const std::string& line) { terminal.line(line); });
    }
  }
  ~SharedTerminal() {
    if (session_ != nullptr) session_->control().set_say(say_on_stderr);
  }
  SharedTerminal(const SharedTerminal&) = delete;
  SharedTerminal& operator=(const SharedTerminal&) = delete;

 private:
  HostSession* const session_;
};

// Directory of this host's run files. That of a run which goes on may hold one.
RunDirectory make_directory(const TrainConfig& config, const Job& job, const ResumePoint* resume,
                            const HostSession* session) {
  const std::string of_run = resume != nullptr ? resume->run_dir : "";
  const std::string wanted = config.run_dir.empty() ? of_run : config.run_dir;
  if (session == nullptr) return RunDirectory(wanted, job.run.spec.name, of_run);
  const std::string own_of_run = of_run.empty() ? "" : session->directory_below(of_run);
  return RunDirectory(session->run_dir(wanted), job.run.spec.name, own_of_run);
}

// That say which host of a run this is.
std::string flags_of_host(const TrainConfig& config) {
  std::string flags;
  if (!config.hosts.empty()) flags += "--hosts " + config.hosts + " ";
  if (config.node) flags += fmt::format("--node {} ", *config.node);
  if (!config.secret_file.empty()) flags += "--secret-file " + config.secret_file + " ";
  return flags;
}

int train(const TrainConfig& config, const Machine& machine, const ResumePoint* resume, HostSession* session,
          int64_t began_ns) {
  const DatasetInfo dataset = describe_dataset(config.dataset, config.data);
  Job job = plan_job(with_data_found(config, dataset), machine, dataset, true,
                     resume != nullptr ? resume->checkpoint : nullptr,
                     session != nullptr ? session->hosts() : HostPlan{});
  if (session != nullptr) session->preflight(job, resume);
  const RunDirectory directory = make_directory(config, job, resume, session);
  if (session != nullptr) {
    session->start(directory.path());
  } else if (resume != nullptr && directory.goes_on()) {
    check_still_latest(*resume);
  }
  job.checkpoints = {.directory = checkpoint_directory(directory.path()),
                     .texts = {.seed = job.run.config.seed,
                               .config = to_yaml(saved_config(job.run.config, directory.path())),
                               .model = to_yaml(job.run.spec)}};
  const double planned_s = (now_ns() - began_ns) * 1e-9;

  Terminal terminal;
  const SharedTerminal shared(terminal, session);
  const auto say = [&](const std::string& text) {
    if (!config.quiet) terminal.line(text);
  };
  say(headline(job));
  if (resume != nullptr) {
    for (const std::string& warning : resume->warnings) terminal.line("warning: " + warning);
    say(fmt::format("goes on after step {} from {}", job.run.resumed->step(), job.run.resumed->path()));
  }
  for (const std::string& note : job.notes) say("note: " + note);
  for (const std::string& warning : job.warnings) terminal.line("warning: " + warning);

  Progress progress(job.run.schedule.steps(), job.run.schedule.steps_per_epoch(), job.run.whole_wire_bytes());
  std::optional<EvalSummary> evaluation;
  std::optional<CompressionGovernor> governor;
  if (keeps_host_residual(job.run.config)) {
    governor.emplace(job.run.whole_wire_bytes(), job.run.config.workers);
  }
  bool told = false;  // that compression does not pay
  std::unique_ptr<Scribe> scribe;
  JobObserver observer;
  observer.started = [&](const Segment& segment) {
    scribe = std::make_unique<Scribe>(directory, job, segment);
  };
  observer.warning = [&](const std::string& text) { terminal.line("warning: " + text); };
  observer.step = [&](StepSummary step) {
    // The records are of this host's shards.
    if (session != nullptr) step.images = job.run.schedule.images(static_cast<int64_t>(step.step)).count;
    progress.add(step);
    if (!governor) return;
    governor->add(step.wire, job.run.schedule.top_k(static_cast<int64_t>(step.step)).ratio <= config.ratio);
    if (told || job.run.hosts.node != 0) return;  // one host speaks for all
    if (const auto estimate = governor->estimate(); estimate && !estimate->pays()) {
      told = true;
      terminal.line("warning: " + describe(*estimate));
    }
  };
  observer.evaluation = [&](const EvalSummary& latest) {
    evaluation = latest;
    say(fmt::format("epoch {}: test accuracy {:.2f} %, test loss {:.4f}", latest.epoch, 100 * latest.accuracy,
                    latest.loss));
  };
  observer.tick = [&] {
    terminal.flush();
    if (scribe) {
      const std::string replaced = scribe->watch();
      if (!replaced.empty()) terminal.line("warning: " + replaced);
    }
    if (!config.quiet && progress.steps_done() > 0) terminal.status(progress.line());
  };

  // A second Ctrl-C must not cost the summary: signals wait until it is written.
  std::optional<SignalBlock> signals(std::in_place);
  JobOutcome outcome;
  try {
    outcome = run_job(job, machine, observer, began_ns, session != nullptr ? &session->control() : nullptr);
  } catch (...) {
    directory.remove_if_empty();
    throw;
  }
  if (!config.quiet && progress.steps_done() > 0) terminal.end_status(progress.line());
  const RunSummary summary{.job = job,
                           .outcome = outcome,
                           .progress = progress,
                           .evaluation = evaluation,
                           .compression = governor ? governor->estimate() : std::nullopt,
                           .planned_s = planned_s,
                           .total_s = (now_ns() - began_ns) * 1e-9,
                           .began_ns = began_ns};
  const std::string trouble = scribe->close(to_json(summary));
  if (!trouble.empty()) terminal.line("warning: the run files are incomplete: " + trouble);
  directory.remove_if_empty();
  if (outcome.exit_code > 128 && outcome.failure.empty()) {
    terminal.line(fmt::format("stopped by {} after step {}", strsignal(outcome.exit_code - 128),
                              outcome.committed_step));
  }
  if (outcome.committed_step > 0) {
    terminal.line(to_text(summary));
    terminal.line("run files  " + directory.path());
    if (outcome.exit_code != 0 && !outcome.checkpoints.last.empty() && config.hosts != "-") {
      const std::string flags = session != nullptr ? flags_of_host(config) : "";
      terminal.line(fmt::format("go on with annulus train {}--resume {}", flags,
                                session != nullptr ? session->first_run_dir() : directory.path()));
    }
  }
  signals.reset();
  terminal.finish(std::chrono::seconds(1));
  if (!outcome.failure.empty()) std::fprintf(stderr, "annulus: %s\n", outcome.failure.c_str());
  return outcome.exit_code;
}

}  // namespace

int train_command(const TrainConfig& config, const ResumePoint* resume, const RunHosts& hosts,
                  int64_t began_ns) {
  const Machine machine = Machine::this_machine();
  std::optional<HostSession> session;
  if (hosts.several()) session.emplace(hosts, config);
  try {
    return train(config, machine, resume, session ? &*session : nullptr, began_ns);
  } catch (const UserError& error) {
    if (session) session->give_up(error.what());
    throw;
  }
}

}  // namespace annulus
