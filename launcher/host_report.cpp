#include "launcher/host_report.h"

#include <array>
#include <filesystem>
#include <sstream>

#include "launcher/options.h"
#include "launcher/version.h"
#include "runtime/models.h"
#include "runtime/network_yaml.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// FNV-1a.
uint64_t hash_text(const std::string& text, uint64_t hash = 0xcbf29ce484222325) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// What may differ from host to host: where things are, and what is printed.
constexpr std::array kOfThisHost = {"data", "bind", "smt", "comm-thread", "quiet", "model"};

}  // namespace

std::vector<std::pair<std::string, std::string>> host_facts(const Job& job, const RunHosts& hosts) {
  const RunPlan& run = job.run;
  const DatasetInfo& data = run.dataset;
  std::string names;
  for (const Host& host : hosts.list.hosts) {
    names += fmt::format("{}{} {}", names.empty() ? "" : ", ", host.name, host.address);
  }
  const std::string model = is_network_file(run.config.model)
                                ? std::filesystem::path(run.config.model).filename().string()
                                : run.config.model;
  std::vector<std::pair<std::string, std::string>> facts = {
      {"version", program_version() + " " + program_commit()},
      {"compiler", program_compiler()},
      {"hosts", names},
      {"model", model},
      {"layers (hash)", fmt::format("{:016x}", hash_text(to_yaml(run.spec)))},
      {"training images", std::to_string(data.train_count)},
      {"test images", std::to_string(data.test_count)},
      {"image", fmt::format("{}x{}x{} in {} classes", data.shape.channels, data.shape.height,
                            data.shape.width, data.classes)},
      {"oneDNN", run.network.library},
      {"instruction set", run.network.isa},
      {"goes on", run.resumed ? "from a checkpoint" : "from new weights"}};
  std::istringstream lines(to_yaml(run.config));
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(": ");
    if (colon == line.npos || line.front() == '#') continue;
    const std::string key = line.substr(0, colon);
    if (std::find(kOfThisHost.begin(), kOfThisHost.end(), key) == kOfThisHost.end()) {
      facts.emplace_back("--" + key, line.substr(colon + 2));
    }
  }
  facts.emplace_back("kernels (hash)", fmt::format("{:016x}", run.network.hash()));
  return facts;
}

uint64_t hash_of(const std::vector<std::pair<std::string, std::string>>& facts) {
  uint64_t hash = hash_text("");
  for (const auto& [name, value] : facts) hash = hash_text(value + "\n", hash_text(name + "\n", hash));
  return hash;
}

}  // namespace annulus
