// Random ranks die at random moments, in order and in storms: the run ends with the weights of an undisturbed
// one, and leaves nothing behind. ANNULUS_SEED repeats the order of ranks and pauses, not what the run was
// doing meanwhile.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <sstream>

#include "bench/random_killer.h"
#include "launcher/supervisor.h"
#include "tests/launcher/tiny_run.h"
#include "tests/open_descriptors.h"

namespace annulus {
namespace {

constexpr int64_t kEndless = 1'000'000'000;  // steps, and restarts

// One after the other, in rows of three, and in a storm: in all ways together 200 and a few.
constexpr int64_t kCalmKills = 6, kRowKills = 9, kStormKills = 8;
static_assert((kCalmKills + kRowKills + kStormKills) * std::size(kTinyWays) >= 200);

uint64_t seed() {
  static const uint64_t value = [] {
    const char* const given = std::getenv("ANNULUS_SEED");
    const uint64_t its = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("seed %llu (ANNULUS_SEED)\n", static_cast<unsigned long long>(its));
    return its;
  }();
  return value;
}

struct DisturbedRun {
  JobOutcome outcome;
  std::vector<Kill> kills;
  std::vector<RecoveryReport> recoveries;
};

// Until the killer has done what is planned. `watch` is called after each recovery.
DisturbedRun run_disturbed(
    const TinyWay& way, const KillPlan& plan,
    const std::function<void(const Segment&)>& watch = [](const Segment&) {}) {
  const Machine machine = Machine::this_machine();
  TrainConfig config = tiny_config(way);
  config.steps = config.max_restarts = kEndless;
  const Job job = plan_tiny_run(config, machine);
  DisturbedRun run;
  std::optional<RandomKiller> killer;
  const Segment* segment = nullptr;
  JobObserver observer;
  observer.started = [&](const Segment& its) {
    segment = &its;
    killer.emplace(its, plan);
  };
  observer.recovered = [&](const RecoveryReport& report) {
    run.recoveries.push_back(report);
    watch(*segment);
  };
  observer.tick = [&] {
    if (killer->done()) segment->header().stop_requested.store(1, std::memory_order_release);
  };
  run.outcome = run_job(job, machine, observer, now_ns());
  killer->done();
  run.kills = killer->kills();
  return run;
}

// Makes as many steps undisturbed.
void expect_the_same_bits(const TinyWay& way, const DisturbedRun& run) {
  ASSERT_EQ(run.outcome.exit_code, 0) << run.outcome.failure;
  ASSERT_GT(run.outcome.committed_step, 0u);
  const Machine machine = Machine::this_machine();
  TrainConfig config = tiny_config(way);
  config.steps = run.outcome.committed_step;
  const JobOutcome undisturbed = run_job(plan_tiny_run(config, machine), machine, JobObserver(), now_ns());
  EXPECT_EQ(undisturbed.exit_code, 0) << undisturbed.failure;
  EXPECT_EQ(undisturbed.committed_step, run.outcome.committed_step);
  EXPECT_EQ(undisturbed.checksum, run.outcome.checksum);
}

class RandomKills : public testing::TestWithParam<TinyWay> {
 protected:
  // In all tests together.
  inline static int64_t kills_without_wait = 0, recoveries_from_them = 0;

  static void expect_the_same_bits_after(const KillPlan& plan) {
    const DisturbedRun run = run_disturbed(GetParam(), plan);
    expect_the_same_bits(GetParam(), run);
    EXPECT_EQ(static_cast<int64_t>(run.kills.size()), plan.kills);
    EXPECT_EQ(run.outcome.restarts, plan.kills);
    kills_without_wait += plan.kills;
    recoveries_from_them += static_cast<int64_t>(run.recoveries.size());
  }
  static void TearDownTestSuite() {
    if (kills_without_wait == 0) return;  // those tests were left out
    EXPECT_LT(recoveries_from_them, kills_without_wait) << "no deaths have come together";
  }
};

INSTANTIATE_TEST_SUITE_P(AllWays, RandomKills, testing::ValuesIn(kTinyWays), name_of_way);

TEST_P(RandomKills, one_by_one_leave_the_bits_alone) {
  const KillPlan plan{.seed = seed(), .kills = kCalmKills, .mean_pause_ns = 5'000'000};
  const DisturbedRun run = run_disturbed(GetParam(), plan);
  expect_the_same_bits(GetParam(), run);
  EXPECT_EQ(run.outcome.restarts, kCalmKills);
  ASSERT_EQ(static_cast<int64_t>(run.kills.size()), kCalmKills);
  ASSERT_EQ(static_cast<int64_t>(run.recoveries.size()), kCalmKills);
  for (int i = 0; i < kCalmKills; ++i) {
    EXPECT_EQ(run.recoveries[i].ranks, std::vector<int>{static_cast<int>(run.kills[i].rank)});
    EXPECT_GT(run.recoveries[i].known_ns, run.kills[i].at_ns);
    if (i > 0) {
      EXPECT_LT(run.recoveries[i - 1].released_ns, run.kills[i].at_ns);
    }
  }
}

// The second and the third of a row meet the recovery from the first, or replacements that begin.
TEST_P(RandomKills, three_in_a_row_leave_the_bits_alone) {
  expect_the_same_bits_after({.seed = seed(), .kills = kRowKills, .mean_pause_ns = 5'000'000, .row = 3});
}

// From the first moment of the run on.
TEST_P(RandomKills, a_storm_leaves_the_bits_alone) {
  expect_the_same_bits_after({.seed = seed(), .kills = kStormKills, .mean_pause_ns = 2'000'000, .row = 0});
}

std::set<std::string> files_here() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(".")) names.insert(entry.path());
  return names;
}

