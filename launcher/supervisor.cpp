#include "launcher/supervisor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernels/parallel_for.h"
#include "launcher/checkpointer.h"
#include "launcher/death_causes.h"
#include "launcher/death_watch.h"
#include "launcher/heartbeat_watch.h"
#include "launcher/placement_report.h"
#include "launcher/residency.h"
#include "launcher/restart_budget.h"
#include "launcher/signals.h"
#include "runtime/checksum.h"
#include "runtime/recovery.h"
#include "runtime/worker.h"
#include "telemetry/check.h"
#include "telemetry/progress.h"

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

// Tags of epoll events; workers have their rank.
constexpr uint64_t kSignals = 1 << 20, kTimer = kSignals + 1, kChanged = kSignals + 2, kLoader = kSignals + 3,
                   kWriter = kSignals + 4;

class Supervisor {
 public:
  Supervisor(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns);
  ~Supervisor();
  JobOutcome run();

 private:
  void serve();
  void start_loader();
  void start_worker(int rank, uint32_t left);
  void watch(int fd, uint64_t tag);
  ChildEnd collect(ChildProcess& child);
  void on_signal();
  void on_tick();
  void on_loader_end();
  void on_worker_end(int rank);
  void check_states();
  void check_heartbeats(int64_t elapsed_ns);
  void pause();
  bool replaces(const std::string& whose, const std::string& death, int exit_code, uint32_t step);
  void begin_recovery();
  void recover();
  void fail(int exit_code, const std::string& message);
  void end_ranks();
  void kill_ranks();
  void kill_all();
  bool all_ended() const;
  std::vector<bool> leaving() const;
  bool every_rank(RankState state) const;  // has reached it
  bool every_rank_has_stepped() const;
  uint32_t step_of(int rank) const { return segment_.rank(rank).step.load(std::memory_order_relaxed); }
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
  std::vector<ChildProcess> ranks_;
  std::vector<bool> dead_;         // by rank: it has no process
  std::vector<std::string> hung_;  // by rank: why it was killed; empty: it was not, by this process
  std::optional<ChildProcess> loader_;
  DeathWatch deaths_;
  HeartbeatWatch heartbeats_;
  Recovery recovery_;
  RecoveryReport report_;  // of the recovery under way
  RestartBudget restarts_;
  Checkpointer checkpointer_;
  DeathCauses causes_;
  int stop_signal_ = 0;
  int64_t last_tick_ns_ = 0;
  int64_t ending_ns_ =
      0;  // since when ranks have been told to leave before they have finished; 0: they have not
  bool has_trained_ = false;
  bool stops_at_once_ = false;
  bool placement_read_ = false;
  JobOutcome outcome_;
};

std::vector<const LifeWord*> life_words(const Segment& segment) {
  std::vector<const LifeWord*> words;
  for (int rank = 0; rank < segment.ranks(); ++rank) words.push_back(&segment.rank(rank).life);
  return words;
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
      ranks_(job.run.config.workers),
      dead_(job.run.config.workers, true),
      hung_(job.run.config.workers),
      deaths_(life_words(segment_), changed_),
      heartbeats_(segment_.controls(), static_cast<int64_t>(job.run.config.deadline * 1e9)),
      recovery_(segment_),
      restarts_(job.run.config.max_restarts),
      checkpointer_(job, segment_, observer.warning, [this](int pidfd) { watch(pidfd, kWriter); }) {
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
    for (int rank = 0; rank < segment_.ranks(); ++rank) start_worker(rank, kNoAttempt);
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

// The rank begins parked: it joins the attempt after `left`.
void Supervisor::start_worker(int rank, uint32_t left) {
  segment_.rank(rank).life.store(0, std::memory_order_relaxed);
  ranks_[rank] = spawn("annulus:" + std::to_string(rank), [this, rank, left](int output) {
    tie_life(segment_.rank(rank).life);
    const KernelAnswer bound = bind_this_process(machine_, job_.placement.workers[rank]);
    // One warning is enough for all ranks: containers refuse all of them or none.
    if (!bound.ok() && rank == 0) write_all(output, bound.refusal);
    bind_threads(job_.placement.workers[rank].thread_cpus);
    RankPart& part = segment_.rank(rank);
    part.pid.store(getpid(), std::memory_order_relaxed);
    const uint64_t one = 1;
    const auto notify = [&] { (void)!write(changed_, &one, sizeof one); };
    try {
      Worker(job_.run, segment_, rank, notify, left).run();
      return 0;
    } catch (const std::exception& error) {
      std::strncpy(part.failure, error.what(), sizeof part.failure - 1);
      part.state.store(RankState::kFailed, std::memory_order_release);
      return dynamic_cast<const UserError*>(&error) != nullptr ? 2 : 1;
    }
  });
  dead_[rank] = false;
  hung_[rank].clear();
  heartbeats_.forked(rank);
  watch(ranks_[rank].pidfd, rank);
}

JobOutcome Supervisor::run() {
  while (!all_ended()) serve();
  // Nobody writes the state any more.
  if (!stops_at_once_ && segment_.versions().committed() != Versions::kNone) {
    while (checkpointer_.writing()) serve();
    if (!stops_at_once_) checkpointer_.write_last(segment_.versions().committed());
    while (checkpointer_.writing()) serve();
  }
  outcome_.checkpoints = checkpointer_.counts();
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
    outcome_.held_ns =
        std::max(outcome_.held_ns, segment_.rank(rank).held_ns.load(std::memory_order_relaxed));
    outcome_.descriptors += segment_.rank(rank).descriptors.load(std::memory_order_relaxed);
    outcome_.bytes += segment_.rank(rank).bytes.load(std::memory_order_relaxed);
  }
  if (outcome_.exit_code == 0 && stop_signal_ != 0) outcome_.exit_code = 128 + stop_signal_;
  return std::move(outcome_);
}

// Takes up what has happened, or waits for something to happen.
void Supervisor::serve() {
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
      case kWriter:
        checkpointer_.on_writer_end([this](ChildProcess& writer) { return collect(writer); });
        break;
      default:
        on_worker_end(static_cast<int>(tag));
    }
  }
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
    if (again || !has_trained_) {  // asked twice, or nothing has begun that could be finished
      stops_at_once_ = true;
      end_ranks();
      checkpointer_.kill_writer();
    } else {
      header_.stop_requested.store(1, std::memory_order_release);
    }
  }
}

