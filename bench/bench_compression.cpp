#include "bench/bench_compression.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/bench_packing.h"
#include "bench/statistics.h"
#include "collectives/sparse_codec.h"
#include "collectives/wait.h"
#include "kernels/cpu_features.h"
#include "kernels/reduce.h"
#include "kernels/top_k.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/residency.h"
#include "launcher/topology_drawing.h"
#include "launcher/version.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int kWarmupRounds = 5;
constexpr int64_t kBytesOfAllRounds = int64_t{2} << 30;
int rounds_for(int64_t bytes) {
  return static_cast<int>(std::clamp<int64_t>(kBytesOfAllRounds / bytes, 20, 200));
}

enum class Operation {
  kSelect,
  kEncodeCompact,
  kDecodeCompact,
  kEncodeExact,
  kDecodeExact,
  kToFp16,
  kFromFp16,
  kToBf16,
  kFromBf16,
};
constexpr const char* kNames[] = {"select",       "encode compact", "decode compact",
                                  "encode exact", "decode exact",   "fp32 to fp16",
                                  "fp16 to fp32", "fp32 to bf16",   "bf16 to fp32"};

// One line of the result.
struct Figure {
  Operation operation;
  double ratio;           // of a sparse gradient; 0: it is converted as a whole
  int64_t encoded_bytes;  // what remains of the gradient; those of select are 8 for each element it returns
  double min_us, median_us, p99_us;
};

// The gradient of a layer in training, as far as its speed goes: Gaussian, nine tenths of each element stay
// from step to step, and the scale of all drifts up and down.
class Gradient {
 public:
  explicit Gradient(int64_t n) : values_(n) {
    std::normal_distribution<float> normal;
    for (float& x : noise_) x = normal(random_);
    for (int64_t i = 0; i < n; ++i) values_[i] = kScale * noise_[random_() % kNoise];
  }

  void drift() {
    const float fresh = kScale * std::sqrt(1 - kKept * kKept) * (1 + 0.2f * std::sin(0.1f * round_++));
    // Parts of the noise begin anywhere, else elements of two places would always move together.
    constexpr size_t kPart = 4096;
    for (size_t begin = 0; begin < values_.size(); begin += kPart) {
      const size_t end = std::min(values_.size(), begin + kPart);
      const float* const noise = noise_.data() + random_() % (kNoise - kPart);
      for (size_t i = begin; i < end; ++i) values_[i] = kKept * values_[i] + fresh * noise[i - begin];
    }
  }

  const float* data() const { return values_.data(); }

 private:
  static constexpr size_t kNoise = 1 << 20;
  static constexpr float kScale = 1e-3f, kKept = 0.9f;
  std::mt19937_64 random_{1};
  std::vector<float> noise_ = std::vector<float>(kNoise);
  std::vector<float> values_;
  int round_ = 0;
};

// Times of one operation, a round each.
class Samples {
 public:
  template <typename Work>
  void time(const Work& work) {
    const int64_t begin = now_ns();
    work();
    times_us_.push_back(static_cast<double>(now_ns() - begin) * 1e-3);
  }

  Figure figure(Operation operation, double ratio, int64_t encoded_bytes) {
    times_us_.erase(times_us_.begin(), times_us_.begin() + kWarmupRounds);
    std::sort(times_us_.begin(), times_us_.end());
    return {operation,
            ratio,
            encoded_bytes,
            times_us_.front(),
            quantile(times_us_, 0.5),
            quantile(times_us_, 0.99)};
  }

 private:
  std::vector<double> times_us_;
};

void measure_conversions(int64_t n, std::vector<Figure>& figures) {
  Gradient gradient(n);
  std::vector<uint16_t> narrowed(n);
  std::vector<float> widened(n);
  Samples to_fp16, from_fp16, to_bf16, from_bf16;
  for (int round = -kWarmupRounds; round < rounds_for(4 * n); ++round) {
    gradient.drift();
    to_fp16.time([&] { narrow(DataType::kF16, n, gradient.data(), narrowed.data()); });
    from_fp16.time([&] { widen(DataType::kF16, n, narrowed.data(), widened.data()); });
    gradient.drift();
    to_bf16.time([&] { narrow(DataType::kBf16, n, gradient.data(), narrowed.data()); });
    from_bf16.time([&] { widen(DataType::kBf16, n, narrowed.data(), widened.data()); });
  }
  figures.push_back(to_fp16.figure(Operation::kToFp16, 0, 2 * n));
  figures.push_back(from_fp16.figure(Operation::kFromFp16, 0, 2 * n));
  figures.push_back(to_bf16.figure(Operation::kToBf16, 0, 2 * n));
  figures.push_back(from_bf16.figure(Operation::kFromBf16, 0, 2 * n));
}

