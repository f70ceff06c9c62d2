#include "bench/bench_bridge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/bench_train.h"
#include "bench/network_hosts.h"
#include "bench/statistics.h"
#include "collectives/bridge_links.h"
#include "kernels/aligned_floats.h"
#include "kernels/cpu_features.h"
#include "launcher/job.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/topology_drawing.h"
#include "launcher/version.h"
#include "runtime/top_k_packing.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int kWarmupRounds = 3;
int rounds_for(int64_t bytes) {
  return static_cast<int>(std::clamp<int64_t>((int64_t{2} << 30) / bytes, 15, 1000));
}

// "1gbit", "200mbit", "64kbit"; 0: not limited.
double bytes_per_second(const std::string& rate) {
  if (rate.empty()) return 0;
  const char unit = rate[rate.size() - 4];
  return std::strtod(rate.c_str(), nullptr) / 8 * (unit == 'g' ? 1e9 : unit == 'm' ? 1e6 : 1e3);
}

DataType wire_of(const std::string& name) {
  return name == "fp16" ? DataType::kF16 : name == "bf16" ? DataType::kBf16 : DataType::kF32;
}

// What is exchanged: slices in an array of so many elements, and what of them is sent.
struct Load {
  std::vector<ShardRange> slices;  // of a rank, by bucket
  int64_t elements = 0;            // of the array
  DataType wire = DataType::kF32;
  // Of a rank whose gradients and residuals are these; null: slices go whole.
  std::function<std::unique_ptr<BridgePacking>(TopKPacking::Arrays)> packing;
  int rounds = 15;
  bool checked = false;  // whether the sums are those of equal elements
};

// What all ranks of all hosts need to find each other. Made before they are forked.
struct Meeting {
  const NetworkHosts& network;
  int ranks;                           // of a host
  const CommunicatorSegment& segment;  // on which all ranks meet, whatever their host
  Secret secret;
  std::vector<UniqueFd> listeners;       // by host, then by rank
  std::vector<SocketAddress> addresses;  // likewise
};

// A rank's part of the result.
struct RankResult {
  std::vector<int64_t> times_ns;
  int64_t cpu_ns = 0;  // of a round, mean
  int64_t bytes = 0;   // that a round sends

  std::string to_bytes() const {
    const int64_t head[] = {cpu_ns, bytes};
    return std::string(reinterpret_cast<const char*>(head), sizeof head) +
           std::string(reinterpret_cast<const char*>(times_ns.data()), times_ns.size() * sizeof(int64_t));
  }
  static RankResult from_bytes(const std::string& text) {
    std::vector<int64_t> words(text.size() / sizeof(int64_t));
    std::memcpy(words.data(), text.data(), text.size());
    return {{words.begin() + 2, words.end()}, words[0], words[1]};
  }
};

// Gaussian, as gradients are as far as the speed of selecting goes.
std::vector<float> gradient_like(int64_t elements, int seed) {
  std::vector<float> values(elements);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1e-3f);
  constexpr int64_t kDrawn = 1 << 20;
  for (int64_t i = 0; i < elements; ++i) values[i] = i < kDrawn ? normal(random) : values[i - kDrawn];
  return values;
}

