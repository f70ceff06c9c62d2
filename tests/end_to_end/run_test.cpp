// What a user sees of a run, and what it leaves: lines, summary, run files, names of processes, placement;
// and the other commands.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "tests/end_to_end/command.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

const Words kSmall = {"train",   "--dataset", "synthetic", "--model", "mlp",          "--workers", "2",
                      "--steps", "20",        "--run-dir", "run",     "--batch-size", "64"};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
bool matches(const std::string& text, const std::string& pattern) {
  return std::regex_search(text, std::regex(pattern));
}
int cpus() { return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)); }

// What a terminal shows after these bytes, row by row: a carriage return and "erase line" take a row back.
Words rows_shown(const std::string& bytes) {
  Words rows;
  std::istringstream lines(bytes + "\n");
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::size_t erased = line.rfind("\r\x1b[K");
    rows.push_back(erased == std::string::npos ? line : line.substr(erased + 4));
  }
  return rows;
}

std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    all.push_back(Json::parse(line, nullptr, false));
    EXPECT_TRUE(all.back().is_object()) << line;
  }
  return all;
}

class Run : public ::testing::Test {
 protected:
  Ended run(const Words& words) {
    const Ended end = run_annulus(words, scratch_.here());
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    EXPECT_EQ(end.err, "");
    for (const ProcessView& process : end.left) ADD_FAILURE() << process.name << " is left";
    return end;
  }

