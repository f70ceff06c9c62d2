#include "launcher/supervisor.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "kernels/parallel_for.h"
#include "launcher/placement_report.h"
#include "launcher/residency.h"
#include "runtime/checksum.h"
#include "runtime/worker.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int64_t kTickNs = 100'000'000;
constexpr int64_t kUnwindNs =
    400'000'000;  // that ranks have to leave after the abort word, before they are killed

// File descriptor that closes itself.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) { CHECK(fd >= 0, "{}", std::strerror(errno)); }
  ~Fd() { close(fd_); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGTSTP}) sigaddset(&set, signal);
  // Under nohup SIGHUP is ignored, and shall be: a blocked signal would reach the signalfd all the same.
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler == SIG_IGN) sigdelset(&set, SIGHUP);
  return set;
}

// Gives each thread of this worker's pool a CPU of its own. The pool's threads are made here, after the
// process was bound, so that they inherit its memory policy.
void bind_threads(const std::vector<int>& cpus) {
  if (cpus.size() < 2) return;
  const int threads = static_cast<int>(cpus.size());
  set_threads(threads);
  parallel_for(threads, threads, [&](int64_t begin, int64_t) {
    (void)bind_thread(cpus[begin]);  // refused where the process's binding was, which has been reported
  });
}

class Supervisor {
 public:
  Supervisor(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns);
  ~Supervisor();
  JobOutcome run();

 private:
  struct RankWatch {
    ChildProcess process;
    bool ended = false;
    struct Heart {
      uint64_t beats = 0;
      int64_t still_ns = 0;  // how long it has stood still
    };
    Heart hearts[kThreadsPerRank];
  };

  void start_loader();
  void start_worker(int rank);
  void watch(int fd, uint64_t tag);
  ChildEnd collect(ChildProcess& child);
  void on_signal();
  void on_tick();
  void on_loader_end();
  void on_worker_end(int rank);
  void check_states();
  void check_heartbeats(int64_t elapsed_ns);
  void pause();
  void fail(int exit_code, const std::string& message);
  void abort_ranks();
  void kill_all();
  bool all_ended() const;
  bool every_rank(RankState state) const;  // has reached it
  uint32_t step_of(int rank) const { return static_cast<uint32_t>(segment_.rank(rank).steps.written()) + 1; }
  double seconds() const { return (now_ns() - began_ns_) * 1e-9; }

  const Job& job_;
  const Machine& machine_;
  const JobObserver& observer_;
  const int64_t began_ns_;
  SignalBlock signal_block_;
  std::string bind_refusal_;  // why the kernel would not bind a part of the segment
  Segment segment_;
  SegmentHeader& header_;
  StepAggregator aggregator_;
  Fd epoll_, signals_, timer_, changed_;
  std::vector<RankWatch> ranks_;
  std::optional<ChildProcess> loader_;
  int stop_signal_ = 0;
  int64_t last_tick_ns_ = 0;
  int64_t aborted_ns_ = 0;  // 0: not aborted
  bool placement_read_ = false;
  JobOutcome outcome_;
};

// Tags of epoll events; workers have their rank.
constexpr uint64_t kSignals = 1 << 20, kTimer = kSignals + 1, kChanged = kSignals + 2, kLoader = kSignals + 3;

// Puts a range of the segment on its rank's node, or, without a rank, on all nodes in turn.
KernelAnswer bind_home(const Machine& machine, const Placement& placement, void* address, uint64_t bytes,
                       int rank) {
  if (rank >= 0) return bind_range(machine, address, bytes, placement.workers[rank].memory_node);
  std::set<int> nodes;
  for (const WorkerPlace& place : placement.workers) {
    if (place.memory_node >= 0) nodes.insert(place.memory_node);
  }
  if (nodes.size() < 2) return {};
  return interleave_range(machine, address, bytes, {nodes.begin(), nodes.end()});
}

