// The checksum by which runs are compared.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/network_plan.h"
#include "runtime/buckets.h"

namespace annulus {

// xxh64 (seed 0) over all parameters in the plan's order, each as little-endian floats in plain (OIHW)
// layout: it does not depend on blocked layouts, buckets or ranks. `weights`: the base of one generation.
uint64_t weights_checksum(const NetworkPlan& plan, const BucketPlan& buckets, const float* weights);

// xxh64 (seed 0) of `count` floats as they lie.
uint64_t checksum(const float* values, int64_t count);

// "xxh64=0123456789abcdef"
std::string format_checksum(uint64_t checksum);

}  // namespace annulus
