#include "bench/bench_packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/bench_layers.h"
#include "bench/bench_train.h"
#include "bench/statistics.h"
#include "collectives/wait.h"
#include "kernels/aligned_floats.h"
#include "kernels/cpu_features.h"
#include "launcher/job.h"
#include "launcher/rank_group.h"
#include "launcher/topology_drawing.h"
#include "launcher/version.h"
#include "runtime/top_k_packing.h"

namespace annulus {
namespace {

constexpr int kWarmupRounds = 3;
constexpr int kRounds = 20;

struct PackingTimes {
  double encode_ms = 0, decode_ms = 0;           // medians
  double min_ms = 0, median_ms = 0, p99_ms = 0;  // of both together
  int64_t message_bytes = 0;                     // of a host
};

// One rank of a host, which owns all slices.
class PackingBench {
 public:
  explicit PackingBench(const RunPlan& run)
      : slices_(run.bridge(0).slices),
        drawn_(run.buckets.elements),
        gradients_(run.buckets.elements),
        residuals_{AlignedFloats(drawn_.size()), AlignedFloats(drawn_.size())},
        packing_(run.schedule, run.network, run.buckets, slices_,
                 {.gradients = [this](uint32_t) { return gradients_.data(); },
                  .residual = [this](uint32_t step) { return residuals_[step % 2].data(); }}) {
    // A layer's gradient, as far as the speed of selecting goes: Gaussian.
    std::normal_distribution<float> normal(0, 1e-3f);
    for (float& value : noise_) value = normal(random_);
  }

  PackingTimes measure() {
    std::vector<double> encode, decode, both;
    PackingTimes times;
    std::vector<std::vector<std::byte>> others(slices_.size());  // what the other host sends
    for (int round = -kWarmupRounds; round < kRounds; ++round) {
      const auto step = static_cast<uint32_t>(round + kWarmupRounds + 1);
      drift();
      int64_t encode_ns = 0, decode_ns = 0;
      times.message_bytes = 0;
      for (int bucket = 0; bucket < static_cast<int>(slices_.size()); ++bucket) {
        const int64_t begin = now_ns();
        const std::span<const std::byte> message = packing_.pack(step, bucket);
        const int64_t packed = now_ns();
        times.message_bytes += std::ssize(message);
        // Elements of the step before, so that the two hosts' mostly differ.
        std::vector<std::byte> other(message.begin(), message.end());
        std::swap(other, others[bucket]);
        if (other.empty()) other.assign(message.begin(), message.end());
        const int64_t go_on = now_ns();
        packing_.unpack(step, bucket, {message, other});
        encode_ns += packed - begin;
        decode_ns += now_ns() - go_on;
      }
      if (round < 0) continue;
      encode.push_back(static_cast<double>(encode_ns) * 1e-6);
      decode.push_back(static_cast<double>(decode_ns) * 1e-6);
      both.push_back(encode.back() + decode.back());
    }
    for (auto* samples : {&encode, &decode, &both}) std::sort(samples->begin(), samples->end());
    times.encode_ms = quantile(encode, 0.5);
    times.decode_ms = quantile(decode, 0.5);
    times.min_ms = both.front();
    times.median_ms = quantile(both, 0.5);
    times.p99_ms = quantile(both, 0.99);
    return times;
  }

 private:
  // The next step's: nine tenths of each element stay. The array is written anew, as by a backward pass.
  void drift() {
    constexpr std::size_t kPart = 4096;
    for (std::size_t begin = 0; begin < drawn_.size(); begin += kPart) {
      const std::size_t end = std::min(drawn_.size(), begin + kPart);
      const float* const noise = noise_.data() + random_() % (noise_.size() - kPart);
      for (std::size_t i = begin; i < end; ++i) drawn_[i] = 0.9f * drawn_[i] + 0.436f * noise[i - begin];
    }
    gradients_ = drawn_;
  }