Supervisor::Supervisor(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns)
    : job_(job),
      machine_(machine),
      observer_(observer),
      began_ns_(began_ns),
      segment_(job.segment, job.run.segment_inputs(), job.run.network.hash(),
               [this](void* address, uint64_t bytes, int rank) {
                 const KernelAnswer answer = bind_home(machine_, job_.placement, address, bytes, rank);
                 if (!answer.ok()) bind_refusal_ = answer.refusal;
               }),
      header_(segment_.header()),
      aggregator_(
          job.run.config.workers, [this](int rank) -> const StepRing& { return segment_.rank(rank).steps; },
          [this](int rank) -> const EvalRing& { return segment_.rank(rank).evaluations; }),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      signals_([] {
        const sigset_t set = watched_signals();
        return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
      }()),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      changed_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      ranks_(job.run.config.workers) {
  outcome_.startup.reserved = seconds();
  if (!bind_refusal_.empty()) observer_.warning("shared memory is not bound to NUMA nodes: " + bind_refusal_);
  header_.last_step.store(static_cast<uint32_t>(job.run.schedule.steps()), std::memory_order_release);
  const itimerspec interval{{0, kTickNs}, {0, kTickNs}};
  timerfd_settime(timer_, 0, &interval, nullptr);
  watch(signals_, kSignals);
  watch(timer_, kTimer);
  watch(changed_, kChanged);
  try {
    start_loader();
    for (int rank = 0; rank < segment_.ranks(); ++rank) start_worker(rank);
    outcome_.startup.forked = seconds();
    last_tick_ns_ = now_ns();
    observer_.started(segment_);
  } catch (...) {  // no destructor runs after a constructor that throws
    kill_all();
    throw;
  }
}

Supervisor::~Supervisor() { kill_all(); }

void Supervisor::watch(int fd, uint64_t tag) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = tag}};
  CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0);
}

// Children forked later hold copies of a pidfd, so closing it does not end its events.
ChildEnd Supervisor::collect(ChildProcess& child) {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, child.pidfd, nullptr);
  return finish(child);
}

void Supervisor::start_loader() {
  loader_ = spawn("annulus:load", [this](int) {
    load_dataset(job_.run.dataset, segment_.data(job_.run.dataset));
    return 0;
  });
  watch(loader_->pidfd, kLoader);
}

void Supervisor::start_worker(int rank) {
  ranks_[rank].process = spawn("annulus:" + std::to_string(rank), [this, rank](int output) {
    const KernelAnswer bound = bind_this_process(machine_, job_.placement.workers[rank]);
    // One warning is enough for all ranks: containers refuse all of them or none.
    if (!bound.ok() && rank == 0) write_all(output, bound.refusal);
    bind_threads(job_.placement.workers[rank].thread_cpus);
    RankPart& part = segment_.rank(rank);
    part.pid.store(getpid(), std::memory_order_relaxed);
    const uint64_t one = 1;
    const auto notify = [&] { (void)!write(changed_, &one, sizeof one); };
    try {
      Worker(job_.run, segment_, rank, notify).run();
      return 0;
    } catch (const StepAborted&) {
      part.control.parked.store(1, std::memory_order_release);
      return 0;
    } catch (const std::exception& error) {
      std::strncpy(part.failure, error.what(), sizeof part.failure - 1);
      part.state.store(RankState::kFailed, std::memory_order_release);
      return dynamic_cast<const UserError*>(&error) != nullptr ? 2 : 1;
    }
  });
  watch(ranks_[rank].process.pidfd, rank);
}

