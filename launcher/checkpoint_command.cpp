#include "launcher/checkpoint_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint_directory.h"
#include "telemetry/error.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

bool is_directory(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

Checkpoint open_checkpoint(const std::string& path) {
  if (!is_directory(path)) return Checkpoint(path);
  return latest_checkpoint(
      path, [](const std::string& reason) { fmt::print(stderr, "warning: skipped: {}\n", reason); });
}

// Numbers that are trained: batch norm's statistics and counts are not.
int64_t parameters_of(const Checkpoint& checkpoint) {
  int64_t count = 0;
  for (const TensorInfo& tensor : checkpoint.model_tensors()) {
    const bool statistic = tensor.name.ends_with(".running_mean") || tensor.name.ends_with(".running_var");
    if (tensor.type == TensorType::kF32 && !statistic) count += tensor.elements();
  }
  return count;
}

// Tensors beside the model's, counted by what they are: "optimizer.exp_avg", "previous".
std::map<std::string, int> other_tensors(const Checkpoint& checkpoint) {
  std::map<std::string, int> groups;
  for (const TensorInfo& tensor : checkpoint.tensors().subspan(checkpoint.model_tensors().size())) {
    size_t end = tensor.name.find('.');
    if (tensor.name.starts_with("optimizer.")) end = tensor.name.find('.', end + 1);
    ++groups[tensor.name.substr(0, end)];
  }
  return groups;
}

std::string to_text(const Checkpoint& checkpoint) {
  std::string text = fmt::format(
      "{}\n  {:<9}{}, {} parameters\n  {:<9}{}, in epoch {}\n  {:<9}{}\n  {:<9}{}\n  {:<9}{} bytes, intact\n",
      checkpoint.path(), "network", checkpoint.network(), with_thousands(parameters_of(checkpoint)), "step",
      checkpoint.step(), checkpoint.epoch(), "seed", checkpoint.seed(), "weights", checkpoint.weights(),
      "file", with_thousands(checkpoint.bytes()));
  constexpr std::string_view heading = "tensor of the model";
  size_t width = heading.size();
  for (const TensorInfo& tensor : checkpoint.model_tensors()) width = std::max(width, tensor.name.size());
  text += fmt::format("\n  {:<{}}  type  shape\n", heading, width);
  for (const TensorInfo& tensor : checkpoint.model_tensors()) {
    text += fmt::format("  {:<{}}  {}   {}\n", tensor.name, width, name_of(tensor.type),
                        text_of_shape(tensor.shape));
  }
  for (const auto& [group, count] : other_tensors(checkpoint)) {
    text += fmt::format("and {} more called {}.*, of the same shapes\n", count, group);
  }
  return text;
}

nlohmann::ordered_json to_json(const Checkpoint& checkpoint) {
  nlohmann::ordered_json json{{"path", checkpoint.path()},
                              {"bytes", checkpoint.bytes()},
                              {"network", checkpoint.network()},
                              {"parameters", parameters_of(checkpoint)},
                              {"step", checkpoint.step()},
                              {"epoch", checkpoint.epoch()},
                              {"seed", checkpoint.seed()},
                              {"weights", checkpoint.weights()},
                              {"config", checkpoint.config()},
                              {"model", checkpoint.model()},
                              {"model_tensors", checkpoint.model_tensors().size()},
                              {"tensors", nlohmann::ordered_json::array()}};
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    json["tensors"].push_back(
        {{"name", tensor.name}, {"dtype", name_of(tensor.type)}, {"shape", tensor.shape}});
  }
  return json;
}

int verify(const std::vector<std::string>& given) {
  std::vector<std::string> paths;
  for (const std::string& path : given) {
    if (!is_directory(path)) {
      paths.push_back(path);
      continue;
    }
    const std::vector<std::string> inside = list_checkpoints(path);
    if (inside.empty()) {
      throw UserError::format(
          "{}: there is no checkpoint (step-*.safetensors) in it; give files, or a directory "
          "that has some",
          path);
    }
    paths.insert(paths.end(), inside.begin(), inside.end());
  }
  int damaged = 0;
  for (const std::string& path : paths) {
    try {
      const Checkpoint checkpoint(path);
      fmt::print("{}: ok, step {}, weights {}\n", path, checkpoint.step(), checkpoint.weights());
    } catch (const UserError& error) {
      ++damaged;
      fmt::print("{}\n", error.what());
    }
  }
  if (damaged == 0) return 0;
  std::fflush(stdout);
  fmt::print(stderr, "annulus: {} of {} checkpoints cannot be used\n", damaged, paths.size());
  return 1;
}

}  // namespace

int checkpoint_command(const CheckpointOptions& options) {
  if (options.action == "verify") return verify(options.paths);
  const Checkpoint checkpoint = open_checkpoint(options.paths[0]);
  if (options.action == "export") {
    const std::string& out = options.paths[1];
    checkpoint.export_model(out);
    fmt::print("{}: {} tensors of {} after step {}, weights {}\n", out, checkpoint.model_tensors().size(),
               checkpoint.network(), checkpoint.step(), checkpoint.weights());
  } else if (options.json) {
    fmt::print("{}\n",
               to_json(checkpoint).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    fmt::print("{}", to_text(checkpoint));
  }
  return 0;
}

}  // namespace annulus
