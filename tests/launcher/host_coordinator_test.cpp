// HostCoordinator and HostMember: by hand, message by message, and with simulated hosts to which everything
// happens in random order.
#include "launcher/host_coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "collectives/versions.h"
#include "launcher/host_member.h"

namespace annulus {
namespace {

using Kind = HostMessage::Kind;
using Orders = HostCoordinator::Orders;

HostMessage attempt_message(Kind kind, uint32_t attempt, uint32_t step = 0) {
  return {.kind = kind, .attempt = attempt, .step = step};
}

TEST(HostCoordinator, ADeathAnywhereBringsAllBackToTheSmallestCommittedStep) {
  HostCoordinator coordinator({"a", "b", "c"});
  const Orders aborts =
      coordinator.receive(1, {.kind = Kind::kAbort, .attempt = 1, .text = "rank 0 was killed"});
  ASSERT_EQ(aborts.size(), 2u);
  EXPECT_EQ(aborts[0].first, 0);
  EXPECT_EQ(aborts[1].first, 2);
  EXPECT_EQ(aborts[1].second.text, "host b: rank 0 was killed");
  // Another one meanwhile is the same recovery, but may have a reason of its own.
  EXPECT_EQ(coordinator.receive(2, {.kind = Kind::kAbort, .attempt = 1, .text = "so was rank 1"}).size(), 2u);
  EXPECT_TRUE(coordinator.receive(2, attempt_message(Kind::kAbort, 1)).empty());
  EXPECT_TRUE(coordinator.receive(0, attempt_message(Kind::kParked, 1, 8)).empty());
  EXPECT_TRUE(coordinator.receive(2, attempt_message(Kind::kParked, 1, 7)).empty());
  const Orders resumes = coordinator.receive(1, attempt_message(Kind::kParked, 1, 8));
  ASSERT_EQ(resumes.size(), 3u);
  for (const auto& [node, order] : resumes) EXPECT_EQ(order, attempt_message(Kind::kResume, 2, 7)) << node;
}

TEST(HostCoordinator, InitialWeightsThatAreNotCompleteCountAsLessThanStepZero) {
  for (const uint32_t initial : {0, 1, 30}) {  // later ones come from a checkpoint
    for (const int without : {0, 1}) {
      HostCoordinator coordinator({"a", "b"});
      coordinator.receive(0, attempt_message(Kind::kAbort, 1));
      coordinator.receive(without, attempt_message(Kind::kParked, 1, Versions::kNone));
      const Orders resumes = coordinator.receive(1 - without, attempt_message(Kind::kParked, 1, initial));
      ASSERT_EQ(resumes.size(), 2u);
      EXPECT_EQ(resumes[0].second, attempt_message(Kind::kResume, 2, Versions::kNone)) << initial;
    }
  }
}

TEST(HostCoordinator, NobodyLeavesBeforeAllHaveFinishedInTheSameAttempt) {
  HostCoordinator coordinator({"a", "b"});
  EXPECT_TRUE(coordinator.receive(0, attempt_message(Kind::kFinished, 1)).empty());
  coordinator.receive(1, attempt_message(Kind::kAbort, 1));
  EXPECT_TRUE(coordinator.receive(1, attempt_message(Kind::kFinished, 1)).empty());  // was under way
  coordinator.receive(0, attempt_message(Kind::kParked, 1, 5));
  coordinator.receive(1, attempt_message(Kind::kParked, 1, 5));
  EXPECT_TRUE(coordinator.receive(1, attempt_message(Kind::kFinished, 2)).empty());
  EXPECT_TRUE(coordinator.receive(0, attempt_message(Kind::kFinished, 1)).empty());  // of the one before
  const Orders orders = coordinator.receive(0, attempt_message(Kind::kFinished, 2));
  ASSERT_EQ(orders.size(), 2u);
  EXPECT_EQ(orders[0].second.kind, Kind::kDismiss);
  EXPECT_TRUE(coordinator.over());
  EXPECT_TRUE(coordinator.lost(1, "it has left").empty());
}

TEST(HostCoordinator, AStopGoesToAllOnce) {
  HostCoordinator coordinator({"a", "b", "c"});
  const Orders orders = coordinator.receive(2, {.kind = Kind::kStop, .code = 2});
  ASSERT_EQ(orders.size(), 3u);
  for (const auto& [node, order] : orders) EXPECT_EQ(order.code, 2) << node;
  EXPECT_TRUE(coordinator.receive(0, {.kind = Kind::kStop, .code = 15}).empty());
  const Orders quits = coordinator.receive(0, {.kind = Kind::kQuit, .code = 15});
  ASSERT_EQ(quits.size(), 2u);
  EXPECT_EQ(quits[0].first, 1);
  EXPECT_TRUE(coordinator.over());
}

TEST(HostCoordinator, AHostThatIsLostEndsTheRunAtACommonStep) {
  HostCoordinator coordinator({"a", "b", "c"});
  coordinator.receive(0, attempt_message(Kind::kAbort, 1));
  coordinator.receive(0, attempt_message(Kind::kParked, 1, 9));
  const Orders ends = coordinator.lost(1, "no sign of life for 10.0 s");
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_EQ(ends[1].first, 2);
  EXPECT_EQ(ends[1].second.kind, Kind::kEnd);
  EXPECT_EQ(ends[1].second.code, 1);
  EXPECT_EQ(ends[1].second.text, "host b was lost: no sign of life for 10.0 s");
  EXPECT_TRUE(coordinator.receive(0, attempt_message(Kind::kParked, 1, 9)).empty());
  EXPECT_TRUE(coordinator.receive(0, {.kind = Kind::kEnded, .step = 9}).empty());
  EXPECT_FALSE(coordinator.over());
  const Orders settles = coordinator.receive(2, {.kind = Kind::kEnded, .step = 8});
  ASSERT_EQ(settles.size(), 2u);
  EXPECT_EQ(settles[0].second.kind, Kind::kSettle);
  EXPECT_EQ(settles[0].second.step, 8u);
  EXPECT_TRUE(coordinator.over());
}

TEST(HostCoordinator, AHostThatIsLostAtTheEndIsNotWaitedFor) {
  HostCoordinator coordinator({"a", "b", "c"});
  const Orders ends = coordinator.receive(2, {.kind = Kind::kFailed, .code = 137, .text = "rank 3 died"});
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0].second.code, 137);
  EXPECT_EQ(ends[0].second.text, "host c: rank 3 died");
  EXPECT_TRUE(coordinator.receive(1, {.kind = Kind::kFailed, .code = 1, .text = "too"}).empty());
  coordinator.receive(0, {.kind = Kind::kEnded, .step = 4});
  coordinator.receive(2, {.kind = Kind::kEnded, .step = 4});
  const Orders settles = coordinator.lost(1, "closed");
  ASSERT_EQ(settles.size(), 2u);
  EXPECT_EQ(settles[0].second.step, 4u);
}

