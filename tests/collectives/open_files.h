// For tests that open very many connections.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <string>

namespace annulus {

// Raises this process's limit on open files. Returns why a test that opens `needed` of them has to be
// skipped; nothing where it can run.
inline std::string too_few_open_files(rlim_t needed) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur >= needed) return "";
  return "SKIPPED: " + std::to_string(files.rlim_cur) + " open files at most, where " +
         std::to_string(needed) + " are needed";
}

}  // namespace annulus
