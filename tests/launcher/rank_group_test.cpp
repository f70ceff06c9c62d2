// Forked ranks: results, failures, nothing left behind.
#include "launcher/rank_group.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "collectives/shared_memory.h"
#include "collectives/wait.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// Ranks that are not bound: any number runs anywhere.
class RankGroupTest : public ::testing::Test {
 protected:
  std::vector<std::string> run(int ranks, RankGroup group) {
    group.warning = [](const std::string& text) { ADD_FAILURE() << text; };
    return run_ranks(machine_, plan_placement(machine_, {.workers = ranks, .bind = "none"}), group);
  }

  std::string failure(int ranks, const RankGroup& group) {
    try {
      run(ranks, group);
    } catch (const UserError& error) {
      return std::string("UserError ") + error.what();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "(no failure)";
  }

  void TearDown() override {
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a process is left";
    EXPECT_EQ(errno, ECHILD);
  }

  Machine machine_ = Machine::this_machine();
};

TEST_F(RankGroupTest, ReturnsWhatEachRankReturnsInOrder) {
  const pid_t here = getpid();
  const auto results = run(3, {.body = [here](int rank) {
                             EXPECT_NE(getpid(), here);
                             usleep((2 - rank) * 20'000);
                             return "rank " + std::to_string(rank);
                           }});
  EXPECT_EQ(results, (std::vector<std::string>{"rank 0", "rank 1", "rank 2"}));
}

TEST_F(RankGroupTest, TakesResultsThatNoPipeHolds) {
  const auto results =
      run(2, {.body = [](int rank) { return std::string(3'000'000 + rank, rank == 0 ? '\0' : 'x'); }});
  EXPECT_EQ(results[0], std::string(3'000'000, '\0'));
  EXPECT_EQ(results[1], std::string(3'000'001, 'x'));
}

TEST_F(RankGroupTest, ThrowsTheFirstFailureAndAbortsTheOthers) {
  const SharedMemory memory(4096, "a test", "free some", [](std::byte*) {});
  auto& abort = *new (memory.base()) std::atomic<int>{0};
  const auto body = [&](int rank) -> std::string {
    if (rank == 1) throw UserError("--dim 0: too small");
    while (abort.load() == 0) usleep(1000);
    throw std::runtime_error("what follows from the first failure");
  };
  EXPECT_EQ(failure(3, {.body = body, .abort = [&] { abort = 1; }}), "UserError --dim 0: too small");
  const std::string fault =
      failure(2, {.body = [](int) -> std::string { throw std::runtime_error("a fault"); }});
  EXPECT_NE(fault.find(": a fault"), std::string::npos) << fault;
}

TEST_F(RankGroupTest, KillsWhoDoesNotLeaveAfterAnAbort) {
  const auto body = [](int rank) -> std::string {
    if (rank == 0) raise(SIGKILL);  // the sanitizers handle SIGSEGV themselves
    for (;;) pause();
  };
  const std::string text = failure(2, {.body = body});
  EXPECT_NE(text.find("rank 0 (pid "), std::string::npos) << text;
  EXPECT_NE(text.find("was killed by signal 9"), std::string::npos) << text;
}

TEST_F(RankGroupTest, NamesWhoHasNotEndedInTime) {
  const auto body = [](int rank) -> std::string {
    while (rank != 1) pause();
    return "";
  };
  const std::string text = failure(3, {.body = body, .limit_ns = 200'000'000});
  EXPECT_NE(text.find("ranks 0, 2 have not ended after 0 s"), std::string::npos) << text;
}

}  // namespace
}  // namespace annulus
