#include "bench/collective_rounds.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

bool in_is_whole(Collective collective) {
  return collective == Collective::kAllReduce || collective == Collective::kReduceScatter ||
         collective == Collective::kBroadcast || collective == Collective::kScatter;
}
bool out_is_whole(Collective collective) {
  return collective != Collective::kReduceScatter && collective != Collective::kScatter;
}

// Small whole numbers: their sums and averages over up to 256 ranks are exact in every type.
float pattern(int rank, int64_t i, uint64_t round) {
  return static_cast<float>((static_cast<uint64_t>(i) + 3 * static_cast<uint64_t>(rank) + round) % 4 == 0);
}

void store(DataType type, std::byte* at, int64_t i, float x) {
  if (type == DataType::kF32) {
    reinterpret_cast<float*>(at)[i] = x;
  } else {
    narrow_reference(type, 1, &x, at + 2 * i);
  }
}

float load(DataType type, const std::byte* at, int64_t i) {
  if (type == DataType::kF32) return reinterpret_cast<const float*>(at)[i];
  float x;
  widen_reference(type, 1, at + 2 * i, &x);
  return x;
}

}  // namespace

int64_t CollectiveCase::count(int ranks) const {
  const int64_t elements = bytes / size_of(type);
  const bool whole = collective == Collective::kAllReduce || collective == Collective::kBroadcast;
  return collective == Collective::kBarrier ? 0 : whole ? elements : elements / ranks;
}

int64_t CollectiveRounds::heap_bytes(int ranks, int64_t bytes) {
  const int64_t message = bytes + 64 * ranks;
  return 2 * ((message + 4095) / 4096 * 4096) + 4096;
}

CollectiveRounds::CollectiveRounds(const CommunicatorSegment& segment, Communicator& communicator,
                                   Communicator& measured, int64_t most_bytes)
    : segment_(segment),
      communicator_(communicator),
      measured_(measured),
      rank_(communicator.rank()),
      ranks_(communicator.ranks()),
      heap_in_(communicator.allocate<std::byte>(most_bytes + 64 * ranks_)),
      heap_out_(communicator.allocate<std::byte>(most_bytes + 64 * ranks_)),
      flag_(new (communicator.allocate<std::byte>(64)) std::atomic<uint64_t>(0)),
      private_in_(most_bytes + 64 * ranks_),
      private_out_(most_bytes + 64 * ranks_) {
  communicator_.barrier();
}

int64_t CollectiveRounds::round(const CollectiveCase& c, Way way) {
  ++round_;
  const bool is_private = c.private_buffers && way == Way::kCommunicator;
  in_ = is_private ? private_in_.data() : heap_in_;
  out_ = is_private ? private_out_.data() : heap_out_;
  // In place, as gradients are reduced and as MPI_IN_PLACE does.
  if (c.collective == Collective::kAllReduce && !c.shared_result) out_ = in_;
  if (c.collective == Collective::kBroadcast) in_ = out_;
  if (c.shared_result) out_ = heap_of(0, heap_out_);
  fill(c);
  const Communicator::Options options{.type = c.type, .operation = Operation::kSum, .algorithm = c.algorithm};
  const Communicator::Call call{c.collective, in_, out_, c.count(ranks_), 0, c.shared_result, options};

  communicator_.barrier();
  const int64_t begin = now_ns();
  if (way == Way::kCommunicator) {
    measured_.start(call).wait();
  } else {
    floor(c, way == Way::kFloorStreaming ? Store::kStreaming : Store::kCached);
  }
  const int64_t end = now_ns();
  check(c, way);
  communicator_.barrier();  // nobody refills what another one still checks
  return end - begin;
}

// What a rank brings. Written by the rank itself, so that the lines are in its caches, as after a backward
// pass.
void CollectiveRounds::fill(const CollectiveCase& c) {
  if (c.collective == Collective::kBroadcast && rank_ != 0) return;
  if (c.collective == Collective::kScatter && rank_ != 0) return;
  const int64_t count = c.count(ranks_);
  const bool whole = in_is_whole(c.collective);
  const int64_t elements =
      whole && c.collective != Collective::kAllReduce && c.collective != Collective::kBroadcast
          ? count * ranks_
          : count;
  const int64_t head = std::min<int64_t>(elements, 64);
  for (int64_t i = 0; i < head; ++i) store(c.type, in_, i, pattern(rank_, i, round_));
  // The pattern repeats, so the rest is copied from the start.
  int64_t done = head * size_of(c.type);
  const int64_t bytes = elements * size_of(c.type);
  while (done < bytes) {
    const int64_t n = std::min(std::min<int64_t>(done, 4096), bytes - done);
    copy(n, in_, in_ + done);
    done += n;
  }
}

