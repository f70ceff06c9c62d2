// HostCoordinator: keeps the hosts of a run together. Lives on node 0; no sockets, no time.
//
// Every host, node 0 as well, has a HostMember (host_member.h) that tells this one what happens there, in
// order, and is told what to do. What it decides:
//
//   recovery   the first abort of an attempt goes to all hosts. Once every host has said that its ranks stand
//              still, all go on from the smallest committed step, with the next attempt. Attempts are the
//              same on all hosts.
//   finish     ranks may leave once those of all hosts have done the last step: until then a recovery may
//              need them.
//   stop       a signal anywhere goes to all.
//   end        a host that is lost or cannot go on ends the run: all others end their ranks, and once every
//              one that is left has, all make their last checkpoint of the smallest committed step.
//
// A host is lost once and for all. With one host all of this is decided at once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/host_message.h"

namespace annulus {

class HostCoordinator {
 public:
  // What to send: to which node, in this order.
  using Orders = std::vector<std::pair<int, HostMessage>>;

  explicit HostCoordinator(std::vector<std::string> names);

  // What has come from `node`.
  Orders receive(int node, const HostMessage& message);
  // The connection to `node` is gone, or it is silent.
  Orders lost(int node, const std::string& why);

  // Whether hosts may go without being lost.
  bool over() const { return phase_ == Phase::kDismissed || phase_ == Phase::kSettled; }

 private:
  enum class Phase { kRunning, kRecovering, kDismissed, kEnding, kSettled };
  struct Member {
    bool lost = false;
    bool finished = false;              // in this attempt
    std::optional<uint32_t> committed;  // as it parked in this attempt, or ended
  };

  bool in_attempt(int node, const HostMessage& message, Orders& orders);
  void end(int code, const std::string& text, Orders& orders);
  void resume_if_all_parked(Orders& orders);
  void settle_if_all_ended(Orders& orders);
  void broadcast(const HostMessage& message, Orders& orders, int but = -1) const;
  bool all_committed() const;  // have been told, by the hosts that are left
  std::optional<uint32_t> smallest_committed() const;
  std::string whose(int node) const;  // for texts

  std::vector<std::string> names_;
  std::vector<Member> members_;
  Phase phase_ = Phase::kRunning;
  uint32_t attempt_ = 1;
  int stop_signal_ = 0;
};

}  // namespace annulus
