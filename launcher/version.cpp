#include "launcher/version.h"

#include <fmt/format.h>

#include "commit.h"  // written at build time by launcher/commit.sh

namespace annulus {

std::string program_version() { return ANNULUS_VERSION; }

std::string program_commit() { return ANNULUS_COMMIT; }

std::string program_compiler() {
#ifdef __clang__
  const std::string compiler =
      fmt::format("Clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  const std::string compiler = fmt::format("GCC {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
  return fmt::format("{}, C++{}, {}", compiler, __cplusplus / 100 % 100, ANNULUS_BUILD_TYPE);
}

std::string version_text(const OneDnnVersion& onednn) {
  return fmt::format(
      "annulus {}\n"
      "commit:           {}\n"
      "compiler:         {}\n"
      "oneDNN:           {}, {} threads\n"
      "instruction sets: {}",
      program_version(), program_commit(), program_compiler(), onednn.version, onednn.threading,
      onednn.instruction_set);
}

}  // namespace annulus
