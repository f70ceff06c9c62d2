#include "runtime/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

namespace annulus {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryEnd = ".tmp";

const char* remedy(int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
      return "free space there, or choose another directory";
    case EACCES:
    case EPERM:
    case EROFS:
      return "choose a directory that this user may write to";
    case ENOENT:
    case ENOTDIR:
      return "make the directory first, or choose another";
    case ENAMETOOLONG:
      return "choose a shorter name";
    case EFBIG:
      return "raise the limit on the size of files (ulimit -f)";
    default:
      return "check the disk that it lies on, or choose another directory";
  }
}

// A signal that interrupts a call has done nothing to it.
template <typename Call>
auto retried(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

int FileCalls::open(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
ssize_t FileCalls::write(int file, const void* bytes, size_t count) { return ::write(file, bytes, count); }
ssize_t FileCalls::pwrite(int file, const void* bytes, size_t count, off_t offset) {
  return ::pwrite(file, bytes, count, offset);
}
int FileCalls::fdatasync(int file) { return ::fdatasync(file); }
int FileCalls::fsync(int file) { return ::fsync(file); }
int FileCalls::close(int file) { return ::close(file); }
int FileCalls::rename(const char* from, const char* to) { return ::rename(from, to); }
int FileCalls::unlink(const char* path) { return ::unlink(path); }

FileCalls& posix_calls() {
  static FileCalls calls;
  return calls;
}

FileError::FileError(const std::string& doing, const std::string& path, const std::string& call, int code)
    : UserError(
          fmt::format("cannot {} {}: {}: {}; {}", doing, path, call, std::strerror(code), remedy(code))),
      code_(code) {}

DurableFile::DurableFile(const std::string& path, FileCalls& calls, std::function<void()> beat)
    : path_(path), calls_(calls), beat_(std::move(beat)) {
  const fs::path target(path);
  directory_ = target.has_parent_path() ? target.parent_path().string() : ".";
  if (!target.has_filename()) throw UserError::format("cannot write {}: it names no file; add a name", path);
  temporary_ =
      (fs::path(directory_) / ("." + target.filename().string() + std::string(kTemporaryEnd))).string();
  // What a crash has left, or a link that somebody has put there, must not be written through: hence O_EXCL.
  calls_.unlink(temporary_.c_str());
  file_ =
      retried([&] { return calls_.open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (file_ < 0) throw FileError("write", path_, "open", errno);
  has_temporary_ = true;
}

DurableFile::~DurableFile() {
  if (file_ >= 0) calls_.close(file_);
  if (has_temporary_) calls_.unlink(temporary_.c_str());
}

void DurableFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kPortion - unsynced_);
    const ssize_t written = retried([&] { return calls_.write(file_, bytes.data(), count); });
    if (written <= 0) throw FileError("write", path_, "write", written == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    unsynced_ += static_cast<size_t>(written);
    if (unsynced_ == kPortion) sync_data();
  }
}

void DurableFile::patch(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = retried([&] { return calls_.pwrite(file_, bytes.data(), bytes.size(), offset); });
    if (written <= 0) throw FileError("write", path_, "pwrite", written == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void DurableFile::commit() {
  sync_data();
  // Network file systems report what they could not keep when the file is closed.
  if (calls_.close(std::exchange(file_, -1)) != 0 && errno != EINTR)
    throw FileError("write", path_, "close", errno);
  if (calls_.rename(temporary_.c_str(), path_.c_str()) != 0) throw FileError("write", path_, "rename", errno);
  has_temporary_ = false;
  sync_directory();
}

// A failed fdatasync is never repeated: the kernel may have dropped what it could not write, and the next
// call would report success.
void DurableFile::sync_data() {
  if (retried([&] { return calls_.fdatasync(file_); }) != 0)
    throw FileError("write", path_, "fdatasync", errno);
  unsynced_ = 0;
  beat_();
}

void DurableFile::sync_directory() {
  const int directory =
      retried([&] { return calls_.open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); });
  if (directory < 0) throw FileError("write", path_, "open of its directory", errno);
  const int result = retried([&] { return calls_.fsync(directory); });
  const int code = errno;
  calls_.close(directory);
  // EINVAL: a file system that knows no fsync of directories; there is nothing more to be done.
  if (result != 0 && code != EINVAL) throw FileError("write", path_, "fsync of its directory", code);
}

void remove_temporaries(const std::string& directory, const std::function<bool(const std::string&)>& is_mine,
                        FileCalls& calls) {
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with('.') || !name.ends_with(kTemporaryEnd)) continue;
    if (name.size() <= 1 + kTemporaryEnd.size()) continue;
    if (is_mine(name.substr(1, name.size() - 1 - kTemporaryEnd.size()))) calls.unlink(at->path().c_str());
  }
}

}  // namespace annulus
