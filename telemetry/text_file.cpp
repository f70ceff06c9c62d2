#include "telemetry/text_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "telemetry/error.h"

namespace annulus {

std::string read_text_file(const std::string& path, const std::string& where) {
  constexpr size_t longest_file = 1 << 20;
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string text;
  char chunk[4096];
  while (in && text.size() <= longest_file) {
    in.read(chunk, sizeof chunk);
    text.append(chunk, static_cast<size_t>(in.gcount()));
  }
  if (!in.eof() && text.size() <= longest_file) {
    throw UserError::format("{}: cannot be read ({}); give the path of a YAML file", where,
                            std::strerror(errno ? errno : EIO));
  }
  if (text.size() > longest_file) {
    throw UserError::format("{}: larger than {} bytes; give the path of a YAML file", where, longest_file);
  }
  return text;
}

}  // namespace annulus
