// What tests of the promise about bits have in common: runs in a directory, and their checksums.
#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "tests/end_to_end/command.h"

namespace annulus {

using Words = std::vector<std::string>;

class BitsOfRuns : public ::testing::Test {
 protected:
  explicit BitsOfRuns(Words base) : base_(std::move(base)) {}

  // The checksum of one run of `base` with these flags added.
  std::string weights(const Words& words, const Words& base) {
    const Ended end = run_annulus(with(with(base, words), {"--run-dir", next_run()}), scratch_.here());
    EXPECT_EQ(end.code, 0) << end.err;
    EXPECT_EQ(end.weights().size(), 16u) << end.out;
    EXPECT_TRUE(end.left.empty());
    return end.weights();
  }
  std::string weights(const Words& words) { return weights(words, base_); }

  // The checksum that these numbers of workers agree on; "" when they do not.
  std::string weights_of_all(const Words& numbers, const Words& words, const Words& base) {
    std::set<std::string> seen;
    for (const std::string& workers : numbers)
      seen.insert(weights(with(words, {"--workers", workers}), base));
    EXPECT_EQ(seen.size(), 1u) << ::testing::PrintToString(seen);
    return seen.size() == 1 ? *seen.begin() : "";
  }
  std::string weights_of_any_number(const Words& words, const Words& base) {
    return weights_of_all({"1", "2", "3", "4"}, words, base);
  }
  std::string weights_of_any_number(const Words& words) { return weights_of_any_number(words, base_); }

  std::string next_run() { return "run" + std::to_string(++runs_); }
  std::string last_run() const { return "run" + std::to_string(runs_); }

  ScratchDirectory scratch_;

 private:
  Words base_;
  int runs_ = 0;
};

}  // namespace annulus
