#include "runtime/top_k_packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/network.h"
#include "runtime/models.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr double kShare = 0.05;

// Of two steps an epoch, after each of which the learning rate falls to a half.
StepSchedule schedule_with(double ratio_warmup) {
  TrainConfig config;
  config.batch_size = 10;
  config.schedule = "step";
  config.decay_every = 1;
  config.decay_factor = 0.5;
  config.ratio = kShare;
  config.ratio_warmup = ratio_warmup;
  return StepSchedule(config, 20);
}

// Hosts with a number of ranks each, whose messages are handed over by the test.
class Hosts {
 public:
  Hosts(int hosts, int ranks, double ratio_warmup = 0, SparseFormat format = SparseFormat::kCompact)
      : network_(Network(choose_network("simplecnn", "cifar", {1, 28, 28}, 10), {.images = 1}).plan()),
        buckets_(plan_buckets(network_, 200 << 10, true)),
        hosts_(hosts),
        ranks_(ranks) {
    for (int host = 0; host < hosts; ++host) {
      gradients_.emplace_back(buckets_.elements);
      for (auto& residual : residuals_.emplace_back()) residual.assign(buckets_.elements, 0.0f);
    }
    for (int host = 0; host < hosts; ++host) {
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<ShardRange> slices;
        for (const BucketExtent& bucket : buckets_.extents) {
          const ShardRange blocks = slice_of(rank, ranks, bucket);
          slices.push_back(
              {bucket.offset + blocks.begin * kBlockElements, bucket.offset + blocks.end * kBlockElements});
        }
        packings_.push_back(std::make_unique<TopKPacking>(
            schedule_with(ratio_warmup), network_, buckets_, slices,
            TopKPacking::Arrays{[this, host](uint32_t) { return gradients_[host].data(); },
                                [this, host](uint32_t step) { return residuals_[host][step % 2].data(); }},
            format));
      }
    }
  }

  std::vector<float>& gradient(int host) { return gradients_[host]; }
  std::vector<float>& residual(int host, uint32_t step) { return residuals_[host][step % 2]; }
  const BucketPlan& buckets() const { return buckets_; }
  const NetworkPlan& network() const { return network_; }

  // New gradients on all hosts, the same for any number of ranks.
  void draw(uint32_t step, float scale = 1) {
    for (int host = 0; host < hosts_; ++host) {
      std::mt19937 random(100 * step + host);
      std::normal_distribution<float> normal;
      for (int i = 0; i < std::ssize(network_.parameters); ++i) {
        std::vector<float> plain(network_.parameters[i].layout.elements());
        for (float& value : plain) value = scale * normal(random);
        from_plain(network_.parameters[i].layout, plain.data(),
                   gradients_[host].data() + buckets_.offsets[i]);
      }
    }
  }

  // All hosts' messages of a bucket of one rank, as they would come.
  using Messages = std::vector<std::vector<std::byte>>;
  Messages pack(uint32_t step, int rank, int bucket) {
    Messages messages;
    for (int host = 0; host < hosts_; ++host) {
      TopKPacking& packing = *packings_[host * ranks_ + rank];
      const auto message = packing.pack(step, bucket);
      EXPECT_LE(message.size(), packing.most_bytes(bucket));
      messages.emplace_back(message.begin(), message.end());
      bytes_ += static_cast<int64_t>(message.size());
    }
    return messages;
  }
  void unpack(uint32_t step, int host, int rank, int bucket, const Messages& messages) {
    packings_[host * ranks_ + rank]->unpack(step, bucket, {messages.begin(), messages.end()});
  }
  // What bridges do with what goes whole.
  void sum_whole(int rank, int bucket) {
    std::vector<float> sum(packings_[rank]->whole(bucket).size());
    for (int host = 0; host < hosts_; ++host) {
      const std::span<float> own = packings_[host * ranks_ + rank]->whole(bucket);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += own[i];
    }
    for (int host = 0; host < hosts_; ++host) {
      std::ranges::copy(sum, packings_[host * ranks_ + rank]->whole(bucket).begin());
    }
  }
  void exchange(uint32_t step) {
    for (int rank = 0; rank < ranks_; ++rank) {
      for (int bucket = 0; bucket < std::ssize(buckets_.extents); ++bucket) {
        const Messages messages = pack(step, rank, bucket);
        sum_whole(rank, bucket);
        for (int host = 0; host < hosts_; ++host) unpack(step, host, rank, bucket, messages);
      }
    }
  }
  int64_t bytes() const { return bytes_; }

 private:
  NetworkPlan network_;
  BucketPlan buckets_;
  int hosts_, ranks_;
  std::vector<std::vector<float>> gradients_;
  std::vector<std::array<std::vector<float>, 2>> residuals_;
  std::vector<std::unique_ptr<TopKPacking>> packings_;
  int64_t bytes_ = 0;
};

TEST(TopKPacking, GivesAllHostsTheSameSums) {
  for (const int hosts : {2, 3, 5}) {
    Hosts all(hosts, 2);
    for (uint32_t step = 1; step <= 3; ++step) {
      all.draw(step);
      all.exchange(step);
      for (int host = 1; host < hosts; ++host)
        ASSERT_EQ(all.gradient(host), all.gradient(0)) << hosts << " hosts";
    }
  }
}

