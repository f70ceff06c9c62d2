#include "tests/launcher/kill_points.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int kMostDeaths = 16;

struct Shared {
  std::atomic<bool> happened[kMostDeaths];
};

Shared* const shared = [] {
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return new (memory) Shared{};
}();
std::vector<Death> planned;

// A worker's main thread and those that it starts are named so by spawn(); -1: no worker.
int rank_of_this_process() {
  char name[16] = {};
  prctl(PR_GET_NAME, name);
  constexpr const char* kPrefix = "annulus:";
  if (std::strncmp(name, kPrefix, std::strlen(kPrefix)) != 0) return -1;
  const char* const digits = name + std::strlen(kPrefix);
  return *digits >= '0' && *digits <= '9' ? std::atoi(digits) : -1;
}

}  // namespace

void plan_deaths(const std::vector<Death>& deaths) {
  CHECK(deaths.size() <= kMostDeaths);
  planned = deaths;
  for (std::atomic<bool>& happened : shared->happened) happened = false;
}

int deaths_so_far() {
  int count = 0;
  for (const std::atomic<bool>& happened : shared->happened) count += happened;
  return count;
}

void protocol_point(ProtocolPoint point) {
  // The launcher comes by points, too, and its children begin with what it knew.
  static std::atomic<pid_t> known{0};
  static std::atomic<int> rank{-1};
  static std::atomic<int> visits[kProtocolPoints];
  if (known.load(std::memory_order_acquire) != getpid()) {
    rank = rank_of_this_process();
    known.store(getpid(), std::memory_order_release);
  }
  if (rank < 0) return;
  const int visit = ++visits[static_cast<int>(point)];
  for (std::size_t i = 0; i < planned.size(); ++i) {
    const Death& death = planned[i];
    if (death.rank != rank || death.point != point || death.visit != visit) continue;
    if (shared->happened[i].exchange(true)) continue;
    if (!death.lingers) kill(getpid(), SIGKILL);
    std::thread([] { pause(); }).detach();
    syscall(SYS_exit, 0);
  }
}

}  // namespace annulus
