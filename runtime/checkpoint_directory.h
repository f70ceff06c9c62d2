// The checkpoints of one run, side by side in a directory: step-0000000100.safetensors, ...
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/checkpoint.h"

namespace annulus {

// Whether a file's name is one that write_checkpoint gives. What else lies in the directory is never touched.
bool is_checkpoint_name(const std::string& name);

// Paths of the checkpoints in it, latest step first, damaged ones included. Throws UserError where the
// directory cannot be read.
std::vector<std::string> list_checkpoints(const std::string& directory);

// Of those up to step `up_to`, removes all but the `keep` latest ones, from 1 on. Later ones are not looked
// at: they are damaged, where a run went on from before them. Throws what list_checkpoints does, and
// FileError for one that cannot be removed.
void prune_checkpoints(const std::string& directory, int64_t keep, uint32_t up_to,
                       FileCalls& calls = posix_calls());

// The latest intact one. `warn` is told about each damaged one that would have been taken before it, with the
// reason. Throws UserError where there is none: it says where was looked and what was found.
Checkpoint latest_checkpoint(const std::string& directory,
                             const std::function<void(const std::string&)>& warn);

}  // namespace annulus
