#include "runtime/checkpoint_directory.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace fs = std::filesystem;

bool is_checkpoint_name(const std::string& name) {
  const std::string pattern = checkpoint_name(0);
  if (name.size() != pattern.size()) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool fits = pattern[i] == '0' ? name[i] >= '0' && name[i] <= '9' : name[i] == pattern[i];
    if (!fits) return false;
  }
  return true;
}

std::vector<std::string> list_checkpoints(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    if (is_checkpoint_name(at->path().filename().string())) paths.push_back(at->path().string());
  }
  if (error) {
    throw UserError::format(
        "cannot read the directory {}: {}; give the one that the run's checkpoints are in", directory,
        error.message());
  }
  // Steps have equally many digits.
  std::ranges::sort(paths, std::greater());
  return paths;
}

void prune_checkpoints(const std::string& directory, int64_t keep, uint32_t up_to, FileCalls& calls) {
  CHECK(keep >= 1, "keep {}", keep);
  std::vector<std::string> paths = list_checkpoints(directory);
  std::erase_if(paths, [last = checkpoint_name(up_to)](const std::string& path) {
    return fs::path(path).filename().string() > last;  // steps have equally many digits
  });
  // The oldest first: whenever this ends, those that are left are the latest ones.
  for (int64_t i = std::ssize(paths) - 1; i >= keep; --i) {
    if (calls.unlink(paths[i].c_str()) != 0 && errno != ENOENT)
      throw FileError("remove", paths[i], "unlink", errno);
  }
}

Checkpoint latest_checkpoint(const std::string& directory,
                             const std::function<void(const std::string&)>& warn) {
  const std::vector<std::string> paths = list_checkpoints(directory);
  for (const std::string& path : paths) {
    try {
      return Checkpoint(path);
    } catch (const UserError& error) {
      warn(error.what());
    }
  }
  if (paths.empty()) {
    throw UserError::format(
        "{}: there is no checkpoint (step-*.safetensors) in it; give the directory that "
        "the run's checkpoints are in",
        directory);
  }
  throw UserError::format(
      "{}: none of its {} checkpoint{} can be used; give another directory, or begin anew", directory,
      paths.size(), paths.size() == 1 ? "" : "s");
}

}  // namespace annulus
