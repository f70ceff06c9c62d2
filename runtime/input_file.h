// InputFile: a regular file that somebody else wrote and that may be anything. Opening and reading never
// block (no FIFO, no device), and every failure is a UserError that names the file, what is wrong, and the
// remedy.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace annulus {

class InputFile {
 public:
  // Throws UserError where the path is missing, unreadable, or no regular file.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  int64_t size() const { return size_; }  // bytes, when the file was opened

  // Fills `out` from byte `offset` on. Throws UserError where the file ends before that.
  void read(int64_t offset, std::span<uint8_t> out) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// Whether a path names something, be it unreadable; what it is, InputFile finds out.
bool path_exists(const std::string& path);

// Throws the UserError for a data file whose content is not what it should be: "PATH WHAT; <remedy>".
[[noreturn]] void reject_data_file(const std::string& path, const std::string& what);

}  // namespace annulus
