#include "launcher/placement_report.h"

#include <fstream>

#include "launcher/cpu_list.h"
#include "launcher/residency.h"
#include "runtime/arena.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

// Where the pages of the segment that belong to `rank` lie, seen through this process's own mapping.
PageResidency read_segment_part(const Segment& segment, int rank) {
  PageResidency residency;
  for (const SegmentPlan::Home& home : segment.plan().homes) {
    if (home.rank != rank || home.range.bytes == 0) continue;
    std::byte* address = segment.base() + home.range.offset;
    populate(address, home.range.bytes);  // only pages in this process's page table can be asked for
    residency += read_residency(0, address, home.range.bytes);
  }
  return residency;
}

}  // namespace

int64_t PlacementReport::pages() const {
  int64_t sum = 0;
  for (const Rank& rank : ranks) sum += rank.pages;
  return sum;
}

int64_t PlacementReport::remote() const {
  int64_t sum = 0;
  for (const Rank& rank : ranks) sum += rank.remote;
  return sum;
}

PlacementReport read_placement(const Job& job, const Segment& segment) {
  PlacementReport report;
  for (int rank = 0; rank < segment.ranks(); ++rank) {
    const WorkerPlace& place = job.placement.workers[rank];
    const RankPart& part = segment.rank(rank);
    const pid_t pid = static_cast<pid_t>(part.pid.load(std::memory_order_relaxed));
    const AffinityReading affinity = read_process_cpus(pid);
    PageResidency residency =
        read_residency(pid, reinterpret_cast<const void*>(part.arena_address.load(std::memory_order_relaxed)),
                       part.arena_bytes.load(std::memory_order_relaxed));
    residency += read_segment_part(segment, rank);
    report.ranks.push_back({.cpus = affinity.cpus,
                            .node = place.memory_node,
                            .pages = residency.present(),
                            .remote = residency.remote(place.memory_node)});
    if (affinity.answer.ok() && place.pinned && affinity.cpus != place.cpus) report.misplaced.push_back(rank);
    if (!affinity.answer.ok()) report.refusal = affinity.answer.refusal;
    if (!residency.answer.ok()) report.refusal = residency.answer.refusal;
  }
  return report;
}

std::string describe_ranks(const PlacementReport& report) {
  std::string text;
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const PlacementReport::Rank& place = report.ranks[rank];
    text += fmt::format("rank {}: CPU{} {}, NUMA node {}, {} pages, {} remote\n", rank,
                        place.cpus.size() == 1 ? "" : "s", format_cpu_list(place.cpus),
                        place.node < 0 ? "any" : std::to_string(place.node), place.pages, place.remote);
  }
  return text;
}

std::string describe_placement(const PlacementReport& report) {
  if (report.ranks.empty()) return "not read back: the run ended before its first step";
  if (!report.refusal.empty()) return "cannot be read back: " + report.refusal;
  const std::size_t count = report.ranks.size();
  const std::string workers =
      report.misplaced.empty()
          ? fmt::format("{} on the planned CPUs",
                        count == 1 ? "the worker is" : fmt::format("all {} workers are", count))
          : fmt::format("{} of {} workers may run on other CPUs than planned", report.misplaced.size(),
                        count);
  return fmt::format("{}; {} of {} pages are remote", workers, with_thousands(report.remote()),
                     with_thousands(report.pages()));
}

int64_t read_pss(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/smaps_rollup", process));
  std::string word;
  while (file >> word) {
    int64_t kib = 0;
    if (word == "Pss:" && file >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace annulus
