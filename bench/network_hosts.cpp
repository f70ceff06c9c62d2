#include "bench/network_hosts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "telemetry/error.h"

namespace annulus {
namespace {

UniqueFd this_network() { return UniqueFd(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)); }

void return_to(const UniqueFd& network) {
  if (setns(network.get(), CLONE_NEWNET) != 0) {
    throw UserError::format("the way back to the first network namespace is barred: {}",
                            std::strerror(errno));
  }
}

UniqueFd new_network() {
  const UniqueFd before = this_network();
  if (unshare(CLONE_NEWNET) != 0) {
    throw UserError::format("network namespaces cannot be made: {}; it takes root, or CAP_SYS_ADMIN",
                            std::strerror(errno));
  }
  UniqueFd made = this_network();
  return_to(before);
  return made;
}

// A path that stands for the namespace in another process.
std::string path_of(const UniqueFd& network) {
  return fmt::format("/proc/{}/fd/{}", getpid(), network.get());
}

void run_in(const UniqueFd& network, const std::string& command) {
  const pid_t pid = fork();
  if (pid == 0) {
    if (setns(network.get(), CLONE_NEWNET) != 0) _exit(126);
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
    throw UserError::format(
        "`{}` failed; hosts on one machine take the programs ip and tc (Debian: iproute2)", command);
  }
}

}  // namespace

NetworkHosts::NetworkHosts(int count, const std::string& rate) {
  for (int host = 0; host < count; ++host) {
    hosts_.push_back(new_network());
    run_in(hosts_[host], "ip link set lo up");
  }
  if (count == 2) {
    join(hosts_[0], hosts_[1], "veth0");
  } else if (count > 2) {
    switch_ = new_network();
    run_in(switch_, "ip link add name joint type bridge && ip link set joint up");
    for (int host = 0; host < count; ++host) {
      const std::string port = fmt::format("port{}", host);
      join(hosts_[host], switch_, port);
      run_in(switch_, fmt::format("ip link set {0} master joint && ip link set {0} up", port));
    }
  }
  for (int host = 0; host < count && count > 1; ++host) {
    run_in(hosts_[host], fmt::format("ip addr add {}/24 dev veth0 && ip link set veth0 up", address(host)));
    if (!rate.empty()) {
      // 50 ms of what TCP may queue; a burst that holds a segment of the largest offload.
      run_in(hosts_[host],
             fmt::format("tc qdisc add dev veth0 root tbf rate {} burst 256k latency 50ms", rate));
    }
  }
}

std::string NetworkHosts::address(int host) const { return fmt::format("10.86.23.{}", host + 1); }

void NetworkHosts::enter(int host) const {
  if (setns(hosts_[host].get(), CLONE_NEWNET) != 0) {
    throw UserError::format("host {} cannot be entered: {}", host, std::strerror(errno));
  }
}

void NetworkHosts::on_host(int host, const std::function<void()>& body) const {
  const UniqueFd before = this_network();
  enter(host);
  body();
  return_to(before);
}

// A cable: called veth0 where it leaves, `name` where it arrives.
void NetworkHosts::join(const UniqueFd& from, const UniqueFd& to, const std::string& name) const {
  run_in(from, fmt::format("ip link add veth0 type veth peer name {} netns {}", name, path_of(to)));
}

}  // namespace annulus
