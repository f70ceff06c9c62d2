// Small text files that a user wrote.
#pragma once

#include <string>

namespace annulus {

// The content of a YAML file. Throws UserError, beginning with `where` ("--config run.yaml"), where it cannot
// be read, or is larger than 1 MiB: far beyond any such file, and it keeps a wrong path like /dev/zero from
// filling the memory.
std::string read_text_file(const std::string& path, const std::string& where);

}  // namespace annulus
