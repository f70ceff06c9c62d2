// What tests have in common that kill processes of a run of the real command.
#pragma once

#include <chrono>
#include <string>
#include <thread>

#include "tests/end_to_end/run_under_way.h"

namespace annulus {

inline void sleep_for_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

inline int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// That the run tells of, beside warnings of what may come.
inline int replacements(const Ended& end) {
  return static_cast<int>(count(end.out, " restarts in 1,000 steps)"));
}

class RunWithDeaths : public RunUnderWay {
 protected:
  // The run has ended as if nothing had been, but says that `restarts` processes were replaced.
  void expect_undisturbed(const Ended& end, const std::string& weights, int restarts) {
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    EXPECT_EQ(end.err, "");
    EXPECT_EQ(end.weights(), weights) << end.out;
    EXPECT_EQ(replacements(end), restarts) << end.out;
    if (restarts > 0) {
      EXPECT_EQ(end.line("restarts   ").rfind(std::to_string(restarts) + " process", 0), 0u) << end.out;
    }
    expect_nothing_left(end);
    // What was done again is told once.
    const std::vector<int64_t> steps = steps_told("run");
    ASSERT_FALSE(steps.empty());
    expect_each_step_once("run", 1, steps.back());
  }
};

}  // namespace annulus
