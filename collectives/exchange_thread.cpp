#include "collectives/exchange_thread.h"

#include <algorithm>

#include "collectives/publish.h"
#include "collectives/thread_cpu.h"
#include "telemetry/check.h"

namespace annulus {

ExchangeThread::ExchangeThread(const ExchangePlan& plan, const ExchangeMemory& memory, Versions versions,
                               Waiter& waiter, const Place& place, SumSink sink, NormMeeting* meeting,
                               Bridge* bridge)
    : compute_(waiter),
      cpu_(place.cpu),
      waiter_(waiter.of_thread(Waiter::kExchangeThread, place.waiting)),
      exchange_(plan, memory, versions, waiter_, std::move(sink), meeting, bridge),
      thread_([this] { run(); }) {}

ExchangeThread::~ExchangeThread() {
  leave_.store(true, std::memory_order_release);
  compute_.wake_thread(Waiter::kExchangeThread);
  thread_.join();
}

void ExchangeThread::begin(uint32_t step) {
  CHECK(step_ == 0 || finished());
  step_ = step;
  published_ = 0;
}

void ExchangeThread::publish() {
  rethrow();
  ++published_;
  store_fence();
  handed_.store(command(step_, published_), std::memory_order_release);  // H0
  compute_.wake_thread(Waiter::kExchangeThread);
}

void ExchangeThread::progress() { rethrow(); }

void ExchangeThread::finish() {
  const int64_t busy_before = busy_ns_.load(std::memory_order_relaxed);
  const int64_t waited_before = compute_.waited_ns();
  const WaitFor what{Await::kExchange, static_cast<uint32_t>(compute_.rank()), published_, step_};
  compute_.wait(what, [&] { return finished() || failed_.load(std::memory_order_acquire); });
  rethrow();
  // What the thread did meanwhile is communication that was not hidden; the rest it waited for others itself.
  const int64_t waited = compute_.waited_ns() - waited_before;
  const int64_t busy = std::min(busy_ns_.load(std::memory_order_relaxed) - busy_before, waited);
  compute_.waited_for_own_work(busy);
  counts_.busy_ns += busy;
  counts_.descriptors = exchange_.counts().descriptors;
  counts_.bytes = exchange_.counts().bytes;
}

void ExchangeThread::rethrow() {
  if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(failure_);
}

void ExchangeThread::run() {
  if (cpu_ >= 0) keep_thread_on(cpu_);
  try {
    serve();
  } catch (...) {
    failure_ = std::current_exception();
    failed_.store(true, std::memory_order_release);
    waiter_.wake_thread(Waiter::kComputeThread);
  }
}

void ExchangeThread::serve() {
  uint32_t step = 0, published = 0;
  while (!leave_.load(std::memory_order_acquire)) {
    const uint64_t handed = handed_.load(std::memory_order_acquire);  // H1
    if (static_cast<uint32_t>(handed >> 32) != step) {
      step = static_cast<uint32_t>(handed >> 32);
      published = 0;
      exchange_.begin(step);
    }
    for (; published < static_cast<uint32_t>(handed); ++published) exchange_.publish();
    exchange_.progress();
    busy_ns_.store(exchange_.counts().busy_ns, std::memory_order_relaxed);
    if (step != 0 && exchange_.finished() && finished_.load(std::memory_order_relaxed) != step) {
      finished_.store(step, std::memory_order_release);  // F0
      waiter_.wake_thread(Waiter::kComputeThread);
    }
    exchange_.wait([&] {
      return handed_.load(std::memory_order_acquire) != handed || leave_.load(std::memory_order_acquire);
    });
  }
}

}  // namespace annulus
