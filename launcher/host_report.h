// What a host says of itself before a run on several hosts starts.
#pragma once

#include <cstdint>
#include <vector>

#include "launcher/host_message.h"
#include "launcher/job.h"
#include "launcher/run_hosts.h"

namespace annulus {

// All that decides bits, or makes hosts wait for each other for ever where it differs: the program, the
// hosts, the processor as far as kernels go by it, the data, the configuration without what says only where.
std::vector<std::pair<std::string, std::string>> host_facts(const Job& job, const RunHosts& hosts);

// Equal facts have equal hashes.
uint64_t hash_of(const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace annulus
