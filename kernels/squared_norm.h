// The square of the L2 norm, in an order that depends on places alone.
#pragma once

#include <cstdint>

namespace annulus {

// The sum of x[i] * x[i] in double, where each square is exact: sixteen sums of every sixteenth element each,
// which are then added in pairs. The same bits from every instruction set. n is a multiple of 64; x is on a
// 64-byte boundary.
double squared_norm(int64_t n, const float* x);

// The same as a plain loop, with the same bits.
double squared_norm_reference(int64_t n, const float* x);

}  // namespace annulus
