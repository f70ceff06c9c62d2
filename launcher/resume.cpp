#include "launcher/resume.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "runtime/checkpoint_directory.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRuns = "runs";
constexpr const char* kHostDirectory = "node-";
constexpr size_t kMostOffers = 100;

// Of the runs below kRuns that have checkpoints, the one whose directory of them changed last comes first.
std::vector<fs::path> runs_with_checkpoints() {
  std::vector<std::pair<fs::file_time_type, fs::path>> found;
  std::error_code error;
  for (const fs::directory_entry& run : fs::directory_iterator(kRuns, error)) {
    const fs::path directory = checkpoint_directory(run.path().string());
    // What cannot be listed is not skipped in silence: whoever goes on from it says why it cannot.
    if (fs::is_directory(directory, error) &&
        (access(directory.c_str(), R_OK) != 0 || !list_checkpoints(directory.string()).empty())) {
      found.emplace_back(fs::last_write_time(directory, error), run.path());
    }
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<fs::path> runs;
  for (auto& [time, run] : found) runs.push_back(std::move(run));
  return runs;
}

// Below the working directory as users type it, elsewhere absolute.
std::string run_of(const fs::path& checkpoints) {
  std::error_code error;
  const fs::path run = fs::canonical(checkpoints, error).parent_path();
  if (!fs::exists(run / "config.yaml", error)) return "";
  const fs::path relative = run.lexically_relative(fs::current_path(error));
  return relative.empty() || *relative.begin() == ".." ? run.string() : relative.string();
}

ResumePoint latest_in(const fs::path& directory) {
  ResumePoint point;
  const auto skip = [&](const std::string& text) { point.warnings.push_back("skipped " + text); };
  try {
    point.checkpoint = std::make_shared<const Checkpoint>(latest_checkpoint(directory.string(), skip));
  } catch (const UserError& error) {
    std::string text = fmt::format("--resume: {}", error.what());
    for (const std::string& skipped : point.warnings) text += "\n  " + skipped;
    throw UserError(text);
  }
  point.run_dir = run_of(directory);
  return point;
}

// The latest intact checkpoint in a directory, if it is of a later step; else empty.
std::string later_one(const std::string& directory, uint32_t step) {
  for (const std::string& path : list_checkpoints(directory)) {
    try {
      return Checkpoint(path).step() > step ? path : "";
    } catch (const UserError&) {  // nothing can go on from a damaged one, so it does not count
    }
  }
  return "";
}

// Of a host, below a run's directory.
fs::path directory_of_host(const fs::path& run, int node) {
  return checkpoint_directory((node == 0 ? run : run / host_directory_name(node)).string());
}

// Below a run's directory, the first host's first.
std::vector<fs::path> directories_of_hosts(const fs::path& run) {
  std::vector<fs::path> directories = {directory_of_host(run, 0)};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, error)) {
    if (entry.path().filename().string().starts_with(kHostDirectory)) {
      directories.push_back(checkpoint_directory(entry.path().string()));
    }
  }
  std::sort(directories.begin() + 1, directories.end());
  return directories;
}

// The run below kRuns with the checkpoint that was made last, by any host.
fs::path latest_run_of_hosts() {
  fs::path latest;
  fs::file_time_type time = fs::file_time_type::min();
  std::error_code error;
  for (const fs::directory_entry& run : fs::directory_iterator(kRuns, error)) {
    for (const fs::path& directory : directories_of_hosts(run.path())) {
      if (!fs::is_directory(directory, error) || fs::last_write_time(directory, error) <= time) continue;
      time = fs::last_write_time(directory, error);
      latest = run.path();
    }
  }
  if (latest.empty()) {
    throw UserError::format(
        "--resume latest: no run in {} has a checkpoint; name its run's directory (--run-dir DIR), or begin "
        "anew without --resume",
        fs::absolute(kRuns).string());
  }
  return latest;
}

// The first host's directory of a run, given that of any host, which may be empty.
fs::path first_of_hosts(const fs::path& run) {
  fs::path plain = run.lexically_normal();
  if (!plain.has_filename()) plain = plain.parent_path();
  if (!plain.filename().string().starts_with(kHostDirectory)) return plain;
  return plain.has_parent_path() ? plain.parent_path() : fs::path(".");
}

// The run of a directory that the user has named: the run's own, or that of its checkpoints.
fs::path run_with(const fs::path& directory) {
  std::error_code error;
  if (fs::is_directory(checkpoint_directory(directory.string()), error)) return directory;
  const std::string run = run_of(directory);
  return run.empty() ? directory : fs::path(run);
}

std::string not_latest(const std::string& path, const std::string& later) {
  return fmt::format(
      "{} is not the latest checkpoint of its run ({} is), so this run gets a directory of its own", path,
      fs::path(later).filename().string());
}

// A checkpoint that the user has named.
ResumePoint named(const std::string& path, const std::string& run_dir) {
  ResumePoint point;
  point.checkpoint = std::make_shared<const Checkpoint>(path);
  const fs::path directory = fs::absolute(path).parent_path();
  point.run_dir = run_of(directory);
  if (point.run_dir.empty()) return point;
  const std::string later = later_one(directory.string(), point.checkpoint->step());
  if (later.empty()) return point;
  if (run_dir.empty()) {
    point.warnings.push_back(not_latest(path, later));
  }
  point.run_dir.clear();
  return point;
}