JobOutcome Supervisor::run() {
  while (!all_ended()) {
    epoll_event events[16];
    const int count = epoll_wait(epoll_, events, 16, -1);
    for (int i = 0; i < count; ++i) {
      switch (const uint64_t tag = events[i].data.u64; tag) {
        case kSignals:
          on_signal();
          break;
        case kTimer:
          on_tick();
          break;
        case kChanged: {
          uint64_t value;
          (void)!read(changed_, &value, sizeof value);
          check_states();
          break;
        }
        case kLoader:
          on_loader_end();
          break;
        default:
          on_worker_end(static_cast<int>(tag));
      }
    }
  }
  aggregator_.poll(observer_.step, observer_.evaluation);
  if (aggregator_.lost() > 0) {
    observer_.warning(
        fmt::format("{} step records were overwritten before they were read: means and counts of images "
                    "leave them out",
                    aggregator_.lost()));
  }
  const uint32_t committed = segment_.versions().committed();
  if (committed != Versions::kNone) {
    outcome_.committed_step = committed;
    outcome_.checksum =
        weights_checksum(job_.run.network, job_.run.buckets, segment_.weights_after(committed));
  }
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    outcome_.descriptors += segment_.rank(rank).descriptors.load(std::memory_order_relaxed);
    outcome_.bytes += segment_.rank(rank).bytes.load(std::memory_order_relaxed);
  }
  if (outcome_.exit_code == 0 && stop_signal_ != 0) outcome_.exit_code = 128 + stop_signal_;
  return std::move(outcome_);
}

void Supervisor::on_signal() {
  signalfd_siginfo info;
  while (read(signals_, &info, sizeof info) == sizeof info) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGTSTP) {
      pause();
      continue;
    }
    const bool again = stop_signal_ != 0;
    stop_signal_ = signal;
    if (again || !every_rank(RankState::kTraining)) {
      abort_ranks();  // asked twice, or nothing has begun that could be finished
    } else {
      header_.stop_requested.store(1, std::memory_order_release);
    }
  }
}

// Ctrl-Z: workers lead process groups of their own, so they must be told; then this process stops as the
// shell expects.
void Supervisor::pause() {
  const auto tell = [&](int signal) {
    for (const RankWatch& rank : ranks_) {
      if (!rank.ended) kill(rank.process.pid, signal);
    }
    if (loader_) kill(loader_->pid, signal);
  };
  tell(SIGSTOP);
  raise(SIGSTOP);
  tell(SIGCONT);
}

void Supervisor::on_tick() {
  uint64_t expirations;
  (void)!read(timer_, &expirations, sizeof expirations);
  const int64_t now = now_ns();
  check_states();
  check_heartbeats(
      std::min(now - last_tick_ns_, kTickNs));  // a machine that was stopped does not age its ranks
  last_tick_ns_ = now;
  if (aborted_ns_ != 0 && now - aborted_ns_ > kUnwindNs) {
    for (RankWatch& rank : ranks_) {
      if (!rank.ended) kill(rank.process.pid, SIGKILL);
    }
  }
  aggregator_.poll(observer_.step, observer_.evaluation);
  observer_.tick();
}

void Supervisor::on_loader_end() {
  const ChildEnd end = collect(*loader_);
  loader_.reset();
  if (end.code == 0) {
    outcome_.startup.loaded = seconds();
    header_.data_ready.store(1, std::memory_order_release);
    segment_.wake_all();
  } else if (end.code == 2) {
    fail(2, end.output);
  } else {
    fail(end.code, fmt::format("the loader {}; look for the out-of-memory killer (dmesg)",
                               end.signal != 0 ? fmt::format("was killed by signal {} ({})", end.signal,
                                                             strsignal(end.signal))
                                               : "failed: " + end.output));
  }
}

void Supervisor::on_worker_end(int rank) {
  RankWatch& watch = ranks_[rank];
  const pid_t pid = watch.process.pid;
  const ChildEnd end = collect(watch.process);
  watch.ended = true;
  if (rank == 0 && !end.output.empty()) observer_.warning("rank 0 runs unbound: " + end.output);
  const RankPart& part = segment_.rank(rank);
  const RankState state = part.state.load(std::memory_order_acquire);
  if (end.signal != 0) {
    fail(end.code,
         fmt::format("rank {} (pid {}) was killed by signal {} ({}) in step {}; if nobody sent it, look for "
                     "the out-of-memory killer (dmesg) and use a smaller --batch-size or fewer --workers",
                     rank, pid, end.signal, strsignal(end.signal), step_of(rank)));
  } else if (state == RankState::kFailed) {
    fail(end.code, part.failure);
  } else if (end.code != 0 || (state != RankState::kFinished && aborted_ns_ == 0)) {
    fail(std::max(end.code, 1),
         fmt::format("rank {} (pid {}) ended with code {} in step {}; its last words are above", rank, pid,
                     end.code, step_of(rank)));
  }
}

