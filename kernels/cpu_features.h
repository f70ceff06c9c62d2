// Which instruction sets this machine has, and which of them the loops of our own use.
#pragma once

#include <string>

namespace annulus {

// Those of the CPU's features that matter here, as /proc/cpuinfo spells them: "avx2 fma avx512f avx512_bf16".
// Empty where the file tells none of them.
std::string cpu_features();

// The processor's name as /proc/cpuinfo gives it: "AMD EPYC 9554 64-Core Processor". Empty where it gives
// none.
std::string cpu_name();

// The target that Highway dispatches to on this machine: "AVX3".
std::string dispatched_target();

}  // namespace annulus
