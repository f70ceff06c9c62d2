#include "launcher/host_coordinator.h"

#include <fmt/format.h>

#include <algorithm>

#include "collectives/versions.h"

namespace annulus {

using Kind = HostMessage::Kind;

HostCoordinator::HostCoordinator(std::vector<std::string> names)
    : names_(std::move(names)), members_(names_.size()) {}

HostCoordinator::Orders HostCoordinator::receive(int node, const HostMessage& message) {
  Orders orders;
  Member& member = members_[node];
  if (member.lost || over()) return orders;
  switch (message.kind) {
    case Kind::kAbort:
      if (!in_attempt(node, message, orders) || phase_ == Phase::kEnding) break;
      // A further one, of the same recovery, is of interest for its reason.
      if (phase_ == Phase::kRecovering && message.text.empty()) break;
      if (phase_ == Phase::kRunning) {
        phase_ = Phase::kRecovering;
        for (Member& each : members_) each = {.lost = each.lost, .finished = false, .committed = {}};
      }
      broadcast({.kind = Kind::kAbort,
                 .attempt = attempt_,
                 .text = message.text.empty() ? "" : whose(node) + message.text},
                orders, node);
      break;
    case Kind::kParked:
      if (!in_attempt(node, message, orders) || phase_ != Phase::kRecovering) break;
      member.committed = message.step;
      resume_if_all_parked(orders);
      break;
    case Kind::kFinished:
      if (!in_attempt(node, message, orders) || phase_ != Phase::kRunning) break;
      member.finished = true;
      if (std::all_of(members_.begin(), members_.end(), [](const Member& each) { return each.finished; })) {
        phase_ = Phase::kDismissed;
        broadcast({.kind = Kind::kDismiss}, orders);
      }
      break;
    case Kind::kWarn:
      if (node != 0)
        orders.emplace_back(0, HostMessage{.kind = Kind::kWarn, .text = whose(node) + message.text});
      break;
    case Kind::kStop:
      if (stop_signal_ != 0 || phase_ == Phase::kEnding) break;
      stop_signal_ = message.code;
      broadcast(message, orders);
      break;
    case Kind::kQuit:
      phase_ = Phase::kSettled;
      broadcast(message, orders, node);
      break;
    case Kind::kFailed:
      end(message.code, whose(node) + message.text, orders);
      break;
    case Kind::kEnded:
      if (phase_ != Phase::kEnding) {
        end(1, whose(node) + "its ranks have ended before the run did; report this as a bug", orders);
      }
      member.committed = message.step;
      settle_if_all_ended(orders);
      break;
    default:
      end(1,
          fmt::format("{}it sends a message '{}', which is the coordinator's; report this as a bug",
                      whose(node), name_of(message.kind)),
          orders);
  }
  return orders;
}

HostCoordinator::Orders HostCoordinator::lost(int node, const std::string& why) {
  Orders orders;
  if (members_[node].lost) return orders;
  members_[node].lost = true;
  if (over()) return orders;
  end(1, fmt::format("host {} was lost: {}", names_[node], why), orders);
  settle_if_all_ended(orders);
  return orders;
}

// Messages of an attempt that is over were under way when it ended. There are none of one to come.
bool HostCoordinator::in_attempt(int node, const HostMessage& message, Orders& orders) {
  if (message.attempt <= attempt_) return message.attempt == attempt_;
  end(1,
      fmt::format("{}it is in attempt {}, the others in {}; report this as a bug", whose(node),
                  message.attempt, attempt_),
      orders);
  return false;
}

void HostCoordinator::end(int code, const std::string& text, Orders& orders) {
  if (phase_ == Phase::kEnding || over()) return;  // the first reason counts
  phase_ = Phase::kEnding;
  for (Member& member : members_) member.committed.reset();
  broadcast({.kind = Kind::kEnd, .code = code, .text = text}, orders);
}

void HostCoordinator::resume_if_all_parked(Orders& orders) {
  if (phase_ != Phase::kRecovering || !all_committed()) return;
  const std::optional<uint32_t> step = smallest_committed();
  if (!step) {
    end(1, "hosts are more than one step apart: none holds what all can go on from; report this as a bug",
        orders);
    return;
  }
  phase_ = Phase::kRunning;
  ++attempt_;
  broadcast({.kind = Kind::kResume, .attempt = attempt_, .step = *step}, orders);
}

void HostCoordinator::settle_if_all_ended(Orders& orders) {
  if (phase_ != Phase::kEnding || !all_committed()) return;
  phase_ = Phase::kSettled;
  broadcast({.kind = Kind::kSettle, .step = smallest_committed().value_or(Versions::kNone)}, orders);
}

void HostCoordinator::broadcast(const HostMessage& message, Orders& orders, int but) const {
  for (int node = 0; node < static_cast<int>(members_.size()); ++node) {
    if (node != but && !members_[node].lost) orders.emplace_back(node, message);
  }
}

bool HostCoordinator::all_committed() const {
  return std::all_of(members_.begin(), members_.end(),
                     [](const Member& member) { return member.lost || member.committed; });
}

// Nothing where hosts are further apart than the two generations that they keep. A host without even initial
// weights is as far as one with them, which may be of a late step, from a checkpoint: it makes them again.
std::optional<uint32_t> HostCoordinator::smallest_committed() const {
  std::optional<uint32_t> least, most;
  for (const Member& member : members_) {
    if (member.lost) continue;
    if (!least || !Versions::reached(*member.committed, *least)) least = member.committed;
    if (!most || Versions::reached(*member.committed, *most)) most = member.committed;
  }
  const bool near = least && (*least == Versions::kNone || *most - *least <= 1);
  return near ? least : std::nullopt;
}

std::string HostCoordinator::whose(int node) const {
  return names_.size() == 1 ? "" : fmt::format("host {}: ", names_[node]);
}

}  // namespace annulus