// In place of one that the user has named, of whatever host, the host's own of the same step, if it is there.
void take_own(ResumePoint& point, int node) {
  const fs::path own = directory_of_host(point.run_dir, node) / fs::path(point.checkpoint->path()).filename();
  std::error_code error;
  if (!fs::exists(own, error)) return;
  try {
    auto checkpoint = std::make_shared<const Checkpoint>(own.string());
    if (checkpoint->weights() != point.checkpoint->weights()) return;
    point.checkpoint = std::move(checkpoint);
    point.offers = {point.checkpoint};
  } catch (const UserError& damaged) {
    point.warnings.push_back(fmt::format("skipped {}", damaged.what()));
  }
}

ResumePoint latest_run() {
  std::vector<std::string> damaged;  // runs without an intact one
  for (const fs::path& run : runs_with_checkpoints()) {
    try {
      ResumePoint point = latest_in(checkpoint_directory(run.string()));
      point.warnings.insert(point.warnings.begin(), damaged.begin(), damaged.end());
      return point;
    } catch (const UserError& error) {
      damaged.push_back(error.what());
    }
  }
  std::string text = fmt::format(
      "--resume latest: no run in {} has an intact checkpoint; name one (--resume FILE) or its run's "
      "directory "
      "(--run-dir DIR), or begin anew without --resume",
      fs::absolute(kRuns).string());
  for (const std::string& run : damaged) text += "\n  " + run;
  throw UserError(text);
}

}  // namespace

std::string checkpoint_directory(const std::string& run_dir) {
  return (fs::path(run_dir) / "checkpoints").string();
}

ResumePoint find_resume_point(const std::string& resume, const std::string& run_dir) {
  std::error_code error;
  if (resume == "latest") {
    if (run_dir.empty()) return latest_run();
    const std::string directory = checkpoint_directory(run_dir);
    if (!fs::is_directory(directory, error)) {
      throw UserError::format(
          "--resume latest: {} has no checkpoints; name a checkpoint (--resume FILE), or begin anew without "
          "--resume",
          run_dir);
    }
    return latest_in(directory);
  }
  if (fs::is_directory(resume, error)) {
    const std::string inside = checkpoint_directory(resume);
    return latest_in(fs::is_directory(inside, error) ? inside : resume);
  }
  if (!fs::exists(resume, error)) {
    throw UserError::format(
        "--resume {}: there is no such file; give latest, a checkpoint or a run's directory", resume);
  }
  return named(resume, run_dir);
}

std::string host_directory_name(int node) { return kHostDirectory + std::to_string(node); }

ResumePoint find_resume_point_of_hosts(const std::string& resume, const std::string& run_dir, int node) {
  ResumePoint point;
  std::error_code error;
  if (resume != "latest" && !fs::is_directory(resume, error)) {
    if (!fs::exists(resume, error)) {
      throw UserError::format(
          "--resume {}: there is no such file; give latest, a checkpoint or a run's directory", resume);
    }
    point.checkpoint = std::make_shared<const Checkpoint>(resume);
    point.offers = {point.checkpoint};
    point.run_dir = first_of_hosts(run_of(fs::absolute(resume).parent_path())).string();
    if (point.run_dir.empty()) return point;
    take_own(point, node);
    for (const fs::path& directory : directories_of_hosts(point.run_dir)) {
      const std::string later = later_one(directory.string(), point.checkpoint->step());
      if (later.empty()) continue;
      if (run_dir.empty()) point.warnings.push_back(not_latest(resume, later));
      point.run_dir.clear();
      break;
    }
    return point;
  }
  const fs::path run = first_of_hosts(resume != "latest" ? run_with(resume)
                                      : run_dir.empty()  ? latest_run_of_hosts()
                                                         : fs::path(run_dir));
  point.run_dir = run.lexically_normal().string();
  std::vector<fs::path> directories = directories_of_hosts(run);
  // Of two checkpoints of a step the first one counts.
  std::stable_partition(directories.begin(), directories.end(),
                        [own = directory_of_host(run, node)](const fs::path& path) { return path == own; });
  for (const fs::path& directory : directories) {
    if (!fs::is_directory(directory, error)) continue;
    for (const std::string& path : list_checkpoints(directory.string())) {
      try {
        auto checkpoint = std::make_shared<const Checkpoint>(path);
        const bool known = std::any_of(point.offers.begin(), point.offers.end(), [&](const auto& offer) {
          return offer->step() == checkpoint->step();
        });
        if (!known && point.offers.size() < kMostOffers) point.offers.push_back(std::move(checkpoint));
      } catch (const UserError& damaged) {
        point.warnings.push_back(fmt::format("skipped {}", damaged.what()));
      }
    }
  }
  if (point.offers.empty()) {
    std::string text = fmt::format(
        "--resume: {} has no intact checkpoint on this host; copy one of another host here, or begin anew "
        "without "
        "--resume",
        run.string());
    for (const std::string& skipped : point.warnings) text += "\n  " + skipped;
    throw UserError(text);
  }
  std::sort(point.offers.begin(), point.offers.end(),
            [](const auto& a, const auto& b) { return a->step() > b->step(); });
  point.checkpoint = point.offers.front();
  return point;
}

void check_still_latest(const ResumePoint& point) {
  const std::string later = later_one(checkpoint_directory(point.run_dir), point.checkpoint->step());
  if (later.empty()) return;
  throw UserError::format("--resume: a run has gone on in {} meanwhile, up to {}; give the command again",
                          point.run_dir, fs::path(later).filename().string());
}

}  // namespace annulus