  void expect_whole_summary(const Ended& end) {
    EXPECT_EQ(end.weights().size(), 16u) << end.out;
    EXPECT_EQ(end.weights().find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_TRUE(matches(end.line("time "), R"([0-9.]+ s for \d+ steps, [0-9,]+ images)")) << end.out;
    EXPECT_TRUE(matches(end.line("start "), R"(first step after [0-9.]+ s)")) << end.out;
    EXPECT_TRUE(
        matches(end.line("speed "), R"([0-9,]+ images/s; step .* = T_compute .* \+ T_comm .* \+ T_sync)"));
    EXPECT_TRUE(matches(end.line("rings "), R"([0-9,]+ descriptors, [0-9.]+ [KMG]?i?B handed over)"))
        << end.out;
    EXPECT_TRUE(contains(end.line("placement "), "pages are remote")) << end.out;
    EXPECT_TRUE(matches(end.line("memory "), R"([0-9.]+ MiB in all processes, segment [0-9.]+ MiB)"))
        << end.out;
    EXPECT_TRUE(matches(end.line("accuracy "), R"([0-9.]+ % of [0-9,]+ test images)")) << end.out;
  }

  ScratchDirectory scratch_;
};

TEST_F(Run, TheShippedDefaultConfigurationTrainsOnFashionMnist) {
  const std::string shipped = std::string(ANNULUS_SOURCE) + "/launcher/configs/default.yaml";
  ASSERT_TRUE(fs::exists(shipped));
  const Ended end = run({"train", "--config", shipped, "--steps", "30"});
  expect_whole_summary(end);
  EXPECT_TRUE(matches(end.out, R"(simplecnn on fashion-mnist: \d+ workers? x 1 thread)")) << end.out;
  // In a pipe the lines are plain.
  EXPECT_EQ(end.out.find_first_of("\r\x1b"), std::string::npos) << end.out;
  EXPECT_TRUE(matches(end.out, R"(\nepoch 1/1  step \d+/30  loss \d+\.\d+)")) << end.out;
  EXPECT_TRUE(matches(end.out,
                      R"(\nepoch 1/1  step \d+/30  loss \d+\.\d+  [0-9,]+ images/s  T_compute [0-9.]+  )"
                      R"(T_comm [0-9.]+  T_sync [0-9.]+ ms  ETA \d+:\d\d\n)"))
      << end.out;
  EXPECT_TRUE(matches(end.out, R"(\nepoch 1: test accuracy [0-9.]+ %, test loss [0-9.]+\n)")) << end.out;
  // It is what no flags at all mean.
  const Ended plain = run({"train", "--steps", "30", "--run-dir", "plain"});
  EXPECT_EQ(plain.weights(), end.weights());
  // It learns: a tenth would be chance.
  const Json summary = Json::parse(read_file(scratch_ / "plain/summary.json"));
  EXPECT_GT(std::stod(end.line("accuracy ")), 30.0) << end.out;
  EXPECT_EQ(summary.at("weights"), "xxh64=" + end.weights());
  EXPECT_EQ(summary.at("exit_code"), 0);
  EXPECT_EQ(summary.at("steps"), 30);
}

TEST_F(Run, MetricsAreJsonAndTheTimesOfAStepAddUp) {
  run(with(kSmall, {"--steps", "40"}));
  int64_t steps = 0, evaluations = 0;
  for (const Json& line : json_lines(read_file(scratch_ / "run/metrics.jsonl"))) {
    if (line.contains("test_accuracy")) {
      ++evaluations;
      EXPECT_EQ(line.at("step"), 40);
      EXPECT_EQ(line.at("test_images"), 1024);
      continue;
    }
    EXPECT_EQ(line.at("step"), ++steps);
    EXPECT_EQ(line.at("epoch"), 1);
    EXPECT_EQ(line.at("images"), 64);
    EXPECT_TRUE(line.at("loss").is_number());
    const double step = line.at("step_ms"), compute = line.at("compute_ms"), comm = line.at("comm_ms"),
                 sync = line.at("sync_ms");
    EXPECT_GT(compute, 0);
    EXPECT_GE(comm, 0);
    EXPECT_GE(sync, 0);
    EXPECT_NEAR(compute + comm + sync, step, 0.01 * step);
  }
  EXPECT_EQ(steps, 40);
  EXPECT_EQ(evaluations, 1);
  const Words content = scratch_.content();
  EXPECT_EQ(content,
            (Words{"run", "run/checkpoints", "run/checkpoints/step-0000000040.safetensors", "run/config.yaml",
                   "run/metrics.jsonl", "run/model.yaml", "run/plan.json", "run/summary.json"}));
  EXPECT_TRUE(Json::accept(read_file(scratch_ / "run/plan.json")));
}

TEST_F(Run, AccuracyIsShownAfterEachEpoch) {
  const Ended end = run({"train", "--dataset", "synthetic", "--model", "mlp", "--epochs", "2", "--batch-size",
                         "512", "--run-dir", "run"});
  EXPECT_NE(end.line("epoch 1: test accuracy "), "") << end.out;
  EXPECT_NE(end.line("epoch 2: test accuracy "), "") << end.out;
  EXPECT_TRUE(contains(end.line("time "), "for 32 steps, 16,384 images")) << end.out;
}

TEST_F(Run, QuietLeavesTheSummary) {
  const Ended end = run(with(kSmall, {"--quiet", "on"}));
  expect_whole_summary(end);
  EXPECT_EQ(end.out.rfind("time ", 0), 0u) << end.out;
}

TEST_F(Run, OnATerminalTheLineRedraws) {
  CommandOptions terminal = scratch_.here();
  terminal.terminal = true;
  terminal.environment = {"TERM=xterm"};
  Command command(with(kSmall, {"--steps", "100000000"}), terminal);
  command.wait_until("a redrawn line", [&] {
    return matches(command.out(), "\r[^\n]*step \\d+/100000000[^\n]*\r[^\n]*step \\d+/100000000[^\n]*ETA");
  });
  kill(command.pid(), SIGINT);
  const Ended end = command.wait();
  EXPECT_EQ(end.code, 130);
  // The last words stand on lines of their own, and no half-drawn line is left below them.
  const Words rows = rows_shown(end.out);
  ASSERT_GE(rows.size(), 4u);
  EXPECT_TRUE(matches(rows.end()[-4], "^weights xxh64=[0-9a-f]{16}$")) << rows.end()[-3];
  EXPECT_EQ(rows.end()[-3], "run files  run");
  EXPECT_EQ(rows.end()[-2], "go on with annulus train --resume run");
  EXPECT_EQ(rows.end()[-1], "");
}

TEST_F(Run, ProcessesCarryNamesThatPsAndTopShow) {
  Command command(with(kSmall, {"--workers", "4", "--steps", "100000000"}), scratch_.here());
  command.wait_until("four workers at work", [&] {
    return command.process("annulus:3") != 0 && fs::exists(scratch_ / "run/metrics.jsonl");
  });
  std::multiset<std::string> names, titles;
  for (const ProcessView& process : command.processes()) {
    names.insert(process.name);
    titles.insert(fs::path(process.title).filename());
  }
  const std::multiset<std::string> expected = {"annulus",   "annulus:0", "annulus:1",
                                               "annulus:2", "annulus:3", "annulus:scribe"};
  EXPECT_EQ(names, expected);
  EXPECT_EQ(titles, expected);
  kill(command.pid(), SIGTERM);
  EXPECT_EQ(command.wait().code, 143);
}

TEST_F(Run, SharedMemoryHasNoNameThatCouldLeak) {
  const auto names = [] {
    std::set<std::string> all;
    std::error_code none;
    for (const fs::directory_entry& entry : fs::directory_iterator("/dev/shm", none))
      all.insert(entry.path());
    return all;
  };
  const std::set<std::string> before = names();
  Command command(with(kSmall, {"--steps", "100000000"}), scratch_.here());
  command.wait_until("a run under way", [&] { return fs::exists(scratch_ / "run/metrics.jsonl"); });
  EXPECT_TRUE(contains(read_file("/proc/" + std::to_string(command.pid()) + "/maps"), "memfd:annulus"));
  EXPECT_EQ(names(), before);
  kill(command.pid(), SIGKILL);
  command.wait();
  expect_no_process_left();
  EXPECT_EQ(names(), before);
}

TEST_F(Run, ClosedStandardStreamsBecomeDevNull) {
  CommandOptions closed = scratch_.here();
  closed.closes_standard_streams = true;
  Command command(with(kSmall, {"--steps", "100000000"}), closed);
  command.wait_until("a run under way", [&] { return fs::exists(scratch_ / "run/metrics.jsonl"); });
  for (const char* fd : {"0", "1", "2"}) {
    EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(command.pid()) + "/fd/" + fd), "/dev/null");
  }
  kill(command.pid(), SIGTERM);
  EXPECT_EQ(command.wait().code, 143);
}

