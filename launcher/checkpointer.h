// Checkpointer: has checkpoints written by processes of their own, while training goes on.
//
// Rank 0 chooses the step (Worker::settle_checkpoint). Once it is committed, a writer is forked: it copies
// the generation into the snapshot, says so (K0), and writes the file from there. Until it has said so, no
// rank overwrites that generation (K1): only the copy can hold training up, and it has a whole step's time. A
// writer that fails, dies, or shows no progress for the deadline costs its checkpoint and nothing else; where
// the last one is still being written, the new one is left out. All of these are counted.
//
// Ordering: K0 writer: copied_step = k (release), after it has read the generation
//           K1 rank: copied_step (acquire), before it writes the same generation for step k+2
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "launcher/child_process.h"
#include "launcher/job.h"
#include "runtime/segment.h"

namespace annulus {

// What became of a run's checkpoints.
struct CheckpointCounts {
  int64_t written = 0, failed = 0, skipped = 0;
  std::string last;     // path of the last one, for people: valid UTF-8
  int64_t bytes = 0;    // its size
  int64_t copy_ns = 0;  // from its step's commit, as far as the launcher knew of it, to its copy: the longest
  int64_t write_ns = 0;  // to its file's end: the longest
};

class Checkpointer {
 public:
  // Without job.checkpoints nothing is written. `warn` is told what fails; `watch` is given the pidfd of a
  // writer that was forked.
  Checkpointer(const Job& job, const Segment& segment, std::function<void(const std::string&)> warn,
               std::function<void(int pidfd)> watch);
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  // Begins what is due. `elapsed_ns`: since the last call; a writer without progress for the deadline is
  // killed.
  void poll(int64_t elapsed_ns);
  // The writer has ended; `collect` reaps it.
  void on_writer_end(const std::function<ChildEnd(ChildProcess&)>& collect);
  // The state after `committed`, of which no rank writes any more, unless there is a checkpoint of it.
  void write_last(uint32_t committed);
  // Has the writer, if there is one, end without its file.
  void kill_writer() const;

  bool writing() const { return writer_.has_value(); }
  const CheckpointCounts& counts() const { return counts_; }

 private:
  void start(uint32_t step, bool copies);
  void release(uint32_t step);

  const Job& job_;
  const Segment& segment_;
  SegmentHeader& header_;
  const std::function<void(const std::string&)> warn_;
  const std::function<void(int)> watch_;
  std::optional<ChildProcess> writer_;
  uint32_t taken_up_;          // step of the checkpoint that was begun, or left out, last
  uint32_t writing_ = 0;       // step that the writer was begun for
  uint32_t saved_;             // step of the last one on the disk, or that nothing was done after
  uint64_t beats_ = 0;         // it has shown so much progress
  int64_t still_ns_ = 0;       // and none for so long
  int64_t since_last_ns_ = 0;  // for --checkpoint-minutes
  CheckpointCounts counts_;
};

}  // namespace annulus
