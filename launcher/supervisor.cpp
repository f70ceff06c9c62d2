#include "launcher/supervisor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "collectives/unique_fd.h"
#include "launcher/checkpointer.h"
#include "launcher/death_causes.h"
#include "launcher/death_watch.h"
#include "launcher/heartbeat_watch.h"
#include "launcher/host_control.h"
#include "launcher/placement_report.h"
#include "launcher/rank_processes.h"
#include "launcher/residency.h"
#include "launcher/restart_budget.h"
#include "launcher/signals.h"
#include "runtime/checksum.h"
#include "runtime/recovery.h"
#include "telemetry/check.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

constexpr int64_t kTickNs = 100'000'000;
constexpr int64_t kUnwindNs =
    400'000'000;  // that ranks have to leave after the abort word, before they are killed

UniqueFd made(int fd) {
  CHECK(fd >= 0, "{}", std::strerror(errno));
  return UniqueFd(fd);
}

// Tags of epoll events; workers have their rank.
constexpr uint64_t kSignals = 1 << 20, kTimer = kSignals + 1, kChanged = kSignals + 2, kLoader = kSignals + 3,
                   kWriter = kSignals + 4, kHosts = kSignals + 5;

class Supervisor {
 public:
  Supervisor(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns,
             HostControl* control);
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
  void warn(const std::string& text);
  void follow_hosts();
  void begin_recovery(const std::string& why);
  void recover();
  bool counts_broken_link();
  void fail(int exit_code, const std::string& message);
  void end_ranks();
  void kill_loader();
  void settle();
  void leave_hosts();
  bool all_ended() const;
  bool every_rank(RankState state) const;  // has reached it
  bool every_rank_has_stepped() const;
  uint32_t step_of(int rank) const { return segment_.rank(rank).step.load(std::memory_order_relaxed); }
  double seconds() const { return (now_ns() - began_ns_) * 1e-9; }

  const Job& job_;
  const Machine& machine_;
  const JobObserver& observer_;
  const int64_t began_ns_;
  HostControl* const control_;              // null: this box is all there is
  const std::unique_ptr<HostMember> sole_;  // then
  HostMember& hosts_;
  SignalBlock signal_block_;
  std::string bind_refusal_;  // why the kernel would not bind a part of the segment
  Segment segment_;
  SegmentHeader& header_;
  StepAggregator aggregator_;
  UniqueFd epoll_, signals_, timer_, changed_;
  RankProcesses ranks_;
  std::optional<ChildProcess> loader_;
  DeathWatch deaths_;
  HeartbeatWatch heartbeats_;
  Recovery recovery_;
  RecoveryReport report_;  // of the recovery under way
  RestartBudget restarts_;
  Checkpointer checkpointer_;
  DeathCauses causes_;
  int stop_signal_ = 0;      // here or on another host
  bool asked_here_ = false;  // by a signal to this process
  std::string broken_link_;  // why the recovery under way has begun, if nothing else is the cause
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

Supervisor::Supervisor(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns,
                       HostControl* control)
    : job_(job),
      machine_(machine),
      observer_(observer),
      began_ns_(began_ns),
      control_(control),
      sole_(control == nullptr ? sole_member() : nullptr),
      hosts_(control == nullptr ? *sole_ : control->member()),
      segment_(job.segment, job.run.segment_inputs(), job.run.network.hash(),
               [this](void* address, uint64_t bytes, int rank) {
                 const KernelAnswer answer = bind_home(machine_, job_.placement, address, bytes, rank);
                 if (!answer.ok()) bind_refusal_ = answer.refusal;
               }),
      header_(segment_.header()),
      aggregator_(
          job.run.config.workers, [this](int rank) -> const StepRing& { return segment_.rank(rank).steps; },
          [this](int rank) -> const EvalRing& { return segment_.rank(rank).evaluations; }),
      epoll_(made(epoll_create1(EPOLL_CLOEXEC))),
      signals_([] {
        const sigset_t set = watched_signals();
        return made(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
      }()),
      timer_(made(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK))),
      changed_(made(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))),
      ranks_(job, machine, segment_, changed_.get()),
      deaths_(life_words(segment_), changed_.get()),
      heartbeats_(segment_.controls(), static_cast<int64_t>(job.run.config.deadline * 1e9)),
      recovery_(segment_),
      restarts_(job.run.config.max_restarts),
      checkpointer_(
          job, segment_, [this](const std::string& text) { warn(text); },
          [this](int pidfd) { watch(pidfd, kWriter); }) {
  outcome_.startup.reserved = seconds();
  if (!bind_refusal_.empty()) warn("shared memory is not bound to NUMA nodes: " + bind_refusal_);
  header_.last_step.store(static_cast<uint32_t>(job.run.schedule.steps()), std::memory_order_release);
  const itimerspec interval{{0, kTickNs}, {0, kTickNs}};
  timerfd_settime(timer_.get(), 0, &interval, nullptr);
  watch(signals_.get(), kSignals);
  watch(timer_.get(), kTimer);
  watch(changed_.get(), kChanged);
  if (control_ != nullptr) watch(control_->fd(), kHosts);
  try {
    start_loader();
    for (int rank = 0; rank < segment_.ranks(); ++rank) start_worker(rank, kNoAttempt);
    outcome_.startup.forked = seconds();
    last_tick_ns_ = now_ns();
    observer_.started(segment_);
  } catch (...) {  // no destructor runs after a constructor that throws
    kill_loader();
    throw;
  }
}

