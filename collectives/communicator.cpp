#include "collectives/communicator.h"

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

// Slices of an all-reduce begin on lines, whatever the type.
constexpr int64_t kSliceAlignment = 64;
constexpr int64_t kPage = 4096;
constexpr std::size_t kMostSchedules = 32;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

int64_t slice_elements(int ranks, int64_t count) {
  return std::max(round_up((count + ranks - 1) / ranks, kSliceAlignment), kSliceAlignment);
}

}  // namespace

// What a schedule is made for.
struct Communicator::Shape {
  Collective collective;
  Algorithm algorithm;
  Deliver deliver;
  int root;
  int64_t part;  // elements from one slice of the part to the next
  bool even;     // all slices have `part` elements, and the rest is 0; otherwise they are cut from a message:
  int64_t whole;   // elements of all slices of the message together
  int64_t stride;  // from one slice of the message to the next
  int64_t begin;   // where the part begins in each slice
  bool operator==(const Shape&) const = default;

  int64_t length(int slice) const {
    if (even) return part;
    return std::clamp<int64_t>(whole - slice * stride - begin, 0, std::min(part, stride - begin));
  }
};

struct Communicator::Cached {
  Shape shape;
  Schedule schedule;
};

// A call under way.
struct Communicator::Work {
  Call call;
  uint64_t number = 0;
  Algorithm algorithm = Algorithm::kDirect;
  Deliver deliver = Deliver::kOwner;
  bool halves = false;  // works part by part: through staging or scratch, or in frames
  int slices = 1;
  int64_t whole = 0, stride = 0, part = 0;  // as Shape's
  int64_t begin = 0;                        // of the part under way
  uint32_t part_number = 0;
  enum class State { kFree, kRunning, kSettling } state = State::kFree;  // kFree: waits for a free half
  Binding binding;
  Executor::Run run;
  std::vector<uint64_t> sent_before_part, sent_before_call;
  std::vector<uint64_t> sent;  // what must be given back before the call is done
  // Whether stores past the caches may pay: what is copied for others, and results, unless they take the
  // place of inputs: the lines of those are here, having just been read.
  bool chooses_store = false;
  int64_t began_ns = 0;  // the part

  // Whether others may still read what a part has staged when it is done, so that the next one takes the
  // other half. Returned lines have been read by their rank itself.
  bool alternates() const { return halves && deliver != Deliver::kReturned; }
  int64_t part_bytes() const { return std::min(whole, part * slices) * size_of(call.options.type); }
};

ShardRange Communicator::slice(int rank, int ranks, int64_t count) {
  const int64_t stride = slice_elements(ranks, count);
  return {std::min(rank * stride, count), std::min((rank + 1) * stride, count)};
}

Communicator::Communicator(const CommunicatorSegment& segment, int rank)
    : spec_(segment.spec()),
      segment_(segment),
      rank_(rank),
      waiter_(std::in_place, segment.control(), segment.controls(), rank, spec_.waiting),
      transport_(std::make_unique<MemoryTransport>(
          spec_.ranks, *waiter_, [](int, int) { return true; },
          [&](int from, int to) { return segment.ring(from, to); })),
      executor_(*transport_, segment.base()) {}

Communicator::Communicator(const CommunicatorSpec& spec, std::unique_ptr<Transport> transport)
    : spec_(spec),
      own_segment_(std::make_unique<CommunicatorSegment>(
          CommunicatorSpec{.ranks = 1, .heap_bytes = spec.heap_bytes, .domains = {}})),
      segment_(*own_segment_),
      rank_(transport->rank()),
      transport_(std::move(transport)),
      executor_(*transport_) {
  CHECK(!transport_->in_place() && transport_->ranks() == spec.ranks);
}

Communicator::~Communicator() = default;

void Communicator::all_reduce(const void* in, void* out, int64_t count, const Options& options) {
  run({Collective::kAllReduce, in, out, count, 0, false, options});
}
void Communicator::all_reduce_shared(const void* in, void* out, int64_t count, const Options& options) {
  run({Collective::kAllReduce, in, out, count, 0, true, options});
}
void Communicator::reduce_scatter(const void* in, void* out, int64_t count, const Options& options) {
  run({Collective::kReduceScatter, in, out, count, 0, false, options});
}
void Communicator::all_gather(const void* in, void* out, int64_t count, const Options& options) {
  run({Collective::kAllGather, in, out, count, 0, false, options});
}
void Communicator::broadcast(void* buffer, int64_t count, int root, const Options& options) {
  run({Collective::kBroadcast, buffer, buffer, count, root, false, options});
}
void Communicator::gather(const void* in, void* out, int64_t count, int root, const Options& options) {
  run({Collective::kGather, in, out, count, root, false, options});
}
void Communicator::scatter(const void* in, void* out, int64_t count, int root, const Options& options) {
  run({Collective::kScatter, in, out, count, root, false, options});
}
void Communicator::barrier() { run({}); }

