// Thresholds of this machine: from which size of message hierarchical is faster than direct. Measured at
// first use, for a machine with several domains, and kept in a file of the user's. They decide between
// algorithms with the same bits only, so results do not depend on the file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "collectives/communicator.h"
#include "launcher/domains.h"

namespace annulus {

// $XDG_CACHE_HOME/annulus/thresholds.json, else ~/.cache/annulus/thresholds.json; empty where there is
// neither.
std::filesystem::path thresholds_file();

// What thresholds hold for: the CPU's name, cores, nodes and caches, and how many ranks are in how many
// domains.
std::string thresholds_key(const Machine& machine, const DomainPlan& plan, int ranks);

// Those kept under the key; nothing where there are none or the file cannot be understood.
std::optional<Thresholds> read_thresholds(const std::filesystem::path& file, const std::string& key);

// Adds them to the file, or replaces them. Whether that could be done; a run goes on without.
bool write_thresholds(const std::filesystem::path& file, const std::string& key,
                      const Thresholds& thresholds);

// All-reduces of 16 KiB to 4 MiB in place, each by both algorithms in turn; under a second. Throws as
// run_ranks and where memory cannot be had. The domains must fit (why_not_hierarchical).
Thresholds measure_thresholds(const Machine& machine, const Placement& placement, const Domains& domains);

// Those kept, or else, if `may_measure`, those measured now, which are then kept. Nothing where there is no
// choice to make (one domain, domains that do not fit, ranks that take turns on their cores), no memory to
// measure in, or the measurement fails.
std::optional<Thresholds> machine_thresholds(const Machine& machine, const Placement& placement,
                                             const DomainPlan& plan, bool may_measure);

}  // namespace annulus
