// The hosts of a run: from a file, or from Slurm's environment. Pure functions of text.
//
//   # the first one is the coordinator
//   big1            slots=16
//   big2            slots=16  addr=10.0.0.2
//   trainer@big3    slots=16
//
// `slots`: workers on that host, the same on all; `addr`: where the others reach it, if not by its name.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace annulus {

inline constexpr int kMostHosts = 64;  // as many as a bridge joins

struct Host {
  std::string name;     // as the file has it: what ssh is given, and what messages say
  std::string address;  // a name or a number; of "user@name" without addr=: name
  int slots = 0;        // workers; 0: not said
};

struct HostList {
  std::vector<Host> hosts;  // by node; the first is the coordinator
  std::string source;       // for messages: "hosts.txt", "SLURM_JOB_NODELIST"

  int count() const { return static_cast<int>(hosts.size()); }
};

// `file`: the name for messages. Throws UserError with file and line, value and remedy.
HostList parse_hosts(const std::string& text, const std::string& file);
// Throws UserError also where the file cannot be read.
HostList read_hosts(const std::string& path);

// "a[01-03,7],b" -> a01 a02 a03 a7 b, with several brackets also. Throws std::invalid_argument that says what
// is wrong.
std::vector<std::string> expand_node_list(std::string_view text);

struct SlurmPlace {
  HostList list;
  int node = 0;  // this process's
};

// What srun says of a step on several nodes; nothing where there is none, or one node alone. `variable`: the
// environment. Throws UserError: more than one task on a node, and what does not fit together.
std::optional<SlurmPlace> slurm_place(
    const std::function<std::optional<std::string>(const std::string& name)>& variable);

// The workers of each host by its slots; 0: no host has any. Throws UserError where they differ, or are not
// `workers` (--workers; 0: not given).
int workers_by_slots(const HostList& list, int workers);

}  // namespace annulus
