#include "collectives/executor.h"

#include <algorithm>

#include "collectives/protocol_point.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

// A place as ranks without shared memory name it to each other.
uint64_t name_of(const Place& place) {
  return static_cast<uint64_t>(place.space) << 60 | static_cast<uint64_t>(place.part) << 44 |
         static_cast<uint64_t>(place.at);
}

}  // namespace

Executor::Executor(Transport& transport, std::byte* segment)
    : transport_(transport), segment_(segment), rank_(transport.rank()) {}

void Executor::announce(Run& run) {
  while (static_cast<int>(run.next) < run.schedule->announce && step(run, run.schedule->actions[run.next])) {
    ++run.next;
  }
}

bool Executor::advance(Run& run) {
  const std::vector<Action>& actions = run.schedule->actions;
  while (run.next < actions.size() && step(run, actions[run.next])) ++run.next;
  return run.next == actions.size();
}

void Executor::wait(const Run& run, const std::function<bool()>& or_else) {
  const Action& action = run.schedule->actions[run.next];
  const bool sends = action.kind == Action::Kind::kPost;
  const auto ready = [&] {
    return (sends ? transport_.can_post(action.peer) : transport_.peek(action.peer) != nullptr) ||
           (or_else && or_else());
  };
  transport_.wait({sends, action.peer, run.label.bucket, run.label.step}, std::ref(ready));
}

void Executor::sent(std::vector<uint64_t>& mark) const {
  mark.resize(transport_.ranks());
  for (int peer = 0; peer < transport_.ranks(); ++peer) mark[peer] = transport_.posted(peer);
}

std::vector<uint64_t> Executor::sent_since(const std::vector<uint64_t>& earlier) const {
  std::vector<uint64_t> mark;
  sent(mark);
  for (std::size_t i = 0; i < mark.size(); ++i) {
    if (mark[i] == earlier[i]) mark[i] = 0;
  }
  return mark;
}

bool Executor::given_back(const std::vector<uint64_t>& mark) const {
  for (std::size_t i = 0; i < mark.size(); ++i) {
    if (!transport_.given_back(static_cast<int>(i), mark[i])) return false;
  }
  return true;
}

void Executor::wait_given_back(const std::vector<uint64_t>& mark, const RunLabel& label) {
  for (std::size_t i = 0; i < mark.size(); ++i) {
    const int peer = static_cast<int>(i);
    if (transport_.given_back(peer, mark[i])) continue;
    const auto ready = [&] { return transport_.given_back(peer, mark[i]); };
    transport_.wait({true, peer, label.bucket, label.step}, std::ref(ready));
  }
}

bool Executor::step(Run& run, const Action& action) {
  switch (action.kind) {
    case Action::Kind::kPost:
      return post(run, action);
    case Action::Kind::kAwait:
      return await(run, action);
    case Action::Kind::kRelease:
      transport_.release(action.peer, wake_on_release_);
      return true;
    case Action::Kind::kSum:
      protocol_point(ProtocolPoint::kSum);
      sum(run, action);
      return true;
    case Action::Kind::kCopy:
      protocol_point(ProtocolPoint::kCopy);
      copy(run, action);
      return true;
  }
  return true;
}

Descriptor Executor::describe(const Run& run, const Action& action, int source) const {
  const Binding& binding = *run.binding;
  uint64_t place = 0;
  if (action.type != Payload::kNothing) {
    place = transport_.in_place() ? static_cast<uint64_t>(binding.shared_address(action.place) - segment_)
                                  : name_of(action.place);
  }
  return {.step = run.label.step,
          .attempt = run.label.attempt,
          .phase = run.label.phase,
          .type = action.type,
          .round = action.round,
          .source = static_cast<uint32_t>(source),
          .bucket = run.label.bucket,
          .chunk = action.chunk,
          .slice = action.slice,
          .place = place,
          .length = static_cast<uint64_t>(action.count * size_of(binding.type_of(action.place.space))),
          .call = run.label.call};
}

const std::byte* Executor::readable(const Binding& binding, const Place& place) const {
  if (place.rank != rank_ && !transport_.in_place()) return transport_.arrived(place.rank, name_of(place));
  return binding.address(place, rank_);
}

std::byte* Executor::writable(const Binding& binding, const Place& place) const {
  CHECK(place.rank == rank_ || transport_.in_place(), "another rank's memory");
  return binding.address(place, rank_);
}

bool Executor::post(const Run& run, const Action& action) {
  if (!transport_.can_post(action.peer)) return false;
  const Binding& binding = *run.binding;
  const Descriptor descriptor = describe(run, action, rank_);
  const bool has_payload = action.type != Payload::kNothing && action.count > 0;
  // Once, for the first reader: it reads while others are being told.
  if (has_payload && transport_.in_place() && action.place.rank == rank_ &&
      binding.is_private(action.place.space) && !action.again) {
    annulus::copy(static_cast<int64_t>(descriptor.length), binding.address(action.place, rank_),
                  binding.shared_address(action.place), binding.store);
  }
  transport_.post(action.peer, descriptor, has_payload ? readable(binding, action.place) : nullptr);
  ++counts_.descriptors;
  counts_.bytes += descriptor.length;
  return true;
}