Supervisor::~Supervisor() { kill_loader(); }

void Supervisor::watch(int fd, uint64_t tag) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = tag}};
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
}

// Children forked later hold copies of a pidfd, so closing it does not end its events.
ChildEnd Supervisor::collect(ChildProcess& child) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, child.pidfd, nullptr);
  return finish(child);
}

void Supervisor::start_loader() {
  loader_ = spawn("annulus:load", [this](int) {
    load_dataset(job_.run.dataset, segment_.data(job_.run.dataset));
    return 0;
  });
  watch(loader_->pidfd, kLoader);
}

void Supervisor::start_worker(int rank, uint32_t left) {
  ranks_.start(rank, left);
  heartbeats_.forked(rank);
  watch(ranks_.process(rank).pidfd, rank);
}

JobOutcome Supervisor::run() {
  while (!all_ended()) serve();
  // Nobody writes the state any more.
  settle();
  leave_hosts();
  outcome_.checkpoints = checkpointer_.counts();
  aggregator_.poll(observer_.step, observer_.evaluation);
  if (aggregator_.lost() > 0) {
    warn(
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
    outcome_.wire.add(segment_.rank(rank).wire.load());
  }
  outcome_.wire.link_ns /= segment_.ranks();
  outcome_.wire.unacknowledged_ns /= segment_.ranks();
  if (outcome_.exit_code == 0 && stop_signal_ != 0) outcome_.exit_code = 128 + stop_signal_;
  return std::move(outcome_);
}

// Has the last checkpoint written: of the step that all hosts agree on.
void Supervisor::settle() {
  const uint32_t committed = segment_.versions().committed();
  std::optional<uint32_t> step;
  while (!stops_at_once_ && !(step = hosts_.last_step(committed))) serve();
  if (stops_at_once_ || *step == Versions::kNone) return;
  if (*step != committed) segment_.reset_exchange(*step);
  const auto write = [this](uint32_t of) {
    while (checkpointer_.writing()) serve();
    if (!stops_at_once_) checkpointer_.write_last(of);
    while (checkpointer_.writing()) serve();
  };
  write(*step);
  // Nobody says what the others have, and one may be a step behind. If this host has a sum of the next step,
  // all have this one, as they had begun that; if not, nothing is written over the one before.
  bool next_begun = false;
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    next_begun = next_begun || segment_.rank(rank).updating.load(std::memory_order_relaxed) > *step;
  }
  if (hosts_.alone() && !next_begun && *step > job_.run.initial_step() + 1) write(*step - 1);
}

// The first host goes last.
void Supervisor::leave_hosts() {
  if (control_ == nullptr) return;
  if (!hosts_.first()) control_->leave();
  while (!control_->alone() && !stops_at_once_) serve();
}

// Takes up what has happened, or waits for something to happen.
void Supervisor::serve() {
  epoll_event events[16];
  const int count = epoll_wait(epoll_.get(), events, 16, -1);
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
        (void)!read(changed_.get(), &value, sizeof value);
        check_states();
        break;
      }
      case kLoader:
        on_loader_end();
        break;
      case kHosts:
        control_->serve();
        follow_hosts();
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
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGTSTP) {
      pause();
      continue;
    }
    stop_signal_ = signal;
    if (asked_here_ || !has_trained_) {  // asked twice, or nothing has begun that could be finished
      hosts_.quit(signal);
    } else {
      hosts_.stop(signal);
    }
    asked_here_ = true;
  }
  follow_hosts();
}

