// What tests have in common that look at the checkpoints of a run of the real command.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "tests/end_to_end/run_under_way.h"

namespace annulus {

// 16 steps an epoch, two and a half epochs.
inline const Words kRun = {"train", "--dataset", "synthetic", "--model",      "mlp", "--workers",
                           "2",     "--shards",  "4",         "--seed",       "5",   "--steps",
                           "40",    "--lr",      "0.01",      "--batch-size", "512", "--quiet",
                           "on",    "--run-dir", "run"};

// The same with steps long enough that a checkpoint is written long before the next one is due.
inline const Words kSpaced = with(kRun, {"--batch-size", "2048"});

using Names = std::set<std::string>;

inline std::string file_of(int step) {
  std::string digits = std::to_string(step);
  return "step-" + std::string(10 - digits.size(), '0') + digits + ".safetensors";
}

// What a run leaves that has to write one after each of these steps.
inline Names expected_of(const Ended& end, size_t keep, const std::vector<int>& due) {
  Names names;
  for (const int step : due) {
    // A disk that is slower than the steps between two of them.
    const bool left_out =
        contains(end.out, "no checkpoint of step " + std::to_string(step) + ": that of step ");
    if (!left_out) names.insert(file_of(step));
  }
  while (names.size() > keep) names.erase(names.begin());
  return names;
}

class CheckpointedRun : public RunUnderWay {
 protected:
  Ended run(const Words& words) {
    const Ended end = run_annulus(words, scratch_.here());
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    expect_nothing_left(end);
    return end;
  }
  // Names in a run's directory of checkpoints.
  Names checkpoints(const std::string& run_dir = "run") const {
    Names names;
    std::error_code none;
    const std::filesystem::path directory = scratch_.path() / run_dir / "checkpoints";
    for (const auto& entry : std::filesystem::directory_iterator(directory, none)) {
      names.insert(entry.path().filename());
    }
    return names;
  }
  // No command may leave a checkpoint that cannot be read.
  void expect_all_intact(const std::string& run_dir = "run") {
    const Ended end = run_annulus({"checkpoint", "verify", run_dir + "/checkpoints"}, scratch_.here());
    EXPECT_EQ(end.code, 0) << end.out << end.err;
  }
};

}  // namespace annulus