Algorithm Communicator::choose(const CommunicatorSpec& spec, Collective collective, int64_t bytes,
                               const Options& options) {
  const bool has_choice = collective == Collective::kAllReduce || collective == Collective::kReduceScatter ||
                          collective == Collective::kAllGather || collective == Collective::kBroadcast;
  if (!has_choice) return Algorithm::kDirect;
  if (options.algorithm && *options.algorithm != Algorithm::kHierarchical) return *options.algorithm;
  if (!options.algorithm && (spec.domains.size() < 2 || bytes < spec.thresholds.hierarchical_bytes)) {
    return Algorithm::kDirect;
  }
  const std::string why_not =
      spec.domains.empty() ? "" : why_not_hierarchical(spec.domains, spec.ranks, spec.ranks);
  if (why_not.empty()) return Algorithm::kHierarchical;
  if (!options.algorithm) return Algorithm::kDirect;
  throw UserError::format("the hierarchical algorithm does not fit: {}; use direct or ring", why_not);
}

void* Communicator::allocate_bytes(int64_t bytes) {
  CHECK(bytes >= 0);
  const std::span<std::byte> heap = this->heap();
  if (heap_used_ + bytes > static_cast<int64_t>(heap.size())) {
    throw UserError::format(
        "the heap of rank {} has {} of {} bytes left, and {} were asked for; make it larger", rank_,
        heap.size() - heap_used_, heap.size(), bytes);
  }
  void* const address = heap.data() + heap_used_;
  heap_used_ = std::min<int64_t>(round_up(heap_used_ + bytes, kPage), heap.size());
  return address;
}

bool Communicator::in_heap(const void* address) const {
  const std::span<std::byte> heap = this->heap();
  return address >= heap.data() && address < heap.data() + heap.size();
}

// The one output of all ranks lies in a heap as a whole.
void Communicator::check_shared_output(const void* buffer, int64_t bytes) const {
  if (!shares_memory()) {
    throw UserError(
        "ranks that share no memory cannot share a result; give each rank one, with all_reduce()");
  }
  const std::byte* const begin = static_cast<const std::byte*>(buffer);
  for (int rank = 0; rank < ranks(); ++rank) {
    const std::span<std::byte> heap = segment_.heap(rank);
    if (begin >= heap.data() && begin + bytes <= heap.data() + heap.size()) return;
  }
  throw UserError::format("a shared result of {} bytes must lie in the heap of one rank; allocate it there",
                          bytes);
}

// A buffer lies in the heap as a whole, or not at all.
void Communicator::check_extent(const void* buffer, int64_t bytes, const char* name) const {
  const std::span<std::byte> heap = this->heap();
  const std::byte* const begin = static_cast<const std::byte*>(buffer);
  if (bytes == 0 || !in_heap(buffer) || begin + bytes <= heap.data() + heap.size()) return;
  throw UserError::format(
      "the {} buffer of {} bytes begins at byte {} of rank {}'s heap, which ends at {}; allocate "
      "all of it, or none of it, in the heap",
      name, bytes, begin - heap.data(), rank_, heap.size());
}

Communicator::Handle Communicator::start(const Call& call) {
  CHECK(call.count >= 0 && call.root >= 0 && call.root < ranks());
  std::unique_ptr<Work> work = spare_ ? std::move(spare_) : std::make_unique<Work>();
  work->call = call;
  work->number = ++started_;
  open(*work);
  queue_.push_back(std::move(work));
  progress();
  return {this, started_};
}

void Communicator::progress() {
  while (!queue_.empty() && advance(*queue_.front())) {
    finished_ = queue_.front()->number;
    spare_ = std::move(queue_.front());
    queue_.pop_front();
  }
  if (!queue_.empty()) transport_->poll();
}

void Communicator::wait(uint64_t number) {
  while (finished_ < number) {
    Work& work = *queue_.front();
    switch (work.state) {
      case Work::State::kFree:
        executor_.wait_given_back(half_in_use_until_[half_], work.run.label);
        break;
      case Work::State::kRunning:
        executor_.wait(work.run);
        break;
      case Work::State::kSettling:
        executor_.wait_given_back(work.sent, work.run.label);
        break;
    }
    progress();
  }
}

