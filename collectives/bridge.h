// Bridge: how a slice that has been summed on each host becomes the sum over all hosts.
//
// Each rank has a bridge of its own, to the same rank on the other hosts, so that streams run in parallel. It
// has a thread, which alone touches the sockets. The rank's exchange hands buckets over in order, and waits
// for them on its own doorbell, which the bridge rings. The slice's sum takes the place of what was handed
// over.
//
// What blocks: the bridge's thread alone, on its sockets and an eventfd. What a dead peer does: the kernel
// closes its connections, and the bridge gives up with LinkError, which the exchange throws; a peer that is
// only silent is waited for until its launcher, or this one, ends the attempt.
//
//   exchange's thread                                    the bridge's thread
//   +---------------------------------+                  +----------------------------------------+
//   | begin, submit: handed           | -- B0 -> B1 ---> | sends, receives, sums                  |
//   | done(): buckets of the step     | <- B3 <- B2 ---- | done = buckets, or failed and why      |
//   +---------------------------------+                  +----------------------------------------+
//
// Ordering: B0 exchange: handed = (step, buckets) (release), after the sums in its slices
//           B1 bridge: handed (acquire), before it reads them
//           B2 bridge: done = (step, buckets) (release), after it has written the sums over all hosts
//           B3 exchange: done (acquire), before it reads those
//
// Slices are cut into chunks, and chunks into a part for each host, whose sum is made there: recursive
// halving and doubling (Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations
// in MPICH", 2005) where there are 2, 4, 8, ... hosts, which adds as the summation tree does, and else a
// ring. A host sends 2 (H-1)/H of the slice's bytes.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "collectives/exchange.h"
#include "collectives/message_gather.h"
#include "collectives/tcp_transport.h"
#include "collectives/unique_fd.h"

namespace annulus {

inline constexpr int kMaxHosts = 64;  // a block has 64 lines, so each host has a part of it
// Chunk of a slice: the few that are under way at a time fit into the second-level cache.
inline constexpr int64_t kChunkElements = int64_t{128} << 10;

// What one rank's bridge does; equal on all hosts but for `node`.
struct BridgePlan {
  int hosts = 1;
  int node = 0;
  std::vector<ShardRange> slices;  // by bucket: the rank's, elements from the base of any array of parameters
  DataType wire = DataType::kF32;  // what gradients travel as

  // The schedule of a slice of so many elements (whole blocks), whose places count from its beginning.
  Schedule schedule(int64_t elements) const;
};

// What hosts send of a slice, where that is not all of it. Some elements go whole, and are summed on the way
// as all others are; of the rest each host sends a message to each other one, and makes the sum of them
// itself. Called on the bridge's thread.
class BridgePacking {
 public:
  virtual ~BridgePacking() = default;
  // What goes whole, as pack() has filled it: whole blocks, as many on all hosts, at one place for ever.
  virtual std::span<float> whole(int bucket) = 0;
  // The message of the bucket's slice, which holds this host's sum; valid until the next pack().
  virtual std::span<const std::byte> pack(uint32_t step, int bucket) = 0;
  // The most bytes that a message of the bucket may have.
  virtual uint64_t most_bytes(int bucket) const = 0;
  // Writes the sums over all hosts to the slice: of what went whole, from whole(), and of the messages, by
  // node. Throws LinkError for a message that pack() cannot have made.
  virtual void unpack(uint32_t step, int bucket, const std::vector<std::span<const std::byte>>& messages) = 0;
};

class Bridge {
 public:
  // What its thread watches while it waits.
  struct Leave {
    std::function<bool()> asked;  // whether it is to end
    int fd;                       // eventfd, readable once something has changed
  };
  struct Wiring {
    // Gives the connections, by node, or fewer when it is asked to leave. Called on the bridge's thread; may
    // throw LinkError.
    std::function<TcpTransport::Streams(const Leave&)> connect;
    std::vector<float*> arrays;  // by set of gradient buffers: where the rank's slices are
    // Null: slices are sent whole. Where there is one, no pack() of a step comes before all hosts have begun
    // that step, so that nobody will go back behind the step before.
    std::unique_ptr<BridgePacking> packing = nullptr;
    uint32_t attempt = 0;            // that frames carry
    TcpTransport::Notes notes = {};  // called on the bridge's thread
    std::function<void()> wake;      // rings the doorbell of whoever waits for done(); any thread may call it
    int cpu = -1;                    // where the thread runs; -1: where the caller may
  };

  // Starts the thread.
  Bridge(const BridgePlan& plan, Wiring wiring);
  // Ends it, connected or not, done or not.
  ~Bridge();
  Bridge(const Bridge&) = delete;
  Bridge& operator=(const Bridge&) = delete;

  // By the exchange's thread. The step before must be done. Throws what the bridge's thread has thrown.
  void begin(uint32_t step);
  // The rank's slice of the next bucket (0, then 1, ...) holds this host's sum. Memory ordering: B0.
  void submit();
  // How many buckets of the step hold the sum over all hosts. Memory ordering: B3.
  std::size_t done() const;
  // Whether done() has come to `buckets`, or never will, because the bridge has failed.
  bool reached(std::size_t buckets) const {
    return failed_.load(std::memory_order_acquire) || done() >= buckets;
  }
  // Throws what the bridge's thread has thrown.
  void check() const;

  uint64_t bytes_sent() const {
    return bytes_sent_.load(std::memory_order_relaxed);
  }  // of done() buckets, headers included
  // Of cpu_ns(), in packing, and in unpacking.
  int64_t packing_ns() const { return packing_ns_.load(std::memory_order_relaxed); }
  int64_t unpacking_ns() const { return unpacking_ns_.load(std::memory_order_relaxed); }
  // How long bytes took on the way, as of the last step that is done: TcpTransport::link_ns().
  int64_t link_ns() const { return link_ns_.load(std::memory_order_relaxed); }
  int64_t unacknowledged_ns() const {
    return unacknowledged_ns_.load(std::memory_order_relaxed);
  }  // likewise
  // Processor time of the bridge's thread.
  int64_t cpu_ns() const;

 private:
  struct Rounds;
  static uint64_t word(uint32_t step, std::size_t buckets) { return uint64_t{step} << 32 | buckets; }
  void run();
  void serve();
  bool begun(Rounds& rounds, uint32_t step);
  bool advance(Rounds& rounds, uint32_t step, std::size_t bucket);
  void ring();
  void sleep(const TcpTransport& transport);

  const BridgePlan plan_;
  const Wiring wiring_;
  std::vector<Schedule> schedules_;             // by bucket
  std::vector<std::vector<Binding>> bindings_;  // by set, then by bucket
  const UniqueFd rung_;                         // eventfd

  // The exchange's thread's.
  uint32_t step_ = 0;
  uint32_t submitted_ = 0;

  alignas(kRankSpacing) std::atomic<uint64_t> handed_{0};  // by the exchange's thread
  std::atomic<bool> leave_{false};
  alignas(kRankSpacing) std::atomic<uint64_t> done_{0};  // by the bridge's thread
  std::atomic<uint64_t> bytes_sent_{0};
  std::atomic<int64_t> packing_ns_{0}, unpacking_ns_{0}, link_ns_{0}, unacknowledged_ns_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // valid once failed_ is set
  std::thread thread_;
};

using BridgeConnect = decltype(Bridge::Wiring::connect);

}  // namespace annulus
