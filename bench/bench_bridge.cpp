#include "bench/bench_bridge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "bench/network_hosts.h"
#include "bench/statistics.h"
#include "collectives/bridge_links.h"
#include "kernels/cpu_features.h"
#include "launcher/limits.h"
#include "launcher/rank_group.h"
#include "launcher/topology_drawing.h"
#include "launcher/version.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int kWarmupRounds = 3;
int rounds_for(int64_t bytes) {
  return static_cast<int>(std::clamp<int64_t>((int64_t{2} << 30) / bytes, 15, 1000));
}

DataType wire_of(const std::string& name) {
  return name == "fp16" ? DataType::kF16 : name == "bf16" ? DataType::kBf16 : DataType::kF32;
}

// What all ranks of all hosts need to find each other. Made before they are forked.
struct Job {
  const BenchBridgeOptions& options;
  const NetworkHosts& network;
  const CommunicatorSegment& segment;  // on which all ranks meet, whatever their host
  Secret secret;
  std::vector<UniqueFd> listeners;       // by host, then by rank
  std::vector<SocketAddress> addresses;  // likewise

  int ranks() const { return options.config.workers; }  // of a host
};

// In a rank's process: times of its rounds, in nanoseconds.
std::vector<int64_t> run_rank(const Job& job, int64_t elements, int all_rank) {
  const int host = all_rank / job.ranks(), rank = all_rank % job.ranks();
  job.network.enter(host);
  std::vector<SocketAddress> addresses;
  for (int peer = 0; peer < job.network.count(); ++peer) {
    addresses.push_back(job.addresses[peer * job.ranks() + rank]);
  }
  std::vector<float> array(elements);
  std::atomic<uint32_t> woken{0};
  Bridge bridge({.hosts = job.network.count(),
                 .node = host,
                 .slices = {{0, elements}},
                 .wire = wire_of(job.options.wire)},
                {.connect = connect_bridge({.own = {.purpose = Purpose::kBridge,
                                                    .node = static_cast<uint32_t>(host),
                                                    .rank = static_cast<uint32_t>(rank),
                                                    .world = static_cast<uint32_t>(job.network.count()),
                                                    .attempt = 1},
                                            .secret = job.secret,
                                            .addresses = addresses,
                                            .listener = job.listeners[all_rank].get()}),
                 .arrays = {array.data()},
                 .attempt = 1,
                 .wake = [&] {
                   woken.fetch_add(1, std::memory_order_release);
                   woken.notify_one();
                 }});
  Communicator meeting(job.segment, all_rank);
  const int rounds = rounds_for(elements * static_cast<int64_t>(sizeof(float)));
  std::vector<int64_t> times;
  for (int round = -kWarmupRounds; round < rounds; ++round) {
    // As a backward pass does, the rank writes all of its gradients; then all begin together.
    std::fill(array.begin(), array.end(), static_cast<float>(host + 1));
    const uint32_t seen = woken.load(std::memory_order_acquire);
    meeting.barrier();
    const int64_t begin = now_ns();
    bridge.begin(static_cast<uint32_t>(round + kWarmupRounds + 1));
    bridge.submit();
    while (!bridge.reached(1)) woken.wait(seen, std::memory_order_acquire);
    const int64_t end = now_ns();
    bridge.check();
    if (round >= 0) times.push_back(end - begin);
    const float sum = static_cast<float>(job.network.count() * (job.network.count() + 1) / 2);
    if (round + 1 == rounds) meeting.barrier();  // nobody leaves early
    CHECK(array.front() == sum && array.back() == sum, "host {}, round {}", host, round);
  }
  return times;
}

