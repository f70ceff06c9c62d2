// A network for people and for programs: what `annulus model` prints and model.yaml holds.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/network_spec.h"

namespace annulus {

// The network as YAML that --model takes, and behind it, as comments, a table of its layers with the cost of
// a forward pass over `batch` images.
std::string describe_network(const NetworkSpec& spec, int64_t batch);

// The same table as one JSON object.
std::string network_json(const NetworkSpec& spec, int64_t batch);

}  // namespace annulus