RankResult run_rank(const Meeting& meeting, const Load& load, int all_rank) {
  const int host = all_rank / meeting.ranks, rank = all_rank % meeting.ranks;
  const int hosts = meeting.network.count();
  meeting.network.enter(host);
  std::vector<SocketAddress> addresses;
  for (int peer = 0; peer < hosts; ++peer)
    addresses.push_back(meeting.addresses[peer * meeting.ranks + rank]);
  std::vector<float> written(load.elements, static_cast<float>(host + 1));
  AlignedFloats residuals[2];
  if (load.packing) {
    written = gradient_like(load.elements, host);
    for (auto& residual : residuals) residual.resize(load.elements);
  }
  AlignedFloats array(load.elements);
  std::atomic<uint32_t> woken{0};
  Bridge::Wiring wiring{.connect = connect_bridge({.own = {.purpose = Purpose::kBridge,
                                                           .node = static_cast<uint32_t>(host),
                                                           .rank = static_cast<uint32_t>(rank),
                                                           .world = static_cast<uint32_t>(hosts),
                                                           .attempt = 1},
                                                   .secret = meeting.secret,
                                                   .addresses = addresses,
                                                   .listener = meeting.listeners[all_rank].get()}),
                        .arrays = {array.data()},
                        .attempt = 1,
                        .wake = [&] {
                          woken.fetch_add(1, std::memory_order_release);
                          woken.notify_one();
                        }};
  if (load.packing) {
    wiring.packing = load.packing(
        {[&](uint32_t) { return array.data(); }, [&](uint32_t step) { return residuals[step % 2].data(); }});
  }
  Bridge bridge({.hosts = hosts, .node = host, .slices = load.slices, .wire = load.wire}, std::move(wiring));
  Communicator all(meeting.segment, all_rank);
  RankResult result;
  int64_t cpu_before = 0;
  uint64_t sent_before = 0;
  for (int round = -kWarmupRounds; round < load.rounds; ++round) {
    // As a backward pass does, the rank writes all of its gradients; then all begin together.
    std::copy(written.begin(), written.end(), array.begin());
    if (round == 0) cpu_before = bridge.cpu_ns(), sent_before = bridge.bytes_sent();
    all.barrier();
    const int64_t begin = now_ns();
    bridge.begin(static_cast<uint32_t>(round + kWarmupRounds + 1));
    for (std::size_t bucket = 0; bucket < load.slices.size(); ++bucket) bridge.submit();
    for (;;) {
      const uint32_t seen = woken.load(std::memory_order_acquire);
      if (bridge.reached(load.slices.size())) break;
      woken.wait(seen, std::memory_order_acquire);
    }
    const int64_t end = now_ns();
    bridge.check();
    if (round >= 0) result.times_ns.push_back(end - begin);
    const float sum = static_cast<float>(hosts * (hosts + 1) / 2);
    CHECK(!load.checked || (array.front() == sum && array.back() == sum), "host {}, round {}", host, round);
  }
  result.cpu_ns = (bridge.cpu_ns() - cpu_before) / load.rounds;
  result.bytes = static_cast<int64_t>(bridge.bytes_sent() - sent_before) / load.rounds;
  all.barrier();  // nobody leaves early
  return result;
}

// By rank of each host.
std::vector<RankResult> run_all(const Machine& machine, const Placement& placement,
                                const NetworkHosts& network, int ranks,
                                const std::function<Load(int rank)>& load) {
  const int hosts = network.count();
  const CommunicatorSegment segment(
      {.ranks = hosts * ranks, .heap_bytes = 0, .waiting = wait_policy(placement, 30)});
  Meeting meeting{network, ranks, segment, new_secret(), {}, {}};
  for (int host = 0; host < hosts; ++host) {
    for (int rank = 0; rank < ranks; ++rank) {
      network.on_host(host,
                      [&] { meeting.listeners.push_back(listen_on(resolve(network.address(host), 0))); });
      meeting.addresses.push_back(local_address(meeting.listeners.back().get()));
    }
  }
  const std::vector<std::string> texts = run_ranks(
      machine, placement,
      {.body = [&](int rank) { return run_rank(meeting, load(rank % ranks), rank).to_bytes(); },
       .abort = [&] { segment.abort(); },
       .warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); }});
  std::vector<RankResult> results;
  for (const std::string& text : texts) results.push_back(RankResult::from_bytes(text));
  return results;
}

// Microseconds of each round, ascending.
std::vector<double> rounds_of(const std::vector<RankResult>& results) {
  return times_of_slowest(results, static_cast<int>(results[0].times_ns.size()),
                          [](const RankResult& rank, int round) { return rank.times_ns[round]; });
}

// What iperf3 moves from host 0 to host 1, or both ways at once the slower way; nothing where there is no
// iperf3.
std::optional<double> iperf_gbps(const Machine& machine, const NetworkHosts& network, bool both_ways) {
  const Placement placement = place_ranks(machine, 2);
  const auto ask = [&](int host) {
    // The client comes again until the server is there, and neither waits for ever.
    const std::string command =
        host == 1 ? "timeout 20 iperf3 -s -1 >/dev/null 2>&1"
                  : fmt::format(
                        "for i in 1 2 3 4 5 6; do sleep 0.3; text=$(timeout 10 iperf3 -c {} -t 2 -J {}) && "
                        "printf %s \"$text\" && exit; done; exit 1",
                        network.address(1), both_ways ? "--bidir" : "");
    FILE* const pipe = popen(command.c_str(), "r");
    std::string text;
    std::array<char, 4096> part;
    while (const std::size_t got = fread(part.data(), 1, part.size(), pipe)) text.append(part.data(), got);
    const int status = pclose(pipe);
    return status == 0 ? text : std::string();
  };
  const std::vector<std::string> results = run_ranks(machine, placement, {.body = [&](int host) {
                                                       network.enter(host);
                                                       return ask(host);
                                                     }});
  const nlohmann::json json = nlohmann::json::parse(results[0], nullptr, false);
  if (json.is_discarded() || !json.contains("end")) return std::nullopt;
  const nlohmann::json& end = json.at("end");
  double bits = end.at("sum_received").at("bits_per_second").get<double>();
  if (both_ways) {
    bits = std::min(bits, end.at("sum_received_bidir_reverse").at("bits_per_second").get<double>());
  }
  return bits / 8e9;
}

