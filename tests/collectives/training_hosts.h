// TrainingHosts: hosts that exchange gradients whose sums are known, through a proxy that harms what passes.
// All come to the right sums or give up, none hangs, none has a wrong sum.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "telemetry/error.h"
#include "tests/collectives/harmful_proxy.h"
#include "tests/collectives/local_hosts.h"

namespace annulus {

// Five chunks, nothing, a block: many frames, of which two and more are under way at a time.
inline constexpr int64_t kElements = 5 * kChunkElements + kBlockElements;
inline const std::vector<ShardRange> kSlices{
    {0, 5 * kChunkElements}, {5 * kChunkElements, 5 * kChunkElements}, {5 * kChunkElements, kElements}};
inline constexpr uint32_t kSteps = 3;
inline constexpr int kMostHosts = 3;

// Ends the program where a test hangs, destructors included.
class Watchdog {
 public:
  explicit Watchdog(std::string what)
      : thread_([this, what = std::move(what)] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, std::chrono::seconds(60), [this] { return is_over_; })) return;
          std::fprintf(stderr, "hangs: %s\n", what.c_str());
          std::abort();
        }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool is_over_ = false;
  std::thread thread_;
};

// What a host brings in a step: whole numbers, so that sums have the same bits in whatever order they are
// made. Made once: under sanitizers loops are slow.
using Values = std::vector<float>;

inline const Values& values(int host, uint32_t step) {
  static const std::vector<Values> all = [] {
    std::vector<Values> all;
    for (int64_t which = 0; which < kMostHosts * kSteps; ++which) {
      Values& one = all.emplace_back(kElements);
      for (int64_t i = 0; i < kElements; ++i) {
        one[i] = static_cast<float>((i * 2'654'435'761 + which * 40'503) % 4'099 - 2'049);
      }
    }
    return all;
  }();
  return all[host * kSteps + step - 1];
}

inline const Values& sum_over(int hosts, uint32_t step) {
  static const std::vector<Values> all = [] {
    std::vector<Values> all;
    for (uint32_t step = 1; step <= kSteps; ++step) {
      Values sum(kElements);
      for (int host = 0; host < kMostHosts; ++host) {
        const Values& one = values(host, step);
        for (int64_t i = 0; i < kElements; ++i) sum[i] += one[i];
        all.push_back(sum);
      }
    }
    return all;
  }();
  return all[(step - 1) * kMostHosts + hosts - 1];
}

// Sends slices as they are: the last one whole, to be summed on the way, the others as messages.
class PackedSlices final : public BridgePacking {
 public:
  explicit PackedSlices(float* array) : array_(array), whole_(kSlices.back().count()) {}
  std::span<float> whole(int bucket) override {
    return is_whole(bucket) ? std::span<float>(whole_) : std::span<float>();
  }
  std::span<const std::byte> pack(uint32_t, int bucket) override {
    const std::span<const float> slice(array_ + kSlices[bucket].begin, kSlices[bucket].count());
    if (is_whole(bucket)) std::copy(slice.begin(), slice.end(), whole_.begin());
    message_.assign(slice.begin(), is_whole(bucket) ? slice.begin() : slice.end());
    return std::as_bytes(std::span(message_));
  }
  uint64_t most_bytes(int bucket) const override {
    return is_whole(bucket) ? 0 : kSlices[bucket].count() * sizeof(float);
  }
  void unpack(uint32_t, int bucket, const std::vector<std::span<const std::byte>>& messages) override {
    const std::span<float> slice(array_ + kSlices[bucket].begin, kSlices[bucket].count());
    if (is_whole(bucket)) {
      std::copy(whole_.begin(), whole_.end(), slice.begin());
      return;
    }
    for (const auto& message : messages) {
      if (message.size() != slice.size_bytes()) throw LinkError("a message of another length");
    }
    std::memcpy(slice.data(), messages[0].data(), slice.size_bytes());
    for (std::size_t host = 1; host < messages.size(); ++host) {
      const float* const part = reinterpret_cast<const float*>(messages[host].data());
      for (std::size_t i = 0; i < slice.size(); ++i) slice[i] += part[i];
    }
  }

 private:
  static bool is_whole(int bucket) { return bucket + 1 == std::ssize(kSlices); }

  float* array_;
  std::vector<float> whole_, message_;
};

// How an attempt ended on one host.
struct Outcome {
  uint32_t steps = 0;   // whose sums were all there, and right
  std::string failure;  // what() of the LinkError
  bool left = false;    // told to, by the end of the attempt elsewhere
};

inline void expect_success(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.steps, kSteps) << outcome.failure;
    EXPECT_EQ(outcome.failure, "");
  }
}

inline std::string failures(const std::vector<Outcome>& outcomes) {
  std::string all;
  for (const Outcome& outcome : outcomes) all += "[" + outcome.failure + "] ";
  return all;
}