void CollectiveRounds::check(const CollectiveCase& c, Way way) const {
  const int64_t count = c.count(ranks_);
  if (count == 0) return;
  if (c.collective == Collective::kGather && rank_ != 0) return;
  const bool whole = out_is_whole(c.collective);
  const bool sliced =
      whole && (c.collective == Collective::kAllGather || c.collective == Collective::kGather);
  const int64_t elements = sliced ? count * ranks_ : count;
  const auto wanted = [&](int64_t i) {
    float sum = 0;
    switch (c.collective) {
      case Collective::kAllReduce:
        for (int rank = 0; rank < ranks_; ++rank) sum += pattern(rank, i, round_);
        return sum;
      case Collective::kReduceScatter:
        for (int rank = 0; rank < ranks_; ++rank) sum += pattern(rank, rank_ * count + i, round_);
        return sum;
      case Collective::kBroadcast:
        return pattern(0, i, round_);
      case Collective::kScatter:
        return pattern(0, rank_ * count + i, round_);
      default:
        return pattern(static_cast<int>(i / count), i % count, round_);
    }
  };
  const auto check_one = [&](int64_t i) {
    const float got = load(c.type, out_, i);
    if (got != wanted(i)) {
      throw StepError(fmt::format(
          "rank {}: element {} of {} is {} instead of {} after round {}{}; report this as a bug", rank_, i,
          elements, got, wanted(i), round_, way == Way::kCommunicator ? "" : " of the floor"));
    }
  };
  // Every element of short messages, and a sample of long ones that meets each 4 KiB.
  const int64_t stride = elements <= 4096 ? 1 : 499;
  for (int64_t i = 0; i < elements; i += stride) check_one(i);
  check_one(elements - 1);
}

std::byte* CollectiveRounds::heap_of(int rank, const std::byte* own) const {
  return segment_.heap(rank).data() + (own - segment_.heap(rank_).data());
}

void CollectiveRounds::exchange_flags() {
  ++flags_;
  store_fence();
  flag_->store(flags_, std::memory_order_release);
  for (int i = 1; i < ranks_; ++i) {
    const int peer = (rank_ + i) % ranks_;
    const auto* flag = reinterpret_cast<const std::atomic<uint64_t>*>(
        heap_of(peer, reinterpret_cast<const std::byte*>(flag_)));
    for (int64_t spins = 1; flag->load(std::memory_order_acquire) < flags_; ++spins) {
      if (spins % 4096 == 0) communicator_.waiter().check_abort();  // bench_collectives has a limit on time
      // Where ranks take turns on a core, the awaited one needs it.
      if (segment_.spec().waiting.spin_ns == 0) sched_yield();
    }
  }
}

void CollectiveRounds::floor(const CollectiveCase& c, Store store) {
  exchange_flags();
  const int64_t count = c.count(ranks_), element = size_of(c.type);
  // Sums n elements from `begin` on of all inputs into all of `outs`.
  const auto reduce = [&](int64_t begin, int64_t n, std::span<std::byte* const> outs) {
    if (n <= 0) return;
    std::vector<const std::byte*> src;
    for (int i = 0; i < ranks_; ++i) src.push_back(heap_of(i, in_) + begin * element);
    if (c.type == DataType::kF32 && ranks_ == 2) {
      const float* const two[] = {reinterpret_cast<const float*>(src[0]),
                                  reinterpret_cast<const float*>(src[1])};
      return combine(ReduceOp::kSum, n, two, reinterpret_cast<float*>(outs[0]),
                     outs.size() == 2 ? reinterpret_cast<float*>(outs[1]) : nullptr, store);
    }
    float sum[kPieceElements], next[kPieceElements];
    for (int64_t at = 0; at < n; at += kPieceElements) {
      const int64_t piece = std::min(kPieceElements, n - at);
      widen(c.type, piece, src[0] + at * element, sum);
      for (int i = 1; i < ranks_; ++i) {
        const std::byte* const other = src[i] + at * element;
        if (c.type != DataType::kF32) widen(c.type, piece, other, next);
        add(piece, sum, c.type == DataType::kF32 ? reinterpret_cast<const float*>(other) : next, sum);
      }
      for (std::byte* const out : outs) {
        if (c.type != DataType::kF32) {
          narrow(c.type, piece, sum, out + at * element);
        } else {
          const float* const one[] = {sum};
          combine(ReduceOp::kSum, piece, one, reinterpret_cast<float*>(out) + at, nullptr, store);
        }
      }
    }
  };
  switch (c.collective) {
    case Collective::kAllReduce: {
      const ShardRange slice = Communicator::slice(rank_, ranks_, count);
      std::vector<std::byte*> outs;
      if (c.shared_result) {
        outs.push_back(out_ + slice.begin * element);
      } else {
        for (int r = 0; r < ranks_; ++r) outs.push_back(heap_of(r, out_) + slice.begin * element);
      }
      reduce(slice.begin, slice.count(), outs);
      break;
    }
    case Collective::kReduceScatter: {
      std::byte* const outs[] = {out_};
      reduce(rank_ * count, count, outs);
      break;
    }
    case Collective::kAllGather:
      for (int i = 0; i < ranks_; ++i) {
        const int r = (rank_ + i) % ranks_;
        copy(count * element, heap_of(r, in_), out_ + r * count * element);
      }
      break;
    case Collective::kBroadcast:
      if (rank_ != 0) copy(count * element, heap_of(0, out_), out_);
      break;
    case Collective::kGather:
      for (int r = 0; r < ranks_ && rank_ == 0; ++r) {
        copy(count * element, heap_of(r, in_), out_ + r * count * element);
      }
      break;
    case Collective::kScatter:
      copy(count * element, heap_of(0, in_) + rank_ * count * element, out_);
      break;
    case Collective::kBarrier:
      return;
  }
  exchange_flags();
}

}  // namespace annulus
