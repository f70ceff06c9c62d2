// A worker dies at each point of the protocol, on each rank: the run ends with the weights of an undisturbed
// one.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <span>

#include "launcher/supervisor.h"
#include "runtime/checkpoint_directory.h"
#include "runtime/checksum.h"
#include "runtime/network_yaml.h"
#include "tests/launcher/kill_points.h"
#include "tests/launcher/tiny_run.h"

namespace annulus {
namespace {

constexpr ProtocolPoint kAllPoints[] = {
    ProtocolPoint::kPublish,      ProtocolPoint::kSend,        ProtocolPoint::kPeek,
    ProtocolPoint::kAccept,       ProtocolPoint::kRelease,     ProtocolPoint::kReuse,
    ProtocolPoint::kVersionStore, ProtocolPoint::kVersionLoad, ProtocolPoint::kLieDown,
    ProtocolPoint::kSleep,        ProtocolPoint::kWake,        ProtocolPoint::kRing,
    ProtocolPoint::kSum,          ProtocolPoint::kCopy,        ProtocolPoint::kInitialize,
    ProtocolPoint::kForward,      ProtocolPoint::kBackward,    ProtocolPoint::kUpdate,
    ProtocolPoint::kStepEnd,      ProtocolPoint::kEvaluate,    ProtocolPoint::kUnwind,
    ProtocolPoint::kPark,         ProtocolPoint::kResume,      ProtocolPoint::kDismiss};
static_assert(std::size(kAllPoints) == kProtocolPoints);

// Points that a rank meets only when another one has died.
constexpr ProtocolPoint kRecoveryPoints[] = {ProtocolPoint::kUnwind, ProtocolPoint::kPark,
                                             ProtocolPoint::kResume};

// A run that is planned once and made many times.
class RepeatedRun {
 public:
  explicit RepeatedRun(const TrainConfig& config)
      : machine_(Machine::this_machine()), job_(plan(config)), undisturbed_(run({}).checksum) {}

  JobOutcome run(const std::vector<Death>& deaths) const {
    plan_deaths(deaths);
    return run_job(job_, machine_, JobObserver(), now_ns());
  }

  // Says how many of them happened.
  int expect_the_same_bits(const std::vector<Death>& deaths) const {
    const JobOutcome outcome = run(deaths);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
    EXPECT_EQ(outcome.committed_step, job_.run.schedule.steps());
    EXPECT_EQ(outcome.checksum, undisturbed_);
    EXPECT_LE(outcome.restarts, deaths_so_far());  // who dies dismissed is not replaced
    if (job_.checkpoints) {
      EXPECT_EQ(outcome.checkpoints.failed, 0);
      const Checkpoint last =
          latest_checkpoint(checkpoints_, [](const std::string& text) { ADD_FAILURE() << text; });
      EXPECT_EQ(last.step(), outcome.committed_step);
      EXPECT_EQ(last.weights(), format_checksum(undisturbed_));
    }
    return deaths_so_far();
  }

 private:
  Job plan(const TrainConfig& config) const {
    Job job = plan_tiny_run(config, machine_);
    if (makes_checkpoints(config)) {
      job.checkpoints = {checkpoints_, {config.seed, "{}", to_yaml(job.run.spec)}};
    }
    return job;
  }

  const std::string checkpoints_ =
      testing::TempDir() + "/kill_points_" + std::to_string(getpid()) + ".checkpoints";