// The exchange of a network's gradient, all buckets at once: as it is, and as --compress makes it.
void measure_model(const BenchBridgeOptions& options, const Machine& machine, const Placement& placement,
                   const NetworkHosts& network) {
  const int ranks = options.config.workers;
  if (!options.json) {
    fmt::print("{:>10} {:>10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>9}\n", "compress", "MB", "MB sent",
               "median ms", "p99 ms", "CPU ms", "wire ms", "speed-up");
  }
  double whole_ms = 0;
  for (const std::string compress : {"none", "fp16", "topk"}) {
    TrainConfig config = options.config;
    config.compress = compress;
    config.host_count = options.hosts;
    config.batch_size = options.hosts * ranks;
    config.dataset = "synthetic";
    config.schedule = "constant";
    if (compress == "topk") {
      config.ratio_warmup = 0;
    } else {
      config.topk_values = TrainConfig().topk_values;
    }
    const DatasetInfo dataset = describe_synthetic(bench_image("auto", config.model), 10, 1024, 0);
    Job job = plan_job(config, machine, dataset, false);
    job.run.hosts.count = options.hosts;
    const std::vector<RankResult> results = run_all(machine, placement, network, ranks, [&](int rank) {
      const BridgePlan plan = job.run.bridge(rank);
      Load load{
          .slices = plan.slices, .elements = job.run.buckets.elements, .wire = plan.wire, .packing = {}};
      if (compress == "topk") {
        load.packing = [&job, slices = plan.slices](TopKPacking::Arrays arrays) {
          return std::make_unique<TopKPacking>(job.run.schedule, job.run.network, job.run.buckets, slices,
                                               std::move(arrays), MomentumCorrection(),
                                               sparse_format_of(job.run.config));
        };
      }
      return load;
    });
    const std::vector<double> us = rounds_of(results);
    const double median_ms = quantile(us, 0.5) * 1e-3;
    if (compress == "none") whole_ms = median_ms;
    int64_t sent = 0, cpu_ns = 0;  // of a host: the ranks' together, and the longest
    for (int host = 0; host < options.hosts; ++host) {
      int64_t of_host = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        of_host += results[host * ranks + rank].bytes;
        cpu_ns = std::max(cpu_ns, results[host * ranks + rank].cpu_ns);
      }
      sent = std::max(sent, of_host);
    }
    const double bytes = static_cast<double>(job.run.buckets.elements) * sizeof(float);
    const double rate = bytes_per_second(options.rate);
    const double wire_ms = rate > 0 ? static_cast<double>(sent) / rate * 1e3 : 0;
    if (!options.json) {
      fmt::print("{:>10} {:>10.2f} {:>12.3f} {:>10.2f} {:>10.2f} {:>10.2f} {:>10} {:>9.1f}\n", compress,
                 bytes * 1e-6, static_cast<double>(sent) * 1e-6, median_ms, quantile(us, 0.99) * 1e-3,
                 static_cast<double>(cpu_ns) * 1e-6, rate > 0 ? fmt::format("{:.2f}", wire_ms) : "-",
                 whole_ms / median_ms);
    } else {
      nlohmann::ordered_json line{{"hosts", options.hosts},
                                  {"workers", ranks},
                                  {"model", options.config.model},
                                  {"compress", compress},
                                  {"rate", options.rate},
                                  {"bytes", static_cast<int64_t>(bytes)},
                                  {"sent_bytes", sent},
                                  {"median_ms", median_ms},
                                  {"p99_ms", quantile(us, 0.99) * 1e-3},
                                  {"cpu_ms", static_cast<double>(cpu_ns) * 1e-6},
                                  {"speed_up", whole_ms / median_ms}};
      if (rate > 0) line["wire_ms"] = wire_ms;
      fmt::print("{}\n", line.dump());
    }
    std::fflush(stdout);
  }
}

