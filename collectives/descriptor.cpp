#include "collectives/descriptor.h"

#include "telemetry/error.h"

namespace annulus {
namespace {

[[noreturn]] void mismatch(const Descriptor& expected, uint32_t reader, const char* field, uint64_t got,
                           uint64_t wanted) {
  const bool message = expected.phase == Phase::kMessage;
  throw StepError(
      fmt::format("rank {} took from rank {} a descriptor whose {} is {}, where {} was due ({} {}, {} {}, "
                  "attempt {}); {}",
                  reader, expected.source, field, got, wanted, message ? "part" : "bucket", expected.bucket,
                  message ? "call" : "step", expected.step, expected.attempt,
                  message ? "the two ranks make different calls: all must make the same ones, with the same "
                            "counts, types and "
                            "options and buffers at the same places of their heaps, in the same order"
                          : "the two ranks disagree on the protocol: make sure that all run the same build, "
                            "and report this as "
                            "a bug"));
}

}  // namespace

void validate(const Descriptor& got, const Descriptor& expected, uint32_t reader) {
  if (got == expected) [[likely]]
    return;
  const auto compare = [&](const char* field, uint64_t a, uint64_t b) {
    if (a != b) mismatch(expected, reader, field, a, b);
  };
  compare("step", got.step, expected.step);
  compare("attempt", got.attempt, expected.attempt);
  compare("phase", static_cast<uint64_t>(got.phase), static_cast<uint64_t>(expected.phase));
  compare("type", static_cast<uint64_t>(got.type), static_cast<uint64_t>(expected.type));
  compare("source", got.source, expected.source);
  compare("bucket", got.bucket, expected.bucket);
  compare("round", got.round, expected.round);
  compare("slice", got.slice, expected.slice);
  compare("chunk", got.chunk, expected.chunk);
  compare("place", got.place, expected.place);
  compare("length", got.length, expected.length);
  compare("call (operation, type, algorithm, buffers)", got.call, expected.call);
}

}  // namespace annulus
