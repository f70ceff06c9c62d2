// RunHosts: on which hosts a run is, which of them is this one, and how the others are started.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "collectives/secret.h"
#include "collectives/tcp.h"
#include "launcher/host_list.h"
#include "runtime/train_config.h"

namespace annulus {

// What the first host writes to the stdin of those that it starts, as one line of JSON: nothing of it is on a
// command line, where others could read it.
struct HostOrder {
  HostList list;
  Secret secret;
  uint16_t port = 0;   // where the first host listens
  std::string config;  // YAML, as to_yaml(TrainConfig) makes it
  std::string run_dir, resume;
};

// Throws UserError unless `text`, which is `what`, can be sent to other hosts as it is: it must be UTF-8.
void check_can_be_sent(const std::string& what, const std::string& text);

// Throws UserError where a name cannot be sent.
std::string to_json(const HostOrder& order);
// Throws UserError for what to_json cannot have made.
HostOrder host_order(const std::string& json);

struct RunHosts {
  HostList list;  // empty: this box alone
  int node = 0;
  std::optional<Secret> secret = {};
  uint16_t port = 0;  // where the first host listens; 0: on one that is free, which it tells the others
  bool starts_others = false;           // the first one, by ssh
  std::optional<HostOrder> order = {};  // of the host that has started this one

  bool several() const { return list.count() > 1; }
  bool has_slots() const { return !list.hosts.empty() && list.hosts.front().slots != 0; }
};

// By the options, or else by Slurm's environment (`variable`). Reads the files that they name, and stdin for
// --hosts -. Throws UserError for what does not go together.
RunHosts find_hosts(const TrainConfig& config,
                    const std::function<std::optional<std::string>(const std::string& name)>& variable);

// `config` with the number of hosts, and with their slots as workers. Throws UserError.
TrainConfig on_hosts(TrainConfig config, const RunHosts& hosts);

// A socket that listens on this host's address, for the others; port 0: on one that the kernel chooses.
// Throws UserError where it cannot be had, and as check_reachable() does.
UniqueFd listen_for_others(const RunHosts& hosts, uint16_t port);

// Throws UserError where the name of this host, `own`, means this host itself to it and nothing to others: in
// Debian's /etc/hosts a host's own name is 127.0.1.1. Who writes such a number, or localhost, means it.
void check_reachable(const Host& own, const SocketAddress& address);

// Where each of them can take the first host's connections without being told: from 20,000 to 29,999, below
// the ports that the kernel gives out.
uint16_t port_of(const Secret& secret);

}  // namespace annulus
