// HostMember: this host's part in what the hosts of a run agree on. What the supervisor asks and tells; the
// coordinator (host_coordinator.h) answers, possibly another machine, so answers take their time: the
// supervisor asks again whenever something has come. No sockets.
//
// On one host the coordinator is in the same process (sole_member), and answers at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/host_message.h"

namespace annulus {

class HostMember {
 public:
  using Send = std::function<void(const HostMessage&)>;

  // `send`: to the coordinator.
  HostMember(int node, Send send) : node_(node), send_(std::move(send)) {}
  HostMember(const HostMember&) = delete;
  HostMember& operator=(const HostMember&) = delete;

  bool first() const { return node_ == 0; }  // of all hosts

  // This host has begun a recovery of `attempt`, for this reason; empty: it is not known, or not this host's.
  // It may become known later.
  void aborted(uint32_t attempt, const std::string& why);
  // Whether another host has.
  bool must_abort(uint32_t attempt) const { return abort_ == attempt; }
  // Whether it has said why. Known for certain once resume_step() is.
  bool is_explained(uint32_t attempt) const { return explained_ == attempt; }
  // Every rank here has left `attempt` and stands still; `committed` is the committed step here. The step
  // from which all go on, once every host has come so far.
  std::optional<uint32_t> resume_step(uint32_t attempt, uint32_t committed);
  // Every rank here has finished in `attempt`.
  void finished(uint32_t attempt);
  // Whether those of all hosts have, so that they may leave: also where a rank here has died since.
  bool dismissed() const { return dismissed_; }

  // A signal here asks the run to stop after the step under way, or to end at once.
  void stop(int signal);
  void quit(int signal);
  // That was asked for, here or elsewhere; 0: none.
  int stop_signal() const { return stop_signal_; }
  int quit_signal() const { return quit_signal_; }

  // This host cannot go on.
  void fail(int code, const std::string& why);
  struct End {
    int code = 0;
    std::string text;
  };
  // Why the run is to end on all hosts, from elsewhere or from here; null: it is not.
  const End* end() const { return end_ ? &*end_ : nullptr; }
  // No rank runs here any more, after an end; `committed` is the committed step here. The step of the last
  // checkpoint, once all hosts agree on it: Versions::kNone for none.
  std::optional<uint32_t> last_step(uint32_t committed);
  // Whether this host decides for itself, because the coordinator is lost.
  bool alone() const { return alone_; }

  // What came from the coordinator, and that nothing comes any more.
  void receive(const HostMessage& message);
  void coordinator_lost(const std::string& why);
  // Whether the coordinator may go without being lost.
  bool over() const { return dismissed_ || quit_signal_ != 0 || settled_.has_value(); }

  // The user should know of this; the first host's is told.
  void warn(const std::string& text);
  // What other hosts have said so, since the last call.
  std::vector<std::string> take_news() { return std::exchange(news_, {}); }

 private:
  const int node_;
  const Send send_;
  uint32_t explained_ = 0;  // the last one that was for a reason
  uint32_t abort_ = 0;      // the last attempt that is over by another's word
  uint32_t told_aborted_ = 0, told_why_ = 0, told_parked_ = 0, told_finished_ = 0;  // attempts
  uint32_t resume_attempt_ = 0, resume_step_ = 0;
  bool dismissed_ = false;
  int stop_signal_ = 0, quit_signal_ = 0;
  std::optional<End> end_;
  bool told_ended_ = false, alone_ = false;
  std::optional<uint32_t> settled_;
  std::vector<std::string> news_;
};

// Of a run on this box alone.
std::unique_ptr<HostMember> sole_member();

}  // namespace annulus
