#include "launcher/checkpointer.h"

#include <signal.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint_directory.h"
#include "telemetry/error.h"

namespace annulus {

Checkpointer::Checkpointer(const Job& job, const Segment& segment,
                           std::function<void(const std::string&)> warn, std::function<void(int)> watch)
    : job_(job),
      segment_(segment),
      header_(segment.header()),
      warn_(std::move(warn)),
      watch_(std::move(watch)),
      taken_up_(job.run.initial_step()),
      saved_(taken_up_) {
  header_.checkpoint_step.store(taken_up_, std::memory_order_relaxed);
  header_.copied_step.store(taken_up_, std::memory_order_release);
}

Checkpointer::~Checkpointer() {
  kill_writer();
  if (writer_) finish(*writer_);
}

void Checkpointer::kill_writer() const {
  if (writer_) kill(writer_->pid, SIGKILL);
}

void Checkpointer::poll(int64_t elapsed_ns) {
  const uint32_t chosen = header_.checkpoint_step.load(std::memory_order_acquire);
  if (chosen > taken_up_ && Versions::reached(segment_.versions().committed(), chosen)) {
    since_last_ns_ = 0;
    if (writer_) {
      ++counts_.skipped;
      warn_(
          fmt::format("no checkpoint of step {}: that of step {} is still being written", chosen, writing_));
      taken_up_ = chosen;
      release(chosen);
    } else {
      start(chosen, true);
    }
  }
  const double minutes = job_.run.config.checkpoint_minutes;
  since_last_ns_ += elapsed_ns;
  if (minutes > 0 && static_cast<double>(since_last_ns_) >= minutes * 60e9) {
    header_.checkpoint_wanted.store(taken_up_ + 1, std::memory_order_relaxed);
  }
  if (!writer_) return;
  const uint64_t beats = header_.writer_beats.load(std::memory_order_relaxed);
  still_ns_ = beats == beats_ ? still_ns_ + elapsed_ns : 0;
  beats_ = beats;
  if (still_ns_ >= job_.run.config.deadline * 1e9) kill_writer();
}

void Checkpointer::start(uint32_t step, bool copies) {
  const int64_t begin = now_ns();
  taken_up_ = writing_ = step;
  still_ns_ = 0;
  try {
    writer_ = spawn("annulus:save", [&, step, copies](int output) {
      const auto beat = [&] { header_.writer_beats.fetch_add(1, std::memory_order_relaxed); };
      CheckpointState state = segment_.state_after(step);
      if (copies) {
        state = segment_.copy_to_snapshot(state, beat);
        release(step);
      }
      const int64_t copied = now_ns();
      if (step > 0) state.epoch = job_.run.schedule.images(step).epoch + 1;
      const CheckpointTarget& target = *job_.checkpoints;
      std::filesystem::create_directories(target.directory);
      const std::string path =
          write_checkpoint(target.directory, job_.run.checkpoint, target.texts, state, posix_calls(), beat);
      std::string trouble;  // it is written, whatever becomes of older ones
      try {
        prune_checkpoints(target.directory, job_.run.config.keep, step);
      } catch (const UserError& error) {
        trouble = error.what();
      }
      const nlohmann::json json = {copied - begin, now_ns() - begin, path, std::filesystem::file_size(path),
                                   trouble};
      // A directory's name need not be UTF-8; this is what is said of it.
      const std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      return write_all(output, text) ? 0 : 1;
    });
  } catch (const UserError& error) {
    ++counts_.failed;
    warn_(fmt::format("no checkpoint of step {}: {}", step, error.what()));
    release(step);
    return;
  }
  watch_(writer_->pidfd);
}

void Checkpointer::on_writer_end(const std::function<ChildEnd(ChildProcess&)>& collect) {
  const ChildEnd end = collect(*writer_);
  writer_.reset();
  release(taken_up_);  // whatever became of it
  if (end.code == 0) {
    ++counts_.written;
    saved_ = writing_;
    const nlohmann::json json = nlohmann::json::parse(end.output);
    counts_.copy_ns = std::max(counts_.copy_ns, json.at(0).get<int64_t>());
    counts_.write_ns = std::max(counts_.write_ns, json.at(1).get<int64_t>());
    counts_.last = json.at(2);
    counts_.bytes = json.at(3);
    if (const std::string trouble = json.at(4); !trouble.empty()) {
      warn_(fmt::format("more checkpoints are left than --keep says: {}", trouble));
    }
    return;
  }
  ++counts_.failed;
  const std::string why =
      end.signal == 0 ? end.output
      : still_ns_ >= job_.run.config.deadline * 1e9
          ? fmt::format(
                "its writer made no progress for {} s (--deadline) and was killed; is the disk stuck?",
                job_.run.config.deadline)
          : fmt::format("its writer was killed by signal {} ({})", end.signal, strsignal(end.signal));
  warn_(fmt::format("no checkpoint of step {}: {}; training does not depend on it", writing_, why));
}

void Checkpointer::write_last(uint32_t committed) {
  if (!job_.checkpoints || writer_ || committed == saved_) return;
  start(committed, false);
}

// Ranks may overwrite the step's generation.
void Checkpointer::release(uint32_t step) {
  header_.copied_step.store(step, std::memory_order_release);  // K0
  segment_.wake_all();
}

}  // namespace annulus
