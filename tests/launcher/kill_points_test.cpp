// A worker dies at each point of the protocol, on each rank: the run ends with the weights of an undisturbed
// one.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "launcher/supervisor.h"
#include "runtime/synthetic_data.h"
#include "tests/launcher/kill_points.h"

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

// Tiny, with all that a network can be made of: what counts is the number of runs.
constexpr const char* kNetwork = R"(layers:
  - conv: {out: 4, kernel: 3, stride: 2, padding: 1}
  - batch_norm: {relu: true}
  - residual: {relu: true, layers: [conv: {out: 4, kernel: 3, padding: 1}, batch_norm]}
  - linear: {out: classes}
)";

TrainConfig config_of(int workers) {
  TrainConfig config;
  config.dataset = "synthetic";
  config.workers = workers;
  config.bind = "none";
  config.batch_size = 16;  // four steps an epoch
  config.shards = 4;
  config.steps = 6;
  config.bucket_mb = 0.001;  // several
  config.max_restarts = 100;
  config.deadline = 60;
  return config;
}

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
    return deaths_so_far();
  }

 private:
  Job plan(TrainConfig config) const {
    config.model = testing::TempDir() + "/kill_points.yaml";
    std::ofstream(config.model) << kNetwork;
    return plan_job(config, machine_, describe_synthetic({1, 8, 8}, 3, 64, 16), false);
  }

  Machine machine_;
  Job job_;
  uint64_t undisturbed_;
};

// Workers, and what else is to be changed.
struct Case {
  const char* name;
  int workers;
  void (*change)(TrainConfig&);
};

class KillPoints : public testing::TestWithParam<Case> {
 protected:
  static TrainConfig config() {
    TrainConfig config = config_of(GetParam().workers);
    GetParam().change(config);
    return config;
  }
};

INSTANTIATE_TEST_SUITE_P(
    AllWays, KillPoints,
    testing::Values(Case{"two", 2, [](TrainConfig&) {}}, Case{"three", 3, [](TrainConfig&) {}},
                    Case{"four", 4, [](TrainConfig&) {}},
                    Case{"ring", 3, [](TrainConfig& config) { config.algorithm = "ring"; }},
                    Case{"clip", 2, [](TrainConfig& config) { config.clip = 0.1; }},
                    Case{"staleness", 2, [](TrainConfig& config) { config.staleness = 1; }},
                    Case{"staleness_clip", 2,
                         [](TrainConfig& config) {
                           config.staleness = 1;
                           config.clip = 0.1;
                         }},
                    Case{"comm_thread", 2, [](TrainConfig& config) { config.comm_thread = "0"; }},
                    Case{"adam", 2,
                         [](TrainConfig& config) {
                           config.optimizer = "adam";
                           config.momentum = 0;
                         }}),
    [](const auto& info) { return info.param.name; });

// The first visit, one in the midst of the run, and a late one.
constexpr int kVisits[] = {1, 5, 23};

TEST_P(KillPoints, a_death_anywhere_leaves_the_bits_alone) {
  const RepeatedRun run(config());
  std::set<ProtocolPoint> met;
  for (const ProtocolPoint point : kAllPoints) {
    for (int rank = 0; rank < GetParam().workers; ++rank) {
      for (const int visit : kVisits) {
        SCOPED_TRACE(testing::Message()
                     << "rank " << rank << " at point " << static_cast<int>(point) << ", visit " << visit);
        if (run.expect_the_same_bits({{rank, point, visit}}) == 0) break;  // nor will it come by more often
        met.insert(point);
        if (HasFailure()) return;
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

}  // namespace
}  // namespace annulus