void Supervisor::warn(const std::string& text) {
  observer_.warning(text);
  hosts_.warn(text);
}

// Takes up what the hosts, of which this is one, have been told.
void Supervisor::follow_hosts() {
  for (const std::string& news : hosts_.take_news()) observer_.warning(news);
  if (hosts_.stop_signal() != 0) {
    if (stop_signal_ == 0) stop_signal_ = hosts_.stop_signal();
    // Its rank 0 tells the ranks of all hosts.
    if (hosts_.first()) header_.stop_requested.store(1, std::memory_order_release);
  }
  if (hosts_.quit_signal() != 0 && !stops_at_once_) {
    stop_signal_ = hosts_.quit_signal();
    stops_at_once_ = true;
    end_ranks();
    checkpointer_.kill_writer();
  }
  if (const HostMember::End* const end = hosts_.end()) fail(end->code, end->text);
  check_states();
}

// Ctrl-Z: workers lead process groups of their own, so they must be told; then this process stops as the
// shell expects. Other hosts would take it for dead.
void Supervisor::pause() {
  if (control_ != nullptr) {
    warn("Ctrl-Z is not taken: this run is on several hosts, which cannot wait for one");
    return;
  }
  const auto tell = [&](int signal) {
    ranks_.tell_all(signal);
    if (loader_) kill(loader_->pid, signal);
  };
  tell(SIGSTOP);
  raise(SIGSTOP);
  tell(SIGCONT);
}