  Machine machine_;
  Job job_;
  uint64_t undisturbed_;
};

class KillPoints : public testing::TestWithParam<TinyWay> {
 protected:
  static TrainConfig config() { return tiny_config(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(AllWays, KillPoints, testing::ValuesIn(kTinyWays), name_of_way);

constexpr TinyWay kWithCheckpoints[] = {
    {"every_step", 2, [](TrainConfig& config) { config.checkpoint_every = 1; }},
    {"staleness", 2,
     [](TrainConfig& config) {
       config.checkpoint_every = 2;
       config.staleness = 1;
     }},
    {"top_k", 2,
     [](TrainConfig& config) {
       config.checkpoint_every = 2;
       config.compress = "topk";
       config.compress_where = "all";
       config.momentum_correction = true;
     }},
};
INSTANTIATE_TEST_SUITE_P(WithCheckpoints, KillPoints, testing::ValuesIn(kWithCheckpoints), name_of_way);

// The first visit, one in the midst of the run, and a late one.
constexpr int kVisits[] = {1, 5, 23};
// Where many ranks make many runs: one in the midst, or else the first.
constexpr int kAnyVisit[] = {5, 1};

TEST_P(KillPoints, a_death_anywhere_leaves_the_bits_alone) {
  const RepeatedRun run(config());
  const bool few = GetParam().workers == 2;
  std::set<ProtocolPoint> met;
  for (const ProtocolPoint point : kAllPoints) {
    for (int rank = 0; rank < GetParam().workers; ++rank) {
      for (const int visit : few ? std::span<const int>(kVisits) : std::span<const int>(kAnyVisit)) {
        SCOPED_TRACE(testing::Message()
                     << "rank " << rank << " at point " << static_cast<int>(point) << ", visit " << visit);
        const bool happened = run.expect_the_same_bits({{rank, point, visit}}) > 0;
        if (HasFailure()) return;
        if (happened) met.insert(point);
        if (happened != few) break;  // no later visit will come either; or one is enough
      }
    }
  }
  for (const ProtocolPoint point :
       {ProtocolPoint::kPublish, ProtocolPoint::kSend, ProtocolPoint::kPeek, ProtocolPoint::kAccept,
        ProtocolPoint::kRelease, ProtocolPoint::kVersionStore, ProtocolPoint::kVersionLoad,
        ProtocolPoint::kWake, ProtocolPoint::kInitialize, ProtocolPoint::kForward, ProtocolPoint::kBackward,
        ProtocolPoint::kUpdate, ProtocolPoint::kStepEnd, ProtocolPoint::kEvaluate, ProtocolPoint::kDismiss}) {
    EXPECT_TRUE(met.contains(point)) << "point " << static_cast<int>(point) << " was never come by";
  }
}

// A second rank dies while the first death is recovered from, or the replacement does.
TEST_P(KillPoints, a_death_during_recovery_leaves_the_bits_alone) {
  const RepeatedRun run(config());
  std::set<ProtocolPoint> met;
  for (const ProtocolPoint point : kRecoveryPoints) {
    for (int rank = 0; rank < GetParam().workers; ++rank) {
      for (const ProtocolPoint first : {ProtocolPoint::kInitialize, ProtocolPoint::kUpdate,
                                        ProtocolPoint::kVersionStore, ProtocolPoint::kEvaluate}) {
        if (GetParam().workers > 2 && first != ProtocolPoint::kUpdate) continue;
        SCOPED_TRACE(testing::Message() << "rank " << rank << " at point " << static_cast<int>(point)
                                        << " after point " << static_cast<int>(first));
        const int other = (rank + 1) % GetParam().workers;
        // A first life begins with a kResume, too.
        const int visit = point == ProtocolPoint::kResume ? 2 : 1;
        if (run.expect_the_same_bits({{other, first, 3}, {rank, point, visit}}) == 2) met.insert(point);
        // The replacement, in its first attempt.
        run.expect_the_same_bits({{rank, first, 3}, {rank, ProtocolPoint::kResume, 1}});
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_EQ(met.size(), std::size(kRecoveryPoints));
}

TEST_P(KillPoints, two_deaths_at_once_leave_the_bits_alone) {
  const RepeatedRun run(config());
  for (const ProtocolPoint point : {ProtocolPoint::kForward, ProtocolPoint::kBackward, ProtocolPoint::kSum,
                                    ProtocolPoint::kUpdate, ProtocolPoint::kVersionStore}) {
    for (const int visit : kVisits) {
      SCOPED_TRACE(testing::Message() << "point " << static_cast<int>(point) << ", visit " << visit);
      std::vector<Death> deaths;
      for (int rank = 0; rank < GetParam().workers; ++rank) deaths.push_back({rank, point, visit});
      EXPECT_GE(run.expect_the_same_bits(deaths), 1);
      if (HasFailure()) return;
    }
  }
}

// The others do not wait until the dead is gone: here it is only after its deadline.
TEST(EarlyNotice, others_stand_still_while_the_dead_is_not_gone_yet) {
  TrainConfig config = tiny_config(kTinyWays[0]);
  config.deadline = 2;
  const Machine machine = Machine::this_machine();
  const Job job = plan_tiny_run(config, machine);
  const uint64_t undisturbed = run_job(job, machine, JobObserver(), now_ns()).checksum;
  plan_deaths({{.rank = 1, .point = ProtocolPoint::kForward, .visit = 5, .lingers = true}});
  std::vector<RecoveryReport> reports;
  JobObserver observer;
  observer.recovered = [&](const RecoveryReport& report) { reports.push_back(report); };
  const JobOutcome outcome = run_job(job, machine, observer, now_ns());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
  EXPECT_EQ(outcome.checksum, undisturbed);
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_LE(reports[0].known_ns, reports[0].parked_ns);
  EXPECT_GE(reports[0].released_ns - reports[0].parked_ns, 1'000'000'000);
}

}  // namespace
}  // namespace annulus
