// HarmfulProxy: stands between a bridge that connects and the listener that it means, and does to what passes
// whatever a test wants.
//
//   connecting bridge --> proxy's listener | two threads for each connection, one each way | --> listener
//
// It knows where messages end: two of the handshake each way, then frames. The test's harm is called with
// each whole message, on the thread of its way, and passes it on, or something else, or ends the connection.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <list>
#include <span>
#include <thread>
#include <vector>

#include "collectives/frame.h"
#include "collectives/tcp.h"

namespace annulus {

class HarmfulProxy {
 public:
  using Bytes = std::vector<std::byte>;

  struct Message {
    int connection = 0;  // from 0, in the order in which they were accepted
    bool to_listener = false;
    bool handshake = false;
    int number = 0;  // from 0, of its way: of the handshake, or of the frames
    Bytes bytes{};

    FrameHeader header() const {
      FrameHeader header;
      std::memcpy(&header, bytes.data(), sizeof header);
      return header;
    }
  };

  // One way of one connection. All but end() return by an exception once the connection is over.
  class Way {
   public:
    void pass(std::span<const std::byte> bytes) {
      while (!bytes.empty()) {
        const ssize_t done = send(to_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN && errno != EINTR) throw Over{};
        if (done > 0) bytes = bytes.subspan(done);
        if (!bytes.empty()) wait(to_, POLLOUT, -1);
      }
    }
    void rest(int ms) { wait(-1, 0, ms); }
    void stall() { rest(-1); }
    [[noreturn]] void close() {
      for (const int fd : {from_, to_}) shutdown(fd, SHUT_WR);
      throw Over{};
    }
    [[noreturn]] void reset() {
      const linger at_once{.l_onoff = 1, .l_linger = 0};
      for (const int fd : {from_, to_}) setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      throw Over{};
    }

   private:
    friend class HarmfulProxy;
    struct Over {};

    Way(int from, int to, int over) : from_(from), to_(to), over_(over) {}
    void wait(int fd, short events, int ms) {
      pollfd fds[] = {{over_, POLLIN, 0}, {fd, events, 0}};
      (void)poll(fds, 2, ms);
      if (fds[0].revents != 0) throw Over{};
    }
    // Fewer bytes than asked for: the sender has ended.
    Bytes take(std::size_t count) {
      Bytes bytes(count);
      std::size_t done = 0;
      while (done < count) {
        wait(from_, POLLIN, -1);
        const ssize_t got = recv(from_, bytes.data() + done, count - done, MSG_DONTWAIT);
        if (got < 0 && errno != EAGAIN && errno != EINTR) throw Over{};
        if (got == 0) break;
        if (got > 0) done += got;
      }
      bytes.resize(done);
      return bytes;
    }

    const int from_, to_, over_;
  };

  using Harm = std::function<void(Way&, const Message&)>;
  static void none(Way& way, const Message& message) { way.pass(message.bytes); }

  HarmfulProxy(const SocketAddress& to, Harm harm)
      : to_(to),
        harm_(std::move(harm)),
        listener_(listen_on(resolve("127.0.0.1", 0))),
        over_(eventfd(0, EFD_CLOEXEC)),
        thread_([this] { serve(); }) {}
  ~HarmfulProxy() {
    raise(over_.get());
    thread_.join();
    for (Connection& connection : connections_) {
      raise(connection.over.get());
      for (std::thread& way : connection.ways) way.join();
    }
  }
  HarmfulProxy(const HarmfulProxy&) = delete;
  HarmfulProxy& operator=(const HarmfulProxy&) = delete;

  SocketAddress address() const { return local_address(listener_.get()); }

 private:
  struct Connection {
    int number;
    UniqueFd near, far;  // closed by the way that is over last
    UniqueFd over;       // readable once both ways are to end
    std::atomic<int> ways_left{2};
    std::vector<std::thread> ways;
  };
  // Sizes of the handshake's messages.
  static constexpr std::size_t kToListener[] = {88, 40}, kFromListener[] = {72, 96};

  static void raise(int fd) {
    const uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
  }

  void serve() {
    for (;;) {
      pollfd fds[] = {{over_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      (void)poll(fds, 2, -1);
      if (fds[0].revents != 0) return;
      UniqueFd near = accept_from(listener_.get());
      if (!near) continue;
      UniqueFd far = start_connect(to_);
      if (!far) continue;
      pollfd connected{far.get(), POLLOUT, 0};
      if (poll(&connected, 1, 60'000) != 1 || connect_error(far.get()) != 0) continue;
      Connection& connection = connections_.emplace_back();
      connection.number = static_cast<int>(connections_.size()) - 1;
      connection.near = std::move(near);
      connection.far = std::move(far);
      connection.over.reset(eventfd(0, EFD_CLOEXEC));
      for (const bool to_listener : {true, false}) {
        connection.ways.emplace_back([this, &connection, to_listener] { relay(connection, to_listener); });
      }
    }
  }

  void relay(Connection& connection, bool to_listener) {
    const int near = connection.near.get(), far = connection.far.get();
    Way way(to_listener ? near : far, to_listener ? far : near, connection.over.get());
    try {
      Message message{.connection = connection.number, .to_listener = to_listener};
      // Whether it came whole; what is cut off by its sender's end goes on as it is.
      const auto take = [&](std::size_t count) {
        const Bytes bytes = way.take(count);
        message.bytes.insert(message.bytes.end(), bytes.begin(), bytes.end());
        if (bytes.size() == count) return true;
        way.pass(message.bytes);
        shutdown(way.to_, SHUT_WR);
        return false;
      };
      for (int i = 0;; ++i) {
        message.handshake = i < 2;
        message.number = message.handshake ? i : i - 2;
        message.bytes.clear();
        if (message.handshake) {
          if (!take((to_listener ? kToListener : kFromListener)[i])) break;
        } else {
          if (!take(sizeof(FrameHeader)) || !take(message.header().descriptor.length)) break;
        }
        harm_(way, message);
      }
    } catch (const Way::Over&) {
      raise(connection.over.get());
    }
    if (connection.ways_left.fetch_sub(1) == 1) {
      connection.near.reset();
      connection.far.reset();
    }
  }

  const SocketAddress to_;
  const Harm harm_;
  const UniqueFd listener_, over_;
  std::list<Connection> connections_;  // the serving thread's until it has ended
  std::thread thread_;
};

}  // namespace annulus