void Supervisor::check_states() {
  if (outcome_.startup.ready == 0 && every_rank(RankState::kReady)) outcome_.startup.ready = seconds();
  const bool finished = every_rank(RankState::kFinished);
  if (!placement_read_ && (finished || (every_rank(RankState::kTraining) && [&] {
                             for (int rank = 0; rank < segment_.ranks(); ++rank) {
                               if (segment_.rank(rank).steps.written() == 0) return false;
                             }
                             return true;
                           }()))) {
    placement_read_ = true;
    outcome_.placement = read_placement(job_, segment_);
  }
  if (finished && header_.dismissed.load(std::memory_order_relaxed) == 0) {
    outcome_.pss_bytes = read_pss(getpid());
    for (const RankWatch& rank : ranks_) outcome_.pss_bytes += read_pss(rank.process.pid);
    header_.dismissed.store(1, std::memory_order_release);
    segment_.wake_all();
  }
}

void Supervisor::check_heartbeats(int64_t elapsed_ns) {
  if (aborted_ns_ != 0) return;
  const RankControls controls = segment_.controls();
  for (int index = 0; index < controls.all(); ++index) {
    const int rank = index % controls.count, thread = index / controls.count;
    RankWatch& watch = ranks_[rank];
    if (watch.ended) continue;
    const RankControl& control = controls[index];
    RankWatch::Heart& heart = watch.hearts[thread];
    const uint64_t beats = control.heartbeat.load(std::memory_order_relaxed);
    const bool unborn = thread != Waiter::kComputeThread && beats == 0;
    heart.still_ns = beats == heart.beats && !unborn ? heart.still_ns + elapsed_ns : 0;
    heart.beats = beats;
    if (heart.still_ns < job_.run.config.deadline * 1e9) continue;
    const Await what = control.waiting_what.load(std::memory_order_acquire);
    const std::string doing = what == Await::kNothing
                                  ? "computing"
                                  : fmt::format("waiting for {} of rank {} for bucket {}", to_string(what),
                                                control.waiting_rank.load(std::memory_order_relaxed),
                                                control.waiting_bucket.load(std::memory_order_relaxed));
    fail(1, fmt::format(
                "{}rank {} (pid {}) has shown no sign of life for {:.1f} s in step {}, {}: it was stopped or "
                "hangs, and the other ranks wait for it; raise --deadline if it is only slow",
                thread == Waiter::kComputeThread ? "" : "the communication thread of ", rank,
                watch.process.pid, heart.still_ns * 1e-9, step_of(rank), doing));
    kill(watch.process.pid, SIGKILL);
    return;
  }
}

void Supervisor::fail(int exit_code, const std::string& message) {
  if (aborted_ns_ != 0) return;
  outcome_.exit_code = exit_code;
  outcome_.failure = message;
  abort_ranks();
}

void Supervisor::abort_ranks() {
  if (aborted_ns_ == 0) aborted_ns_ = now_ns();
  segment_.abort();
  if (loader_) kill(loader_->pid, SIGKILL);
}

void Supervisor::kill_all() {
  for (RankWatch& rank : ranks_) {
    if (rank.ended || rank.process.pid < 0) continue;
    kill(rank.process.pid, SIGKILL);
    finish(rank.process);
  }
  if (loader_) {
    kill(loader_->pid, SIGKILL);
    finish(*loader_);
  }
}

bool Supervisor::all_ended() const {
  return !loader_ &&
         std::all_of(ranks_.begin(), ranks_.end(), [](const RankWatch& rank) { return rank.ended; });
}

bool Supervisor::every_rank(RankState state) const {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    const RankState now = segment_.rank(rank).state.load(std::memory_order_acquire);
    if (now < state || now == RankState::kFailed) return false;
  }
  return true;
}

}  // namespace

SignalBlock::SignalBlock() {
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, &before_);
}

SignalBlock::~SignalBlock() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

JobOutcome run_job(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns) {
  return Supervisor(job, machine, observer, began_ns).run();
}

}  // namespace annulus
