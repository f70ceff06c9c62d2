// CHECK: a broken invariant stops the program with file, line and the values that broke it.
//
// For faults of the program itself. What a user or a peer can cause is an error of telemetry/error.h instead.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace annulus {

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition,
                                      const std::string& message) {
  std::fprintf(stderr, "annulus: %s:%d: broken invariant: %s%s%s\n", file, line, condition,
               message.empty() ? "" : ": ", message.c_str());
  std::abort();
}

}  // namespace annulus

// CHECK(cond) or CHECK(cond, "format {}", value): aborts unless cond holds. Evaluated in every build type.
#define CHECK(condition, ...)                                                                 \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] {                                                          \
      ::annulus::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                         \
  } while (0)
