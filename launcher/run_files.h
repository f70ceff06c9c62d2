// Run files: what a run leaves in its directory. They are written by a process of their own, the scribe, so
// that a slow disk never stops the launcher.
//
//   config.yaml     the resolved configuration; running with it alone repeats the run bit by bit
//   model.yaml      the network, as `annulus model` prints it; config.yaml refers to it where the network
//   came
//                   from a file
//   plan.json       the kernels and layouts that the planner chose
//   metrics.jsonl   one object a line. Per step: "step", "epoch", "loss", "images", "step_ms", "compute_ms",
//                   "comm_ms", "sync_ms", "hidden_ms", "slowest_rank". Per evaluation: "epoch", "step",
//                   "test_loss", "test_accuracy", "test_images". Losses that are not finite are null. With
//                   --clip "gradient_norm"; on several hosts, of this one, "wire_bytes" (sent to the others),
//                   "wire_saved" (share that compression has saved), "wire_saved_bytes", "wire_ms" (that they
//                   were on the way), and of all ranks together "wire_cpu_ms", "encode_ms", "decode_ms"
//   summary.json    how the run ended
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/child_process.h"
#include "launcher/job.h"
#include "runtime/segment.h"

namespace annulus {

// The directory of one run, which no other one can have while this lives or a process that was forked with
// it.
class RunDirectory {
 public:
  // `wanted`: the directory that the user asked for, or empty for runs/<date>-<model>. Throws UserError when
  // it cannot be made or written, or when it holds a run already, unless that is the one that goes on (by its
  // directory), or when that is still under way. Makes it, with missing parents.
  RunDirectory(const std::string& wanted, const std::string& model, const std::string& goes_on = "");

  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::string& path() const { return path_; }
  bool goes_on() const { return goes_on_; }  // whether it is that of the run that goes on

  // Takes away again what this object has made, where nothing was written after all.
  void remove_if_empty() const;

 private:
  void lock();

  std::string path_;
  std::vector<std::string> made_;  // directories that did not exist before, innermost first
  int locked_ = -1;
  bool goes_on_ = false;
};

// The configuration that repeats a run: what it reads from a file is read from the run's own copy.
TrainConfig saved_config(const TrainConfig& config, const std::string& directory);

class Scribe {
 public:
  static constexpr int kMostRestarts = 3;

  // Forks the scribe; it follows the step records in `segment` until close(). All three outlive it.
  Scribe(const RunDirectory& directory, const Job& job, const Segment& segment);
  ~Scribe();
  Scribe(const Scribe&) = delete;
  Scribe& operator=(const Scribe&) = delete;

  // Replaces a scribe that was killed, and says so; it goes on where the files end. Call now and then: a rank
  // keeps its last 2,048 steps.
  std::string watch();

  // Hands over summary.json's text and waits until all is written, for the run's deadline at most. Returns
  // what went wrong, or nothing.
  std::string close(const std::string& summary);

 private:
  void start(uint64_t last_told);
  static std::string describe(const ChildEnd& end);

  const RunDirectory& directory_;
  const Job& job_;
  const Segment& segment_;
  int from_launcher_ = -1, to_scribe_ = -1;
  ChildProcess process_;
  int restarts_ = 0;
  std::string trouble_;  // why it ended before close()
};

}  // namespace annulus
