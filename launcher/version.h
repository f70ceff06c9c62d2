// What this program is and what it was built from.
#pragma once

#include <string>

namespace annulus {

// What the oneDNN in use says of itself. Filled in by a process other than the launcher, which never calls
// oneDNN.
struct OneDnnVersion {
  std::string version;          // "2.6.3"
  std::string threading;        // "OpenMP"
  std::string instruction_set;  // what it found on this machine: "AVX-512 with VNNI and bf16"
};

// "0.1.0".
std::string program_version();

// The abbreviated commit, with "-dirty" when tracked files differed from it at the build; "unknown" outside a
// git checkout.
std::string program_commit();

// "GCC 12.2.0, C++20, Release".
std::string program_compiler();

// The text of `annulus --version`, several lines, the last without a newline.
std::string version_text(const OneDnnVersion& onednn);

}  // namespace annulus
