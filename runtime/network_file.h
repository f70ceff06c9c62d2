// A network that a user has written, before the data set is known; runtime/network_yaml.h reads it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/network_tree.h"

namespace annulus {

struct NetworkFile {
  std::string path;  // for messages
  std::string name;  // the file's own name where it gives none
  // What it is meant for, where it says so, and in which line.
  std::optional<ImageShape> input = {};
  std::optional<int> classes = {};
  int input_line = 0, classes_line = 0;
  std::vector<NetworkNode> layers = {};  // kClasses outputs: one for each class
};
inline constexpr int kClasses = -1;

// The network for images of this shape and so many classes. Throws UserError with file, line, what is wrong
// and the remedy: other data than the file says, names given twice, layers that do not fit together.
NetworkSpec resolve_network(const NetworkFile& file, const ImageShape& input, int classes);

}  // namespace annulus
