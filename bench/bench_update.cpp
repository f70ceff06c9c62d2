#include "bench/bench_update.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "bench/statistics.h"
#include "collectives/store_chooser.h"
#include "kernels/optimizer.h"
#include "launcher/domains.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/residency.h"
#include "launcher/topology_drawing.h"
#include "runtime/segment.h"

namespace annulus {
namespace {

constexpr int kRounds = 15, kWarmupRounds = 9;  // while kinds of stores are tried

// One bucket of `bytes`, as a training step exchanges it.
SegmentInputs inputs_for(int ranks, int64_t bytes) {
  const int64_t blocks = (bytes / 4 + kBlockElements - 1) / kBlockElements;
  SegmentInputs inputs;
  inputs.ranks = ranks;
  inputs.shards = ranks;
  inputs.buckets.extents = {{0, blocks}};
  inputs.buckets.first_layer = {0};
  inputs.buckets.elements = blocks * kBlockElements;
  return inputs;
}

struct RankTimes {
  int64_t update_ns[kRounds];
  int64_t copy_ns[kRounds];
};

// Nanoseconds that this rank takes to copy its slice of one state array to another, by the faster kind of
// store.
int64_t time_copy(const Segment& segment, const ShardRange& slice) {
  int64_t best = INT64_MAX;
  for (const Store store : {Store::kCached, Store::kStreaming}) {
    const int64_t begin = now_ns();
    copy(slice.count() * 4, segment.weights(0) + slice.begin, segment.moments(1) + slice.begin, store);
    best = std::min(best, now_ns() - begin);
  }
  return best;
}

RankTimes run_rank(const Segment& segment, const SegmentInputs& inputs, const WaitPolicy& waiting, int rank) {
  const SgdStep sgd{.learning_rate = 0.01f, .momentum = 0.9f};
  Waiter waiter(segment.header().wait, segment.controls(), rank, waiting);
  Versions versions = segment.versions();
  uint32_t step = 0;
  UpdateStores stores;
  stores.moments = store_of_moments(inputs.buckets.elements);
  StoreChooser chooser;
  Exchange exchange(inputs.exchange(), segment.exchange_memory(), versions, waiter,
                    [&](int64_t at, int64_t count, const float* sum) {
                      const int from = (step - 1) % 2, to = step % 2;
                      sgd_update(sgd, count, sum, segment.weights(from) + at, segment.moments(from) + at,
                                 segment.weights(to) + at, segment.moments(to) + at, stores);
                    });
  const ShardRange blocks = slice_of(rank, inputs.ranks, inputs.buckets.extents[0]);
  const ShardRange slice{blocks.begin * kBlockElements, blocks.end * kBlockElements};
  float* const gradients = segment.gradients(rank, 0);

  RankTimes times{};
  for (int round = -kWarmupRounds; round < kRounds; ++round) {
    // As a backward pass does, the rank writes all of its gradients; then all begin together.
    std::fill_n(gradients, inputs.buckets.elements, static_cast<float>(rank + 1));
    versions.store(rank, 0, ++step);
    waiter.wake_all();
    versions.wait_all(waiter, step);
    exchange.begin(++step);
    stores.weights = chooser.choose(inputs.buckets.elements);
    const int64_t begin = now_ns();
    exchange.publish();
    exchange.finish();
    versions.wait_all(waiter, step);
    const int64_t end = now_ns();
    chooser.took(inputs.buckets.elements, end - begin);
    const int64_t copied = time_copy(segment, slice);
    if (round >= 0) times.update_ns[round] = end - begin, times.copy_ns[round] = copied;
  }
  return times;
}

// Median over rounds of the slowest rank's time, in microseconds.
double median_of_slowest(const std::vector<RankTimes>& ranks, const int64_t (RankTimes::*times)[kRounds]) {
  const auto time_ns = [times](const RankTimes& rank, int round) { return (rank.*times)[round]; };
  return quantile(times_of_slowest(ranks, kRounds, time_ns), 0.5);
}

}  // namespace

int bench_update(const BenchUpdateOptions& options) {
  const Machine machine = Machine::this_machine();
  const Placement placement =
      place_ranks(machine, options.config.workers, options.config.bind, options.config.smt);
  const int ranks = static_cast<int>(placement.workers.size());
  if (!options.json) {
    fmt::print(
        "{} ranks; copy: each rank copies its slice of one state array to another\n\n"
        "{:>12} {:>12} {:>12} {:>10} {:>10} {:>8}\n",
        ranks, "bytes", "traffic MiB", "update us", "copy GB/s", "ideal us", "ratio");
  }
  for (const int64_t bytes : options.bytes) {
    const SegmentInputs inputs = inputs_for(ranks, bytes);
    const SegmentPlan plan = plan_segment(inputs);
    if (const AvailableMemory memory = available_memory(); static_cast<int64_t>(plan.bytes) > memory.bytes) {
      throw UserError::format("--bytes {}: the segment needs {}, and {} leaves {}; use a smaller size", bytes,
                              format_bytes(plan.bytes), memory.source, format_bytes(memory.bytes));
    }
    const Segment segment(plan, inputs, 0, [&](void* address, uint64_t size, int rank) {
      if (rank >= 0) (void)bind_range(machine, address, size, placement.workers[rank].memory_node);
    });
    segment.versions().reset(0);
    const std::vector<std::string> results = run_ranks(
        machine, placement,
        {.body =
             [&](int rank) {
               const RankTimes times = run_rank(segment, inputs, wait_policy(placement, 30), rank);
               return std::string(reinterpret_cast<const char*>(&times), sizeof times);
             },
         .abort = [&] { segment.abort(); },
         .warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); }});
    std::vector<RankTimes> times(ranks);
    for (int rank = 0; rank < ranks; ++rank)
      std::memcpy(&times[rank], results[rank].data(), sizeof(RankTimes));

    const double array_bytes = static_cast<double>(inputs.buckets.elements) * 4;
    const double update_us = median_of_slowest(times, &RankTimes::update_ns);
    // A copy reads one array and writes one; all ranks together copy a whole one.
    const double copy_gbps = 2 * array_bytes / median_of_slowest(times, &RankTimes::copy_ns) * 1e-3;
    // Every rank's gradient, weights and moments are read once; weights and moments are written once.
    const double traffic = array_bytes * (ranks + 4);
    const double ideal_us = traffic / copy_gbps * 1e-3;
    if (options.json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"workers", ranks},
                                                {"bytes", bytes},
                                                {"traffic_bytes", static_cast<int64_t>(traffic)},
                                                {"median_us", update_us},
                                                {"copy_gbps", copy_gbps},
                                                {"ideal_us", ideal_us},
                                                {"ratio_to_copy", update_us / ideal_us}}
                             .dump());
    } else {
      fmt::print("{:>12} {:>12.1f} {:>12.1f} {:>10.2f} {:>10.1f} {:>8.2f}\n", bytes, traffic / 1048576,
                 update_us, copy_gbps, ideal_us, update_us / ideal_us);
    }
  }
  return 0;
}

}  // namespace annulus
