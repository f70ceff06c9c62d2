#include "collectives/schedule.h"

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {

namespace {

Action message(Action::Kind kind, int peer, const Place& place, int64_t count,
               const ScheduleBuilder::Label& label) {
  return {.kind = kind,
          .type = label.type,
          .peer = peer,
          .round = label.round,
          .chunk = label.chunk,
          .slice = label.slice,
          .place = place,
          .count = count};
}

}  // namespace

void ScheduleBuilder::post(int peer, const Place& place, int64_t count, const Label& label) {
  schedule_.actions.push_back(message(Action::Kind::kPost, peer, place, count, label));
  schedule_.actions.back().again = !posted_.insert({place.space, place.rank, place.part, place.at}).second;
}

void ScheduleBuilder::await(int peer, const Place& place, int64_t count, const Label& label) {
  schedule_.actions.push_back(message(Action::Kind::kAwait, peer, place, count, label));
}

void ScheduleBuilder::release(int peer) {
  schedule_.actions.push_back({.kind = Action::Kind::kRelease, .peer = peer});
}

void ScheduleBuilder::sum(std::vector<Place> sources, const TreeSum& tree, std::vector<Place> destinations,
                          int64_t count, bool last) {
  schedule_.actions.push_back(
      {.kind = Action::Kind::kSum, .count = count, .sum = static_cast<int32_t>(schedule_.sums.size())});
  schedule_.sums.push_back({std::move(sources), compile(tree), std::move(destinations), last});
}

void ScheduleBuilder::sum(const Place& left, const Place& right, std::vector<Place> destinations,
                          int64_t count, bool last) {
  static const TreeSum kTwo = plan_tree_sum(2, 2);
  sum({left, right}, kTwo, std::move(destinations), count, last);
}

void ScheduleBuilder::copy(const Place& from, const Place& to, int64_t count) {
  if (from == to) return;
  schedule_.actions.push_back({.kind = Action::Kind::kCopy, .place = from, .to = to, .count = count});
}

Schedule pipelined(std::vector<Schedule> schedules) {
  struct Round {
    std::vector<Action> posts, rest;
  };
  Schedule all;
  std::vector<std::vector<Round>> rounds;  // by schedule
  std::size_t waves = 0;
  for (Schedule& schedule : schedules) {
    CHECK(schedule.announce == 0);
    std::vector<Round>& own = rounds.emplace_back(1);
    for (Action action : schedule.actions) {
      const bool posts = action.kind == Action::Kind::kPost;
      if (action.kind == Action::Kind::kSum) action.sum += static_cast<int32_t>(all.sums.size());
      if (posts && !own.back().rest.empty()) own.emplace_back();
      (posts ? own.back().posts : own.back().rest).push_back(action);
    }
    std::move(schedule.sums.begin(), schedule.sums.end(), std::back_inserter(all.sums));
    all.leaves_readers |= schedule.leaves_readers;
    waves = std::max(waves, rounds.size() - 1 + own.size());
  }
  for (std::size_t wave = 0; wave < waves; ++wave) {
    for (const bool posts : {true, false}) {
      for (std::size_t i = 0; i < rounds.size(); ++i) {
        if (wave < i || wave - i >= rounds[i].size()) continue;
        const Round& round = rounds[i][wave - i];
        const std::vector<Action>& actions = posts ? round.posts : round.rest;
        all.actions.insert(all.actions.end(), actions.begin(), actions.end());
      }
    }
  }
  return all;
}

std::vector<int64_t> posts_per_peer(const Schedule& schedule, int ranks) {
  std::vector<int64_t> posts(ranks);
  for (const Action& action : schedule.actions) posts[action.peer] += action.kind == Action::Kind::kPost;
  return posts;
}

}  // namespace annulus