TEST(HostCoordinator, WhatNoSoundHostSaysEndsTheRun) {
  for (const HostMessage& message :
       {attempt_message(Kind::kAbort, 2), attempt_message(Kind::kParked, 7),
        HostMessage{.kind = Kind::kDismiss}, HostMessage{.kind = Kind::kEnded}}) {
    HostCoordinator coordinator({"a", "b"});
    const Orders orders = coordinator.receive(1, message);
    ASSERT_EQ(orders.size(), 2u);
    EXPECT_EQ(orders[0].second.kind, Kind::kEnd);
    EXPECT_NE(orders[0].second.text.find("host b: "), std::string::npos);
    EXPECT_NE(orders[0].second.text.find("report this as a bug"), std::string::npos);
  }
}

TEST(HostCoordinator, HostsThatAreFurtherApartThanTheirGenerationsWriteNothing) {
  HostCoordinator coordinator({"a", "b"});
  coordinator.receive(0, attempt_message(Kind::kAbort, 1));
  coordinator.receive(0, attempt_message(Kind::kParked, 1, 9));
  const Orders ends = coordinator.receive(1, attempt_message(Kind::kParked, 1, 7));
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_NE(ends[0].second.text.find("more than one step apart"), std::string::npos);
  coordinator.receive(0, {.kind = Kind::kEnded, .step = 9});
  const Orders settles = coordinator.receive(1, {.kind = Kind::kEnded, .step = 7});
  ASSERT_EQ(settles.size(), 2u);
  EXPECT_EQ(settles[0].second.step, Versions::kNone);
}

