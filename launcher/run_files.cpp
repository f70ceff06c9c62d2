#include "launcher/run_files.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "collectives/wait.h"
#include "launcher/network_report.h"
#include "launcher/options.h"
#include "runtime/durable_file.h"
#include "runtime/models.h"
#include "telemetry/error.h"
#include "telemetry/step_aggregator.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

constexpr int kPollMs = 50;                    // a rank keeps its last 2,048 steps
constexpr int64_t kOrphansNs = 2'000'000'000;  // that processes of a killed launcher may take to end

std::string dated_name(const std::string& model) {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::tm local{};
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", localtime_r(&now, &local));
  return fmt::format("runs/{}-{}", text, model);
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  if (!file)
    throw std::runtime_error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
}

// JSON has no NaN.
nlohmann::json number_or_null(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

std::string to_line(const StepSummary& step, const RunPlan& run) {
  const auto ms = [](double ns) { return std::round(ns * 1e-3) * 1e-3; };
  nlohmann::ordered_json json{{"step", step.step},
                              {"epoch", run.schedule.images(static_cast<int64_t>(step.step)).epoch + 1},
                              {"loss", number_or_null(step.loss)},
                              {"images", step.images},
                              {"step_ms", ms(step.compute_ns + step.comm_ns + step.sync_ns)},
                              {"compute_ms", ms(step.compute_ns)},
                              {"comm_ms", ms(step.comm_ns)},
                              {"sync_ms", ms(step.sync_ns)},
                              {"hidden_ms", ms(step.hidden_ns)},
                              {"slowest_rank", step.slowest_rank}};
  if (run.config.clip > 0) json["gradient_norm"] = number_or_null(step.gradient_norm);
  if (run.hosts.several()) {
    const double whole = run.whole_wire_bytes(), saved = wire_saved(step.wire.bytes, whole);
    json.update({{"wire_bytes", step.wire.bytes},
                 {"wire_saved", saved},
                 {"wire_saved_bytes", std::llround(saved * whole)},
                 {"wire_ms", ms(static_cast<double>(step.wire.link_ns))},
                 {"wire_cpu_ms", ms(static_cast<double>(step.wire.cpu_ns))},
                 {"encode_ms", ms(static_cast<double>(step.wire.encode_ns))},
                 {"decode_ms", ms(static_cast<double>(step.wire.decode_ns))}});
  }
  return json.dump() + "\n";
}

std::string to_line(const EvalSummary& evaluation) {
  return nlohmann::ordered_json{{"epoch", evaluation.epoch},
                                {"step", evaluation.step},
                                {"test_loss", number_or_null(evaluation.loss)},
                                {"test_accuracy", evaluation.accuracy},
                                {"test_images", evaluation.images}}
             .dump() +
         "\n";
}

// How far metrics.jsonl tells of the run.
struct Told {
  uint64_t step = 0, evaluated = 0;  // steps; epochs have other numbers after --resume with another batch
};

// Takes the lines away that are torn, or tell of later steps than `last`; says how far the others go.
Told cut_metrics(const fs::path& path, uint64_t last) {
  Told told;
  std::ifstream file(path);
  if (!file) return told;
  std::string kept;
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) continue;
    const uint64_t step = json.value("step", uint64_t{0});
    if (step > last) continue;
    if (json.contains("test_loss")) {
      told.evaluated = std::max(told.evaluated, step);
    } else {
      told.step = std::max(told.step, step);
    }
    kept += line + "\n";
  }
  DurableFile cut(path.string(), posix_calls());  // nothing is lost, whatever ends this process now
  cut.write(std::as_bytes(std::span(kept)));
  cut.commit();
  return told;
}

// The scribe's whole life. Writes nothing before the data is there: until then the run may yet be refused.
// `last_told`: later steps that metrics.jsonl tells of are not of this run. `input` ends when the launcher
// closes it or dies; what went wrong goes into `output`.
int write_run_files(const fs::path& directory, const Job& job, const Segment& segment, uint64_t last_told,
                    int input, int output) {
  std::ofstream metrics;
  Told told;
  uint64_t lost_before = 0;  // records that were overwritten by the time that this process began
  StepAggregator aggregator(
      segment.ranks(), [&](int rank) -> const StepRing& { return segment.rank(rank).steps; },
      [&](int rank) -> const EvalRing& { return segment.rank(rank).evaluations; });
  const auto follow = [&] {
    if (segment.header().data_ready.load(std::memory_order_acquire) == 0) return;
    const bool opens = !metrics.is_open();
    if (opens) {
      write_file(directory / "model.yaml", describe_network(job.run.spec, 1));
      write_file(directory / "config.yaml", to_yaml(saved_config(job.run.config, directory.string())));
      write_file(directory / "plan.json", nlohmann::json(job.run.network).dump(1) + "\n");
      told = cut_metrics(directory / "metrics.jsonl", last_told);
      metrics.open(directory / "metrics.jsonl", std::ios::binary | std::ios::app);
    }
    aggregator.poll(
        [&](const StepSummary& step) {
          if (step.step > told.step) metrics << to_line(step, job.run);
        },
        [&](const EvalSummary& evaluation) {
          if (evaluation.step > told.evaluated) metrics << to_line(evaluation);
        });
    if (opens && last_told > job.run.initial_step()) lost_before = aggregator.lost();
    metrics.flush();
  };
  std::string summary;
  for (;;) {
    pollfd watch{input, POLLIN, 0};
    const int ready = poll(&watch, 1, kPollMs);
    follow();
    if (ready <= 0) continue;
    char buffer[4096];
    const ssize_t got = read(input, buffer, sizeof buffer);
    if (got <= 0) break;
    summary.append(buffer, got);
  }
  follow();
  if (!metrics.is_open()) return 0;
  if (!summary.empty()) write_file(directory / "summary.json", summary);
  if (!metrics) throw std::runtime_error("cannot write metrics.jsonl: is the disk full?");
  if (aggregator.lost() > lost_before) {
    write_all(output, fmt::format("{} step records were overwritten before they reached metrics.jsonl",
                                  aggregator.lost() - lost_before));
  }
  return 0;
}

}  // namespace