TEST_F(Run, MoreWorkersThanCoresTakeTurnsAfterAWarning) {
  const int workers = 4 * cpus();
  const Ended end = run(with(kSmall, {"--workers", std::to_string(workers), "--steps", "10"}));
  EXPECT_TRUE(matches(end.out, "warning: --workers " + std::to_string(workers) + ": .*take turns"))
      << end.out;
  expect_whole_summary(end);
}

TEST_F(Run, ShardsThatWorkersDoNotDivideEvenlyAreNoted) {
  const Ended end = run(with(kSmall, {"--shards", "3", "--steps", "2"}));
  EXPECT_TRUE(matches(end.out, "note: --shards 3: 2 workers do not divide them evenly")) << end.out;
}

TEST_F(Run, WorkersMayRunWhereBindSays) {
  if (cpus() < 2) GTEST_SKIP() << "SKIPPED: needs two CPUs";
  const auto allowed = [&](const Words& flags, const std::string& process) {
    fs::remove_all(scratch_ / "run");
    Command command(with(with(kSmall, {"--steps", "100000000"}), flags), scratch_.here());
    command.wait_until("a run under way", [&] { return fs::exists(scratch_ / "run/metrics.jsonl"); });
    std::istringstream status(read_file("/proc/" + std::to_string(command.process(process)) + "/status"));
    std::string list;
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("Cpus_allowed_list:\t", 0) == 0) list = line.substr(19);
    }
    kill(command.pid(), SIGTERM);
    EXPECT_EQ(command.wait().code, 143);
    return list;
  };
  EXPECT_EQ(allowed({"--bind", "core"}, "annulus:1"), "1");
  EXPECT_EQ(allowed({"--bind", "1,0"}, "annulus:1"), "0");
  EXPECT_EQ(allowed({"--bind", "0,1"}, "annulus:0"), "0");
  EXPECT_EQ(allowed({"--bind", "none"}, "annulus:0"), "0-" + std::to_string(cpus() - 1));
}

TEST_F(Run, EveryPlacementTrains) {
  const std::vector<Words> ways = {
      {"--bind", "none"},
      {"--bind", "numa"},
      {"--bind", "socket"},
      {"--smt", "on"},
      {"--workers", "1", "--threads-per-worker", "2"},
  };
  for (const Words& way : ways) {
    if (cpus() < 2 && contains(way.front(), "--workers")) continue;
    SCOPED_TRACE(::testing::PrintToString(way));
    fs::remove_all(scratch_ / "run");
    expect_whole_summary(run(with(with(kSmall, {"--steps", "5"}), way)));
  }
}

TEST_F(Run, AnUnusualLearningRateGivesJsonStill) {
  run(with(kSmall, {"--lr", "1e30", "--steps", "4"}));
  json_lines(read_file(scratch_ / "run/metrics.jsonl"));
  EXPECT_TRUE(Json::accept(read_file(scratch_ / "run/summary.json")));
}

TEST(Commands, VersionTellsWhatItIsBuiltFrom) {
  const Ended end = run_annulus({"--version"});
  EXPECT_EQ(end.code, 0);
  EXPECT_TRUE(matches(end.out, R"(^annulus \d+\.\d+\.\d+\n)")) << end.out;
  EXPECT_NE(end.line("commit: "), "");
  EXPECT_TRUE(matches(end.line("compiler: "), "GCC|Clang"));
  EXPECT_TRUE(matches(end.line("oneDNN: "), R"(\d+\.\d+\.\d+, \S+ threads)")) << end.out;
  EXPECT_NE(end.line("instruction sets: "), "");
}

