// Networks as YAML; docs/models.md describes the format. Reading and writing are inverses.
#pragma once

#include <string>

#include "runtime/network_file.h"

namespace annulus {

// `path` is for messages, and for the name where the text gives none. Throws UserError with file, line, what
// is wrong and the remedy.
NetworkFile parse_network(const std::string& yaml, const std::string& path);

// Parses the file that --model names. Throws UserError also where it cannot be read.
NetworkFile read_network(const std::string& path);

// What the file calls a layer of this kind: "conv". Of kAdd: "residual".
const std::string& kind_word(LayerKind kind);

// The text that yields `spec` for its input and classes, which the text does not mention. Throws
// std::invalid_argument for a network that is no row of layers and residual blocks.
std::string to_yaml(const NetworkSpec& spec);

}  // namespace annulus
