// What one core can do at most: the ceilings of a roofline.
#pragma once

namespace annulus {

// fp32 GFLOP/s of the calling thread: fused multiply-adds on registers, a multiply-add counting 2. The best
// of several short runs.
double fma_peak_gflops();

// GB/s that the calling thread reads and writes together when it copies arrays far larger than the caches.
double memory_gbps();

}  // namespace annulus
