#include "launcher/host_member.h"

#include <fmt/format.h>

#include "launcher/host_coordinator.h"

namespace annulus {

using Kind = HostMessage::Kind;

void HostMember::aborted(uint32_t attempt, const std::string& why) {
  uint32_t& told = why.empty() ? told_aborted_ : told_why_;
  if (told == attempt) return;
  told = attempt;
  send_({.kind = Kind::kAbort, .attempt = attempt, .text = why});
}

std::optional<uint32_t> HostMember::resume_step(uint32_t attempt, uint32_t committed) {
  if (told_parked_ != attempt) {
    told_parked_ = attempt;
    send_({.kind = Kind::kParked, .attempt = attempt, .step = committed});
  }
  return resume_attempt_ == attempt + 1 ? std::optional(resume_step_) : std::nullopt;
}

void HostMember::finished(uint32_t attempt) {
  if (told_finished_ == attempt) return;
  told_finished_ = attempt;
  send_({.kind = Kind::kFinished, .attempt = attempt});
}

void HostMember::warn(const std::string& text) {
  if (!first()) send_({.kind = Kind::kWarn, .text = text});
}

void HostMember::stop(int signal) { send_({.kind = Kind::kStop, .code = signal}); }

void HostMember::quit(int signal) {
  if (quit_signal_ != 0) return;
  quit_signal_ = signal;
  send_({.kind = Kind::kQuit, .code = signal});
}

void HostMember::fail(int code, const std::string& why) {
  if (end_) return;
  end_ = End{code, why};
  send_({.kind = Kind::kFailed, .code = code, .text = why});
}

std::optional<uint32_t> HostMember::last_step(uint32_t committed) {
  // After a dismissal all hosts have the last step, whatever went wrong here since.
  if (alone_ || dismissed_) return committed;
  if (!told_ended_) {
    told_ended_ = true;
    send_({.kind = Kind::kEnded, .step = committed});
  }
  return settled_;
}

void HostMember::receive(const HostMessage& message) {
  switch (message.kind) {
    case Kind::kAbort:
      abort_ = message.attempt;
      if (!message.text.empty()) explained_ = message.attempt;
      break;
    case Kind::kResume:
      resume_attempt_ = message.attempt;
      resume_step_ = message.step;
      break;
    case Kind::kWarn:
      news_.push_back(message.text);
      break;
    case Kind::kDismiss:
      dismissed_ = true;
      break;
    case Kind::kStop:
      stop_signal_ = message.code;
      break;
    case Kind::kQuit:
      if (quit_signal_ == 0) quit_signal_ = message.code;
      break;
    case Kind::kEnd:
      if (!end_) end_ = End{message.code, message.text};
      break;
    case Kind::kSettle:
      settled_ = message.step;
      break;
    default:
      coordinator_lost(
          fmt::format("it sends a message '{}', which is not a coordinator's", name_of(message.kind)));
  }
}

void HostMember::coordinator_lost(const std::string& why) {
  if (over() || alone_) return;
  alone_ = true;
  if (!end_) end_ = End{1, fmt::format("the first host, which coordinates the others, was lost: {}", why)};
}

std::unique_ptr<HostMember> sole_member() {
  // Orders may make the member send anew, never while the coordinator is at work.
  struct Both {
    HostCoordinator coordinator{{"this box"}};
    HostMember* member = nullptr;
  };
  auto both = std::make_shared<Both>();
  auto member = std::make_unique<HostMember>(0, [both](const HostMessage& message) {
    for (const auto& [node, order] : both->coordinator.receive(0, message)) both->member->receive(order);
  });
  both->member = member.get();
  return member;
}

}  // namespace annulus
