// Bridges of several hosts as threads of one process, over loopback.
#include "collectives/bridge.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>

#include "kernels/reduce.h"
#include "telemetry/error.h"
#include "tests/collectives/local_hosts.h"

namespace annulus {
namespace {

constexpr int64_t kBlock = kBlockElements;

std::vector<float> values(int host, int64_t elements) {
  std::mt19937 random(host + 1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(elements);
  for (float& value : values) value = uniform(random);
  return values;
}

// The sum over hosts as the summation tree adds.
std::vector<float> tree(const std::vector<std::vector<float>>& in, int lo, int hi) {
  if (hi - lo == 1) return in[lo];
  const int middle = lo + (hi - lo + 1) / 2;
  std::vector<float> sum = tree(in, lo, middle);
  const std::vector<float> right = tree(in, middle, hi);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += right[i];
  return sum;
}

std::vector<float> rounded(DataType type, std::vector<float> in) {
  if (type == DataType::kF32) return in;
  std::vector<uint16_t> bits(in.size());
  narrow_reference(type, static_cast<int64_t>(in.size()), in.data(), bits.data());
  widen_reference(type, static_cast<int64_t>(in.size()), bits.data(), in.data());
  return in;
}

// Hosts whose bridges have slices to sum, and notes.
class Hosts : public LocalHosts {
 public:
  Hosts(int count, std::vector<ShardRange> slices, DataType wire = DataType::kF32)
      : LocalHosts(count), slices_(std::move(slices)), wire_(wire), notes_read_(count) {}

  std::unique_ptr<Bridge> bridge(int node, float* array, uint32_t attempt = 1,
                                 std::unique_ptr<BridgePacking> packing = nullptr) {
    return std::make_unique<Bridge>(
        BridgePlan{.hosts = count(), .node = node, .slices = slices_, .wire = wire_},
        Bridge::Wiring{.connect = connect_bridge(peers(node, attempt)),
                       .arrays = {array},
                       .packing = std::move(packing),
                       .attempt = attempt,
                       .notes = {[node] { return 100u + node; },
                                 [this, node](uint32_t note) { notes_read_[node] = note; }},
                       .wake = [] {}});
  }
  uint32_t note_read(int node) const { return notes_read_[node]; }

 private:
  const std::vector<ShardRange> slices_;
  const DataType wire_;
  std::vector<std::atomic<uint32_t>> notes_read_;
};

struct Case {
  int hosts;
  DataType wire;
};

class BridgeSums : public testing::TestWithParam<Case> {};

// Every host gets the same bits; where hosts are 2, 4 or 8 and the wire is fp32, those of the tree.
TEST_P(BridgeSums, AreEqualOnAllHosts) {
  const auto [count, wire] = GetParam();
  const std::vector<ShardRange> slices{
      {0, 3 * kBlock}, {5 * kBlock, 90 * kBlock}, {90 * kBlock, 90 * kBlock}, {100 * kBlock, 101 * kBlock}};
  const int64_t elements = 101 * kBlock;
  Hosts hosts(count, slices, wire);
  std::vector<std::vector<float>> in, arrays;
  std::vector<std::unique_ptr<Bridge>> bridges;
  for (int node = 0; node < count; ++node) in.push_back(values(node, elements));
  arrays = in;
  for (int node = 0; node < count; ++node) bridges.push_back(hosts.bridge(node, arrays[node].data()));
  for (uint32_t step = 1; step <= 3; ++step) {
    for (int node = 0; node < count; ++node) {
      arrays[node] = in[node];
      bridges[node]->begin(step);
      for (std::size_t bucket = 0; bucket < slices.size(); ++bucket) bridges[node]->submit();
    }
    for (int node = 0; node < count; ++node) {
      wait_for(*bridges[node], slices.size());
      bridges[node]->check();
    }
    const std::vector<float> expected = tree(in, 0, count);
    for (int node = 0; node < count; ++node) {
      std::vector<float> got = in[node];
      for (const ShardRange& slice : slices) {
        for (int64_t i = slice.begin; i < slice.end; ++i) {
          const float tolerance = wire == DataType::kF32   ? (count & (count - 1) ? 1e-5f : 0.0f)
                                  : wire == DataType::kF16 ? 1e-2f
                                                           : 1e-1f;
          ASSERT_NEAR(arrays[node][i], expected[i], tolerance) << "host " << node << ", element " << i;
          ASSERT_EQ(arrays[node][i], arrays[0][i]) << "host " << node << ", element " << i;
        }
      }
      // What is no rank's slice stays.
      ASSERT_EQ(arrays[node][4 * kBlock], in[node][4 * kBlock]);
      EXPECT_GE(hosts.note_read(node), 100u);
    }
  }
  if (wire != DataType::kF32 && count == 2) {
    EXPECT_EQ(arrays[0][0], rounded(wire, {in[0][0] + rounded(wire, {in[1][0]})[0]})[0]);
  }
}

INSTANTIATE_TEST_SUITE_P(Hosts, BridgeSums,
                         testing::Values(Case{2, DataType::kF32}, Case{3, DataType::kF32},
                                         Case{4, DataType::kF32}, Case{5, DataType::kF32},
                                         Case{8, DataType::kF32}, Case{2, DataType::kF16},
                                         Case{4, DataType::kF16}, Case{3, DataType::kBf16}));

// A host that ends in the midst of a step: the others give up, none waits for ever.
TEST(Bridge, GivesUpWhenAPeerIsGone) {
  const std::vector<ShardRange> slices{{0, 40 * kBlock}};
  Hosts hosts(2, slices);
  std::vector<float> a = values(0, 40 * kBlock), b = a;
  auto first = hosts.bridge(0, a.data()), second = hosts.bridge(1, b.data());
  for (Bridge* bridge : {first.get(), second.get()}) {
    bridge->begin(1);
    bridge->submit();
  }
  wait_for(*second, 1);
  wait_for(*first, 1);
  first->begin(2);
  first->submit();
  second.reset();
  wait_for(*first, 1);
  EXPECT_THROW(first->check(), LinkError);
  EXPECT_THROW(first->submit(), LinkError);
}

// Whoever leaves while peers are missing does so at once.
TEST(Bridge, LeavesWhileItConnects) {
  Hosts hosts(3, {{0, kBlock}});
  std::vector<float> a(kBlock);
  auto bridge = hosts.bridge(1, a.data());
  bridge.reset();
}

// A bridge of an earlier attempt, which a peer has not yet left, is not let in.
TEST(Bridge, MeetsOnlyItsOwnAttempt) {
  Hosts hosts(2, {{0, kBlock}});
  std::vector<float> a = values(0, kBlock), b = values(1, kBlock), old = values(2, kBlock);
  const std::vector<float> sum = tree({a, b}, 0, 2);
  auto stale = hosts.bridge(1, old.data(), 1);
  auto first = hosts.bridge(0, a.data(), 2);
  wait_for(*stale, 1);
  EXPECT_THROW(stale->check(), LinkError);
  auto second = hosts.bridge(1, b.data(), 2);
  for (Bridge* bridge : {first.get(), second.get()}) {
    bridge->begin(1);
    bridge->submit();
  }
  wait_for(*first, 1);
  wait_for(*second, 1);
  first->check();
  EXPECT_EQ(a, sum);
  EXPECT_EQ(b, sum);
}

// Packs nothing but the first element of each block, and counts what it is asked for.
class FirstOfBlocks final : public BridgePacking {
 public:
  FirstOfBlocks(float* array, std::vector<ShardRange> slices)
      : array_(array), slices_(std::move(slices)), whole_(slices_.size(), std::vector<float>(kBlock)) {}
  std::span<float> whole(int bucket) override { return whole_[bucket]; }
  std::span<const std::byte> pack(uint32_t step, int bucket) override {
    message_.clear();
    whole_[bucket].assign(kBlock, static_cast<float>(bucket) + array_[0]);
    for (int64_t i = slices_[bucket].begin; i < slices_[bucket].end; i += kBlock) {
      // As many bytes as step and block say, so that messages have frames in any number.
      message_.insert(message_.end(), (i / kBlock + step) % 3 * 100'000 + 1, array_[i]);
    }
    return std::as_bytes(std::span(message_));
  }
  uint64_t most_bytes(int bucket) const override {
    return (slices_[bucket].count() / kBlock) * 300'001 * sizeof(float);
  }
  void unpack(uint32_t, int bucket, const std::vector<std::span<const std::byte>>& messages) override {
    for (int64_t i = slices_[bucket].begin; i < slices_[bucket].end; ++i) array_[i] = 0;
    whole_sum = whole_[bucket][kBlock - 1];
    for (const auto& message : messages) {
      float first = 0;
      if (message.size() >= sizeof first) std::memcpy(&first, message.data(), sizeof first);
      if (slices_[bucket].count() > 0) array_[slices_[bucket].begin] += first;
    }
  }

  float whole_sum = 0;  // of the last bucket

 private:
  float* array_;
  std::vector<ShardRange> slices_;
  std::vector<std::vector<float>> whole_;
  std::vector<float> message_;
};

TEST(Bridge, GathersPackedMessages) {
  for (const int count : {2, 3, 4}) {
    const std::vector<ShardRange> slices{{0, 2 * kBlock}, {2 * kBlock, 2 * kBlock}, {3 * kBlock, 6 * kBlock}};
    Hosts hosts(count, slices);
    std::vector<std::vector<float>> arrays(count);
    std::vector<FirstOfBlocks*> packings;
    std::vector<std::unique_ptr<Bridge>> bridges;
    for (int node = 0; node < count; ++node) {
      arrays[node].resize(6 * kBlock);
      auto packing = std::make_unique<FirstOfBlocks>(arrays[node].data(), slices);
      packings.push_back(packing.get());
      bridges.push_back(hosts.bridge(node, arrays[node].data(), 1, std::move(packing)));
    }
    for (uint32_t step = 1; step <= 4; ++step) {
      for (int node = 0; node < count; ++node) {
        std::fill(arrays[node].begin(), arrays[node].end(), static_cast<float>(step * (node + 1)));
        bridges[node]->begin(step);
      }
      for (std::size_t bucket = 0; bucket < slices.size(); ++bucket) {
        for (int node = 0; node < count; ++node) bridges[node]->submit();
      }
      for (int node = 0; node < count; ++node) {
        wait_for(*bridges[node], slices.size());
        bridges[node]->check();
        const float sum = static_cast<float>(step * count * (count + 1) / 2);
        EXPECT_EQ(arrays[node][0], sum);
        EXPECT_EQ(arrays[node][3 * kBlock], sum);
        EXPECT_EQ(arrays[node][3 * kBlock + 1], 0);
        // Each host's first element is the sum by then, as the first bucket is done.
        EXPECT_EQ(packings[node]->whole_sum, count * (2 + sum));
      }
    }
  }
}

// Nothing is packed, and so no residual written over, before all hosts have begun the step.
TEST(Bridge, PacksOnlyWhatAllHostsHaveBegun) {
  const std::vector<ShardRange> slices{{0, kBlock}};
  Hosts hosts(2, slices);
  std::vector<float> a(kBlock, 1), b(kBlock, 2);
  struct Watched final : BridgePacking {
    Watched(float* array, std::vector<ShardRange> slices, std::atomic<int>& packed)
        : inner(array, std::move(slices)), packed(packed) {}
    std::span<float> whole(int bucket) override { return inner.whole(bucket); }
    std::span<const std::byte> pack(uint32_t step, int bucket) override {
      ++packed;
      return inner.pack(step, bucket);
    }
    uint64_t most_bytes(int bucket) const override { return inner.most_bytes(bucket); }
    void unpack(uint32_t step, int bucket, const std::vector<std::span<const std::byte>>& messages) override {
      inner.unpack(step, bucket, messages);
    }
    FirstOfBlocks inner;
    std::atomic<int>& packed;
  };
  std::atomic<int> packed{0};
  auto first = hosts.bridge(0, a.data(), 1, std::make_unique<Watched>(a.data(), slices, packed));
  auto second = hosts.bridge(1, b.data(), 1, std::make_unique<FirstOfBlocks>(b.data(), slices));
  first->begin(1);
  first->submit();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(packed, 0);
  second->begin(1);
  second->submit();
  wait_for(*first, 1);
  EXPECT_EQ(packed, 1);
  EXPECT_EQ(a[0], 3);
}

// Hosts that are not in the same step end the attempt, not the program.
TEST(Bridge, RefusesFramesOfAnotherStep) {
  Hosts hosts(2, {{0, kBlock}});
  std::vector<float> a = values(0, kBlock), b = a;
  auto first = hosts.bridge(0, a.data()), second = hosts.bridge(1, b.data());
  first->begin(1);
  second->begin(2);
  first->submit();
  second->submit();
  wait_for(*first, 1);
  EXPECT_THROW(first->check(), LinkError);
}

}  // namespace
}  // namespace annulus