// What ranks must agree on and no field of a descriptor says, mixed into one number (FNV-1a).
uint64_t Communicator::signature(const Work& work) const {
  const Call& call = work.call;
  const auto offset = [&](const void* buffer) {
    if (!shares_memory() || call.count == 0 || (!call.shared_result && !in_heap(buffer))) return uint64_t{0};
    const std::byte* const base = call.shared_result ? segment_.base() : segment_.heap(rank_).data();
    return static_cast<uint64_t>(static_cast<const std::byte*>(buffer) - base) + 1;
  };
  uint64_t mixed = 0xcbf29ce484222325;
  for (const uint64_t word :
       {static_cast<uint64_t>(call.collective), static_cast<uint64_t>(call.options.type),
        static_cast<uint64_t>(call.options.operation), static_cast<uint64_t>(work.algorithm),
        static_cast<uint64_t>(work.deliver), static_cast<uint64_t>(work.halves),
        static_cast<uint64_t>(call.root), static_cast<uint64_t>(call.count),
        call.collective == Collective::kAllReduce ? offset(call.out) : 0}) {
    mixed = (mixed ^ word) * 0x100000001b3;
  }
  return mixed;
}

// Decides how the call is done and binds what does not change from part to part.
void Communicator::open(Work& work) {
  const Call& call = work.call;
  const Options& options = call.options;
  const int ranks = this->ranks();
  const bool reduces =
      call.collective == Collective::kAllReduce || call.collective == Collective::kReduceScatter;
  const int64_t element = size_of(options.type);

  const bool one_slice = call.collective == Collective::kBroadcast || call.collective == Collective::kBarrier;
  work.slices = one_slice ? 1 : ranks;
  work.stride = call.collective == Collective::kAllReduce ? slice_elements(ranks, call.count)
                                                          : std::max<int64_t>(call.count, 1);
  work.whole = call.collective == Collective::kAllReduce || one_slice ? call.count : ranks * call.count;
  work.algorithm = choose(spec_, call.collective, work.whole * element, options);

  const bool in_whole =
      call.collective == Collective::kReduceScatter || call.collective == Collective::kScatter;
  const bool out_whole = call.collective == Collective::kAllGather || call.collective == Collective::kGather;
  check_extent(call.in, (in_whole ? ranks : 1) * call.count * element, "input");
  if (!call.shared_result) check_extent(call.out, (out_whole ? ranks : 1) * call.count * element, "output");
  if (call.shared_result && call.count > 0) check_shared_output(call.out, call.count * element);
  const bool has_private = shares_memory() && call.count > 0;
  const bool in_private = has_private && !in_heap(call.in);
  const bool out_private = has_private && !call.shared_result && !in_heap(call.out);

  work.deliver = Deliver::kOwner;
  if (call.collective == Collective::kAllReduce && shares_memory()) {
    // Where ranks can write each other's outputs, results need not be fetched.
    const bool direct = work.algorithm == Algorithm::kDirect, ring = work.algorithm == Algorithm::kRing;
    if (call.shared_result) {
      if (direct) work.deliver = Deliver::kShared;
    } else if (!out_private) {
      if (direct) work.deliver = Deliver::kEverybody;
      if (ring) work.deliver = Deliver::kNeighbor;
    } else if (in_private && direct) {
      // Lines of staging go back to their rank with the result in them, so that who writes a line is who read
      // it last. A line that another core has read since costs several times as much to write
      // (docs/architecture.md, Schedules).
      work.deliver = Deliver::kReturned;
    }
  }
  const bool scratch = reduces && work.algorithm != Algorithm::kDirect && ranks > 2;
  work.halves = in_private || out_private || scratch || !shares_memory();
  work.part = work.halves ? std::min(work.stride, kPartElements / work.slices) : work.stride;
  if (work.halves && work.part < work.stride) {
    work.part = std::max<int64_t>(work.part / kSliceAlignment * kSliceAlignment, 1);
  }

  Binding& binding = work.binding;
  binding.type = options.type;
  binding.op = options.operation == Operation::kMax ? ReduceOp::kMax : ReduceOp::kSum;
  binding.factor = options.operation == Operation::kAverage ? 1.0f / static_cast<float>(ranks) : 1.0f;
  const auto bind = [&](Space space, const void* address, bool is_private) {
    const int index = static_cast<int>(space);
    std::byte* const own = static_cast<std::byte*>(const_cast<void*>(address));
    const View view{own, 0, work.stride, work.part};
    if (space != Space::kScratch) {
      binding.own[index] = view;
      binding.own_is_private[index] = is_private;
    }
    std::vector<View>& shared = binding.shared[index];
    shared.assign(ranks, view);
    for (int rank = 0; rank < ranks; ++rank) {
      if (is_private || space == Space::kScratch) {
        shared[rank] = {};  // a half, part by part
      } else if (shares_memory() && address != nullptr && !(space == Space::kOutput && call.shared_result)) {
        shared[rank].base = segment_.heap(rank).data() + (own - heap().data());
      }
    }
  };
  bind(Space::kInput, call.in, in_private);
  bind(Space::kOutput, call.out, out_private);
  bind(Space::kScratch, nullptr, false);

  binding.store = Store::kCached;
  work.chooses_store = shares_memory() && work.deliver != Deliver::kReturned &&
                       (in_private || out_private || (reduces && call.in != call.out));
  work.begin = 0;
  work.part_number = 0;
  work.state = Work::State::kFree;
  work.run = {};
  work.run.label = {.phase = Phase::kMessage,
                    .step = static_cast<uint32_t>(work.number),
                    .bucket = 0,
                    .call = signature(work)};
}