TEST(HostMember, OneHostAgreesWithItselfAtOnce) {
  const std::unique_ptr<HostMember> member = sole_member();
  EXPECT_TRUE(member->first());
  member->aborted(1, "rank 1 died");
  EXPECT_FALSE(member->must_abort(1));
  EXPECT_EQ(member->resume_step(1, 12), 12u);
  EXPECT_FALSE(member->must_abort(2));
  member->aborted(2, "");
  EXPECT_EQ(member->resume_step(2, Versions::kNone), Versions::kNone);
  member->stop(2);
  EXPECT_EQ(member->stop_signal(), 2);
  EXPECT_TRUE(member->take_news().empty());
  EXPECT_FALSE(member->dismissed());
  member->finished(3);
  EXPECT_TRUE(member->dismissed());
  EXPECT_EQ(member->last_step(40), 40u);

  const std::unique_ptr<HostMember> failing = sole_member();
  failing->fail(137, "budget");
  EXPECT_EQ(failing->end()->text, "budget");
  EXPECT_EQ(failing->last_step(7), 7u);
}

TEST(HostMember, ARecoveryIsExplainedOnceAnotherHostHasSaidWhy) {
  std::vector<HostMessage> sent;
  HostMember member(1, [&](const HostMessage& message) { sent.push_back(message); });
  member.aborted(1, "");
  member.aborted(1, "");
  member.aborted(1, "rank 0 died");  // what was seen first is understood later
  member.aborted(1, "rank 1 died");
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[1].text, "rank 0 died");
  member.receive({.kind = Kind::kAbort, .attempt = 1});
  EXPECT_TRUE(member.must_abort(1));
  EXPECT_FALSE(member.is_explained(1));
  member.receive({.kind = Kind::kAbort, .attempt = 1, .text = "host a: rank 2 died"});
  EXPECT_TRUE(member.is_explained(1));
  EXPECT_FALSE(member.is_explained(2));
}

TEST(HostMember, WarningsComeToTheFirstHost) {
  std::vector<HostMessage> sent;
  HostMember first(0, [&](const HostMessage& message) { sent.push_back(message); });
  HostMember other(1, [&](const HostMessage& message) { sent.push_back(message); });
  first.warn("of its own");
  EXPECT_TRUE(sent.empty());
  other.warn("rank 0 is slow");
  HostCoordinator coordinator({"a", "b"});
  const Orders orders = coordinator.receive(1, sent.at(0));
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders[0].first, 0);
  first.receive(orders[0].second);
  EXPECT_EQ(first.take_news(), std::vector<std::string>{"host b: rank 0 is slow"});
  EXPECT_TRUE(first.take_news().empty());
}

TEST(HostMember, WithoutItsCoordinatorAHostDecidesForItself) {
  std::vector<HostMessage> sent;
  HostMember member(1, [&](const HostMessage& message) { sent.push_back(message); });
  member.aborted(1, "x");
  EXPECT_EQ(member.resume_step(1, 6), std::nullopt);
  EXPECT_EQ(member.resume_step(1, 6), std::nullopt);
  EXPECT_EQ(sent.size(), 2u);  // each is told once
  member.coordinator_lost("connection reset");
  ASSERT_NE(member.end(), nullptr);
  EXPECT_EQ(member.end()->code, 1);
  EXPECT_NE(member.end()->text.find("was lost: connection reset"), std::string::npos);
  EXPECT_TRUE(member.alone());
  EXPECT_EQ(member.last_step(6), 6u);
}

