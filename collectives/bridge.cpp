#include "collectives/bridge.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "collectives/hierarchical.h"
#include "collectives/ring.h"
#include "collectives/thread_cpu.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int64_t kPartAlignment = 64;
constexpr uint32_t kBegun = UINT32_MAX;  // in place of a bucket: the step has been begun

// Adds the processor time that its thread takes while it lives.
class TimeOf {
 public:
  explicit TimeOf(std::atomic<int64_t>& sum) : sum_(sum), begin_ns_(thread_ns()) {}
  ~TimeOf() { sum_.fetch_add(thread_ns() - begin_ns_, std::memory_order_relaxed); }

 private:
  static int64_t thread_ns() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  }

  std::atomic<int64_t>& sum_;
  const int64_t begin_ns_;
};

// The part of a chunk that each host sums.
std::vector<ShardRange> parts_of(int hosts, int64_t begin, int64_t count) {
  std::vector<ShardRange> parts;
  for (int host = 0; host < hosts; ++host) {
    const ShardRange lines = deal(host, hosts, count / kPartAlignment);
    parts.push_back({begin + lines.begin * kPartAlignment, begin + lines.end * kPartAlignment});
  }
  return parts;
}

}  // namespace

Schedule BridgePlan::schedule(int64_t elements) const {
  std::vector<Schedule> chunks;
  for (int64_t begin = 0; begin < elements; begin += kChunkElements) {
    const int64_t count = std::min(kChunkElements, elements - begin);
    const Reduction reduction{.ranks = hosts,
                              .shards = hosts,
                              .slices = parts_of(hosts, begin, count),
                              .deliver = Deliver::kOwner,
                              .in_place = true};
    ScheduleBuilder builder(node);
    if (std::has_single_bit(static_cast<unsigned>(hosts))) {
      Domains alone;
      for (int host = 0; host < hosts; ++host) alone.push_back({host, host + 1});
      hierarchical_reduce(builder, reduction, alone);
      hierarchical_gather_slices(builder, reduction.slices, alone);
    } else {
      ring_reduce(builder, reduction);
      ring_gather_slices(builder, reduction.slices, Pass::kRead);
    }
    chunks.push_back(builder.take());
  }
  return pipelined(std::move(chunks));
}

Bridge::Bridge(const BridgePlan& plan, Wiring wiring)
    : plan_(plan), wiring_(std::move(wiring)), rung_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK(plan.hosts >= 2 && plan.hosts <= kMaxHosts && rung_);
  const auto bind = [&](float* base) {
    Binding binding;
    binding.rounded = plan_.wire;
    for (const Space space : {Space::kInput, Space::kOutput}) {
      binding.shared[static_cast<int>(space)].assign(plan_.hosts, {reinterpret_cast<std::byte*>(base)});
    }
    return binding;
  };
  // By set of gradient buffers; what is packed lies in the same place in all of them.
  bindings_.resize(wiring_.arrays.size());
  for (int bucket = 0; bucket < static_cast<int>(plan_.slices.size()); ++bucket) {
    const ShardRange& slice = plan_.slices[bucket];
    const std::span<float> whole = wiring_.packing ? wiring_.packing->whole(bucket) : std::span<float>();
    schedules_.push_back(plan_.schedule(wiring_.packing ? std::ssize(whole) : slice.count()));
    for (std::size_t set = 0; set < bindings_.size(); ++set) {
      bindings_[set].push_back(bind(wiring_.packing ? whole.data() : wiring_.arrays[set] + slice.begin));
    }
  }
  thread_ = std::thread([this] { run(); });
}

Bridge::~Bridge() {
  leave_.store(true, std::memory_order_release);
  ring();
  thread_.join();
}

void Bridge::ring() {
  const uint64_t one = 1;
  (void)!write(rung_.get(), &one, sizeof one);
}

// By the bridge's thread. What rang is looked for afterwards.
void Bridge::sleep(const TcpTransport& transport) {
  transport.sleep(rung_.get());
  uint64_t rings;
  (void)!read(rung_.get(), &rings, sizeof rings);
}

void Bridge::begin(uint32_t step) {
  check();
  CHECK(step_ == 0 || done() == schedules_.size());
  step_ = step;
  submitted_ = 0;
  handed_.store(word(step, 0), std::memory_order_release);
  if (wiring_.packing != nullptr) ring();  // tells the others
}

void Bridge::submit() {
  check();
  handed_.store(word(step_, ++submitted_), std::memory_order_release);  // B0
  ring();
}

std::size_t Bridge::done() const {
  const uint64_t done = done_.load(std::memory_order_acquire);  // B3
  return static_cast<uint32_t>(done >> 32) == step_ ? static_cast<uint32_t>(done) : 0;
}

