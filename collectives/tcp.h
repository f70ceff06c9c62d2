// TCP connections between hosts: addresses, sockets with the options that ours have, and a handshake over
// one.
//
// All sockets are non-blocking and not inherited by programs. A peer's host that goes away is found within 10
// s: by keepalive where the connection is quiet, by TCP_USER_TIMEOUT where bytes are under way. The latter
// also ends a connection whose receiver has been alive but has read nothing for so long, while its window is
// full. Buffers are left to the kernel, which sizes them by what the path holds.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>

#include "collectives/handshake.h"
#include "collectives/unique_fd.h"

namespace annulus {

// One IPv4 or IPv6 address with a port.
class SocketAddress {
 public:
  SocketAddress() = default;  // of no family
  SocketAddress(const sockaddr* address, socklen_t size);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return size_; }
  int family() const { return storage_.ss_family; }
  uint16_t port() const;
  std::string host() const;  // "10.0.0.1", "fe80::1%eth0"
  std::string text() const;  // "10.0.0.1:4711", "[::1]:4711"

  bool operator==(const SocketAddress& other) const;

  // Of the host itself, where no other one comes.
  bool is_loopback() const;

 private:
  sockaddr_storage storage_{};
  socklen_t size_ = 0;
};

// The first address of a name, or the one that `host` is. Asks the name service, which may take seconds.
// Throws UserError where there is none, or where it stands for all addresses of a host (0.0.0.0, ::): a
// listener there would be open to every network the host is in.
SocketAddress resolve(const std::string& host, uint16_t port);

// A socket that listens on exactly this address; port 0: on one that the kernel chooses, which
// local_address() tells. Throws UserError where it cannot be had.
UniqueFd listen_on(const SocketAddress& address);

// Begins to connect; the descriptor becomes writable when that has succeeded or failed, and connect_error()
// tells which. No descriptor, and errno, where it fails at once.
UniqueFd start_connect(const SocketAddress& to);

// 0, or the errno of a connection that did not come about.
int connect_error(int fd);

// The next connection that waits at a listener, with all options set. No descriptor, and errno, where there
// is none (EAGAIN), or where one broke before it was taken.
UniqueFd accept_from(int listener);

SocketAddress local_address(int fd);
// Of no family where the connection is broken.
SocketAddress peer_address(int fd);

// Sends what the handshake has to say and feeds it what it wants, as far as neither blocks. Returns why the
// connection is over where it ended before the handshake did; never reads beyond the handshake.
std::optional<std::string> advance(int fd, Handshake& handshake);

}  // namespace annulus
