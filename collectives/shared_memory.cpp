#include "collectives/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "telemetry/error.h"

namespace annulus {
namespace {

namespace bip = boost::interprocess;

// What mapped_region needs to map a plain file descriptor.
struct Mappable {
  bip::mapping_handle_t handle;
  bip::mapping_handle_t get_mapping_handle() const { return handle; }
};

}  // namespace

SharedMemory::SharedMemory(uint64_t bytes, const std::string& what, const std::string& remedy,
                           const std::function<void(std::byte*)>& bind) {
  const auto fail = [&](int error) {
    if (fd_ >= 0) close(fd_);
    throw UserError::format("cannot reserve {:.1f} MiB of shared memory for {}: {}; {}", bytes / 1048576.0,
                            what, std::strerror(error), remedy);
  };
  fd_ = memfd_create("annulus", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail(errno);
  try {
    region_ = bip::mapped_region(Mappable{bip::ipcdetail::mapping_handle_from_file_handle(fd_)},
                                 bip::read_write, 0, bytes);
  } catch (const bip::interprocess_exception& error) {
    fail(error.get_native_error());
  }
  // Bind first: a memfd keeps a policy per range, by which fallocate then places each page.
  bind(base());
  if (const int error = posix_fallocate(fd_, 0, static_cast<off_t>(bytes)); error != 0) fail(error);
  fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

SharedMemory::~SharedMemory() { close(fd_); }

}  // namespace annulus
