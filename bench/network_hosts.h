// NetworkHosts: hosts on one machine: network namespaces of their own, joined by veth, with a rate if asked
// for. Everything goes with this object and the processes that have entered.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "collectives/unique_fd.h"

namespace annulus {

class NetworkHosts {
 public:
  // `rate`: of what each host sends, as tc takes it ("1gbit"); empty: as fast as the machine copies. Two
  // hosts are joined directly, more by a switch. Throws UserError where the right or the programs ip and tc
  // are missing.
  NetworkHosts(int count, const std::string& rate);

  int count() const { return static_cast<int>(hosts_.size()); }
  std::string address(int host) const;
  // Moves the calling process, which has one thread, to the host. Throws UserError.
  void enter(int host) const;
  // Calls `body` there: sockets stay with the host that they were made on.
  void on_host(int host, const std::function<void()>& body) const;

 private:
  void join(const UniqueFd& from, const UniqueFd& to, const std::string& name) const;

  std::vector<UniqueFd> hosts_;
  UniqueFd switch_;  // where there are more than two
};

}  // namespace annulus
