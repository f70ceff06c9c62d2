// The launcher's output on stdout, which never makes it wait: a stopped terminal (Ctrl-S), a pager that does
// not read or a reader that has gone away must not stop training.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace annulus {

// Used by one thread. Two kinds of output:
// - lines, which are permanent: what cannot be written at once is queued and follows later, in order;
// - the status, which is transient: on a terminal it redraws in place, elsewhere it is a plain line now and
//   then, if it is news. What cannot be written at once is dropped.
// When the reader is gone (EPIPE, closed stdout) everything is dropped silently.
class Terminal {
 public:
  struct Settings {
    // Where the output is no terminal: the least time between two status lines.
    std::chrono::milliseconds plain_status_interval{5000};
    // Lines waiting for the reader take no more than this; further ones are dropped, and counted.
    size_t queue_bytes = 1 << 20;
  };

  // Writes to `fd`, which stays the caller's and open. Ignores SIGPIPE for the whole process from here on,
  // children included: a reader that goes away must not end the run.
  explicit Terminal(int fd, Settings settings);
  explicit Terminal(int fd = 1) : Terminal(fd, Settings{}) {}
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Writes one permanent line (without its newline; the text may hold several). Never blocks.
  void line(std::string_view text);

  // Replaces the status. Cut to the terminal's width. Never blocks.
  void status(std::string_view text);

  // Takes the status away and leaves its last text as a line, unless that is what the last plain line said.
  void end_status(std::string_view text);

  // Writes what is queued, as far as it goes without blocking. For the event loop, a few times a second.
  void flush();

  // Takes the status away and writes what is queued: for at most `patience` where a terminal is stopped, as
  // long as it takes where a pipe or a file is written. Call once the run has ended.
  void finish(std::chrono::milliseconds patience);

  // True where the status redraws in place.
  bool redraws() const { return redraws_; }

  // Lines that were dropped because the queue was full.
  uint64_t dropped_lines() const { return dropped_lines_; }

 private:
  void enqueue(std::string_view text);
  size_t write_now(std::string_view text);
  void write_queue();
  void draw_status();
  void clear_status();
  std::string fit(std::string_view text) const;

  int fd_;
  bool owns_fd_ = false;  // fd_ is our own, non-blocking opening of the caller's
  bool closed_ = false;   // nobody reads any more
  bool is_terminal_ = false;
  bool redraws_ = false;
  Settings settings_;

  std::string queue_;  // bytes not yet written, from written_ on
  size_t written_ = 0;
  std::string status_;         // the latest, as it is drawn; empty: none
  bool status_drawn_ = false;  // stands in the last row: what follows has to erase it
  std::chrono::steady_clock::time_point next_plain_status_{};
  std::string last_plain_status_;
  uint64_t dropped_lines_ = 0;
  uint64_t reported_drops_ = 0;
};

}  // namespace annulus
