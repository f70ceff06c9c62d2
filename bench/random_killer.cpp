#include "bench/random_killer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <thread>

#include "runtime/recovery.h"

namespace annulus {
namespace {

constexpr int64_t kPollNs = 500'000;

void pause_for(int64_t ns) { std::this_thread::sleep_for(std::chrono::nanoseconds(ns)); }

// Whether this process is a living child of `parent` with that name. A number's process may have ended, and
// the number be another's by now.
bool is_living_child(pid_t pid, pid_t parent, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string number, words;
  char state = 0;
  pid_t its_parent = 0;
  // "123 (annulus:0) S 77 ...": none of our names has a blank in it.
  file >> number >> words >> state >> its_parent;
  return file && words == "(" + name + ")" && state != 'Z' && state != 'X' && its_parent == parent;
}

// In the killer's own process.
class Killer {
 public:
  Killer(const Segment& segment, const KillPlan& plan, int output)
      : segment_(segment),
        header_(segment.header()),
        plan_(plan),
        output_(output),
        random_(plan.seed),
        killed_(segment.ranks()) {}

  void run() {
    for (int64_t i = 0; i < plan_.kills; ++i) {
      if (plan_.row > 0 && i % plan_.row == 0 && !await_recovery()) return;
      const uint64_t pause = static_cast<uint64_t>(2 * plan_.mean_pause_ns) + 1;
      pause_for(static_cast<int64_t>(random_() % pause));
      attempt_ = header_.attempt.load(std::memory_order_acquire);
      if (!until([&] { return kill_one(); })) return;
    }
  }

 private:
  // False where the run ends before.
  template <typename Ready>
  bool until(Ready ready) const {
    while (!ready()) {
      if (header_.dismissed.load(std::memory_order_acquire) != 0) return false;
      pause_for(kPollNs);
    }
    return true;
  }

  bool await_recovery() const {
    if (!until([&] { return header_.attempt.load(std::memory_order_acquire) != attempt_ && all_train(); })) {
      return false;
    }
    const uint32_t awaited = segment_.versions().committed() + plan_.steps;
    return until([&] { return Versions::reached(segment_.versions().committed(), awaited); });
  }

  bool all_train() const {
    for (int rank = 0; rank < segment_.ranks(); ++rank) {
      if (segment_.rank(rank).state.load(std::memory_order_acquire) != RankState::kTraining) return false;
    }
    return true;
  }

  // False where the rank has no process at the moment, or one that was killed already.
  bool kill_one() {
    const int ranks = segment_.ranks() - plan_.first_rank;
    const int rank = plan_.first_rank + static_cast<int>(random_() % static_cast<uint64_t>(ranks));
    const pid_t pid = static_cast<pid_t>(segment_.rank(rank).pid.load(std::memory_order_relaxed));
    if (pid == 0 || pid == killed_[rank]) return false;
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) return false;
    // Signal 0 is refused if the process has been reaped: then the number may have had another owner when its
    // name was read.
    if (!is_living_child(pid, getppid(), "annulus:" + std::to_string(rank)) || !send(pidfd, 0)) {
      close(pidfd);
      return false;
    }
    const Kill kill{rank, now_ns()};
    const bool sent = send(pidfd, SIGKILL);
    close(pidfd);
    if (!sent) return false;
    killed_[rank] = pid;
    write_all(output_, std::string(reinterpret_cast<const char*>(&kill), sizeof kill));
    return true;
  }

  static bool send(int pidfd, int signal) {
    return syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0;
  }

  const Segment& segment_;
  const SegmentHeader& header_;
  const KillPlan& plan_;
  const int output_;
  std::mt19937_64 random_;
  uint32_t attempt_ = kNoAttempt;  // that was under way at the last kill
  std::vector<pid_t> killed_;      // by rank, the last one
};

}  // namespace

RandomKiller::RandomKiller(const Segment& segment, const KillPlan& plan)
    : process_(spawn("annulus:kill", [&](int output) {
        Killer(segment, plan, output).run();
        return 0;
      })) {
  fcntl(process_.output, F_SETFL, O_NONBLOCK);
}

RandomKiller::~RandomKiller() {
  kill(process_.pid, SIGKILL);
  finish(process_);
}

bool RandomKiller::done() {
  while (!done_) {
    const ssize_t got =
        read(process_.output, reinterpret_cast<char*>(&next_) + partial_, sizeof next_ - partial_);
    if (got < 0) break;  // nothing yet
    done_ = got == 0;
    partial_ += got;
    if (partial_ < sizeof next_) continue;
    kills_.push_back(next_);
    partial_ = 0;
  }
  return done_;
}

}  // namespace annulus