// Binds the part that begins at work.begin and finds its schedule.
void Communicator::open_part(Work& work) {
  const int ranks = this->ranks();
  Binding& binding = work.binding;
  for (int space = 0; space < 3; ++space) {
    const bool is_private = binding.is_private(static_cast<Space>(space));
    for (int rank = 0; rank < ranks && work.halves; ++rank) {
      View& view = binding.shared[space][rank];
      if (is_private || space == static_cast<int>(Space::kScratch)) {
        view = {segment_.half(static_cast<Space>(space), shares_memory() ? rank : 0, half_)};
      } else {
        view.begin = work.begin;
      }
    }
    if (is_private) binding.own[space].begin = work.begin;
  }
  Shape shape{.collective = work.call.collective,
              .algorithm = work.algorithm,
              .deliver = work.deliver,
              .root = work.call.root,
              .part = work.part,
              .even = false,
              .whole = work.whole,
              .stride = work.stride,
              .begin = work.begin};
  bool even = true;
  for (int slice = 0; slice < work.slices; ++slice) even &= shape.length(slice) == work.part;
  if (even) {
    shape.even = true;
    shape.whole = shape.begin = shape.stride = 0;
  }
  if (work.chooses_store) {
    binding.store = store_chooser_.choose(work.part_bytes());
    work.began_ns = now_ns();
  }
  executor_.sent(work.sent_before_part);
  if (work.part_number == 0) work.sent_before_call = work.sent_before_part;
  work.run.schedule = &schedule_for(shape);
  work.run.binding = &binding;
  work.run.label.bucket = work.part_number;
  work.run.next = 0;
  // Where all that a rank sends is answered, nobody waits for lines to come back.
  executor_.wake_on_release(work.run.schedule->leaves_readers || work.alternates() ||
                            work.deliver == Deliver::kOwner);
}

bool Communicator::advance(Work& work) {
  for (;;) {
    switch (work.state) {
      case Work::State::kFree:
        if (work.halves && !executor_.given_back(half_in_use_until_[half_])) return false;
        open_part(work);
        work.state = Work::State::kRunning;
        break;
      case Work::State::kRunning:
        if (!executor_.advance(work.run)) return false;
        if (work.chooses_store) store_chooser_.took(work.part_bytes(), now_ns() - work.began_ns);
        if (work.halves) {
          if (work.alternates()) {
            half_in_use_until_[half_] = executor_.sent_since(work.sent_before_part);
            half_ ^= 1;
          }
          work.begin += work.part;
          ++work.part_number;
          if (work.begin < work.stride && work.begin < work.whole) {
            work.state = Work::State::kFree;
            break;
          }
        }
        // Over a connection what was posted may still have to go out.
        if (!work.run.schedule->leaves_readers && transport_->in_place()) return true;
        work.sent = executor_.sent_since(work.sent_before_call);
        work.state = Work::State::kSettling;
        break;
      case Work::State::kSettling:
        return executor_.given_back(work.sent);
    }
  }
}

const Schedule& Communicator::schedule_for(const Shape& shape) {
  for (const auto& cached : schedules_) {
    if (cached->shape == shape) return cached->schedule;
  }
  const Domains& domains = spec_.domains;
  MessageShape message{.collective = shape.collective,
                       .algorithm = shape.algorithm,
                       .deliver = shape.deliver,
                       .root = shape.root,
                       .slices = {},
                       .domains = domains.empty() ? Domains{{0, ranks()}} : domains};
  for (int slice = 0; slice < ranks(); ++slice) {
    message.slices.push_back({slice * shape.part, slice * shape.part + shape.length(slice)});
  }
  // Nothing refers to a schedule now: the one call under way is asking for its next.
  if (schedules_.size() >= kMostSchedules) schedules_.clear();
  schedules_.push_back(std::make_unique<Cached>(Cached{shape, message_schedule(rank_, message)}));
  return schedules_.back()->schedule;
}

}  // namespace annulus