TEST(TopKPacking, HasTheSameBitsForAnyNumberOfRanks) {
  Hosts one(2, 1), three(2, 3);
  for (uint32_t step = 1; step <= 3; ++step) {
    for (Hosts* hosts : {&one, &three}) {
      hosts->draw(step);
      hosts->exchange(step);
    }
    ASSERT_EQ(one.gradient(0), three.gradient(0));
    ASSERT_EQ(one.residual(1, step), three.residual(1, step));
  }
}

// What a host sends and what it keeps make up its sum and what it had kept, at the rate of its step: nothing
// is lost, to the bit.
void expect_nothing_lost(SparseFormat format) {
  for (const float scale : {1.0f, 1e-12f, 3e7f}) {
    Hosts hosts(1, 1, 0, format);
    for (uint32_t step = 1; step <= 3; ++step) {
      hosts.draw(step, scale);
      const std::vector<float> sum = hosts.gradient(0), before = hosts.residual(0, step - 1);
      hosts.exchange(step);
      for (int i = 0; i < std::ssize(hosts.network().parameters); ++i) {
        const ParameterPlan& parameter = hosts.network().parameters[i];
        const int64_t begin = hosts.buckets().offsets[i], end = begin + parameter.layout.padded_elements();
        int64_t sent = 0;
        for (int64_t at = begin; at < end; ++at) {
          const float got = hosts.gradient(0)[at], kept = hosts.residual(0, step)[at];
          ASSERT_EQ(got + kept, sum[at] + (step == 3 ? 2 : 1) * before[at])
              << parameter.name << ", scale " << scale;
          if (got != 0) ++sent;
          if (!has_residual(parameter.role)) {
            ASSERT_EQ(got, sum[at]);
            continue;
          }
          // Rounding takes away half of the last bit at most, or what the largest number is exceeded by.
          if (got != 0) {
            ASSERT_LE(std::abs(kept), std::abs(got) * (format == SparseFormat::kTiny ? 0x1.2p-5f : 0x1p-11f));
          }
        }
        if (has_residual(parameter.role)) {
          ASSERT_LE(sent, count_for(kShare, parameter.layout.elements()));
        }
      }
    }
  }
}

TEST(TopKPacking, LosesNothing) { expect_nothing_lost(SparseFormat::kCompact); }

TEST(TopKPacking, LosesNothingWithValuesOfOneByte) { expect_nothing_lost(SparseFormat::kTiny); }

TEST(TopKPacking, SendsWhatIsNotFiniteToEverybody) {
  Hosts hosts(2, 1);
  hosts.draw(1);
  int64_t at = -1;
  for (int i = 0; i < std::ssize(hosts.network().parameters) && at < 0; ++i) {
    if (has_residual(hosts.network().parameters[i].role)) at = hosts.buckets().offsets[i];
  }
  hosts.gradient(1)[at] = std::numeric_limits<float>::infinity();
  hosts.exchange(1);
  EXPECT_TRUE(std::isinf(hosts.gradient(0)[at]));
  EXPECT_TRUE(std::isinf(hosts.gradient(1)[at]));
  EXPECT_FALSE(std::isinf(hosts.residual(1, 1)[at]));
}

TEST(TopKPacking, SendsAFractionOfTheBytes) {
  Hosts hosts(1, 1);
  hosts.draw(1);
  hosts.exchange(1);
  EXPECT_LT(hosts.bytes(), hosts.buckets().elements * 4 / 20);
}

TEST(TopKPacking, SendsMoreDuringTheWarmUpAndHasRoomForIt) {
  Hosts warming(1, 1, 1), steady(1, 1);
  int64_t more[4] = {};
  for (uint32_t step = 1; step <= 3; ++step) {
    const int64_t before[] = {warming.bytes(), steady.bytes()};
    for (Hosts* hosts : {&warming, &steady}) {
      hosts->draw(step);
      hosts->exchange(step);
    }
    more[step] = warming.bytes() - before[0] - (steady.bytes() - before[1]);
  }
  EXPECT_GT(more[1], more[2]);
  EXPECT_GT(more[2], 0);
  EXPECT_NEAR(more[3], 0, 100);
}

TEST(TopKPacking, RefusesMessagesThatNobodySends) {
  Hosts hosts(2, 1);
  hosts.draw(1);
  for (int bucket = 0; bucket < std::ssize(hosts.buckets().extents); ++bucket) {
    const Hosts::Messages good = hosts.pack(1, 0, bucket);
    const std::size_t size = good[1].size();
    for (const std::size_t length : {std::size_t{0}, std::size_t{3}, size / 2, size - 1}) {
      if (length >= size) continue;
      Hosts::Messages cut = good;
      cut[1].resize(length);
      EXPECT_THROW(hosts.unpack(1, 0, 0, bucket, cut), LinkError) << length << " of " << size;
    }
    Hosts::Messages longer = good;
    longer[1].push_back(std::byte{0});
    EXPECT_THROW(hosts.unpack(1, 0, 0, bucket, longer), LinkError);
    hosts.unpack(1, 0, 0, bucket, good);
  }
}

}  // namespace
}  // namespace annulus
