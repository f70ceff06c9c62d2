// SharedMemory: an anonymous file (memfd), mapped by Boost.Interprocess.
//
// It has no name, so nothing is left when the processes end, however they end, and no stranger can open it.
// It is sealed against shrinking and growing, so no process can make another one fault. Children inherit the
// mapping at the same address.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace annulus {

class SharedMemory {
 public:
  // Creates it, lets `bind(base)` place ranges while no page exists yet, reserves every page
  // (posix_fallocate) and seals it. Fresh pages are zero. Throws UserError, which names `what` and ends with
  // `remedy`, if the memory cannot be had.
  SharedMemory(uint64_t bytes, const std::string& what, const std::string& remedy,
               const std::function<void(std::byte* base)>& bind);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* base() const { return static_cast<std::byte*>(region_.get_address()); }
  uint64_t bytes() const { return region_.get_size(); }
  int descriptor() const { return fd_; }  // of the memfd; stays this object's

 private:
  int fd_ = -1;
  boost::interprocess::mapped_region region_;
};

}  // namespace annulus
