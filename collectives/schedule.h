// Schedule: what one rank does in a collective, as data. Pure functions of (rank, ranks, slices) make it
// (direct.h, ring.h, hierarchical.h, rooted.h), Executor runs it, and tests run all ranks' schedules side by
// side without a process.
//
// A schedule is a list of actions in order. Its first `announce` actions are posts of the rank's own input,
// which depend on nobody. They may be done before schedules that were started earlier have ended, so no ring
// may carry both announcements and later posts.
//
//   post     tells `peer` that `place` holds what is due: one descriptor
//   await    takes the descriptor of `place` from `peer`
//   release  gives the oldest line that was awaited from `peer` back: its payload has been read
//   sum      adds up sums[index]
//   copy     moves `place` to `to`
//
// Places count elements of the collective's message, so a schedule serves any message of its shape.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "collectives/descriptor.h"
#include "collectives/summation_tree.h"

namespace annulus {

enum class Space : uint8_t {
  kInput,     // what the rank brings
  kOutput,    // what it gets
  kScratch,   // running sums, fp32
  kReturned,  // what it gets in place of its input, where that was staged: results that others wrote there
};

// Where a payload starts.
struct Place {
  Space space = Space::kInput;
  int32_t rank = 0;  // whose
  int32_t part = 0;  // of an input: which of the rank's partial sums
  int64_t at = 0;    // elements
  bool operator==(const Place&) const = default;
};

struct Action {
  enum class Kind : uint8_t { kPost, kAwait, kRelease, kSum, kCopy };
  Kind kind = Kind::kPost;
  Payload type = Payload::kInput;
  int32_t peer = 0;
  uint32_t round = 0, chunk = 0, slice = 0;
  Place place = {}, to = {};
  int64_t count = 0;   // elements
  int32_t sum = 0;     // index into Schedule::sums
  bool again = false;  // post: an earlier post was of the same place
};

// A sum over `count` elements, given by the action.
struct Sum {
  std::vector<Place> sources;       // operands of `tree`, in its order of leaves
  SumProgram program;               // how to add them up
  std::vector<Place> destinations;  // empty: the sum is handed to the executor's sink
  bool last = false;                // nothing is added to it later
};

struct Schedule {
  std::vector<Action> actions;
  std::vector<Sum> sums;
  int announce = 0;
  // Whether a payload of this rank may still be being read by a peer when the last action is done. Otherwise
  // the actions imply that all have read.
  bool leaves_readers = false;
};

// Appends actions for one rank.
class ScheduleBuilder {
 public:
  explicit ScheduleBuilder(int rank) : rank_(rank) {}

  int rank() const { return rank_; }
  Place input(int rank, int64_t at, int part = 0) const { return {Space::kInput, rank, part, at}; }
  Place output(int rank, int64_t at) const { return {Space::kOutput, rank, 0, at}; }
  Place returned(int rank, int64_t at) const { return {Space::kReturned, rank, 0, at}; }
  Place scratch(int rank, int64_t at) const { return {Space::kScratch, rank, 0, at}; }

  // Which one it is, for the descriptor.
  struct Label {
    Payload type = Payload::kInput;
    uint32_t round = 0, chunk = 0, slice = 0;
  };
  void post(int peer, const Place& place, int64_t count, const Label& label);
  void await(int peer, const Place& place, int64_t count, const Label& label);
  void release(int peer);
  void sum(std::vector<Place> sources, const TreeSum& tree, std::vector<Place> destinations, int64_t count,
           bool last);
  // The sum of two.
  void sum(const Place& left, const Place& right, std::vector<Place> destinations, int64_t count, bool last);
  void copy(const Place& from, const Place& to, int64_t count);  // nothing where both are the same

  // The actions so far are the announcement.
  void end_announcement() { schedule_.announce = static_cast<int>(schedule_.actions.size()); }
  void readers_may_linger() { schedule_.leaves_readers = true; }

  Schedule take() { return std::move(schedule_); }

 private:
  int rank_;
  Schedule schedule_;
  std::set<std::tuple<Space, int32_t, int32_t, int64_t>> posted_;
};

// The same schedules one behind the other, each a round behind the one before, so that a rank has one's round
// under way while it waits for another's. A round is posts and what follows them until the next posts; all
// ranks' schedules must have rounds alike, and no announcement. In each wave all posts come first, the
// earliest schedule's first, so both ends of a ring see the same order.
Schedule pipelined(std::vector<Schedule> schedules);

// Posts in `schedule` to each of `ranks` ranks.
std::vector<int64_t> posts_per_peer(const Schedule& schedule, int ranks);

}  // namespace annulus