// Ctrl-Z: workers lead process groups of their own, so they must be told; then this process stops as the
// shell expects.
void Supervisor::pause() {
  const auto tell = [&](int signal) {
    for (int rank = 0; rank < segment_.ranks(); ++rank) {
      if (!dead_[rank]) kill(ranks_[rank].pid, signal);
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
  const int64_t elapsed = std::min(now - last_tick_ns_, kTickNs);  // a machine that was stopped does not age
  check_states();
  check_heartbeats(elapsed);
  checkpointer_.poll(elapsed);
  last_tick_ns_ = now;
  if (ending_ns_ != 0 && now - ending_ns_ > kUnwindNs) kill_ranks();
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
  } else if (end.signal != 0 && ending_ns_ == 0) {
    // What it has written so far is written again.
    if (!replaces("the loader", causes_.describe(end), end.code, 0)) return;
    try {
      start_loader();
    } catch (const UserError& error) {
      fail(2, error.what());
    }
  } else if (ending_ns_ == 0) {
    fail(end.code, end.code == 2 ? end.output : "the loader failed: " + end.output);
  }
}

void Supervisor::on_worker_end(int rank) {
  const pid_t pid = ranks_[rank].pid;
  const ChildEnd end = collect(ranks_[rank]);
  dead_[rank] = true;
  if (rank == 0 && !end.output.empty()) observer_.warning("rank 0 runs unbound: " + end.output);
  if (ending_ns_ != 0 || header_.dismissed.load(std::memory_order_relaxed) != 0) return;
  const RankPart& part = segment_.rank(rank);
  if (end.signal != 0) {
    const std::string whose = fmt::format("rank {} (pid {})", rank, pid);
    const bool hung = !hung_[rank].empty();
    const std::string death = hung ? hung_[rank] : causes_.describe(end);
    if (!replaces(whose, death, hung ? 1 : end.code, step_of(rank))) return;
    begin_recovery();
    report_.ranks.push_back(rank);
    recover();
  } else if (part.state.load(std::memory_order_acquire) == RankState::kFailed) {
    fail(end.code, part.failure);
  } else {
    fail(std::max(end.code, 1),
         fmt::format("rank {} (pid {}) ended with code {} in step {}; its last words are above", rank, pid,
                     end.code, step_of(rank)));
  }
}

// Whether a process that died in `step` is to be replaced; says so, or ends the run.
bool Supervisor::replaces(const std::string& whose, const std::string& death, int exit_code, uint32_t step) {
  const std::string what =
      fmt::format("{}{} {}", whose, step == 0 ? "" : fmt::format(", in step {},", step), death);
  if (restarts_.take(step)) {
    observer_.warning(fmt::format("{}: it is replaced{} ({} of {} restarts in {} steps)", what,
                                  step == 0 ? "" : " and the step repeated", restarts_.used(),
                                  restarts_.most(), with_thousands(RestartBudget::kWindowSteps)));
    ++outcome_.restarts;
    return true;
  }
  fail(exit_code,
       restarts_.most() == 0
           ? fmt::format("{}; --max-restarts 0: the run ends with the first death", what)
           : fmt::format("{}; {} restarts in {} steps are used up: find out why processes die, or raise "
                         "--max-restarts",
                         what, restarts_.most(), with_thousands(RestartBudget::kWindowSteps)));
  return false;
}

void Supervisor::begin_recovery() {
  if (!recovery_.under_way()) {
    report_ = {};
    report_.known_ns = now_ns();
  }
  recovery_.begin();
}

// Begins a recovery where a rank ends, and goes on with it once every rank stands still (recovery.h, 1 to 7).
void Supervisor::recover() {
  if (ending_ns_ != 0 || header_.dismissed.load(std::memory_order_relaxed) != 0) return;
  const std::vector<bool> left = leaving();
  if (!recovery_.under_way() && left != dead_) begin_recovery();
  if (!recovery_.under_way() || !recovery_.all_parked(left)) return;
  if (report_.parked_ns == 0) report_.parked_ns = now_ns();
  if (left != dead_) return;  // who ends may still write until it can be reaped
  aggregator_.poll(observer_.step, observer_.evaluation);
  report_.committed_step = recovery_.rewind(dead_, static_cast<uint32_t>(aggregator_.evaluated_step()));
  try {
    for (int rank = 0; rank < segment_.ranks(); ++rank) {
      if (dead_[rank]) start_worker(rank, recovery_.attempt());
    }
  } catch (const UserError& error) {  // no process can be had; those that are parked leave
    fail(2, error.what());
    return;
  }
  recovery_.release();
  report_.released_ns = now_ns();
  observer_.recovered(report_);
}

void Supervisor::check_states() {
  recover();
  checkpointer_.poll(0);
  has_trained_ = has_trained_ || every_rank(RankState::kTraining);
  if (outcome_.startup.ready == 0 && every_rank(RankState::kReady)) outcome_.startup.ready = seconds();
  const bool finished = every_rank(RankState::kFinished);
  if (!placement_read_ && (finished || every_rank_has_stepped())) {
    placement_read_ = true;
    outcome_.placement = read_placement(job_, segment_);
  }
  if (finished && !recovery_.under_way() && header_.dismissed.load(std::memory_order_relaxed) == 0) {
    outcome_.pss_bytes = read_pss(getpid());
    for (const ChildProcess& rank : ranks_) outcome_.pss_bytes += read_pss(rank.pid);
    header_.dismissed.store(1, std::memory_order_release);
    segment_.wake_all();
  }
}

void Supervisor::check_heartbeats(int64_t elapsed_ns) {
  if (ending_ns_ != 0) return;
  for (const HeartbeatWatch::Still& still : heartbeats_.look(elapsed_ns, dead_)) {
    const std::string text =
        fmt::format("has shown no sign of life{} for {:.1f} s",
                    still.communicates ? " of its communication thread" : "", still.still_ns * 1e-9);
    if (!still.hung) {
      if (!has_trained_) continue;  // making kernels may take its time
      observer_.warning(fmt::format(
          "rank {} (pid {}) {} in step {}, {}; after {} s (--deadline) it is replaced", still.rank,
          ranks_[still.rank].pid, text, step_of(still.rank), still.doing, job_.run.config.deadline));
      continue;
    }
    if (!hung_[still.rank].empty()) continue;  // killed already
    hung_[still.rank] = fmt::format(
        "{}, {}: it was stopped or hangs (raise --deadline if it is only slow), and "
        "was killed",
        text, still.doing);
    kill(ranks_[still.rank].pid, SIGKILL);
  }
}

void Supervisor::fail(int exit_code, const std::string& message) {
  if (ending_ns_ != 0) return;
  outcome_.exit_code = exit_code;
  outcome_.failure = message;
  end_ranks();
}

// Ranks unwind, park, and see that they may leave.
void Supervisor::end_ranks() {
  if (ending_ns_ == 0) ending_ns_ = now_ns();
  header_.dismissed.store(1, std::memory_order_release);
  segment_.abort();
  if (loader_) kill(loader_->pid, SIGKILL);
}

void Supervisor::kill_ranks() {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (!dead_[rank]) kill(ranks_[rank].pid, SIGKILL);
  }
}

void Supervisor::kill_all() {
  kill_ranks();
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (!dead_[rank]) finish(ranks_[rank]);
  }
  if (loader_) {
    kill(loader_->pid, SIGKILL);
    finish(*loader_);
  }
}

bool Supervisor::all_ended() const {
  return !loader_ && std::find(dead_.begin(), dead_.end(), false) == dead_.end();
}

// By rank, whether it has no process, or one that ends.
std::vector<bool> Supervisor::leaving() const {
  std::vector<bool> left = dead_;
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (has_ended(segment_.rank(rank).life)) left[rank] = true;
  }
  return left;
}

bool Supervisor::every_rank(RankState state) const {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    const RankState now = segment_.rank(rank).state.load(std::memory_order_acquire);
    if (now < state || now >= RankState::kFailed) return false;
  }
  return true;
}

bool Supervisor::every_rank_has_stepped() const {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (segment_.rank(rank).steps.written() == 0) return false;
  }
  return every_rank(RankState::kTraining);
}

}  // namespace

JobOutcome run_job(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns) {
  return Supervisor(job, machine, observer, began_ns).run();
}

}  // namespace annulus
