// HostPreflight: whether the hosts of a run fit together, before anything is started on them. No sockets, no
// time: who calls says what came, and who does not come.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/host_message.h"

namespace annulus {

class HostPreflight {
 public:
  // `names` of hosts by node; the first is the coordinator.
  explicit HostPreflight(std::vector<std::string> names);

  void joined(int node, HostReport report);
  // The host will not come, or has left again. Of several reasons the first one counts.
  void failed(int node, const std::string& why);
  bool has_joined(int node) const { return reports_[node].has_value(); }
  bool any_failed() const;
  // Whether every host has joined, or will not.
  bool complete() const;

  // What is wrong where, as a table "host | what | here | there" in lines, the coordinator being "here";
  // empty: nothing. Once complete.
  std::string table() const;
  // Ports of all, and the latest step whose checkpoint all have. `job` and run_dir are the caller's. Only
  // where the table is empty.
  HostStart start() const;

 private:
  struct Row {
    std::string host, what, here, there;
  };
  void compare(int node, std::vector<Row>& rows) const;
  void compare_checkpoints(std::vector<Row>& rows) const;
  std::optional<uint32_t> common_step() const;

  std::vector<std::string> names_;
  std::vector<std::optional<HostReport>> reports_;
  std::vector<std::string> failures_;  // by node; empty: none
};

}  // namespace annulus
