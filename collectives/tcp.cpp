#include "collectives/tcp.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

template <typename Address>
Address as(const SocketAddress& address) {
  Address result;
  std::memcpy(&result, address.get(), sizeof result);
  return result;
}

// Its four bytes as one number, also of ::ffff:0.0.0.0, IPv4 in IPv6's clothes; nothing for IPv6.
std::optional<uint32_t> ipv4(const SocketAddress& address) {
  if (address.family() == AF_INET) return ntohl(as<sockaddr_in>(address).sin_addr.s_addr);
  const in6_addr in6 = as<sockaddr_in6>(address).sin6_addr;
  if (!IN6_IS_ADDR_V4MAPPED(&in6)) return std::nullopt;
  return ntohl(in6.s6_addr32[3]);
}

bool stands_for_all(const SocketAddress& address) {
  if (const std::optional<uint32_t> number = ipv4(address)) return *number == INADDR_ANY;
  const in6_addr in6 = as<sockaddr_in6>(address).sin6_addr;
  return IN6_IS_ADDR_UNSPECIFIED(&in6);
}

void set_option(int fd, int level, int option, int value) {
  CHECK(setsockopt(fd, level, option, &value, sizeof value) == 0, "socket option {} of level {}: {}", option,
        level, std::strerror(errno));
}

// Those of a connection. A listener's connections inherit them, but that is written down nowhere.
void set_options(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);  // a frame goes when it is written
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 10'000);
  // 3 + 3 * 2 s.
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 3);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

UniqueFd new_socket(int family) {
  return UniqueFd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
}

// What a listener's address wants of the user, by errno.
std::string remedy(int error) {
  switch (error) {
    case EADDRINUSE:
      return "Another program listens there: end it, or choose another port";
    case EADDRNOTAVAIL:
      return "This host has no such address: `ip address` lists those that it has";
    case EACCES:
      return "Ports below 1024 are for root: choose a higher one";
    case EAFNOSUPPORT:
      return "This host has no such protocol: give an address of the other one, IPv4 or IPv6";
    case EMFILE:
    case ENFILE:
      return "There are too many open files: raise `ulimit -n`";
  }
  return "Choose another address or port";
}

using NameCall = int (*)(int, sockaddr*, socklen_t*);
SocketAddress address_by(NameCall call, int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (call(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return {};
  return {reinterpret_cast<const sockaddr*>(&storage), size};
}

}  // namespace

SocketAddress::SocketAddress(const sockaddr* address, socklen_t size) : size_(size) {
  CHECK(size <= sizeof storage_, "an address of {} bytes", size);
  std::memcpy(&storage_, address, size);
}

uint16_t SocketAddress::port() const {
  if (family() == AF_INET) return ntohs(as<sockaddr_in>(*this).sin_port);
  if (family() == AF_INET6) return ntohs(as<sockaddr_in6>(*this).sin6_port);
  return 0;
}

std::string SocketAddress::host() const {
  std::array<char, NI_MAXHOST> host;
  if (size_ == 0 || getnameinfo(get(), size_, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    return "nowhere";
  }
  return host.data();
}

std::string SocketAddress::text() const {
  return fmt::format(fmt::runtime(family() == AF_INET6 ? "[{}]:{}" : "{}:{}"), host(), port());
}

bool SocketAddress::operator==(const SocketAddress& other) const {
  return family() == other.family() && port() == other.port() && host() == other.host();
}

bool SocketAddress::is_loopback() const {
  if (const std::optional<uint32_t> number = ipv4(*this)) return *number >> 24 == IN_LOOPBACKNET;
  const in6_addr in6 = as<sockaddr_in6>(*this).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&in6);
}

SocketAddress resolve(const std::string& host, uint16_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  const std::string service = std::to_string(port);
  const int error = host.empty() ? EAI_NONAME : getaddrinfo(host.c_str(), service.c_str(), &hints, &found);
  if (error != 0) {
    throw UserError::format("host \"{}\": {}. Give an address, or a name that this host can resolve", host,
                            error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error));
  }
  const SocketAddress address(found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (stands_for_all(address)) {
    throw UserError::format(
        "address {}: it stands for all networks of a host. Give the host's address in the network between "
        "the hosts",
        host);
  }
  return address;
}

UniqueFd listen_on(const SocketAddress& address) {
  CHECK(!stands_for_all(address));
  UniqueFd fd = new_socket(address.family());
  const auto succeeded = [&] {
    if (!fd) return false;
    // Connections of a run that has just ended linger; they must not keep its port.
    set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    return bind(fd.get(), address.get(), address.size()) == 0 && listen(fd.get(), SOMAXCONN) == 0;
  };
  if (!succeeded()) {
    const int error = errno;
    throw UserError::format("cannot listen on {}: {}. {}", address.text(), std::strerror(error),
                            remedy(error));
  }
  return fd;
}

UniqueFd start_connect(const SocketAddress& to) {
  UniqueFd fd = new_socket(to.family());
  if (!fd) return fd;
  set_options(fd.get());
  if (connect(fd.get(), to.get(), to.size()) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    fd.reset();
    errno = error;
  }
  return fd;
}

int connect_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

UniqueFd accept_from(int listener) {
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd) set_options(fd.get());
  return fd;
}

SocketAddress local_address(int fd) { return address_by(getsockname, fd); }
SocketAddress peer_address(int fd) { return address_by(getpeername, fd); }

std::optional<std::string> advance(int fd, Handshake& handshake) {
  constexpr size_t kLongest = 128;
  std::array<std::byte, kLongest> bytes;
  const auto failed = [] {
    return errno == EAGAIN || errno == EINTR ? std::nullopt
                                             : std::optional<std::string>(std::strerror(errno));
  };
  while (true) {
    while (!handshake.output().empty()) {
      const ssize_t sent = send(fd, handshake.output().data(), handshake.output().size(), MSG_NOSIGNAL);
      if (sent < 0) return failed();
      handshake.sent(static_cast<size_t>(sent));
    }
    if (handshake.wants() == 0) return std::nullopt;
    const ssize_t got = recv(fd, bytes.data(), std::min(handshake.wants(), bytes.size()), 0);
    if (got < 0) return failed();
    if (got == 0) return "closed by the peer";
    handshake.feed(std::span(bytes).first(static_cast<size_t>(got)));
  }
}

}  // namespace annulus
