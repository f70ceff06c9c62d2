// Hosts for tests: network namespaces with an address each on one bridge, made and removed by the test. Where
// that is not allowed the tests are skipped, loudly.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/end_to_end/command.h"

namespace annulus {

inline int shell(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()); }

class NetworkOfHosts {
 public:
  explicit NetworkOfHosts(int count) {
    static int made = 0;
    const std::string prefix = "ann" + std::to_string(getpid()) + "x" + std::to_string(made++);
    bridge_ = prefix + "br";
    works_ = run("ip netns add " + bridge_) && run(inside(bridge_, "ip link add br0 type bridge")) &&
             run(inside(bridge_, "ip link set br0 up"));
    for (int i = 0; i < count && works_; ++i) {
      const std::string name = prefix + static_cast<char>('a' + i), port = "p" + std::to_string(i);
      names_.push_back(name);
      works_ = run("ip netns add " + name) &&
               run("ip -n " + name + " link add eth0 type veth peer name " + port + " netns " + bridge_) &&
               run(inside(bridge_, "ip link set " + port + " master br0 up")) &&
               run("ip -n " + name + " addr add " + address(i) + "/24 dev eth0") &&
               run("ip -n " + name + " link set eth0 up") && run("ip -n " + name + " link set lo up");
    }
  }
  ~NetworkOfHosts() {
    for (const std::string& name : names_) shell("ip netns del " + name);
    shell("ip netns del " + bridge_);
  }
  NetworkOfHosts(const NetworkOfHosts&) = delete;
  NetworkOfHosts& operator=(const NetworkOfHosts&) = delete;

  bool works() const { return works_; }
  const std::string& name(int i) const { return names_[i]; }
  static std::string address(int i) { return "10.77.0." + std::to_string(i + 1); }
  // For --hosts.
  std::string hosts_file(const std::string& rest = "slots=1") const {
    std::string text;
    for (int i = 0; i < static_cast<int>(names_.size()); ++i) {
      text += names_[i] + " addr=" + address(i) + " " + rest + "\n";
    }
    return text;
  }
  // Of what a host sends, as tc takes it. A burst lets nothing through that a step sends.
  void limit(int i, const std::string& rate) {
    works_ = works_ &&
             run(inside(names_[i], "tc qdisc add dev eth0 root tbf rate " + rate + " burst 4k latency 50ms"));
  }
  // Takes the cable of a host away, or puts it back.
  void plug(int i, bool in) {
    run(inside(bridge_, "ip link set p" + std::to_string(i) + (in ? " up" : " down")));
  }

 private:
  static bool run(const std::string& command) { return shell(command) == 0; }
  static std::string inside(const std::string& name, const std::string& command) {
    return "ip netns exec " + name + " " + command;
  }

  std::string bridge_;
  std::vector<std::string> names_;
  bool works_ = false;
};

// Tests with `hosts` of them, a file for --hosts, and a stand-in for ssh.
class OnHosts : public ::testing::Test {
 protected:
  void make_hosts(int count) {
    network_ = std::make_unique<NetworkOfHosts>(count);
    if (!network_->works()) GTEST_SKIP() << "SKIPPED: network namespaces cannot be made; run as root";
    write_file(scratch_ / "hosts", network_->hosts_file());
    write_file(scratch_ / "secret", std::string(64, 'a'));
    chmod((scratch_ / "secret").c_str(), 0600);
    // As `ssh -o BatchMode=yes NAME COMMAND`: its end does not end what it has started.
    write_file(scratch_ / "ssh", "#!/bin/sh\nip netns exec \"$3\" sh -c \"$4\"\n");
    chmod((scratch_ / "ssh").c_str(), 0755);
  }

  // To run on a host.
  CommandOptions on(int host) const {
    CommandOptions options = scratch_.here();
    options.network = network_->name(host);
    options.environment = {"ANNULUS_SSH=" + scratch_ / "ssh"};
    options.several = true;
    return options;
  }
  static std::vector<std::string> by_hand(const std::vector<std::string>& command, int node) {
    return with(command, {"--node", std::to_string(node), "--secret-file", "secret"});
  }

  ScratchDirectory scratch_;
  std::unique_ptr<NetworkOfHosts> network_;
};

}  // namespace annulus
