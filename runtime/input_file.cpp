#include "runtime/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "telemetry/error.h"

namespace annulus {

InputFile::InputFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: the open of a FIFO without a writer would wait for ever. Regular files do not care.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) {
    throw UserError::format("cannot open {}: {}; check that the file is there and that this user may read it",
                            path, std::strerror(errno));
  }
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw UserError::format("{} is {}, not a file; put a file in its place", path,
                            known && S_ISDIR(status.st_mode) ? "a directory" : "a device, pipe or socket");
  }
  size_ = status.st_size;
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(int64_t offset, std::span<uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw UserError::format("cannot read {} at byte {}: {}; check the disk it lies on", path_, offset,
                              std::strerror(errno));
    }
    if (got == 0) {
      reject_data_file(
          path_, fmt::format("is truncated: it ends at byte {} and {} more are needed", offset, out.size()));
    }
    offset += got;
    out = out.subspan(static_cast<size_t>(got));
  }
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

void reject_data_file(const std::string& path, const std::string& what) {
  throw UserError::format("{} {}; replace it with an intact copy of the published file", path, what);
}

}  // namespace annulus