// Of what a process has, as the kernel says.
struct Holdings {
  int descriptors = 0, threads = 0, children = 0, dead_children = 0;
  double resident_mib = 0;
};

Holdings holdings_of(pid_t pid) {
  Holdings its;
  const std::string process = std::to_string(pid);
  its.descriptors = open_descriptors(process);
  const std::filesystem::directory_iterator threads("/proc/" + process + "/task");
  its.threads = static_cast<int>(std::distance(begin(threads), end(threads)));
  int64_t pages = 0;
  std::ifstream("/proc/" + process + "/statm") >> pages >> pages;
  its.resident_mib = static_cast<double>(pages * sysconf(_SC_PAGESIZE)) / (1 << 20);
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    if (!std::isdigit(entry.path().filename().string()[0])) continue;
    std::string line;
    std::getline(std::ifstream(entry.path() / "stat"), line);  // empty: it has ended meanwhile
    const std::size_t name_end = line.rfind(')');
    if (name_end == line.npos) continue;
    std::istringstream rest(line.substr(name_end + 1));
    char state = 0;
    pid_t parent = 0;
    rest >> state >> parent;
    if (parent != pid) continue;
    ++its.children;
    its.dead_children += state == 'Z';
  }
  return its;
}

constexpr double kRoomMib = 4;  // for what an allocator keeps

// `threads`: most that it may have; a survivor starts one anew in each attempt.
void expect_no_growth(const std::vector<Holdings>& samples, int threads) {
  ASSERT_FALSE(samples.empty());
  const Holdings& first = samples.front();
  for (const Holdings& later : samples) {
    EXPECT_EQ(later.descriptors, first.descriptors);
    EXPECT_LE(later.threads, threads);
    EXPECT_EQ(later.children, first.children);
    EXPECT_EQ(later.dead_children, 0);
    EXPECT_LT(later.resident_mib, first.resident_mib + kRoomMib);
    if (testing::Test::HasFailure()) return;
  }
}

// Of the launcher, and of a rank that survives all others' deaths.
TEST(Leaks, a_hundred_restarts_and_ten_thousand_steps_leave_nothing_behind) {
  constexpr int64_t kKills = 110, kStepsEach = 100;
  constexpr std::size_t kWarmup = 10;  // restarts
  const std::filesystem::path before = std::filesystem::current_path();
  const std::filesystem::path directory = testing::TempDir() + "/annulus_leaks_" + std::to_string(getpid());
  std::filesystem::create_directories(directory);
  std::filesystem::current_path(directory);
  std::ofstream("kept") << "a file";
  const std::set<std::string> files = files_here();
  const int descriptors = open_descriptors();

  const TinyWay way{"", 2, [](TrainConfig& config) {
                      config.comm_thread = "0";
                      config.clip = 0.1;
                    }};
  const KillPlan plan{
      .seed = seed(), .kills = kKills, .mean_pause_ns = 1'000'000, .steps = kStepsEach, .first_rank = 1};
  std::vector<Holdings> launcher, survivor;
  std::size_t recoveries = 0;
  const auto watch = [&](const Segment& segment) {
    // After the last kill the killer has ended, too.
    if (++recoveries <= kWarmup || recoveries == kKills) return;
    launcher.push_back(holdings_of(getpid()));
    survivor.push_back(holdings_of(static_cast<pid_t>(segment.rank(0).pid.load())));
  };
  const DisturbedRun run = run_disturbed(way, plan, watch);
  EXPECT_EQ(run.outcome.exit_code, 0) << run.outcome.failure;
  EXPECT_EQ(run.outcome.restarts, kKills);
  EXPECT_GE(run.outcome.committed_step, 10'000u);
  EXPECT_EQ(launcher.size(), kKills - 1 - kWarmup);
  {
    SCOPED_TRACE("launcher");
    expect_no_growth(launcher, 2);  // one of them watches for deaths
  }
  {
    SCOPED_TRACE("rank 0");
    expect_no_growth(survivor, 2);
  }
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(files_here(), files);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  std::filesystem::current_path(before);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace annulus
