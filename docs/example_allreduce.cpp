// Four processes average a vector, twice: in place in shared memory while they do something else, and from
// memory of their own. Built and run by the tests as docs_example_allreduce; communicator.md explains it.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <vector>

#include "collectives/communicator.h"

using namespace annulus;

namespace {

constexpr int kRanks = 4;
constexpr int64_t kCount = 1'000'003;

// Returns whether rank `rank` got what it should.
bool run(const CommunicatorSegment& segment, int rank) {
  Communicator communicator(segment, rank);
  bool good = true;

  // In the heap: no byte is copied. All ranks allocate alike, so places agree.
  float* mine = communicator.allocate<float>(kCount);
  float* mean = communicator.allocate<float>(kCount);
  for (int64_t i = 0; i < kCount; ++i) mine[i] = static_cast<float>(rank + i % 5);
  Communicator::Call call{.collective = Collective::kAllReduce, .in = mine, .out = mean, .count = kCount};
  call.options.operation = Operation::kAverage;
  const Communicator::Handle handle = communicator.start(call);
  for (int piece = 0; piece < 10; ++piece) {
    // ... compute something, and let the call go on now and then ...
    communicator.progress();
  }
  handle.wait();
  for (int64_t i = 0; i < kCount; ++i) good = good && mean[i] == 1.5f + static_cast<float>(i % 5);

  // Private memory: one copy in, one copy out. A ring, because it was asked for.
  const std::vector<float> in(kCount, static_cast<float>(rank));
  std::vector<float> sum(kCount);
  communicator.all_reduce(in.data(), sum.data(), kCount, {.algorithm = Algorithm::kRing});
  for (const float value : sum) good = good && value == 0 + 1 + 2 + 3;

  communicator.barrier();
  if (rank == 0) std::printf("rank 0 sent %zu descriptors\n", std::size_t{communicator.counts().descriptors});
  return good;
}

}  // namespace

int main() {
  // Before the fork: the children inherit the mapping.
  CommunicatorSpec spec;
  spec.ranks = kRanks;
  spec.heap_bytes = 16 << 20;
  const CommunicatorSegment segment(spec);
  for (int rank = 0; rank < kRanks; ++rank) {
    if (fork() != 0) continue;
    bool good = false;
    try {
      good = run(segment, rank);
    } catch (const std::exception& error) {  // UserError, StepError, StepAborted
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    }
    std::fflush(stdout);
    _exit(good ? 0 : 1);
  }
  int failures = 0;
  for (int status; wait(&status) > 0;) {
    if (status == 0) continue;
    ++failures;
    segment.abort();  // the others throw StepAborted instead of waiting for who has failed
  }
  std::printf(failures == 0 ? "all ranks agree\n" : "%d ranks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
