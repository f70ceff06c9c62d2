#include "launcher/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace annulus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view erase_line = "\r\x1b[K";

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool wait_writable(int fd, int milliseconds) {
  pollfd poll_fd{fd, POLLOUT, 0};
  return poll(&poll_fd, 1, milliseconds) > 0;
}

}  // namespace

Terminal::Terminal(int fd, Settings settings) : fd_(fd), settings_(settings) {
  std::signal(SIGPIPE, SIG_IGN);
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    closed_ = true;
    return;
  }
  is_terminal_ = isatty(fd) == 1;
  const char* kind = std::getenv("TERM");
  redraws_ = is_terminal_ && !(kind && std::strcmp(kind, "dumb") == 0);
  if (is_terminal_ || S_ISFIFO(status.st_mode)) {
    // poll() promises room for some bytes, not for all, so a write could still block. O_NONBLOCK belongs to
    // the opening, which the shell and others share; hence an opening of our own. A file never blocks, and a
    // second opening would begin at its start. Where this fails, poll() and small writes have to do.
    const int own =
        open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0) {
      fd_ = own;
      owns_fd_ = true;
    }
  }
}

Terminal::~Terminal() {
  if (owns_fd_) close(fd_);
}

// Writes as much as goes without blocking; the number of bytes written.
size_t Terminal::write_now(std::string_view text) {
  size_t done = 0;
  while (done < text.size() && !closed_ && wait_writable(fd_, 0)) {
    // A pipe that poll() calls writable takes this much without blocking even when it is not O_NONBLOCK.
    const size_t portion = std::min<size_t>(text.size() - done, PIPE_BUF);
    const ssize_t count = write(fd_, text.data() + done, portion);
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count < 0 && errno != EINTR) {
      // EIO: the terminal has gone. A full disk is treated alike: the run matters more than its output.
      if (errno != EAGAIN) closed_ = true;
      break;
    }
  }
  return done;
}

void Terminal::enqueue(std::string_view text) {
  if (closed_) return;
  queue_.append(text);
}

void Terminal::write_queue() {
  written_ += write_now(std::string_view(queue_).substr(written_));
  if (closed_ || written_ == queue_.size()) {
    queue_.clear();
    written_ = 0;
  } else if (written_ > settings_.queue_bytes / 2) {
    queue_.erase(0, written_);
    written_ = 0;
  }
}

// Puts the status below the last line, once all lines are written.
void Terminal::draw_status() {
  if (status_drawn_ || status_.empty() || closed_ || !queue_.empty()) return;
  const size_t count = write_now(status_);
  status_drawn_ = count > 0;
  // Half of it would garble what follows.
  if (status_drawn_) enqueue(std::string_view(status_).substr(count));
}

void Terminal::clear_status() {
  if (status_drawn_) enqueue(erase_line);
  status_drawn_ = false;
  status_.clear();
}

void Terminal::flush() {
  write_queue();
  if (queue_.empty() && dropped_lines_ > reported_drops_) {
    const uint64_t dropped = dropped_lines_ - reported_drops_;
    reported_drops_ = dropped_lines_;
    line(fmt::format("({} lines were dropped while nobody read)", dropped));
  }
  draw_status();
}

void Terminal::line(std::string_view text) {
  write_queue();
  if (queue_.size() - written_ + text.size() > settings_.queue_bytes) {
    ++dropped_lines_;
    return;
  }
  if (status_drawn_) enqueue(erase_line);
  status_drawn_ = false;
  enqueue(text);
  enqueue("\n");
  write_queue();
  draw_status();
}

// The text in one row: cut before it would wrap, as a wrapped row cannot be redrawn.
std::string Terminal::fit(std::string_view text) const {
  size_t width = 80;
  winsize window{};
  if (ioctl(fd_, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) width = window.ws_col;
  // The last column stays free: some terminals wrap as soon as it is written.
  const size_t columns = width - 1;
  std::string row;
  size_t column = 0;
  for (const char c : text) {
    if (!is_continuation(c) && ++column > columns) break;
    row += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return row;
}

void Terminal::status(std::string_view text) {
  flush();
  if (closed_ || !queue_.empty()) return;
  if (redraws_) {
    const std::string row = fit(text);
    const std::string drawing = std::string(erase_line) + row;
    const size_t count = write_now(drawing);
    if (count == 0) return;
    status_ = row;
    status_drawn_ = true;
    // Half an escape sequence would garble what follows.
    enqueue(std::string_view(drawing).substr(count));
    return;
  }
  if (text == last_plain_status_ || Clock::now() < next_plain_status_) return;
  const std::string plain = std::string(text) + "\n";
  const size_t count = write_now(plain);
  if (count == 0) return;
  enqueue(std::string_view(plain).substr(count));
  next_plain_status_ = Clock::now() + settings_.plain_status_interval;
  last_plain_status_ = text;
}

void Terminal::end_status(std::string_view text) {
  clear_status();
  if (text != last_plain_status_) line(text);
}

void Terminal::finish(std::chrono::milliseconds patience) {
  clear_status();
  const Clock::time_point deadline = Clock::now() + patience;
  for (flush(); !closed_ && !queue_.empty(); flush()) {
    int milliseconds = -1;
    if (is_terminal_) {
      milliseconds =
          static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count());
      if (milliseconds <= 0) return;
    }
    wait_writable(fd_, milliseconds);
  }
}

}  // namespace annulus
