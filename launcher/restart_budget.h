// RestartBudget: how many processes of a run may be replaced before it counts as hopeless.
#pragma once

#include <cstdint>
#include <deque>

namespace annulus {

class RestartBudget {
 public:
  static constexpr int64_t kWindowSteps = 1000;

  // `most`: in any kWindowSteps steps.
  explicit RestartBudget(int64_t most) : most_(most) {}

  // Takes one for a death in step `step`; false where none is left.
  bool take(uint32_t step) {
    while (!taken_.empty() && taken_.front() + kWindowSteps <= step) taken_.pop_front();
    if (static_cast<int64_t>(taken_.size()) >= most_) return false;
    taken_.push_back(step);
    return true;
  }
  int64_t used() const { return static_cast<int64_t>(taken_.size()); }  // of those in the window
  int64_t most() const { return most_; }

 private:
  int64_t most_;
  std::deque<int64_t> taken_;  // steps, ascending
};

}  // namespace annulus
