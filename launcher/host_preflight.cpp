#include "launcher/host_preflight.h"

#include <fmt/format.h>

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

const HostReport::Saved* find_step(const HostReport& report, uint32_t step) {
  for (const HostReport::Saved& saved : report.checkpoints) {
    if (saved.step == step) return &saved;
  }
  return nullptr;
}

std::string steps_of(const HostReport& report) {
  if (report.checkpoints.empty()) return "no checkpoint";
  std::string text;
  for (const HostReport::Saved& saved : report.checkpoints) {
    text += fmt::format("{}{}", text.empty() ? (report.checkpoints.size() == 1 ? "step " : "steps ") : ", ",
                        saved.step);
  }
  return text;
}

// Long values, such as a network's text, are not for a table.
std::string shortened(std::string text) {
  constexpr size_t kMost = 60;
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= kMost) return text;
  return text.substr(0, kMost - 3) + "...";
}

}  // namespace

HostPreflight::HostPreflight(std::vector<std::string> names)
    : names_(std::move(names)), reports_(names_.size()), failures_(names_.size()) {}

void HostPreflight::joined(int node, HostReport report) {
  if (!reports_[node]) reports_[node] = std::move(report);
}

void HostPreflight::failed(int node, const std::string& why) {
  if (failures_[node].empty()) failures_[node] = why;
}

bool HostPreflight::any_failed() const {
  return std::any_of(failures_.begin(), failures_.end(), [](const std::string& why) { return !why.empty(); });
}

bool HostPreflight::complete() const {
  for (size_t node = 0; node < names_.size(); ++node) {
    if (!reports_[node] && failures_[node].empty()) return false;
  }
  return true;
}

// A fact that one of the two does not have is a difference: they are of different versions.
void HostPreflight::compare(int node, std::vector<Row>& rows) const {
  const HostReport &here = *reports_[0], &there = *reports_[node];
  const auto find = [](const HostReport& report, const std::string& name) -> const std::string* {
    for (const auto& [key, value] : report.facts) {
      if (key == name) return &value;
    }
    return nullptr;
  };
  for (const auto& [name, value] : here.facts) {
    const std::string* const other = find(there, name);
    if (other != nullptr && *other == value) continue;
    rows.push_back(
        {names_[node], name, shortened(value), other == nullptr ? "not known" : shortened(*other)});
  }
  for (const auto& [name, value] : there.facts) {
    if (find(here, name) == nullptr) rows.push_back({names_[node], name, "not known", shortened(value)});
  }
  if (here.ports.size() != there.ports.size()) {
    rows.push_back(
        {names_[node], "ports", std::to_string(here.ports.size()), std::to_string(there.ports.size())});
  }
}

// The latest one that every host has.
std::optional<uint32_t> HostPreflight::common_step() const {
  std::optional<uint32_t> latest;
  for (const HostReport::Saved& saved : reports_[0]->checkpoints) {
    const bool common = std::all_of(reports_.begin(), reports_.end(),
                                    [&](const auto& report) { return find_step(*report, saved.step); });
    if (common && (!latest || saved.step > *latest)) latest = saved.step;
  }
  return latest;
}

void HostPreflight::compare_checkpoints(std::vector<Row>& rows) const {
  const bool none = std::all_of(reports_.begin(), reports_.end(),
                                [](const auto& report) { return report->checkpoints.empty(); });
  if (none) return;
  const std::optional<uint32_t> step = common_step();
  for (size_t node = 1; node < names_.size(); ++node) {
    const HostReport &here = *reports_[0], &there = *reports_[node];
    if (!step) {
      rows.push_back({names_[node], "checkpoints (none is on all hosts)", steps_of(here), steps_of(there)});
      continue;
    }
    const std::string &of_here = find_step(here, *step)->weights,
                      &of_there = find_step(there, *step)->weights;
    if (of_here != of_there) {
      rows.push_back(
          {names_[node], fmt::format("weights of the checkpoint of step {}", *step), of_here, of_there});
    }
  }
}

std::string HostPreflight::table() const {
  CHECK(complete());
  std::vector<Row> rows;
  bool all_joined = true;
  for (size_t node = 0; node < names_.size(); ++node) {
    if (!failures_[node].empty()) {
      rows.push_back({names_[node], failures_[node], "", ""});
      all_joined = false;
    } else if (node > 0 && reports_[0]) {
      compare(static_cast<int>(node), rows);
    }
  }
  if (all_joined) compare_checkpoints(rows);
  if (rows.empty()) return "";
  size_t host = 4, what = 4, here = 0;
  bool compares = false;
  for (const Row& row : rows) {
    host = std::max(host, row.host.size());
    if (row.here.empty() && row.there.empty()) continue;
    compares = true;
    what = std::max(what, row.what.size());
    here = std::max(here, row.here.size());
  }
  here = std::max(here, names_[0].size() + 3);
  std::string text;
  if (compares) {
    text += fmt::format("  {:<{}} | {:<{}} | {:<{}} | there\n", "host", host, "what", what, "on " + names_[0],
                        here);
  }
  for (const Row& row : rows) {
    text += row.here.empty() && row.there.empty()
                ? fmt::format("  {:<{}} | {}\n", row.host, host, row.what)
                : fmt::format("  {:<{}} | {:<{}} | {:<{}} | {}\n", row.host, host, row.what, what, row.here,
                              here, row.there);
  }
  text.pop_back();
  return text;
}

HostStart HostPreflight::start() const {
  HostStart start;
  for (const auto& report : reports_) start.ports.push_back(report->ports);
  start.step = common_step().value_or(0);
  return start;
}

}  // namespace annulus
