#include "launcher/heartbeat_watch.h"

#include <fmt/format.h>

namespace annulus {
namespace {

std::string describe(const RankControl& control) {
  const Await what = control.waiting_what.load(std::memory_order_acquire);
  if (what == Await::kNothing) return "computing";
  if (what == Await::kLauncher) return "waiting for the launcher";
  return fmt::format("waiting for {} of rank {} for bucket {}", to_string(what),
                     control.waiting_rank.load(std::memory_order_relaxed),
                     control.waiting_bucket.load(std::memory_order_relaxed));
}

}  // namespace

HeartbeatWatch::HeartbeatWatch(const RankControls& controls, int64_t deadline_ns)
    : controls_(controls), deadline_ns_(deadline_ns), hearts_(controls.all()) {}

void HeartbeatWatch::forked(int rank) {
  for (int index = rank; index < controls_.all(); index += controls_.count) {
    hearts_[index] = {controls_[index].heartbeat.load(std::memory_order_relaxed), 0};
  }
}

std::vector<HeartbeatWatch::Still> HeartbeatWatch::look(int64_t elapsed_ns, const std::vector<bool>& dead) {
  std::vector<Still> found;
  for (int index = 0; index < controls_.all(); ++index) {
    const int rank = index % controls_.count;
    if (dead[rank]) continue;
    const RankControl& control = controls_[index];
    Heart& heart = hearts_[index];
    const uint64_t beats = control.heartbeat.load(std::memory_order_relaxed);
    const bool communicates = index >= controls_.count;
    // A communication thread ends when its rank parks, and begins with the next attempt: nobody hears it
    // then. Its compute thread, which waits for it to end, is watched itself.
    const bool absent =
        communicates &&
        (beats == 0 || controls_[rank].waiting_what.load(std::memory_order_acquire) == Await::kLauncher);
    const int64_t before = heart.still_ns;
    heart.still_ns = beats == heart.beats && !absent ? before + elapsed_ns : 0;
    heart.beats = beats;
    const bool hung = heart.still_ns >= deadline_ns_;
    if (!hung && !(before < kWarnNs && heart.still_ns >= kWarnNs)) continue;
    found.push_back({.rank = rank,
                     .still_ns = heart.still_ns,
                     .hung = hung,
                     .communicates = communicates,
                     .doing = describe(control)});
  }
  return found;
}

}  // namespace annulus
