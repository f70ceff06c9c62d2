// Sums of gradient streams.
#pragma once

#include <cstdint>

namespace annulus {

// sum[i] = a[i] + b[i] for n elements; sum may be a or b.
void add(int64_t n, const float* a, const float* b, float* sum);

// The same as a plain loop, with the same bits.
void add_reference(int64_t n, const float* a, const float* b, float* sum);

}  // namespace annulus