void measure_sizes(const BenchBridgeOptions& options, const Machine& machine, const Placement& placement,
                   const NetworkHosts& network, std::optional<double> one_way,
                   std::optional<double> both_ways) {
  const int hosts = options.hosts, ranks = options.config.workers;
  if (!options.json) {
    fmt::print("microseconds; GB/s of gradient, at the median\n\n{:>12} {:>10} {:>10} {:>10} {:>8} {:>10}\n",
               "bytes", "min", "median", "p99", "GB/s", "to iperf3");
  }
  for (const int64_t bytes : options.bytes) {
    // Lines are whole on every host, and ranks have equal parts.
    const int64_t unit = int64_t{64} * hosts;
    const int64_t elements = std::max(bytes / 4 / ranks / unit, int64_t{1}) * unit;
    const int64_t whole = elements * ranks * static_cast<int64_t>(sizeof(float));
    const std::vector<RankResult> results = run_all(machine, placement, network, ranks, [&](int) {
      return Load{.slices = {{0, elements}},
                  .elements = elements,
                  .wire = wire_of(options.wire),
                  .packing = {},
                  .rounds = rounds_for(whole),
                  .checked = true};
    });
    const std::vector<double> us = rounds_of(results);
    const double median = quantile(us, 0.5), gbps = static_cast<double>(whole) / median * 1e-3;
    if (!options.json) {
      fmt::print("{:>12} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.3f} {:>10}\n", whole, us.front(), median,
                 quantile(us, 0.99), gbps, one_way ? fmt::format("{:.0f} %", 100 * gbps / *one_way) : "-");
    } else {
      nlohmann::ordered_json line{{"hosts", hosts},
                                  {"workers", ranks},
                                  {"wire", options.wire},
                                  {"rate", options.rate},
                                  {"bytes", whole},
                                  {"rounds", rounds_for(whole)},
                                  {"min_us", us.front()},
                                  {"median_us", median},
                                  {"p99_us", quantile(us, 0.99)},
                                  {"gbps", gbps},
                                  {"cpu_ms", static_cast<double>(results[0].cpu_ns) * 1e-6}};
      if (one_way && both_ways)
        line.update({{"iperf3_gbps", *one_way}, {"iperf3_both_ways_gbps", *both_ways}});
      fmt::print("{}\n", line.dump());
    }
    std::fflush(stdout);
  }
}

}  // namespace

int bench_bridge(const BenchBridgeOptions& options) {
  const Machine machine = Machine::this_machine();
  const int hosts = options.hosts, ranks = options.config.workers;
  for (const int64_t bytes : options.bytes) {
    const int64_t needed = 2 * hosts * bytes + (int64_t{64} << 20);
    if (const AvailableMemory memory = available_memory(); needed > memory.bytes) {
      throw UserError::format("--bytes {}: measuring needs {}, and {} leaves {}; use a smaller size", bytes,
                              format_bytes(needed), memory.source, format_bytes(memory.bytes));
    }
  }
  const Placement placement = place_ranks(machine, hosts * ranks, options.config.bind, options.config.smt);
  const NetworkHosts network(hosts, options.rate);
  const std::optional<double> one_way = iperf_gbps(machine, network, false);
  const std::optional<double> both_ways = iperf_gbps(machine, network, true);
  if (!options.json) {
    fmt::print("annulus {}, commit {}\n{}, {}\n{} hosts joined by veth{}, {} rank{} each\n",
               program_version(), program_commit(), cpu_name(), cpu_features(), hosts,
               options.rate.empty() ? "" : " at " + options.rate, ranks, ranks == 1 ? "" : "s");
    for (const std::string& warning : placement.warnings) fmt::print("warning: {}\n", warning);
    if (one_way && both_ways) {
      fmt::print("iperf3: {:.3f} GB/s one way, {:.3f} GB/s each of both ways at once\n", *one_way,
                 *both_ways);
    } else {
      fmt::print("no iperf3 to compare with (Debian: iperf3)\n");
    }
  }
  if (!options.config.model.empty()) {
    measure_model(options, machine, placement, network);
  } else {
    measure_sizes(options, machine, placement, network, one_way, both_ways);
  }
  return 0;
}

}  // namespace annulus