void Supervisor::on_tick() {
  uint64_t expirations;
  (void)!read(timer_.get(), &expirations, sizeof expirations);
  const int64_t now = now_ns();
  const int64_t elapsed = std::min(now - last_tick_ns_, kTickNs);  // a machine that was stopped does not age
  if (control_ != nullptr) control_->tick(elapsed);
  follow_hosts();
  check_heartbeats(elapsed);
  checkpointer_.poll(elapsed);
  last_tick_ns_ = now;
  if (ending_ns_ != 0 && now - ending_ns_ > kUnwindNs) ranks_.tell_all(SIGKILL);
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
  const pid_t pid = ranks_.process(rank).pid;
  const ChildEnd end = ranks_.ended(rank, [this](ChildProcess& child) { return collect(child); });
  if (rank == 0 && !end.output.empty()) warn("rank 0 runs unbound: " + end.output);
  if (ending_ns_ != 0 || header_.dismissed.load(std::memory_order_relaxed) != 0) return;
  const RankPart& part = segment_.rank(rank);
  if (end.signal != 0) {
    const std::string whose = fmt::format("rank {} (pid {})", rank, pid);
    const bool hung = !ranks_.hung(rank).empty();
    const std::string death = hung ? ranks_.hung(rank) : causes_.describe(end);
    if (!replaces(whose, death, hung ? 1 : end.code, step_of(rank))) return;
    begin_recovery(fmt::format("{} {}", whose, death));
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
    warn(fmt::format("{}: it is replaced{} ({} of {} restarts in {} steps)", what,
                     step == 0 ? "" : " and the step repeated", restarts_.used(), restarts_.most(),
                     with_thousands(RestartBudget::kWindowSteps)));
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

// `why`: for the other hosts, where the cause is known.
void Supervisor::begin_recovery(const std::string& why) {
  if (!recovery_.under_way()) {
    report_ = {};
    report_.known_ns = now_ns();
    broken_link_.clear();
  }
  recovery_.begin();
  hosts_.aborted(recovery_.attempt(), why);
}

// Begins a recovery where a rank ends, has lost its connection, or another host has begun one, and goes on
// with it once every rank stands still (recovery.h, 1 to 7).
void Supervisor::recover() {
  if (ending_ns_ != 0 || header_.dismissed.load(std::memory_order_relaxed) != 0) return;
  const std::vector<bool> left = ranks_.leaving();
  if (!recovery_.under_way() && (left != ranks_.dead() || hosts_.must_abort(recovery_.attempt()))) {
    begin_recovery("");
  }
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    const RankPart& part = segment_.rank(rank);
    if (part.state.load(std::memory_order_acquire) != RankState::kLinkFailed) continue;
    if (!recovery_.under_way()) {
      begin_recovery("");
      broken_link_ = fmt::format("rank {}: {}", rank, part.failure);
    }
  }
  if (!recovery_.under_way() || !recovery_.all_parked(left)) return;
  if (report_.parked_ns == 0) report_.parked_ns = now_ns();
  if (left != ranks_.dead()) return;  // who ends may still write until it can be reaped
  aggregator_.poll(observer_.step, observer_.evaluation);
  const std::optional<uint32_t> step =
      hosts_.resume_step(recovery_.attempt(), segment_.versions().committed());
  if (!step || !counts_broken_link()) return;
  const std::vector<bool> dead = ranks_.dead();
  recovery_.rewind(dead, static_cast<uint32_t>(aggregator_.evaluated_step()), *step);
  report_.committed_step = *step;
  try {
    for (int rank = 0; rank < segment_.ranks(); ++rank) {
      if (dead[rank]) start_worker(rank, recovery_.attempt());
    }
  } catch (const UserError& error) {  // no process can be had; those that are parked leave
    fail(2, error.what());
    return;
  }
  recovery_.release();
  report_.released_ns = now_ns();
  observer_.recovered(report_);
}

// A connection breaks where a rank of another host dies, which is that host's affair; by now it has said so.
// If nothing else was the cause, it counts as a death does. False: the run ends.
bool Supervisor::counts_broken_link() {
  if (broken_link_.empty() || !report_.ranks.empty() || hosts_.is_explained(recovery_.attempt())) return true;
  const uint32_t step = segment_.versions().committed();
  const std::string what = std::exchange(broken_link_, "");
  if (restarts_.take(step == Versions::kNone ? 0 : step)) {
    warn(fmt::format("{}: the step is repeated over new connections ({} of {} restarts in {} steps)", what,
                     restarts_.used(), restarts_.most(), with_thousands(RestartBudget::kWindowSteps)));
    return true;
  }
  fail(1,
       fmt::format("{}; {} restarts in {} steps are used up: look at the network between the hosts, or raise "
                   "--max-restarts",
                   what, restarts_.most(), with_thousands(RestartBudget::kWindowSteps)));
  return false;
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
  if (finished && !recovery_.under_way() && ending_ns_ == 0) hosts_.finished(recovery_.attempt());
  if (hosts_.dismissed() && header_.dismissed.load(std::memory_order_relaxed) == 0) {
    outcome_.pss_bytes = read_pss(getpid());
    for (int rank = 0; rank < segment_.ranks(); ++rank) {
      if (!ranks_.dead()[rank]) outcome_.pss_bytes += read_pss(ranks_.process(rank).pid);
    }
    header_.dismissed.store(1, std::memory_order_release);
    segment_.wake_all();
  }
}

void Supervisor::check_heartbeats(int64_t elapsed_ns) {
  if (ending_ns_ != 0) return;
  for (const HeartbeatWatch::Still& still : heartbeats_.look(elapsed_ns, ranks_.dead())) {
    const std::string text =
        fmt::format("has shown no sign of life{} for {:.1f} s",
                    still.communicates ? " of its communication thread" : "", still.still_ns * 1e-9);
    if (!still.hung) {
      if (!has_trained_) continue;  // making kernels may take its time
      warn(fmt::format("rank {} (pid {}) {} in step {}, {}; after {} s (--deadline) it is replaced",
                       still.rank, ranks_.process(still.rank).pid, text, step_of(still.rank), still.doing,
                       job_.run.config.deadline));
      continue;
    }
    ranks_.kill_hung(still.rank,
                     fmt::format("{}, {}: it was stopped or hangs (raise --deadline if it is only "
                                 "slow), and was killed",
                                 text, still.doing));
  }
}

void Supervisor::fail(int exit_code, const std::string& message) {
  if (ending_ns_ != 0) return;
  outcome_.exit_code = exit_code;
  outcome_.failure = message;
  end_ranks();
  hosts_.fail(exit_code, message);
}

// Ranks unwind, park, and see that they may leave.
void Supervisor::end_ranks() {
  if (ending_ns_ == 0) ending_ns_ = now_ns();
  header_.dismissed.store(1, std::memory_order_release);
  segment_.abort();
  if (loader_) kill(loader_->pid, SIGKILL);
}

// For good: while hosts agree on where to go on from, all ranks of this one may be dead.
bool Supervisor::all_ended() const {
  const bool leaves = ending_ns_ != 0 || header_.dismissed.load(std::memory_order_relaxed) != 0;
  return !loader_ && ranks_.all_dead() && (leaves || !recovery_.under_way());
}

void Supervisor::kill_loader() {
  if (!loader_) return;
  kill(loader_->pid, SIGKILL);
  finish(*loader_);
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

JobOutcome run_job(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns,
                   HostControl* hosts) {
  return Supervisor(job, machine, observer, began_ns, hosts).run();
}

}  // namespace annulus