int64_t Bridge::cpu_ns() const {
  clockid_t clock;
  timespec time{};
  if (pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) == 0) {
    clock_gettime(clock, &time);
  }
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void Bridge::check() const {
  if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(failure_);
}

void Bridge::run() {
  if (wiring_.cpu >= 0) keep_thread_on(wiring_.cpu);
  try {
    serve();
  } catch (...) {
    failure_ = std::current_exception();
    failed_.store(true, std::memory_order_release);
    wiring_.wake();
  }
}

// What is under way.
struct Bridge::Rounds {
  explicit Rounds(TcpTransport& transport) : executor(transport), gather(transport) {}

  Executor executor;
  MessageGather gather;
  enum class Stage { kBetween, kBeginning, kSumming, kGathering } stage = Stage::kBetween;
  Executor::Run run;
  std::span<const std::byte> message;  // of what is packed
  uint32_t begun = 0;                  // the step that all hosts have begun
};

// Whether the bucket is done.
bool Bridge::advance(Rounds& rounds, uint32_t step, std::size_t bucket) {
  using Stage = Rounds::Stage;
  const RunLabel label{.phase = Phase::kStep,
                       .step = step,
                       .bucket = static_cast<uint32_t>(bucket),
                       .attempt = wiring_.attempt};
  BridgePacking* const packing = wiring_.packing.get();
  const int index = static_cast<int>(bucket);
  if (rounds.stage == Stage::kBetween) {
    if (packing != nullptr) {
      const TimeOf time(packing_ns_);
      rounds.message = packing->pack(step, index);
    }
    rounds.run = {.schedule = &schedules_[bucket],
                  .binding = &bindings_[step % bindings_.size()][bucket],
                  .label = label};
    rounds.stage = Stage::kSumming;
  }
  if (rounds.stage == Stage::kSumming) {
    if (!rounds.executor.advance(rounds.run)) return false;
    if (packing != nullptr) rounds.gather.begin(label, rounds.message, packing->most_bytes(index));
    rounds.stage = Stage::kGathering;
  }
  if (packing != nullptr) {
    if (!rounds.gather.advance()) return false;
    const TimeOf time(unpacking_ns_);
    packing->unpack(step, index, rounds.gather.messages());
  }
  rounds.stage = Stage::kBetween;
  return true;
}

// Whether all hosts have begun the step.
bool Bridge::begun(Rounds& rounds, uint32_t step) {
  if (wiring_.packing == nullptr || rounds.begun == step) return true;
  if (rounds.stage == Rounds::Stage::kBetween) {
    rounds.gather.begin({.phase = Phase::kStep, .step = step, .bucket = kBegun, .attempt = wiring_.attempt},
                        {}, 0);
    rounds.stage = Rounds::Stage::kBeginning;
  }
  if (!rounds.gather.advance()) return false;
  rounds.stage = Rounds::Stage::kBetween;
  rounds.begun = step;
  return true;
}

void Bridge::serve() {
  const auto leaving = [this] { return leave_.load(std::memory_order_acquire); };
  TcpTransport::Streams streams = wiring_.connect({leaving, rung_.get()});
  if (leaving()) return;
  TcpTransport transport(plan_.node, std::move(streams), plan_.wire, wiring_.notes);
  Rounds rounds(transport);
  uint32_t step = 0;
  std::size_t next = 0;  // bucket
  while (!leaving()) {
    const uint64_t handed = handed_.load(std::memory_order_acquire);  // B1
    if (static_cast<uint32_t>(handed >> 32) != step) {
      step = static_cast<uint32_t>(handed >> 32);
      next = 0;
    }
    bool moved = transport.pump();
    try {
      while (step != 0 && begun(rounds, step) && next < static_cast<uint32_t>(handed) &&
             advance(rounds, step, next)) {
        moved = true;
        ++next;
        // A message is written over by the next one, and what is sent of the step's last slice by the next
        // step.
        const bool written_over = wiring_.packing != nullptr || next == schedules_.size();
        while (written_over && !transport.flushed() && !leaving()) {
          if (!transport.pump()) sleep(transport);
        }
        bytes_sent_.store(transport.bytes_sent(), std::memory_order_relaxed);
        if (next == schedules_.size()) {
          link_ns_.store(transport.link_ns(), std::memory_order_relaxed);
          unacknowledged_ns_.store(transport.unacknowledged_ns(), std::memory_order_relaxed);
        }
        done_.store(word(step, next), std::memory_order_release);  // B2
        wiring_.wake();
      }
    } catch (const StepError& error) {  // from another host: a new attempt has new connections
      throw LinkError(error.what());
    }
    if (!moved) sleep(transport);
  }
}

}  // namespace annulus