TEST(HostMember, AfterADismissalTheCoordinatorMayGo) {
  HostMember member(1, [](const HostMessage&) {});
  member.finished(1);
  EXPECT_FALSE(member.dismissed());
  member.receive({.kind = Kind::kDismiss});
  EXPECT_TRUE(member.dismissed());
  member.coordinator_lost("closed");
  EXPECT_EQ(member.end(), nullptr);
  EXPECT_FALSE(member.alone());
}

// Hosts whose ranks obey Rule G: one commits step k only after all have committed k-1.
class Simulation {
 public:
  static constexpr uint32_t kLast = 12;

  Simulation(int hosts, uint32_t seed) : random_(seed), coordinator_(names(hosts)) {
    for (int node = 0; node < hosts; ++node) {
      hosts_.push_back(std::make_unique<Host>(node, [this, node](const HostMessage& message) {
        hosts_[node]->to_coordinator.push_back(message);
      }));
    }
  }

  // What may happen besides, at most so many times.
  int deaths = 0, losses = 0, failures = 0, quits = 0;
  bool coordinator_dies = false;

  void run() {
    for (int turn = 0; turn < 20'000; ++turn) {
      disturb();
      const int node = static_cast<int>(random_() % hosts_.size());
      Host& host = *hosts_[node];
      if (host.lost) continue;
      switch (random_() % 3) {
        case 0:
          if (!host.to_coordinator.empty() && !coordinator_dead_) {
            const HostMessage message = host.to_coordinator.front();
            host.to_coordinator.pop_front();
            deliver(coordinator_.receive(node, host_message(to_json(message))));
          }
          break;
        case 1:
          if (!host.to_member.empty()) {
            host.member.receive(host.to_member.front());
            host.to_member.pop_front();
          } else if (coordinator_dead_) {
            host.member.coordinator_lost("closed");
          }
          break;
        default:
          live(host);
      }
      if (all_done()) break;
    }
    check();
  }

  bool ended_early() const { return ended_early_; }
  uint32_t attempts() const { return hosts_[0]->attempt; }

 private:
  struct Host {
    Host(int node, HostMember::Send send) : member(node, std::move(send)) {}
    HostMember member;
    std::deque<HostMessage> to_coordinator, to_member;
    uint32_t attempt = 1, committed = Versions::kNone;
    bool recovering = false, dead_rank = false, lost = false, done = false;
    std::optional<uint32_t> last;
  };

  static std::vector<std::string> names(int hosts) {
    std::vector<std::string> names;
    for (int i = 0; i < hosts; ++i) names.push_back(std::string(1, static_cast<char>('a' + i)));
    return names;
  }

  void deliver(const Orders& orders) {
    for (const auto& [node, order] : orders) {
      ASSERT_FALSE(hosts_[node]->lost && order.kind == Kind::kSettle);
      hosts_[node]->to_member.push_back(host_message(to_json(order)));
    }
  }

  bool happens(int& times) {
    if (times == 0 || random_() % 60 != 0) return false;
    --times;
    return true;
  }

  void disturb() {
    Host& host = *hosts_[random_() % hosts_.size()];
    if (host.lost || host.done) return;
    if (happens(deaths)) host.dead_rank = true;
    if (host.member.end() == nullptr && happens(failures)) host.member.fail(3, "gave up");
    if (happens(quits)) host.member.quit(2);
    const auto node = static_cast<int>(random_() % hosts_.size());
    if (node > 0 && !hosts_[node]->lost && !coordinator_dead_ && happens(losses)) {
      hosts_[node]->lost = true;
      deliver(coordinator_.lost(node, "gone"));
    }
    int once = coordinator_dies && !coordinator_dead_ ? 1 : 0;
    if (hosts_[0]->committed != Versions::kNone && happens(once)) {
      coordinator_dead_ = true;
      hosts_[0]->lost = true;
    }
  }