// What iperf3 moves from host 0 to host 1, or both ways at once the slower way; nothing where there is no
// iperf3.
std::optional<double> iperf_gbps(const Machine& machine, const NetworkHosts& network, bool both_ways) {
  const Placement placement = place_ranks(machine, 2);
  const auto ask = [&](int host) {
    const std::string command = host == 1 ? "iperf3 -s -1 >/dev/null 2>&1"
                                          : fmt::format("sleep 0.3; iperf3 -c {} -t 2 -J {}",
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

}  // namespace

int bench_bridge(const BenchBridgeOptions& options) {
  const Machine machine = Machine::this_machine();
  const int hosts = options.hosts, ranks = options.config.workers;
  for (const int64_t bytes : options.bytes) {
    if (const AvailableMemory memory = available_memory(); hosts * bytes + (64 << 20) > memory.bytes) {
      throw UserError::format("--bytes {}: measuring needs {}, and {} leaves {}; use a smaller size", bytes,
                              format_bytes(hosts * bytes), memory.source, format_bytes(memory.bytes));
    }
  }
  const Placement placement = place_ranks(machine, hosts * ranks, options.config.bind, options.config.smt);
  const NetworkHosts network(hosts, options.rate);
  const std::optional<double> one_way = iperf_gbps(machine, network, false);
  const std::optional<double> both_ways = iperf_gbps(machine, network, true);
  if (!options.json) {
    fmt::print("annulus {}, commit {}\n{}, {}\n{} hosts joined by veth{}, {} rank{} each, wire {}\n",
               program_version(), program_commit(), cpu_name(), cpu_features(), hosts,
               options.rate.empty() ? "" : " at " + options.rate, ranks, ranks == 1 ? "" : "s", options.wire);
    for (const std::string& warning : placement.warnings) fmt::print("warning: {}\n", warning);
    if (one_way && both_ways) {
      fmt::print("iperf3: {:.3f} GB/s one way, {:.3f} GB/s each of both ways at once\n", *one_way,
                 *both_ways);
    } else {
      fmt::print("no iperf3 to compare with (Debian: iperf3)\n");
    }
    fmt::print("microseconds; GB/s of gradient, at the median\n\n{:>12} {:>10} {:>10} {:>10} {:>8} {:>10}\n",
               "bytes", "min", "median", "p99", "GB/s", "to iperf3");
  }
  for (const int64_t bytes : options.bytes) {
    const CommunicatorSegment segment(
        {.ranks = hosts * ranks, .heap_bytes = 0, .waiting = wait_policy(placement, 30)});
    Job job{options, network, segment, new_secret(), {}, {}};
    // Lines are whole on every host, and ranks have equal parts.
    const int64_t unit = int64_t{64} * hosts;
    const int64_t elements = std::max(bytes / 4 / ranks / unit, int64_t{1}) * unit;
    for (int host = 0; host < hosts; ++host) {
      for (int rank = 0; rank < ranks; ++rank) {
        network.on_host(host, [&] { job.listeners.push_back(listen_on(resolve(network.address(host), 0))); });
        job.addresses.push_back(local_address(job.listeners.back().get()));
      }
    }
    const std::vector<std::string> results = run_ranks(
        machine, placement,
        {.body =
             [&](int rank) {
               const std::vector<int64_t> times = run_rank(job, elements, rank);
               return std::string(reinterpret_cast<const char*>(times.data()),
                                  times.size() * sizeof(int64_t));
             },
         .abort = [&] { segment.abort(); },
         .warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); }});
    const int64_t whole = elements * ranks * static_cast<int64_t>(sizeof(float));
    const int rounds = rounds_for(elements * static_cast<int64_t>(sizeof(float)));
    const auto time_ns = [](const std::string& rank, int round) {
      int64_t time;
      std::memcpy(&time, rank.data() + round * sizeof time, sizeof time);
      return time;
    };
    const std::vector<double> us = times_of_slowest(results, rounds, time_ns);
    const double median = quantile(us, 0.5), gbps = static_cast<double>(whole) / median * 1e-3;
    if (!options.json) {
      fmt::print("{:>12} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.3f} {:>10}\n", whole, us.front(), median,
                 quantile(us, 0.99), gbps, one_way ? fmt::format("{:.0f} %", 100 * gbps / *one_way) : "-");
    } else {
      nlohmann::ordered_json line{
          {"hosts", hosts},       {"workers", ranks},    {"wire", options.wire},
          {"rate", options.rate}, {"bytes", whole},      {"rounds", rounds},
          {"min_us", us.front()}, {"median_us", median}, {"p99_us", quantile(us, 0.99)},
          {"gbps", gbps}};
      if (one_way && both_ways)
        line.update({{"iperf3_gbps", *one_way}, {"iperf3_both_ways_gbps", *both_ways}});
      fmt::print("{}\n", line.dump());
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace annulus
