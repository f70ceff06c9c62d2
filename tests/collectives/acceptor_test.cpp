#include "collectives/acceptor.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>

#include "collectives/connector.h"
#include "collectives/wait.h"
#include "telemetry/error.h"
#include "tests/collectives/open_files.h"

namespace annulus {
namespace {

constexpr int64_t kMs = 1'000'000, kWatchdog = 60'000 * kMs, kLong = 120'000 * kMs;

const Secret kSecret = new_secret();

Identity identity(uint32_t node, uint32_t attempt = 1) {
  return {.purpose = Purpose::kBridge, .node = node, .world = 4, .attempt = attempt, .job = 77};
}

Policy policy_of(const Identity& own) {
  return [own](const Identity& peer) {
    const Refusal refusal = compare(own, peer);
    return refusal == Refusal::kNone ? compare_attempts(own, peer) : refusal;
  };
}

UniqueFd new_listener() { return listen_on(resolve("127.0.0.1", 0)); }

Acceptor an_acceptor(AcceptorLimits limits = {}) {
  return Acceptor(new_listener(), kSecret, identity(0), policy_of(identity(0)), limits);
}

Connector a_connector(const SocketAddress& to, int64_t limit_ns = kLong, const Identity& own = identity(1)) {
  return Connector(to, kSecret, own, policy_of(own), limit_ns);
}

// Serves the acceptor, if any, and calls `step` until it is true, waiting for the given descriptors and no
// more than 20 ms.
void serve_until(Acceptor* acceptor, std::vector<Link>& links, std::vector<int> fds,
                 const std::function<bool()>& step) {
  if (acceptor != nullptr) fds.push_back(acceptor->fd());
  const int64_t begin = now_ns();
  while (!step()) {
    if (now_ns() - begin > kWatchdog) throw std::runtime_error("hangs");
    std::vector<pollfd> polls;
    for (const int fd : fds) polls.push_back({fd, POLLIN, 0});
    poll(polls.data(), polls.size(), 20);
    if (acceptor == nullptr) continue;
    for (Link& link : acceptor->poll()) links.push_back(std::move(link));
  }
}

// The connector's link, and the acceptor's.
std::pair<Link, Link> connected(Acceptor& acceptor, Connector& connector) {
  std::vector<Link> links;
  std::optional<Link> link;
  serve_until(&acceptor, links, {connector.fd()}, [&] {
    if (!link) link = connector.poll();
    return link && !links.empty();
  });
  if (!link || links.size() != 1) throw std::runtime_error("no connection");
  return {std::move(*link), std::move(links[0])};
}

void expect_good_peer_gets_in(Acceptor& acceptor) {
  Connector connector = a_connector(acceptor.address());
  const auto [client, server] = connected(acceptor, connector);
  EXPECT_EQ(client.peer, identity(0));
  EXPECT_EQ(server.peer, identity(1));
}

// A connection as a stranger makes it.
UniqueFd stranger(const SocketAddress& to) {
  UniqueFd fd = start_connect(to);
  if (!fd) throw std::runtime_error(std::strerror(errno));
  pollfd what{fd.get(), POLLOUT, 0};
  if (poll(&what, 1, 60'000) != 1 || connect_error(fd.get()) != 0) throw std::runtime_error("not connected");
  return fd;
}

void say(int fd, std::span<const std::byte> bytes) {
  EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}
void say(int fd, std::string_view text) { say(fd, std::as_bytes(std::span(text))); }

// Whether the other side has ended the connection; takes what is left to read.
bool is_ended(int fd) {
  std::array<std::byte, 4096> bytes;
  ssize_t got;
  while ((got = recv(fd, bytes.data(), bytes.size(), 0)) > 0) {
  }
  return got == 0 || errno != EAGAIN;
}

std::vector<std::byte> hello_of(const Secret& secret) {
  const ClientHandshake client(secret, identity(1), policy_of(identity(1)));
  return {client.output().begin(), client.output().end()};
}

TEST(Acceptor, hands_out_a_peer_with_its_name_and_unread_bytes) {
  Acceptor acceptor = an_acceptor();
  Connector connector = a_connector(acceptor.address());
  const auto [client, server] = connected(acceptor, connector);
  EXPECT_EQ(client.peer, identity(0));
  EXPECT_EQ(server.peer, identity(1));
  EXPECT_EQ(acceptor.pending(), 0u);
  say(client.fd.get(), "first words");
  std::array<char, 100> bytes;
  const int64_t begin = now_ns();
  ssize_t got;
  while ((got = recv(server.fd.get(), bytes.data(), bytes.size(), 0)) < 0)
    ASSERT_LT(now_ns() - begin, kWatchdog);
  EXPECT_EQ(std::string_view(bytes.data(), got), "first words");
}

TEST(Acceptor, leaves_what_follows_the_handshake_in_the_connection) {
  Acceptor acceptor = an_acceptor();
  Connector connector = a_connector(acceptor.address());
  // The server speaks as soon as it can, mostly before the client has read the verdict.
  std::vector<Link> links;
  std::optional<Link> link;
  bool has_spoken = false;
  serve_until(&acceptor, links, {}, [&] {
    if (!links.empty() && !has_spoken) say(links[0].fd.get(), "at once"), has_spoken = true;
    if (links.empty() || has_spoken) link = connector.poll();
    return link.has_value();
  });
  ASSERT_TRUE(link);
  std::array<char, 100> bytes;
  const int64_t begin = now_ns();
  ssize_t got;
  while ((got = recv(link->fd.get(), bytes.data(), bytes.size(), 0)) < 0)
    ASSERT_LT(now_ns() - begin, kWatchdog);
  EXPECT_EQ(std::string_view(bytes.data(), got), "at once");
}

TEST(Acceptor, is_not_disturbed_by_a_thousand_idle_connections) {
  if (const std::string why = too_few_open_files(1'200); !why.empty()) GTEST_SKIP() << why;

  Acceptor acceptor = an_acceptor({.handshake_ns = kLong});
  const std::vector<std::byte> hello = hello_of(kSecret);
  std::vector<UniqueFd> idle;
  std::vector<Link> links;
  for (int i = 0; i < 1'000; ++i) {
    idle.push_back(stranger(acceptor.address()));
    if (i % 3 == 0) say(idle.back().get(), std::span(hello).first(1 + i % 87));
    // No more than a listener has room for.
    if (i % 100 != 99) continue;
    serve_until(&acceptor, links, {}, [&] { return acceptor.counts().crowded_out >= i - 63; });
  }
  expect_good_peer_gets_in(acceptor);
  // All have been accepted by now, as the good one came last.
  EXPECT_LE(acceptor.pending(), 64u);
  EXPECT_EQ(acceptor.counts().crowded_out + static_cast<int64_t>(acceptor.pending()), 1'000);
  int64_t ended = 0;
  for (const UniqueFd& fd : idle) ended += is_ended(fd.get());
  EXPECT_EQ(ended, acceptor.counts().crowded_out);
  EXPECT_FALSE(is_ended(idle.back().get()));  // the oldest go first
}

TEST(Acceptor, drops_the_silent_before_those_that_have_greeted) {
  Acceptor acceptor = an_acceptor({.handshake_ns = kLong, .pending = 4});
  std::vector<Link> links;
  const UniqueFd good = stranger(acceptor.address());
  ClientHandshake client(kSecret, identity(1), policy_of(identity(1)));
  EXPECT_FALSE(advance(good.get(), client));
  serve_until(&acceptor, links, {}, [&] {
    std::byte byte;
    return recv(good.get(), &byte, 1, MSG_PEEK) == 1;
  });
  // The Challenge has come. Before the Response goes, strangers crowd in.
  std::vector<UniqueFd> silent;
  for (int64_t i = 1; i <= 20; ++i) {
    silent.push_back(stranger(acceptor.address()));
    serve_until(&acceptor, links, {},
                [&] { return acceptor.counts().crowded_out == std::max<int64_t>(0, i - 3); });
  }
  serve_until(&acceptor, links, {}, [&] {
    EXPECT_FALSE(advance(good.get(), client));
    return client.state() != Handshake::State::kRunning;
  });
  EXPECT_EQ(client.state(), Handshake::State::kDone);
  EXPECT_EQ(links.size(), 1u);
}

TEST(Acceptor, gives_slow_ones_no_more_time_than_others) {
  constexpr int64_t kLimit = 300 * kMs;
  Acceptor acceptor = an_acceptor({.handshake_ns = kLimit});
  const std::vector<std::byte> hello = hello_of(kSecret);
  const int64_t begin = now_ns();
  const UniqueFd slow = stranger(acceptor.address()), silent = stranger(acceptor.address());
  std::vector<Link> links;
  size_t said = 0;
  serve_until(&acceptor, links, {}, [&] {
    // A byte at each round, about 20 ms apart; with it, something happens on the connection all the time.
    if (said + 1 < hello.size()) send(slow.get(), &hello[said++], 1, MSG_NOSIGNAL);
    return acceptor.counts().late == 2;
  });
  EXPECT_GE(now_ns() - begin, kLimit);
  EXPECT_TRUE(is_ended(slow.get()));
  EXPECT_TRUE(is_ended(silent.get()));
  EXPECT_EQ(acceptor.pending(), 0u);
  expect_good_peer_gets_in(acceptor);
}

TEST(Acceptor, wakes_its_user_at_a_deadline) {
  Acceptor acceptor = an_acceptor({.handshake_ns = 50 * kMs});
  const UniqueFd silent = stranger(acceptor.address());
  const int64_t begin = now_ns();
  while (acceptor.counts().late == 0) {
    ASSERT_LT(now_ns() - begin, kWatchdog);
    pollfd what{acceptor.fd(), POLLIN, 0};
    ASSERT_EQ(poll(&what, 1, 60'000), 1) << "nothing woke it";
    acceptor.poll();
  }
  pollfd what{acceptor.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&what, 1, 0), 0) << "readable with nothing to do";
}

TEST(Acceptor, drops_strangers_in_silence_and_counts_them) {
  Acceptor acceptor = an_acceptor({.handshake_ns = kLong});
  std::vector<Link> links;
  std::vector<UniqueFd> strangers;
  const auto count = [&](const int64_t AcceptorCounts::*which, int64_t value) {
    serve_until(&acceptor, links, {}, [&] { return acceptor.counts().*which == value; });
  };

  // Garbage, and a browser.
  strangers.push_back(stranger(acceptor.address()));
  say(strangers.back().get(), std::string(200, '\xfe'));
  count(&AcceptorCounts::strangers, 1);
  strangers.push_back(stranger(acceptor.address()));
  say(strangers.back().get(),
      "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: something long enough\r\n\r\n" +
          std::string(88, ' '));
  count(&AcceptorCounts::strangers, 2);

  // A Hello, and a wrong proof.
  strangers.push_back(stranger(acceptor.address()));
  say(strangers.back().get(), hello_of(kSecret));
  say(strangers.back().get(), "ann-resp" + std::string(32, 'x'));
  count(&AcceptorCounts::strangers, 3);

  // Half-open: no more will come, though answers could go.
  strangers.push_back(stranger(acceptor.address()));
  say(strangers.back().get(), hello_of(kSecret));
  shutdown(strangers.back().get(), SHUT_WR);
  count(&AcceptorCounts::closed, 1);
  strangers.push_back(stranger(acceptor.address()));
  shutdown(strangers.back().get(), SHUT_WR);
  count(&AcceptorCounts::closed, 2);

  // A reset in the middle of a message.
  UniqueFd reset = stranger(acceptor.address());
  say(reset.get(), std::string(30, 'x'));
  serve_until(&acceptor, links, {}, [&] { return acceptor.pending() == 1; });
  const linger now{1, 0};
  ASSERT_EQ(setsockopt(reset.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
  reset.reset();
  count(&AcceptorCounts::closed, 3);

  EXPECT_TRUE(links.empty());
  EXPECT_EQ(acceptor.pending(), 0u);
  for (const UniqueFd& fd : strangers) EXPECT_TRUE(is_ended(fd.get()));
  expect_good_peer_gets_in(acceptor);
}

TEST(Acceptor, takes_no_session_twice) {
  Acceptor acceptor = an_acceptor({.handshake_ns = kLong});
  // What a listener on the wire hears of a good client.
  ServerHandshake server(kSecret, identity(0), policy_of(identity(0)));
  ClientHandshake client(kSecret, identity(1), policy_of(identity(1)));
  std::vector<std::byte> recorded;
  for (int turn = 0; turn < 2; ++turn) {
    const auto said = client.output();
    recorded.insert(recorded.end(), said.begin(), said.end());
    server.feed(said);
    client.sent(said.size());
    client.feed(server.output());
    server.sent(server.output().size());
  }
  ASSERT_EQ(server.state(), Handshake::State::kDone);
  const UniqueFd thief = stranger(acceptor.address());
  say(thief.get(), recorded);
  std::vector<Link> links;
  serve_until(&acceptor, links, {}, [&] { return acceptor.counts().strangers == 1; });
  EXPECT_TRUE(links.empty());
}

// The text and the reason of the connector's end.
std::pair<Refusal, std::string> refusal_of(Acceptor* acceptor, Connector& connector) {
  std::vector<Link> links;
  std::pair<Refusal, std::string> result;
  serve_until(acceptor, links, {connector.fd()}, [&] {
    try {
      return connector.poll().has_value();
    } catch (const HandshakeRefused& error) {
      result = {error.refusal(), error.what()};
    } catch (const LinkError& error) {
      result = {Refusal::kNone, error.what()};
    }
    return true;
  });
  EXPECT_TRUE(links.empty());
  return result;
}

TEST(Connector, says_why_it_was_refused) {
  Acceptor acceptor = an_acceptor({.handshake_ns = kLong});
  Identity other = identity(1);
  other.config_hash = 5;
  Connector connector = a_connector(acceptor.address(), kLong, other);
  const auto [refusal, text] = refusal_of(&acceptor, connector);
  EXPECT_EQ(refusal, Refusal::kConfig);
  EXPECT_TRUE(text.starts_with(acceptor.address().text() + ": after ")) << text;
  EXPECT_TRUE(text.ends_with("s: another configuration: hash 0000000000000005 here, 0000000000000000 there"))
      << text;
  EXPECT_EQ(acceptor.counts().refused, 1);

  Connector stale = a_connector(acceptor.address(), kLong, identity(1, 0));
  EXPECT_EQ(refusal_of(&acceptor, stale).first, Refusal::kAttemptStale);

  Connector of_others(acceptor.address(), new_secret(), identity(1), policy_of(identity(1)), kLong);
  const auto [stranger, secret_text] = refusal_of(&acceptor, of_others);
  EXPECT_EQ(stranger, Refusal::kStranger);
  EXPECT_NE(secret_text.find("does not know this job's secret"), std::string::npos) << secret_text;
  expect_good_peer_gets_in(acceptor);
}

TEST(Connector, waits_for_a_peer_that_does_not_listen_yet) {
  UniqueFd listener = new_listener();
  const SocketAddress address = local_address(listener.get());
  listener.reset();
  Connector connector = a_connector(address);
  for (int i = 0; i < 3; ++i) {
    pollfd what{connector.fd(), POLLIN, 0};
    ASSERT_EQ(poll(&what, 1, 60'000), 1);
    ASSERT_FALSE(connector.poll());
  }
  Acceptor acceptor(listen_on(address), kSecret, identity(0), policy_of(identity(0)));
  const auto [client, server] = connected(acceptor, connector);
  EXPECT_EQ(client.peer, identity(0));
}

TEST(Connector, comes_again_where_connections_are_closed_early) {
  UniqueFd listener = new_listener();
  const SocketAddress address = local_address(listener.get());
  Connector connector = a_connector(address);
  std::vector<Link> none;
  for (int i = 0; i < 3; ++i) {
    UniqueFd fd;
    serve_until(nullptr, none, {connector.fd(), listener.get()}, [&] {
      EXPECT_FALSE(connector.poll());
      fd = accept_from(listener.get());
      return static_cast<bool>(fd);
    });
    // Now and then not before the Hello was read, so that the end is in order and no reset.
    if (i % 2 == 0) {
      std::array<std::byte, 88> hello;
      serve_until(nullptr, none, {connector.fd(), fd.get()}, [&] {
        EXPECT_FALSE(connector.poll());
        return recv(fd.get(), hello.data(), hello.size(), 0) == static_cast<ssize_t>(hello.size());
      });
    }
  }
  Acceptor acceptor(std::move(listener), kSecret, identity(0), policy_of(identity(0)));
  connected(acceptor, connector);
}

TEST(Connector, comes_again_until_the_peer_has_begun_the_attempt) {
  uint32_t attempt = 1;
  Acceptor acceptor(new_listener(), kSecret, identity(0),
                    [&](const Identity& peer) { return compare_attempts(identity(0, attempt), peer); });
  Connector connector = a_connector(acceptor.address(), kLong, identity(1, 2));
  std::vector<Link> links;
  serve_until(&acceptor, links, {connector.fd()}, [&] {
    EXPECT_FALSE(connector.poll());
    return acceptor.counts().refused == 3;
  });
  attempt = 2;
  acceptor.set_identity(identity(0, attempt));
  EXPECT_EQ(connected(acceptor, connector).first.peer, identity(0, 2));
}

TEST(Connector, gives_up_in_time_and_says_how_it_stands) {
  UniqueFd listener = new_listener();
  const SocketAddress address = local_address(listener.get());
  constexpr int64_t kLimit = 200 * kMs;
  int64_t begin = now_ns();
  Connector unanswered = a_connector(address, kLimit);
  const std::string silent = refusal_of(nullptr, unanswered).second;
  EXPECT_GE(now_ns() - begin, kLimit);
  EXPECT_TRUE(silent.starts_with(address.text() + ": after ")) << silent;
  EXPECT_TRUE(silent.ends_with("s: no connection; the last try: connected, but the peer says nothing"))
      << silent;

  listener.reset();
  begin = now_ns();
  Connector refused = a_connector(address, kLimit);
  const std::string nobody = refusal_of(nullptr, refused).second;
  EXPECT_GE(now_ns() - begin, kLimit);
  EXPECT_TRUE(nobody.ends_with("s: no connection; the last try: Connection refused")) << nobody;
}

TEST(Connector, is_woken_by_its_own_descriptor_alone) {
  UniqueFd listener = new_listener();
  const SocketAddress address = local_address(listener.get());
  listener.reset();
  Connector connector = a_connector(address, 200 * kMs);
  const int64_t begin = now_ns();
  try {
    while (true) {
      ASSERT_LT(now_ns() - begin, kWatchdog);
      pollfd what{connector.fd(), POLLIN, 0};
      ASSERT_EQ(poll(&what, 1, 60'000), 1) << "nothing woke it";
      ASSERT_FALSE(connector.poll());
    }
  } catch (const LinkError&) {
  }
}

TEST(AcceptorAndConnector, find_each_other_between_threads) {
  Acceptor acceptor = an_acceptor();
  const SocketAddress address = acceptor.address();
  constexpr int kPeers = 8;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kPeers; ++i) {
    threads.emplace_back([&address, i] {
      Connector connector = a_connector(address, kLong, identity(i % 4));
      std::vector<Link> none;
      serve_until(nullptr, none, {connector.fd()}, [&] { return connector.poll().has_value(); });
    });
  }
  std::vector<Link> links;
  serve_until(&acceptor, links, {}, [&] { return links.size() == kPeers; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(acceptor.counts().refused + acceptor.counts().strangers + acceptor.counts().late, 0);
}

}  // namespace
}  // namespace annulus
