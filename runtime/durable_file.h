// DurableFile: a new file, or a new content of one, that is there whole or not at all, whatever ends the
// process or the machine.
//
// The bytes go into a temporary file beside it, ".NAME.tmp". commit() has them on the disk before it gives
// the file its name, and the name on the disk before it returns:
//
//   write ... fdatasync, by portions -> rename(".NAME.tmp", "NAME") -> fsync of the directory
//
// A reader of NAME sees the old content until the rename and the new one from then on. What an earlier crash
// has left is a temporary file, which nobody reads and remove_temporaries takes away.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "telemetry/error.h"

namespace annulus {

// The system calls, so that tests can have any of them fail, or die at it. Results and errno as POSIX has
// them.
class FileCalls {
 public:
  virtual ~FileCalls() = default;
  virtual int open(const char* path, int flags, mode_t mode);
  virtual ssize_t write(int file, const void* bytes, size_t count);
  virtual ssize_t pwrite(int file, const void* bytes, size_t count, off_t offset);
  virtual int fdatasync(int file);
  virtual int fsync(int file);
  virtual int close(int file);
  virtual int rename(const char* from, const char* to);
  virtual int unlink(const char* path);
};
// The real ones.
FileCalls& posix_calls();

// A call that failed while a file was written or removed. The text names file, call, what the system says and
// the remedy.
class FileError : public UserError {
 public:
  // `doing`: "write", "remove". `code`: errno's value.
  FileError(const std::string& doing, const std::string& path, const std::string& call, int code);
  int code() const { return code_; }

 private:
  int code_;
};

class DurableFile {
 public:
  // Bytes between two fdatasyncs: few enough for any disk to take them within a second or two, so that a
  // process that writes a large file shows progress.
  static constexpr size_t kPortion = size_t{8} << 20;

  // Begins a file that will be called `path`, in a directory that is there. Nothing is to be seen under that
  // name before commit(). `beat` is called after every portion. Throws FileError.
  DurableFile(
      const std::string& path, FileCalls& calls, std::function<void()> beat = [] {});
  // Without commit() it takes the temporary file away.
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  // Appends bytes; replaces bytes that were written before. Throw FileError, after which only the destructor
  // may be called.
  void write(std::span<const std::byte> bytes);
  void patch(int64_t offset, std::span<const std::byte> bytes);

  // Puts the file in its place. Throws FileError: the old content is there still, if there was one. The
  // directory's fsync is an exception: when that fails the new content is in place, and whole, but its name
  // may not outlive a power failure.
  void commit();

 private:
  void sync_data();
  void sync_directory();

  std::string path_, directory_, temporary_;
  FileCalls& calls_;
  std::function<void()> beat_;
  int file_ = -1;
  size_t unsynced_ = 0;
  bool has_temporary_ = false;
};

// Removes what crashes have left in `directory` of files whose names `is_mine` accepts. Only for names that
// no other process is writing. What cannot be removed stays: it harms nobody.
void remove_temporaries(const std::string& directory, const std::function<bool(const std::string&)>& is_mine,
                        FileCalls& calls);

}  // namespace annulus