void measure_sparse(int64_t n, double ratio, std::vector<Figure>& figures) {
  struct Format {
    SparseFormat format;
    Operation encode, decode;
    Samples encoding, decoding;
    std::vector<std::byte> message;
    int64_t bytes = 0;
  };
  Format formats[] = {
      {SparseFormat::kCompact, Operation::kEncodeCompact, Operation::kDecodeCompact, {}, {}, {}},
      {SparseFormat::kExact, Operation::kEncodeExact, Operation::kDecodeExact, {}, {}, {}}};
  const int64_t k = count_for(ratio, n);
  for (Format& f : formats) f.message.resize(encoded_bound(n, k, f.format));
  Gradient gradient(n);
  std::vector<float> residual(n);
  TopK top_k;
  Samples selection;
  std::vector<uint32_t> indices;
  std::vector<float> values;
  for (int round = -kWarmupRounds; round < rounds_for(4 * n); ++round) {
    gradient.drift();
    SparseView sent;
    selection.time([&] { sent = top_k.select(k, n, gradient.data(), residual.data(), residual.data()); });
    for (Format& f : formats) {
      f.encoding.time([&] { f.bytes = encode(n, sent.indices, sent.values, f.format, f.message); });
      f.decoding.time([&] { decode(std::span(f.message).first(f.bytes), n, indices, values); });
      CHECK(std::ranges::equal(indices, sent.indices), "{} round {}", kNames[int(f.decode)], round);
    }
  }
  figures.push_back(selection.figure(Operation::kSelect, ratio, 8 * k));
  for (Format& f : formats) {
    figures.push_back(f.encoding.figure(f.encode, ratio, f.bytes));
    figures.push_back(f.decoding.figure(f.decode, ratio, f.bytes));
  }
}

// At most what is needed at any one time, where all is sent: gradient, residual, 3 times as much of the
// selection's own, messages, decoded entries; and room for the program.
int64_t memory_for(int64_t bytes) { return 10 * bytes + (64 << 20); }

void print(const Figure& figure, int64_t bytes, bool json) {
  const double gbps = static_cast<double>(bytes) / figure.median_us * 1e-3;
  const double saved = 1 - static_cast<double>(figure.encoded_bytes) / static_cast<double>(bytes);
  const char* const name = kNames[static_cast<int>(figure.operation)];
  if (!json) {
    fmt::print("{:>12} {:>8} {:<16} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.2f} {:>12} {:>7.1f}%\n", bytes,
               figure.ratio > 0 ? fmt::format("{}", figure.ratio) : "-", name, figure.min_us,
               figure.median_us, figure.p99_us, gbps, figure.encoded_bytes, 100 * saved);
    return;
  }
  nlohmann::ordered_json line{{"operation", name}, {"bytes", bytes}};
  if (figure.ratio > 0) line["ratio"] = figure.ratio;
  line.update({{"rounds", rounds_for(bytes)},
               {"min_us", figure.min_us},
               {"median_us", figure.median_us},
               {"p99_us", figure.p99_us},
               {"gbps", gbps},
               {"encoded_bytes", figure.encoded_bytes},
               {"saved", saved}});
  fmt::print("{}\n", line.dump());
}

}  // namespace

int bench_compression(const BenchCompressionOptions& options) {
  if (!options.config.model.empty()) return bench_packing(options);
  for (const int64_t bytes : options.bytes) {
    if (bytes / 4 > kMostSparseElements) {
      throw UserError::format(
          "--bytes {}: a sparse vector has at most {} elements of 4 bytes; use less than "
          "16G",
          bytes, kMostSparseElements);
    }
    if (const AvailableMemory memory = available_memory(); memory_for(bytes) > memory.bytes) {
      throw UserError::format("--bytes {}: measuring needs {}, and {} leaves {}; use a smaller size", bytes,
                              format_bytes(memory_for(bytes)), memory.source, format_bytes(memory.bytes));
    }
  }
  const Machine machine = Machine::this_machine();
  const Placement placement = place_ranks(machine, 1);
  if (!options.json) {
    fmt::print("annulus {}, commit {}\n{}, {}\none thread, bound to one core\n", program_version(),
               program_commit(), cpu_name(), cpu_features());
    for (const std::string& warning : placement.warnings) fmt::print("warning: {}\n", warning);
    fmt::print(
        "microseconds; GB/s of fp32 gradient, at the median\n\n"
        "{:>12} {:>8} {:<16} {:>10} {:>10} {:>10} {:>8} {:>12} {:>8}\n",
        "bytes", "ratio", "operation", "min", "median", "p99", "GB/s", "encoded", "saved");
  }
  // A process for each series, so that lines come as they are measured and memory is given back.
  const auto run = [&](int64_t bytes, const auto& measure) {
    const std::vector<std::string> results = run_ranks(
        machine, placement,
        {.body =
             [&](int) {
               std::vector<Figure> figures;
               measure(bytes / 4, figures);
               return std::string(reinterpret_cast<const char*>(figures.data()),
                                  figures.size() * sizeof(Figure));
             },
         .warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); }});
    std::vector<Figure> figures(results[0].size() / sizeof(Figure));
    std::memcpy(figures.data(), results[0].data(), results[0].size());
    for (const Figure& figure : figures) print(figure, bytes / 4 * 4, options.json);
    std::fflush(stdout);
  };
  for (const int64_t bytes : options.bytes) {
    for (const double ratio : options.ratios) {
      run(bytes, [ratio](int64_t n, std::vector<Figure>& to) { measure_sparse(n, ratio, to); });
    }
    run(bytes, measure_conversions);
  }
  return 0;
}

}  // namespace annulus
