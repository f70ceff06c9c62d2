// File calls that go wrong where a test wants it.
#pragma once

#include <signal.h>

#include <cerrno>
#include <string>
#include <vector>

#include "runtime/durable_file.h"

namespace annulus {

enum class Fault {
  kNone,
  kError,          // the call does nothing and fails with `code`
  kInterrupted,    // the same once, with EINTR
  kShort,          // this and all later writes take 1 byte at most
  kFull,           // a write takes half of its bytes, later ones fail with `code`
  kKilledBefore,   // the process ends, by SIGKILL, before the call does anything
  kKilledHalfway,  // after half of a write
  kKilledBehind,   // when the call has done all it does
};

// Real calls, but at the `at`-th call (from 1) of those called `name` ("" means any) something happens.
class FaultyCalls : public FileCalls {
 public:
  FaultyCalls() = default;
  FaultyCalls(std::string name, int at, Fault fault, int code = EIO)
      : name_(std::move(name)), at_(at), fault_(fault), code_(code) {}

  // Calls so far, by name, in order.
  const std::vector<std::string>& log() const { return log_; }
  // Whether it came to that.
  bool happened() const { return happened_; }

  int open(const char* path, int flags, mode_t mode) override {
    return call("open", [&] { return FileCalls::open(path, flags, mode); });
  }
  ssize_t write(int file, const void* bytes, size_t count) override {
    return sized_call("write", count, [&](size_t some) { return FileCalls::write(file, bytes, some); });
  }
  ssize_t pwrite(int file, const void* bytes, size_t count, off_t offset) override {
    return sized_call("pwrite", count,
                      [&](size_t some) { return FileCalls::pwrite(file, bytes, some, offset); });
  }
  int fdatasync(int file) override {
    return call("fdatasync", [&] { return FileCalls::fdatasync(file); });
  }
  int fsync(int file) override {
    return call("fsync", [&] { return FileCalls::fsync(file); });
  }
  int close(int file) override {
    // A close that fails has closed the file.
    const bool fails = fault_ == Fault::kError && name_ == "close" && seen_ + 1 == at_;
    if (fails) FileCalls::close(file);
    return call("close", [&] { return FileCalls::close(file); });
  }
  int rename(const char* from, const char* to) override {
    return call("rename", [&] { return FileCalls::rename(from, to); });
  }
  int unlink(const char* path) override {
    return call("unlink", [&] { return FileCalls::unlink(path); });
  }

 private:
  bool due(const char* name) {
    log_.emplace_back(name);
    const bool now = (name_.empty() || name_ == name) && ++seen_ == at_;
    happened_ |= now;
    return now;
  }

  template <typename Call>
  auto call(const char* name, Call call) -> decltype(call()) {
    return sized_call(name, 0, [&](size_t) { return call(); });
  }

  template <typename Call>
  auto sized_call(const char* name, size_t count, Call call) -> decltype(call(count)) {
    const bool now = due(name);
    if (happened_ && fault_ == Fault::kShort && count > 1) return call(1);
    if (happened_ && fault_ == Fault::kFull && count > 0) {
      if (now && count > 1) return call(count / 2);
      errno = code_;
      return -1;
    }
    if (!now) return call(count);
    if (fault_ == Fault::kKilledBefore) raise(SIGKILL);
    if (fault_ == Fault::kKilledHalfway) {
      (void)call(count / 2);
      raise(SIGKILL);
    }
    if (fault_ == Fault::kKilledBehind) {
      (void)call(count);
      raise(SIGKILL);
    }
    if (fault_ == Fault::kError || fault_ == Fault::kInterrupted) {
      errno = fault_ == Fault::kInterrupted ? EINTR : code_;
      return -1;
    }
    return call(count);
  }

  std::string name_;
  int at_ = 0, seen_ = 0;
  Fault fault_ = Fault::kNone;
  int code_ = 0;
  bool happened_ = false;
  std::vector<std::string> log_;
};

}  // namespace annulus
