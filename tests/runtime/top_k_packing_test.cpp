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

// Of two steps an epoch, after each of which the learning rate falls to a half. With an optimizer its
// momentum is corrected.
TrainConfig config_with(double ratio_warmup, const char* optimizer = nullptr) {
  TrainConfig config;
  config.host_count = 2;
  config.compress = "topk";
  config.momentum_correction = optimizer != nullptr;
  if (optimizer != nullptr) config.optimizer = optimizer;
  config.batch_size = 10;
  config.schedule = "step";
  config.decay_every = 1;
  config.decay_factor = 0.5;
  config.ratio = kShare;
  config.ratio_warmup = ratio_warmup;
  return config;
}

// Hosts with a number of ranks each, whose messages are handed over by the test.
class Hosts {
 public:
  Hosts(int hosts, int ranks, const TrainConfig& config = config_with(0))
      : network_(Network(choose_network("simplecnn", "cifar", {1, 28, 28}, 10), {.images = 1}).plan()),
        buckets_(plan_buckets(network_, 200 << 10, true)),
        hosts_(hosts),
        ranks_(ranks) {
    for (int host = 0; host < hosts; ++host) {
      gradients_.emplace_back(buckets_.elements);
      for (auto* const kept : {&residuals_, &velocities_}) {
        for (auto& generation : kept->emplace_back()) generation.assign(buckets_.elements, 0.0f);
      }
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
            StepSchedule(config, 20), network_, buckets_, slices,
            TopKPacking::Arrays{[this, host](uint32_t) { return gradients_[host].data(); },
                                [this, host](uint32_t step) { return residuals_[host][step % 2].data(); },
                                [this, host](uint32_t step) { return velocities_[host][step % 2].data(); }},
            MomentumCorrection(config, network_, buckets_), sparse_format_of(config)));
      }
    }
  }

  std::vector<float>& gradient(int host) { return gradients_[host]; }
  std::vector<float>& residual(int host, uint32_t step) { return residuals_[host][step % 2]; }
  std::vector<float>& velocity(int host, uint32_t step) { return velocities_[host][step % 2]; }
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
  std::vector<std::array<std::vector<float>, 2>> residuals_, velocities_;
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
  for (const TrainConfig& config : {config_with(0), config_with(0, "nesterov")}) {
    Hosts one(2, 1, config), three(2, 3, config);
    for (uint32_t step = 1; step <= 3; ++step) {
      for (Hosts* hosts : {&one, &three}) {
        hosts->draw(step);
        hosts->exchange(step);
      }
      ASSERT_EQ(one.gradient(0), three.gradient(0));
      ASSERT_EQ(one.residual(1, step), three.residual(1, step));
      ASSERT_EQ(one.velocity(1, step), three.velocity(1, step));
    }
  }
}

// A step is done again after a worker's death, which may come between any two buckets. It reads what the
// committed step has left.
TEST(TopKPacking, HasTheSameBitsWhenAStepIsRepeated) {
  for (const TrainConfig& config : {config_with(0), config_with(0, "nesterov")}) {
    Hosts undisturbed(2, 1, config), repeated(2, 1, config);
    for (uint32_t step = 1; step <= 4; ++step) {
      undisturbed.draw(step);
      undisturbed.exchange(step);
      for (int bucket = 0; bucket < std::ssize(repeated.buckets().extents); ++bucket) {
        repeated.draw(step);
        for (int packed = 0; packed <= bucket; ++packed) repeated.pack(step, 0, packed);
      }
      repeated.draw(step);
      repeated.exchange(step);
      ASSERT_EQ(repeated.gradient(0), undisturbed.gradient(0)) << "step " << step;
      for (const int host : {0, 1}) {
        ASSERT_EQ(repeated.residual(host, step), undisturbed.residual(host, step));
        ASSERT_EQ(repeated.velocity(host, step), undisturbed.velocity(host, step));
      }
    }
  }
}

struct Loss {
  const char* name;
  float scale;                      // of gradients
  const char* optimizer = nullptr;  // whose momentum is corrected
  const char* values = "fp16";
};

class TopKPackingOf : public testing::TestWithParam<Loss> {};

INSTANTIATE_TEST_SUITE_P(Ways, TopKPackingOf,
                         testing::Values(Loss{"usual", 1}, Loss{"tiny", 1e-12f}, Loss{"huge", 3e7f},
                                         Loss{"momentum", 1, "momentum"}, Loss{"nesterov", 1, "nesterov"},
                                         Loss{"tiny_nesterov", 1e-12f, "nesterov"},
                                         Loss{"huge_nesterov", 3e7f, "nesterov"},
                                         Loss{"bytes", 1, nullptr, "fp8"},
                                         Loss{"tiny_bytes", 1e-12f, "nesterov", "fp8"}),
                         [](const auto& info) { return std::string(info.param.name); });

// What a host sends and what it keeps make up its sum, or what momentum makes of that, and what it had kept,
// at the rate of its step: nothing is lost, to the bit.
TEST_P(TopKPackingOf, LosesNothing) {
  const bool corrects = GetParam().optimizer != nullptr;
  const bool nesterov = corrects && GetParam().optimizer == std::string("nesterov");
  TrainConfig config = config_with(0, GetParam().optimizer);
  config.topk_values = GetParam().values;
  Hosts hosts(1, 1, config);
  for (uint32_t step = 1; step <= 4; ++step) {
    hosts.draw(step, GetParam().scale);
    const std::vector<float> sum = hosts.gradient(0), before = hosts.residual(0, step - 1),
                             velocity = hosts.velocity(0, step - 1);
    hosts.exchange(step);
    for (int i = 0; i < std::ssize(hosts.network().parameters); ++i) {
      const ParameterPlan& parameter = hosts.network().parameters[i];
      const int64_t begin = hosts.buckets().offsets[i], end = begin + parameter.layout.padded_elements();
      int64_t sent = 0;
      for (int64_t at = begin; at < end; ++at) {
        const float got = hosts.gradient(0)[at], kept = hosts.residual(0, step)[at];
        const float moved = hosts.velocity(0, step)[at];
        if (!has_residual(parameter.role)) {
          ASSERT_EQ(got, sum[at]);
          ASSERT_EQ(moved, 0);
          continue;
        }
        float own = sum[at];
        if (corrects) {
          ASSERT_EQ(moved, 0.9F * velocity[at] + sum[at]) << parameter.name;
          own = nesterov ? sum[at] + 0.9F * moved : moved;
        }
        ASSERT_EQ(got + kept, own + (step == 3 ? 2 : 1) * before[at]) << parameter.name << " " << at;
        if (got == 0) continue;
        ++sent;
        // Rounding takes away half of the last bit at most, or what exceeds the largest number.
        ASSERT_LE(std::abs(kept), std::abs(got) * (config.topk_values == "fp8" ? 0x1.2p-5f : 0x1p-11f));
      }
      if (has_residual(parameter.role)) {
        ASSERT_LE(sent, count_for(kShare, parameter.layout.elements()));
      }
    }
  }
}

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
  Hosts warming(1, 1, config_with(1)), steady(1, 1);
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