TEST(Commands, HelpNamesEveryCommandAndFlag) {
  EXPECT_TRUE(matches(run_annulus({}).out, "annulus train.*\n.*annulus topo.*\n.*annulus bench train"));
  const Ended help = run_annulus({"train", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const std::string flag : {"model",      "dataset",   "data",       "workers",   "threads-per-worker",
                                 "bind",       "smt",       "batch-size", "shards",    "epochs",
                                 "steps",      "optimizer", "lr",         "momentum",  "weight-decay",
                                 "bucket-mb",  "augment",   "last-batch", "seed",      "run-dir",
                                 "deadline",   "quiet",     "config",     "algorithm", "staleness",
                                 "comm-thread"}) {
    EXPECT_TRUE(contains(help.out, "\n  --" + flag)) << flag;
  }
}

TEST(Commands, BenchTrainGivesOneJsonObject) {
  const Ended end = run_annulus({"bench", "train", "--model", "mlp", "--workers", "2", "--batch-per-worker",
                                 "16", "--steps", "20", "--json"});
  EXPECT_EQ(end.code, 0) << end.err;
  const std::vector<Json> lines = json_lines(end.out);
  ASSERT_EQ(lines.size(), 1u) << end.out;
  for (const char* key : {"workers", "threads_per_worker", "batch_per_worker", "images_per_s",
                          "median_step_ms", "p99_step_ms", "compute_ms", "pss_mib"}) {
    ASSERT_TRUE(lines[0].contains(key)) << key;
    EXPECT_GT(lines[0].at(key), 0) << key;
  }
  for (const char* key : {"comm_ms", "sync_ms"}) EXPECT_GE(lines[0].at(key), 0) << key;
  EXPECT_EQ(lines[0].at("model"), "mlp");
  EXPECT_EQ(lines[0].at("precision"), "fp32");
  EXPECT_EQ(lines[0].at("workers"), 2);
  EXPECT_EQ(lines[0].at("batch_per_worker"), 16);
  EXPECT_LE(lines[0].at("median_step_ms"), lines[0].at("p99_step_ms"));
}

TEST(Commands, TopoDrawsThisMachineAndTheSegmentPartByPart) {
  const Ended end = run_annulus({"topo", "--dataset", "synthetic", "--workers", "2"});
  EXPECT_EQ(end.code, 0) << end.err;
  for (const char* part : {"machine: ", "worker", "NUMA node", "segment: ", "header", "rings",
                           "weights, 2 generations", "gradients", "images and labels", "exist once"}) {
    EXPECT_TRUE(contains(end.out, part)) << part << " is not in:\n" << end.out;
  }
}

TEST(Commands, TopoDrawsMachinesThatAreNotThere) {
  const Ended end =
      run_annulus({"topo", "--synthetic", "pack:2 numa:2 l3:4 core:8 pu:2", "--dataset", "synthetic"});
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.line("machine: "),
            "2 packages, 4 NUMA nodes, 16 L3 caches, 128 cores, 256 CPUs; 128 cores may be used");
  EXPECT_TRUE(matches(end.out, R"(\n +127  254 +core 127 +3 )")) << end.out;
  // Placement flags change the plan.
  const Ended smt =
      run_annulus({"topo", "--synthetic", "core:4 pu:2", "--smt", "on", "--dataset", "synthetic"});
  EXPECT_TRUE(matches(smt.out, R"(\n +7  7 +)")) << smt.out;
}

TEST(Commands, TopoVerifyReadsBackWhereWorkersAre) {
  const Ended end =
      run_annulus({"topo", "--verify", "--workers", "2", "--dataset", "synthetic", "--model", "mlp"});
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(matches(end.out, R"(\nrank 0: CPUs? \S+, NUMA node \S+, \d+ pages, \d+ remote\n)")) << end.out;
  EXPECT_TRUE(matches(end.out, R"(\nrank 1: CPUs? \S+, NUMA node \S+, \d+ pages, \d+ remote\n)")) << end.out;
  EXPECT_TRUE(matches(end.line("placement: "), R"(planned CPUs; \d+ of [0-9,]+ pages are remote)"))
      << end.out;
  EXPECT_TRUE(end.left.empty());
}

}  // namespace
}  // namespace annulus
