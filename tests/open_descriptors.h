// How many file descriptors a process has open: to see that none is left behind.
#pragma once

#include <filesystem>
#include <iterator>
#include <string>

namespace annulus {

inline int open_descriptors(const std::string& process = "self") {
  const std::filesystem::directory_iterator entries("/proc/" + process + "/fd");
  return static_cast<int>(std::distance(begin(entries), end(entries)));
}

}  // namespace annulus
