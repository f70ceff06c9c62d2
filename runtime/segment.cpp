#include "runtime/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

namespace bip = boost::interprocess;

// What mapped_region needs to map a plain file descriptor.
struct Mappable {
  bip::mapping_handle_t handle;
  bip::mapping_handle_t get_mapping_handle() const { return handle; }
};

UserError reserve_error(uint64_t bytes, int error) {
  return UserError::format(
      "cannot reserve {:.1f} MiB of shared memory for the segment: {}; free memory, raise the limit, or use "
      "fewer --workers, fewer --shards or a smaller --batch-size",
      bytes / 1048576.0, std::strerror(error));
}

}  // namespace

Segment::Segment(const SegmentPlan& plan, const SegmentInputs& inputs, uint64_t plan_hash, const Bind& bind)
    : plan_(plan),
      ranks_(inputs.ranks),
      buckets_(static_cast<int>(inputs.buckets.extents.size())),
      state_arrays_(inputs.state_arrays) {
  memory_.fd = memfd_create("annulus", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memory_.fd < 0 || ftruncate(memory_.fd, plan.bytes) != 0) throw reserve_error(plan.bytes, errno);
  try {
    region_ = bip::mapped_region(Mappable{bip::ipcdetail::mapping_handle_from_file_handle(memory_.fd)},
                                 bip::read_write, 0, plan.bytes);
  } catch (const bip::interprocess_exception& error) {
    throw reserve_error(plan.bytes, error.get_native_error());
  }

  // Bind first: a memfd keeps a policy per range, by which fallocate then places each page.
  for (const SegmentPlan::Home& home : plan.homes) {
    if (home.range.bytes > 0) bind(base() + home.range.offset, home.range.bytes, home.rank);
  }
  if (const int error = posix_fallocate(memory_.fd, 0, plan.bytes); error != 0)
    throw reserve_error(plan.bytes, error);
  fcntl(memory_.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);

  // Fresh pages are zero, which is the right start for all but these.
  SegmentHeader& header = *new (base()) SegmentHeader{};
  header.version = kSegmentVersion;
  header.ranks = ranks_;
  header.bytes = plan.bytes;
  header.plan_hash = plan_hash;
  header.buckets = buckets_;
  header.state_arrays = state_arrays_;
  header.rank_parts = plan.rank_parts;
  header.versions = plan.versions;
  header.rings = plan.rings;
  header.state = plan.state;
  header.gradients = plan.gradients;
  header.data = plan.data;
  versions().reset(Versions::kNone);
  for (int from = 0; from < ranks_; ++from) {
    for (int to = 0; to < ranks_; ++to) {
      if (plan.ring_offsets[from * ranks_ + to] != 0) ring(from, to).reset();
    }
  }
  header.magic.store(kSegmentMagic, std::memory_order_release);
}

Segment::Memory::~Memory() {
  if (fd >= 0) close(fd);
}

Versions Segment::versions() const {
  return {reinterpret_cast<std::atomic<uint32_t>*>(base() + plan_.versions.offset), ranks_, buckets_};
}

SpscRing Segment::ring(int from, int to) const {
  const int pair = from * ranks_ + to;
  CHECK(plan_.ring_offsets[pair] != 0, "no ring {} -> {}", from, to);
  return {base() + plan_.ring_offsets[pair], plan_.ring_capacities[pair]};
}

RankControls Segment::controls() const {
  return {base() + plan_.rank_parts.offset, plan_.rank_part_stride, ranks_};
}

ExchangeMemory Segment::exchange_memory() const {
  ExchangeMemory memory;
  memory.base = base();
  memory.ranks = ranks_;
  for (int rank = 0; rank < ranks_; ++rank) memory.gradients.push_back(gradients(rank, 0));
  memory.buffer_stride = plan_.gradient_buffer_bytes / sizeof(float);
  memory.ring = [this](int from, int to) { return ring(from, to); };
  return memory;
}

DatasetView Segment::data(const DatasetInfo& info) const {
  const auto bytes = [&](uint64_t offset, int64_t count) {
    return std::span<uint8_t>(reinterpret_cast<uint8_t*>(base() + offset), count);
  };
  return {.train_images = bytes(plan_.train_images, info.train_count * info.shape.pixels()),
          .train_labels = bytes(plan_.train_labels, info.train_count),
          .test_images = bytes(plan_.test_images, info.test_count * info.shape.pixels()),
          .test_labels = bytes(plan_.test_labels, info.test_count)};
}

void Segment::wake_all() const { annulus::wake_all(header().wait, controls()); }

}  // namespace annulus