TrainConfig saved_config(const TrainConfig& config, const std::string& directory) {
  TrainConfig saved = config;
  if (is_network_file(config.model)) {
    saved.model = fs::absolute(fs::path(directory) / "model.yaml").lexically_normal().string();
  }
  return saved;
}

RunDirectory::RunDirectory(const std::string& wanted, const std::string& model, const std::string& goes_on) {
  std::error_code error;
  path_ = wanted.empty() ? dated_name(model) : wanted;
  for (int i = 2; wanted.empty() && fs::exists(path_, error); ++i) {
    path_ = fmt::format("{}-{}", dated_name(model), i);
  }
  goes_on_ = !goes_on.empty() && fs::equivalent(path_, goes_on, error);
  if (!goes_on_ && fs::exists(fs::path(path_) / "config.yaml", error)) {
    throw UserError::format("--run-dir {}: holds a run already; choose another directory, or remove this one",
                            path_);
  }
  for (fs::path at = path_; !at.empty() && !fs::exists(at, error); at = at.parent_path()) made_.push_back(at);
  error.clear();
  fs::create_directories(path_, error);
  if (!error && access(path_.c_str(), W_OK | X_OK) != 0) error = {errno, std::generic_category()};
  if (error) {
    throw UserError::format("--run-dir {}: cannot be written: {}; give a directory that you may write to",
                            path_, error.message());
  }
  lock();
}

RunDirectory::~RunDirectory() {
  if (locked_ >= 0) close(locked_);
}

void RunDirectory::lock() {
  locked_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int64_t begin = now_ns();
  while (flock(locked_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {  // other errors: it knows no locks
    if (now_ns() - begin > kOrphansNs) {
      close(locked_);
      throw UserError::format(
          "--run-dir {}: a run is under way in it; wait until it has ended, or choose another directory",
          path_);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void RunDirectory::remove_if_empty() const {
  for (const std::string& made : made_) {
    if (rmdir(made.c_str()) != 0) return;  // not empty: something was started
  }
}

Scribe::Scribe(const RunDirectory& directory, const Job& job, const Segment& segment)
    : directory_(directory), job_(job), segment_(segment) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw UserError::format("cannot start the scribe: {}", std::strerror(errno));
  from_launcher_ = ends[0];
  to_scribe_ = ends[1];
  start(job.run.initial_step());
}

Scribe::~Scribe() {
  if (to_scribe_ >= 0) close("");
  ::close(from_launcher_);
}

void Scribe::start(uint64_t last_told) {
  process_ = spawn("annulus:scribe", [this, last_told](int output) {
    ::close(to_scribe_);
    return write_run_files(directory_.path(), job_, segment_, last_told, from_launcher_, output);
  });
}

std::string Scribe::watch() {
  pollfd ended{process_.pidfd, POLLIN, 0};
  if (process_.pid < 0 || poll(&ended, 1, 0) == 0) return "";
  const ChildEnd end = finish(process_);
  trouble_ = describe(end);
  if (end.signal == 0 || ++restarts_ > kMostRestarts) return "";  // close() tells
  try {
    start(std::numeric_limits<uint64_t>::max());
  } catch (const UserError& error) {
    trouble_ += fmt::format("; {}", error.what());
    return "";
  }
  return trouble_ + ": it is replaced";
}

std::string Scribe::close(const std::string& summary) {
  (void)watch();
  if (process_.pid >= 0) {
    write_all(to_scribe_, summary);  // less than a pipe holds: does not block
  }
  ::close(std::exchange(to_scribe_, -1));
  if (process_.pid < 0) return trouble_;
  pollfd ended{process_.pidfd, POLLIN, 0};
  const double deadline_s = job_.run.config.deadline;
  if (poll(&ended, 1, static_cast<int>(deadline_s * 1e3)) == 0) kill(process_.pid, SIGKILL);
  const ChildEnd end = finish(process_);
  if (end.signal != 0 && ended.revents == 0) {
    return fmt::format("the scribe did not end in {} s and was killed; is the disk stuck?", deadline_s);
  }
  return describe(end);
}

std::string Scribe::describe(const ChildEnd& end) {
  if (end.signal == 0) return end.output;
  return fmt::format("the scribe was killed by signal {} ({})", end.signal, strsignal(end.signal));
}

}  // namespace annulus
