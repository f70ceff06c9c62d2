#include "launcher/rank_group.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "collectives/wait.h"
#include "launcher/child_process.h"
#include "launcher/limits.h"
#include "launcher/residency.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr int kLookMs = 100;                // how often the clock is looked at
constexpr int64_t kUnwindNs = 400'000'000;  // that ranks have to leave after an abort

class Ranks {
 public:
  Ranks(const Machine& machine, const Placement& placement, const RankGroup& group)
      : machine_(machine), placement_(placement), group_(group) {}

  ~Ranks() {
    for (Rank& rank : ranks_) {
      if (rank.ended) continue;
      kill(rank.process.pid, SIGKILL);
      finish(rank.process);
    }
  }

  std::vector<std::string> run() {
    for (int rank = 0; rank < static_cast<int>(placement_.workers.size()); ++rank) start(rank);
    while (std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return !rank.ended; })) {
      watch();
      judge_time();
    }
    if (failure_) std::rethrow_exception(failure_);
    std::vector<std::string> results;
    for (Rank& rank : ranks_) results.push_back(std::move(rank.output));
    return results;
  }

 private:
  struct Rank {
    ChildProcess process;
    std::string output;
    bool speaks = true;  // its pipe is open
    bool ended = false;
  };

  // What comes back is why the rank is not bound (mostly nothing), a zero byte, and the result.
  void start(int rank) {
    const auto body = [this, rank](int output) {
      const KernelAnswer bound = bind_this_process(machine_, placement_.workers[rank]);
      return write_all(output, bound.refusal + '\0' + group_.body(rank)) ? 0 : 1;
    };
    ranks_.push_back({.process = spawn("annulus:" + std::to_string(rank), body), .output = {}});
  }

  // Waits until a rank writes or ends, and takes it in.
  void watch() {
    std::vector<pollfd> polled;
    for (const Rank& rank : ranks_) {  // poll skips what is below 0
      polled.push_back({rank.ended || !rank.speaks ? -1 : rank.process.output, POLLIN, 0});
      polled.push_back({rank.ended ? -1 : rank.process.pidfd, POLLIN, 0});
    }
    if (poll(polled.data(), polled.size(), kLookMs) <= 0) return;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      if (polled[2 * i].revents != 0) read_some(ranks_[i]);
      if (polled[2 * i + 1].revents != 0) on_end(static_cast<int>(i));
    }
  }

  // A result that exceeds the pipe would keep its rank from ending.
  static void read_some(Rank& rank) {
    char buffer[65536];
    const ssize_t got = read(rank.process.output, buffer, sizeof buffer);
    rank.speaks = got > 0;
    if (rank.speaks) rank.output.append(buffer, got);
  }

  void on_end(int number) {
    Rank& rank = ranks_[number];
    const pid_t pid = rank.process.pid;
    const ChildEnd end = finish(rank.process);
    rank.ended = true;
    rank.output += end.output;
    if (end.signal != 0) {
      fail(std::runtime_error(fmt::format(
          "rank {} (pid {}) was killed by signal {} ({}); if nobody sent it, look for the out-of-memory "
          "killer (dmesg)",
          number, pid, end.signal, strsignal(end.signal))));
    } else if (end.code == 2) {
      fail(UserError(rank.output));
    } else if (end.code != 0) {
      fail(std::runtime_error(fmt::format("rank {}: {}", number, rank.output)));
    } else {
      const std::size_t zero = rank.output.find('\0');
      // One warning is enough for all ranks: containers refuse all of them or none.
      if (zero > 0 && number == 0) group_.warning("ranks run unbound: " + rank.output.substr(0, zero));
      rank.output.erase(0, zero + 1);
    }
  }

  void judge_time() {
    const int64_t now = now_ns();
    if (group_.limit_ns > 0 && now - began_ns_ > group_.limit_ns) {
      fail(std::runtime_error(fmt::format("{} not ended after {:.0f} s; it hangs, or the machine is busy",
                                          running(), group_.limit_ns * 1e-9)));
    }
    if (aborted_ns_ == 0 || now - aborted_ns_ < kUnwindNs) return;
    for (const Rank& rank : ranks_) {
      if (!rank.ended) kill(rank.process.pid, SIGKILL);
    }
  }

  std::string running() const {
    std::vector<std::size_t> numbers;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      if (!ranks_[i].ended) numbers.push_back(i);
    }
    return fmt::format("rank{} {} {}", numbers.size() == 1 ? "" : "s", fmt::join(numbers, ", "),
                       numbers.size() == 1 ? "has" : "have");
  }

  // The first failure counts; what follows from it is not reported.
  template <typename Error>
  void fail(const Error& error) {
    if (failure_) return;
    failure_ = std::make_exception_ptr(error);
    aborted_ns_ = now_ns();
    group_.abort();
  }

  const Machine& machine_;
  const Placement& placement_;
  const RankGroup& group_;
  const int64_t began_ns_ = now_ns();
  std::vector<Rank> ranks_;
  std::exception_ptr failure_;
  int64_t aborted_ns_ = 0;  // 0: not aborted
};

}  // namespace

Placement place_ranks(const Machine& machine, int workers, const std::string& bind, bool smt) {
  const CpuQuota quota = read_cpu_quota();
  return plan_placement(machine, {.workers = workers,
                                  .bind = bind,
                                  .smt = smt,
                                  .cpu_quota = quota.cpus,
                                  .cpu_quota_source = quota.source});
}

CommunicatorSegment::Bind on_nodes_of(const Machine& machine, const Placement& placement) {
  return [&](void* address, uint64_t bytes, int rank) {
    const KernelAnswer bound = bind_range(machine, address, bytes, placement.workers[rank].memory_node);
    if (!bound.ok() && rank == 0) std::fprintf(stderr, "warning: %s\n", bound.refusal.c_str());
  };
}

std::vector<std::string> run_ranks(const Machine& machine, const Placement& placement,
                                   const RankGroup& group) {
  return Ranks(machine, placement, group).run();
}

}  // namespace annulus