  const std::vector<ShardRange> slices_;
  std::mt19937_64 random_{1};
  std::vector<float> noise_ = std::vector<float>(1 << 20);
  AlignedFloats drawn_, gradients_;  // as the segment aligns them
  AlignedFloats residuals_[2];
  TopKPacking packing_;
};

// What a process measures: a plain struct of numbers.
template <typename Result, typename Measure>
Result in_process(const Machine& machine, const Placement& placement, const Measure& measure) {
  const auto say = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); };
  const std::vector<std::string> results =
      run_ranks(machine, placement,
                {.body =
                     [&](int) {
                       const Result result = measure();
                       return std::string(reinterpret_cast<const char*>(&result), sizeof result);
                     },
                 .warning = say});
  Result result;
  std::memcpy(&result, results[0].data(), sizeof result);
  return result;
}

}  // namespace

int bench_packing(const BenchCompressionOptions& options) {
  const Machine machine = Machine::this_machine();
  TrainConfig config = options.config;
  config.dataset = "synthetic";
  config.schedule = "constant";
  config.workers = 1;
  config.batch_size = options.batch;
  const DatasetInfo dataset = describe_synthetic(bench_image("auto", config.model), 10, 1024, 0);
  const Job training = plan_job(config, machine, dataset, true);
  const double compute_ms = static_cast<double>(in_process<int64_t>(
                                machine, training.placement,
                                [&] { return measure_forward_backward(training.run, options.steps); })) *
                            1e-6;
  int64_t elements = 0;
  for (const ParameterPlan& parameter : training.run.network.parameters)
    elements += parameter.layout.elements();
  const int64_t bytes = elements * static_cast<int64_t>(sizeof(float));
  if (!options.json) {
    fmt::print("annulus {}, commit {}\n{}, {}\none thread, bound to one core\n", program_version(),
               program_commit(), cpu_name(), cpu_features());
    for (const std::string& warning : training.warnings) fmt::print("warning: {}\n", warning);
    fmt::print(
        "{}: {:.2f} MB of gradient; forward, loss and backward of {} image{} take {:.2f} ms\n"
        "top-k between two hosts, milliseconds; GB/s of gradient, and share of forward and backward, at the "
        "median of both\n\n"
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>12} {:>8}\n",
        training.run.spec.name, static_cast<double>(bytes) * 1e-6, options.batch,
        options.batch == 1 ? "" : "s", compute_ms, "ratio", "encode", "decode", "both: min", "median", "p99",
        "GB/s", "share", "encoded", "saved");
    std::fflush(stdout);
  }
  config.host_count = 2;
  config.batch_size = 2;
  config.compress = "topk";
  config.ratio_warmup = 0;
  for (const double ratio : options.ratios) {
    config.ratio = ratio;
    Job job = plan_job(config, machine, dataset, false);
    job.run.hosts.count = config.host_count;
    const auto times = in_process<PackingTimes>(machine, training.placement,
                                                [&] { return PackingBench(job.run).measure(); });
    const double gbps = static_cast<double>(bytes) / times.median_ms * 1e-6;
    const double share = times.median_ms / compute_ms;
    const double saved = 1 - static_cast<double>(times.message_bytes) / static_cast<double>(bytes);
    if (options.json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"model", training.run.spec.name},
                                                {"bytes", bytes},
                                                {"ratio", ratio},
                                                {"rounds", kRounds},
                                                {"encode_ms", times.encode_ms},
                                                {"decode_ms", times.decode_ms},
                                                {"min_ms", times.min_ms},
                                                {"median_ms", times.median_ms},
                                                {"p99_ms", times.p99_ms},
                                                {"gbps", gbps},
                                                {"encoded_bytes", times.message_bytes},
                                                {"saved", saved},
                                                {"batch", options.batch},
                                                {"forward_backward_ms", compute_ms},
                                                {"share", share}}
                             .dump());
    } else {
      fmt::print(
          "{:>8} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.2f} {:>6.1f} % {:>12} {:>6.1f} %\n",
          fmt::format("{}", ratio), times.encode_ms, times.decode_ms, times.min_ms, times.median_ms,
          times.p99_ms, gbps, 100 * share, times.message_bytes, 100 * saved);
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace annulus
