#include "collectives/communicator_segment.h"

#include <algorithm>
#include <new>

#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr uint64_t kPage = 4096;
constexpr int64_t kPartBytes = kPartElements * static_cast<int64_t>(sizeof(float));

uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

CommunicatorSegment::Layout::Layout(const CommunicatorSpec& spec) {
  // Room for what two parts of any schedule have under way between two ranks.
  ring_capacity =
      SpscRing::capacity_for(std::max<int64_t>(16, 8 * static_cast<int64_t>(spec.domains.size())));
  uint64_t at = kPage;
  controls = at;
  at = round_up(at + spec.ranks * sizeof(RankControl), kPage);
  ring_stride = round_up(SpscRing::bytes(ring_capacity), kRankSpacing);
  rings = at;
  at = round_up(at + spec.ranks * spec.ranks * ring_stride, kPage);
  ranks = at;
  rank_stride = round_up(6 * kPartBytes + spec.heap_bytes, kPage);
  bytes = at + spec.ranks * rank_stride;
}

uint64_t CommunicatorSegment::bytes(const CommunicatorSpec& spec) { return Layout(spec).bytes; }

CommunicatorSegment::CommunicatorSegment(const CommunicatorSpec& spec, const Bind& bind)
    : spec_(spec),
      layout_(spec),
      memory_(layout_.bytes, "a communicator", "free memory, raise the limit, or use a smaller heap",
              [&](std::byte* base) {
                for (int rank = 0; bind && rank < spec.ranks; ++rank) {
                  bind(base + layout_.ranks + rank * layout_.rank_stride, layout_.rank_stride, rank);
                }
              }) {
  static_assert(sizeof(WaitControl) <= kPage);
  CHECK(spec.ranks >= 1 && spec.ranks <= kMaxRanks, "{} ranks", spec.ranks);
  new (base()) WaitControl;
  for (int rank = 0; rank < spec.ranks; ++rank) {
    new (base() + layout_.controls + rank * sizeof(RankControl)) RankControl;
    for (int to = 0; to < spec.ranks; ++to) ring(rank, to).reset();
  }
}

WaitControl& CommunicatorSegment::control() const { return *reinterpret_cast<WaitControl*>(base()); }

RankControls CommunicatorSegment::controls() const {
  return {base() + layout_.controls, sizeof(RankControl), spec_.ranks};
}

SpscRing CommunicatorSegment::ring(int from, int to) const {
  // A receiver's rings lie side by side.
  return {base() + layout_.rings + (static_cast<uint64_t>(to) * spec_.ranks + from) * layout_.ring_stride,
          layout_.ring_capacity};
}

std::span<std::byte> CommunicatorSegment::heap(int rank) const {
  return {base() + layout_.ranks + rank * layout_.rank_stride + 6 * kPartBytes,
          static_cast<std::size_t>(spec_.heap_bytes)};
}

std::byte* CommunicatorSegment::half(Space space, int rank, int half) const {
  return base() + layout_.ranks + rank * layout_.rank_stride +
         (2 * static_cast<int>(space) + half) * kPartBytes;
}

void CommunicatorSegment::abort() const {
  control().abort.store(1, std::memory_order_release);
  wake_all(control(), controls());
}

}  // namespace annulus
