#include "collectives/norm_meeting.h"

#include <cmath>

#include "kernels/squared_norm.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int64_t kRowUnit = kRankSpacing / sizeof(double);  // rows start at multiples of this many norms

int64_t words_bytes(int ranks) {
  return ranks * Versions::row_words(1) * static_cast<int64_t>(sizeof(uint32_t));
}

int64_t all_blocks(const ExchangePlan& plan) {
  const BucketExtent& last = plan.buckets.back();
  return last.offset / kBlockElements + last.blocks;
}

Versions words_in(std::byte* memory, int ranks) {
  return {reinterpret_cast<std::atomic<uint32_t>*>(memory), ranks, 1, Await::kNorm};
}

// Calls body(block, place) for every block of every rank; returns how many places there are.
template <typename Body>
int64_t for_each_block(const ExchangePlan& plan, Body body) {
  int64_t place = 0;
  for (int rank = 0; rank < plan.ranks; ++rank) {
    for (const BucketExtent& bucket : plan.buckets) {
      const ShardRange slice = slice_of(rank, plan.ranks, bucket);
      for (int64_t block = slice.begin; block < slice.end; ++block) {
        body(bucket.offset / kBlockElements + block, place++);
      }
    }
    place = (place + kRowUnit - 1) / kRowUnit * kRowUnit;
  }
  return place;
}

}  // namespace

int64_t NormMeeting::bytes(const ExchangePlan& plan) {
  const int64_t places = for_each_block(plan, [](int64_t, int64_t) {});
  return words_bytes(plan.ranks) + places * static_cast<int64_t>(sizeof(double));
}

void NormMeeting::reset(std::byte* memory, int ranks, uint32_t step) { words_in(memory, ranks).reset(step); }

NormMeeting::NormMeeting(std::byte* memory, const ExchangePlan& plan, int rank, ShardRange part)
    : words_(words_in(memory, plan.ranks)),
      norms_(reinterpret_cast<double*>(memory + words_bytes(plan.ranks))),
      rank_(rank),
      ranks_(plan.ranks),
      part_{part.begin / kBlockElements, part.end / kBlockElements},
      places_(all_blocks(plan)) {
  CHECK(part.begin % kBlockElements == 0 && part.end % kBlockElements == 0 &&
            part_.end <= static_cast<int64_t>(places_.size()),
        "elements {} to {}", part.begin, part.end);
  for_each_block(plan, [&](int64_t block, int64_t place) { places_[block] = place; });
}

void NormMeeting::begin(uint32_t step) { step_ = step; }

void NormMeeting::add(int64_t at, int64_t count, const float* sums) {
  double& norm = norms_[places_[at / kBlockElements]];
  const double before = at % kBlockElements == 0 ? 0 : norm;
  norm = before + squared_norm(count, sums);
}

void NormMeeting::announce() { words_.store(rank_, 0, step_); }  // M0

bool NormMeeting::complete() {
  if (met_ == step_) return true;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (!Versions::reached(words_.load(rank, 0), step_)) return false;  // M1
  }
  double sum = 0;
  for (int64_t block = part_.begin; block < part_.end; ++block) sum += norms_[places_[block]];
  norm_ = std::sqrt(sum);
  met_ = step_;
  return true;
}

void NormMeeting::wait(Waiter& waiter, const std::function<bool()>& or_else) const {
  for (int rank = 0; rank < ranks_; ++rank) {
    const auto announced = [&] { return Versions::reached(words_.load(rank, 0), step_); };
    if (announced()) continue;
    const WaitFor what{Await::kNorm, static_cast<uint32_t>(rank), 0, step_};
    waiter.wait(what, [&] { return announced() || (or_else && or_else()); });
    return;
  }
}

}  // namespace annulus
