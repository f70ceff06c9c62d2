// The simulator finds what is wrong with a schedule.
#include "tests/collectives/schedule_simulator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/collectives/simulated_calls.h"
#include "tests/collectives/simulated_training.h"

namespace annulus::simulation {
namespace {

TEST(Simulator, misses_no_action_that_is_left_out) {
  for (const int ranks : {2, 3, 4}) {
    for (const Way& way : ways(ranks, ranks)) {
      for (const Collective collective : kAllCollectives) {
        for (const bool outside : {false, true}) {
          const int64_t whole = collective == Collective::kBroadcast ? 2 : 2 * ranks;
          const Call call = fitted({collective, whole, 2, 1, outside, outside}, way);
          if (collective == Collective::kBarrier && outside) continue;
          const Schedule plain = schedule_of(way, call, ranks - 1, 0);
          for (std::size_t left_out = 0; left_out < plain.actions.size(); ++left_out) {
            // Of the first call's last rank only, so that the second call meets what is left.
            int seen = 0;
            const std::string fault = fault_in(way, {call, call}, [&](int rank, Schedule& schedule) {
              if (rank != ranks - 1) return;
              if (seen++ % (collective == Collective::kBarrier || !outside ? 2 : 4) != 0) return;
              if (left_out < schedule.actions.size()) {
                schedule.actions.erase(schedule.actions.begin() + static_cast<int64_t>(left_out));
              }
            });
            EXPECT_NE(fault, "") << way.text() << ": " << call.text() << ", without action " << left_out
                                 << " of kind " << static_cast<int>(plain.actions[left_out].kind);
          }
        }
      }
    }
  }
}

// A schedule of the last rank broken by `change`, in an all-reduce of three ranks.
std::string fault_with(Algorithm algorithm, bool outside, const std::function<void(Schedule&)>& change) {
  const Way way{algorithm, 3, {}};
  const Call call{Collective::kAllReduce, 6, 2, 2, outside, outside};
  return fault_in(way, {call, call}, [&](int rank, Schedule& schedule) {
    if (rank == 2) change(schedule);
  });
}

std::size_t first(const Schedule& schedule, Action::Kind kind) {
  std::size_t at = 0;
  while (schedule.actions[at].kind != kind) ++at;
  return at;
}
Action& first_of(Schedule& schedule, Action::Kind kind) { return schedule.actions[first(schedule, kind)]; }

TEST(Simulator, finds_what_a_hand_made_schedule_does_wrong) {
  using Kind = Action::Kind;
  EXPECT_EQ(fault_with(Algorithm::kDirect, false, [](Schedule&) {}), "");
  const std::vector<std::pair<std::string, std::function<void(Schedule&)>>> faults = {
      {"took from rank 2 what was not due", [](Schedule& s) { ++first_of(s, Kind::kPost).slice; }},
      {"took from rank 2 what was not due", [](Schedule& s) { ++first_of(s, Kind::kPost).place.at; }},
      {"took from rank 0 what was not due", [](Schedule& s) { --first_of(s, Kind::kAwait).count; }},
      {"read before it was handed over",  // sums before it has heard of the last input
       [](Schedule& s) { std::swap(first_of(s, Kind::kSum), s.actions[first(s, Kind::kSum) - 1]); }},
      {"is (", [](Schedule& s) { std::swap(s.sums[0].sources[0], s.sums[0].sources[1]); }},
      {"is (", [](Schedule& s) { s.sums[0].sources[2] = s.sums[0].sources[1]; }},
      {"written", [](Schedule& s) { --s.sums[0].destinations[0].at; }},  // another's slice
      {"releases a line",
       [](Schedule& s) { std::swap(first_of(s, Kind::kAwait), first_of(s, Kind::kRelease)); }}};
  for (const auto& [text, change] : faults) {
    const std::string fault = fault_with(Algorithm::kDirect, false, change);
    EXPECT_NE(fault.find(text), std::string::npos) << "due: " << text << "; found: " << fault;
  }
}

TEST(Simulator, finds_that_all_wait_for_each_other) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call call{Collective::kReduceScatter, 3, 1, 1};
  const std::string fault = fault_in(way, {call}, [](int, Schedule& s) {  // first takes, then gives
    std::rotate(s.actions.begin(), s.actions.begin() + 2, s.actions.end());
  });
  EXPECT_NE(fault.find("nobody can go on"), std::string::npos) << fault;
}

TEST(Simulator, finds_a_payload_that_is_copied_for_every_reader) {
  const Call gather{Collective::kAllGather, 6, 2, 2, true, true};
  const std::string fault = fault_in({Algorithm::kDirect, 3, {}}, {gather}, [](int, Schedule& s) {
    for (Action& action : s.actions) action.again = false;
  });
  EXPECT_NE(fault, "");
}

TEST(Simulator, finds_a_call_that_ends_while_others_read) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call gather{Collective::kGather, 3, 1, 1};
  const auto forget = [](int, Schedule& schedule) { schedule.leaves_readers = false; };
  EXPECT_NE(fault_in(way, {gather, gather}, forget), "");
}

TEST(Simulator, finds_an_announcement_that_overtakes_what_the_ring_still_carries) {
  const auto announce = [](Schedule& schedule) {
    schedule.announce = schedule.actions.front().kind == Action::Kind::kPost;
  };
  const std::string fault = fault_in_training({Algorithm::kRing, 3, {}}, 3, announce);
  EXPECT_NE(fault.find("what was not due"), std::string::npos) << fault;
}

TEST(Simulator, finds_a_line_that_is_given_back_before_its_payload_is_read) {
  const Way way{Algorithm::kDirect, 3, {}};
  const Call gather{Collective::kGather, 3, 1, 1};
  const std::string fault = fault_in(way, {gather, gather}, [&](int rank, Schedule& s) {
    if (rank == 0) {
      std::swap(s.actions[first(s, Action::Kind::kRelease)], s.actions[first(s, Action::Kind::kRelease) - 1]);
    }
  });
  EXPECT_NE(fault, "");
}

}  // namespace
}  // namespace annulus::simulation