bool Executor::await(const Run& run, const Action& action) {
  const Descriptor* got = transport_.peek(action.peer);
  if (got == nullptr) return false;
  validate(*got, describe(run, action, action.peer), rank_);
  transport_.accept(action.peer);
  return true;
}

void Executor::sum(const Run& run, const Action& action) {
  const Binding& binding = *run.binding;
  const Sum& sum = run.schedule->sums[action.sum];
  const SumProgram& program = sum.program;
  const std::size_t outputs = sum.destinations.size();
  const auto type_of = [&](const Place& place) { return binding.type_of(place.space); };
  const bool scaled = sum.last && binding.factor != 1;
  const bool rounds = sum.last && binding.rounded != DataType::kF32;
  const bool plain = std::all_of(sum.sources.begin(), sum.sources.end(),
                                 [&](const Place& p) { return type_of(p) == DataType::kF32; }) &&
                     std::all_of(sum.destinations.begin(), sum.destinations.end(),
                                 [&](const Place& p) { return type_of(p) == DataType::kF32; });

  const auto store_for = [&](const Place& place) {
    return binding.is_private(place.space) ? Store::kCached : binding.store;
  };

  // One pass, all streams in registers.
  if (plain && !scaled && !rounds && program.combinations.size() == 1 && (outputs == 1 || outputs == 2)) {
    const SumProgram::Combination& all = program.combinations[0];
    const float* streams[kMaxStreams];
    for (int i = 0; i < all.count; ++i) {
      streams[i] = reinterpret_cast<const float*>(readable(binding, sum.sources[all.operands[i]]));
    }
    const auto out = [&](std::size_t i) {
      return reinterpret_cast<float*>(writable(binding, sum.destinations[i]));
    };
    for (int64_t begin = 0; begin < action.count; begin += kSumBlock) {
      const float* block[kMaxStreams];
      for (int i = 0; i < all.count; ++i) block[i] = streams[i] + begin;
      combine(binding.op, std::min(kSumBlock, action.count - begin),
              {block, static_cast<std::size_t>(all.count)}, out(0) + begin,
              outputs == 2 ? out(1) + begin : nullptr, store_for(sum.destinations[0]));
      transport_.beat();
    }
    return;
  }

  // Piece by piece, with what lies between in the first-level cache.
  // One piece for each temporary, one for the result, and for converted operands one each.
  const std::size_t needed = program.temporaries + 1 + kMaxStreams;
  if (pieces_.size() < needed) pieces_.resize(needed);
  const auto temporary = [&](int i) { return pieces_[i].values; };
  const auto converted = [&](int i) { return pieces_[program.temporaries + 1 + i].values; };
  float* const result = temporary(program.temporaries);
  for (int64_t begin = 0; begin < action.count; begin += kPieceElements) {
    const int64_t count = std::min(kPieceElements, action.count - begin);
    const auto source = [&](const Place& place) {
      return readable(binding, place) + begin * size_of(type_of(place));
    };
    const auto destination = [&](const Place& place) {
      return writable(binding, place) + begin * size_of(type_of(place));
    };
    for (const SumProgram::Combination& combination : program.combinations) {
      const float* streams[kMaxStreams];
      for (int i = 0; i < combination.count; ++i) {
        const int operand = combination.operands[i];
        if (operand >= program.leaves) {
          streams[i] = temporary(operand - program.leaves);
        } else if (const Place& place = sum.sources[operand]; type_of(place) == DataType::kF32) {
          streams[i] = reinterpret_cast<const float*>(source(place));
        } else {
          widen(binding.type, count, source(place), converted(i));
          streams[i] = converted(i);
        }
      }
      combine(binding.op, count, {streams, static_cast<std::size_t>(combination.count)},
              combination.out == SumProgram::kResult ? result : temporary(combination.out));
    }
    if (scaled) scale(count, binding.factor, result);
    if (rounds) {
      uint16_t narrow_result[kPieceElements];
      narrow(binding.rounded, count, result, narrow_result);
      widen(binding.rounded, count, narrow_result, result);
    }
    for (const Place& place : sum.destinations) {
      if (type_of(place) == DataType::kF32) {
        const float* const one[] = {result};
        combine(ReduceOp::kSum, count, one, reinterpret_cast<float*>(destination(place)), nullptr,
                store_for(place));
      } else {
        narrow(binding.type, count, result, destination(place));
      }
    }
    if (outputs == 0) (*run.sink)(sum.sources[0].at + begin, count, result);
    if (begin % kSumBlock == 0) transport_.beat();
  }
}

void Executor::copy(const Run& run, const Action& action) {
  const Binding& binding = *run.binding;
  const std::byte* from = readable(binding, action.place);
  std::byte* to = writable(binding, action.to);
  if (from != to) annulus::copy(action.count * size_of(binding.type), from, to);
}

}  // namespace annulus