// All have given up, one of them for this reason.
inline void expect_failure(const std::vector<Outcome>& outcomes, const std::string& reason) {
  for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.failure, "");
  EXPECT_NE(failures(outcomes).find(reason), std::string::npos) << failures(outcomes);
}

inline std::span<const std::byte> half(const HarmfulProxy::Message& message) {
  return std::span(message.bytes).first(message.bytes.size() / 2);
}

inline HarmfulProxy::Bytes flipped(const HarmfulProxy::Bytes& bytes, std::size_t at, int bit) {
  HarmfulProxy::Bytes result = bytes;
  result[at] ^= static_cast<std::byte>(1 << bit);
  return result;
}

// Hosts that train; the last one reaches the first one through a proxy.
class TrainingHosts : public LocalHosts {
 public:
  TrainingHosts(int count, bool packed)
      : LocalHosts(count), packed_(packed), arrays_(count, Values(kElements)) {}

  std::unique_ptr<HarmfulProxy> proxy(HarmfulProxy::Harm harm) const {
    return std::make_unique<HarmfulProxy>(address(0), std::move(harm));
  }

  std::unique_ptr<Bridge> bridge(int node, uint32_t attempt, BridgeConnect connect) {
    return std::make_unique<Bridge>(
        BridgePlan{.hosts = count(), .node = node, .slices = kSlices},
        Bridge::Wiring{.connect = std::move(connect),
                       .arrays = {arrays_[node].data()},
                       .packing = packed_ ? std::make_unique<PackedSlices>(arrays_[node].data()) : nullptr,
                       .attempt = attempt,
                       .wake = [] {}});
  }
  std::unique_ptr<Bridge> bridge(int node, uint32_t attempt, const HarmfulProxy* proxy) {
    BridgePeers own = peers(node, attempt);
    if (proxy != nullptr && node == count() - 1) own.addresses[0] = proxy->address();
    return bridge(node, attempt, connect_bridge(own));
  }

  // Some steps on one host. The bridge's life ends where it fails, as a worker's does; after success it
  // stays.
  Outcome train(int node, std::unique_ptr<Bridge>& bridge, const std::atomic<bool>& leave) {
    Outcome outcome;
    try {
      while (outcome.steps < kSteps) {
        if (!step(node, *bridge, outcome.steps + 1, leave)) {
          outcome.left = true;
          break;
        }
        ++outcome.steps;
      }
    } catch (const LinkError& error) {
      outcome.failure = error.what();
    }
    if (outcome.steps < kSteps) bridge.reset();
    return outcome;
  }

  // An attempt of all hosts. `others_leave`: where one gives up, the others are told to leave, as launchers
  // do; else they must find out by themselves.
  std::vector<Outcome> attempt(uint32_t number, const HarmfulProxy* proxy, bool others_leave = false) {
    const Watchdog watchdog("attempt " + std::to_string(number));
    std::vector<std::unique_ptr<Bridge>> bridges(count());
    std::vector<Outcome> outcomes(count());
    std::vector<std::thread> threads;
    std::atomic<bool> leave{false};
    for (int node = 0; node < count(); ++node) {
      bridges[node] = bridge(node, number, proxy);
      threads.emplace_back([&, node] {
        outcomes[node] = train(node, bridges[node], leave);
        if (others_leave && !outcomes[node].failure.empty()) leave = true;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return outcomes;
  }
  // An attempt through a proxy that harms nothing comes to the right sums.
  void expect_sound_attempt(uint32_t number) {
    const auto harmless = proxy(HarmfulProxy::none);
    expect_success(attempt(number, harmless.get()));
  }

 private:
  // False: told to leave.
  bool step(int node, Bridge& bridge, uint32_t step, const std::atomic<bool>& leave) {
    std::vector<float>& array = arrays_[node];
    std::memcpy(array.data(), values(node, step).data(), kElements * sizeof(float));
    bridge.begin(step);
    for (std::size_t bucket = 0; bucket < kSlices.size(); ++bucket) bridge.submit();
    while (!bridge.reached(kSlices.size())) {
      if (leave) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    // Before check(): what is said to be done must be right, also where the bridge has failed since.
    for (std::size_t bucket = 0; bucket < bridge.done(); ++bucket) {
      const ShardRange& slice = kSlices[bucket];
      EXPECT_EQ(std::memcmp(array.data() + slice.begin, sum_over(count(), step).data() + slice.begin,
                            slice.count() * sizeof(float)),
                0)
          << "a wrong sum: host " << node << ", step " << step << ", bucket " << bucket;
    }
    bridge.check();
    return true;
  }

  const bool packed_;
  std::vector<Values> arrays_;
};

}  // namespace annulus