  // As the supervisor does.
  void live(Host& host) {
    if (host.done) return;
    HostMember& member = host.member;
    if (member.quit_signal() != 0) {
      host.done = true;
      return;
    }
    if (member.dismissed()) {
      for (const auto& other : hosts_) EXPECT_TRUE(other->lost || other->committed == kLast);
      host.last = member.last_step(host.committed);
      host.done = true;
      return;
    }
    if (member.end() != nullptr) {
      host.last = member.last_step(host.committed);
      host.done = host.last.has_value();
      return;
    }
    if (!host.recovering && (host.dead_rank || member.must_abort(host.attempt))) {
      host.recovering = true;
      member.aborted(host.attempt, host.dead_rank ? "died" : "");
      return;
    }
    if (host.recovering) {
      if (const std::optional<uint32_t> step = member.resume_step(host.attempt, host.committed)) {
        // It must hold this generation yet.
        EXPECT_TRUE(*step == host.committed || *step + 1 == host.committed) << *step << " " << host.committed;
        host.committed = *step;
        ++host.attempt;
        host.recovering = host.dead_rank = false;
      }
      return;
    }
    if (host.committed == kLast) {
      member.finished(host.attempt);
      return;
    }
    for (const auto& other : hosts_) {
      const bool same = other->attempt == host.attempt && !other->recovering && !other->lost;
      if (!same || !Versions::reached(other->committed, host.committed)) return;  // waits for it
    }
    ++host.committed;
  }

  bool all_done() const {
    return std::all_of(hosts_.begin(), hosts_.end(),
                       [](const auto& host) { return host->lost || host->done; });
  }

  void check() {
    ASSERT_TRUE(all_done()) << "hosts wait for each other for ever";
    std::vector<const Host*> ended;
    for (const auto& host : hosts_) {
      if (host->lost || host->member.quit_signal() != 0) continue;
      if (host->member.end() != nullptr) ended.push_back(host.get());
    }
    ended_early_ = !ended.empty();
    for (const Host* host : ended) {
      if (host->member.alone()) {
        EXPECT_EQ(host->last, host->committed);
      } else if (!coordinator_dead_) {
        EXPECT_EQ(host->last, ended.front()->last);
        EXPECT_TRUE(*host->last == host->committed || *host->last + 1 == host->committed);
      }
    }
  }

  std::mt19937 random_;
  HostCoordinator coordinator_;
  std::vector<std::unique_ptr<Host>> hosts_;
  bool coordinator_dead_ = false;
  bool ended_early_ = false;
};

TEST(HostSimulation, RunsWithoutTroubleEndTogether) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(1 + seed % 5, seed);
    simulation.run();
    EXPECT_FALSE(simulation.ended_early());
    EXPECT_EQ(simulation.attempts(), 1u);
  }
}

TEST(HostSimulation, DeathsInAnyOrderLeaveAllHostsInTheSameAttempt) {
  uint32_t attempts = 0;
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(1 + seed % 5, seed);
    simulation.deaths = 1 + static_cast<int>(seed % 7);
    simulation.run();
    EXPECT_FALSE(simulation.ended_early());
    attempts = std::max(attempts, simulation.attempts());
  }
  EXPECT_GT(attempts, 4u);
}

TEST(HostSimulation, LossesAndFailuresAtAnyMomentEndTheRunAtOneStep) {
  int early = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(2 + static_cast<int>(seed % 4), seed);
    simulation.deaths = static_cast<int>(seed % 3);
    simulation.losses = static_cast<int>(seed / 3 % 3);
    simulation.failures = static_cast<int>(seed / 9 % 3);
    simulation.run();
    early += simulation.ended_early() ? 1 : 0;
  }
  EXPECT_GT(early, 500);
}

TEST(HostSimulation, AnEndAtOnceAndALostCoordinatorLeaveNobodyWaiting) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(2 + static_cast<int>(seed % 4), seed);
    simulation.deaths = static_cast<int>(seed % 3);
    simulation.losses = static_cast<int>(seed / 3 % 2);
    simulation.quits = static_cast<int>(seed % 2);
    simulation.coordinator_dies = seed % 2 == 0;
    simulation.run();
  }
}

}  // namespace
}  // namespace annulus
