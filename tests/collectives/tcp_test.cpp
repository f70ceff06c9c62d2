#include "collectives/tcp.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <cerrno>

#include "telemetry/error.h"

namespace annulus {
namespace {

template <typename Call>
std::string user_error_of(Call call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "none";
}

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  EXPECT_EQ(getsockopt(fd, level, name, &value, &size), 0);
  return value;
}

void expect_options(int fd) {
  EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 10'000);
  EXPECT_EQ(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 3);
  EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 2);
  EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
  EXPECT_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
  EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

void await(int fd, short events) {
  pollfd what{fd, events, 0};
  ASSERT_EQ(poll(&what, 1, 60'000), 1);
}

TEST(Tcp, connects_on_both_protocols_with_the_options_set) {
  for (const std::string host : {"127.0.0.1", "::1"}) {
    UniqueFd listener;
    try {
      listener = listen_on(resolve(host, 0));
    } catch (const UserError& error) {
      ASSERT_EQ(host, "::1") << error.what();  // a host without IPv6
      continue;
    }
    const SocketAddress address = local_address(listener.get());
    EXPECT_EQ(address.host(), host);
    EXPECT_NE(address.port(), 0);
    const std::string port = std::to_string(address.port());
    EXPECT_EQ(address.text(), host == "::1" ? "[::1]:" + port : "127.0.0.1:" + port);
    EXPECT_TRUE(fcntl(listener.get(), F_GETFD) & FD_CLOEXEC);

    EXPECT_FALSE(accept_from(listener.get()));
    EXPECT_EQ(errno, EAGAIN);
    const UniqueFd client = start_connect(address);
    ASSERT_TRUE(client);
    await(client.get(), POLLOUT);
    EXPECT_EQ(connect_error(client.get()), 0);
    await(listener.get(), POLLIN);
    const UniqueFd server = accept_from(listener.get());
    ASSERT_TRUE(server);
    expect_options(client.get());
    expect_options(server.get());
    EXPECT_TRUE(peer_address(client.get()) == address);
    EXPECT_TRUE(peer_address(server.get()) == local_address(client.get()));
    EXPECT_FALSE(peer_address(server.get()) == address);
  }
}

TEST(Tcp, says_so_where_nobody_listens) {
  UniqueFd listener = listen_on(resolve("127.0.0.1", 0));
  const SocketAddress address = local_address(listener.get());
  listener.reset();
  const UniqueFd client = start_connect(address);
  if (!client) {
    EXPECT_EQ(errno, ECONNREFUSED);
    return;
  }
  await(client.get(), POLLOUT);
  EXPECT_EQ(connect_error(client.get()), ECONNREFUSED);
}

TEST(Tcp, never_listens_on_all_addresses) {
  for (const std::string host : {"0.0.0.0", "::", "::0", "0", "::ffff:0.0.0.0"}) {
    const std::string error = user_error_of([&] { resolve(host, 4711); });
    EXPECT_NE(error.find("address " + host + ": it stands for all"), std::string::npos) << error;
  }
}

TEST(Tcp, names_an_address_that_cannot_be_had_and_the_remedy) {
  for (const std::string host : {"", "no such host", "1.2.3.4.5"}) {
    const std::string error = user_error_of([&] { resolve(host, 1); });
    EXPECT_NE(error.find("host \"" + host + "\": "), std::string::npos) << error;
  }
  const UniqueFd listener = listen_on(resolve("127.0.0.1", 0));
  const SocketAddress taken = local_address(listener.get());
  const std::string in_use = user_error_of([&] { listen_on(taken); });
  EXPECT_EQ(in_use,
            "cannot listen on " + taken.text() +
                ": Address already in use. Another program listens there: end it, or choose another port");
  const std::string not_here = user_error_of([&] { listen_on(resolve("192.0.2.1", 0)); });  // in no network
  EXPECT_NE(not_here.find("`ip address`"), std::string::npos) << not_here;
}

}  // namespace
}  // namespace annulus
