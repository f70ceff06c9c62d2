#include "launcher/version.h"

#include <gtest/gtest.h>

#include <regex>

namespace annulus {
namespace {

TEST(Version, NamesWhatTheProgramWasBuiltFrom) {
  const std::string text = version_text({"2.6.3", "OpenMP", "AVX2"});
  const std::regex pattern(
      "annulus [0-9]+\\.[0-9]+\\.[0-9]+\n"
      "commit:           (unknown|[0-9a-f]{12,40}(-dirty)?)\n"
      "compiler:         (GCC|Clang) [0-9]+\\.[0-9]+\\.[0-9]+, C\\+\\+20, [A-Za-z]+\n"
      "oneDNN:           2\\.6\\.3, OpenMP threads\n"
      "instruction sets: AVX2");
  EXPECT_TRUE(std::regex_match(text, pattern)) << text;
}

}  // namespace
}  // namespace annulus
