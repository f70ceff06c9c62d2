// How a kernel's results go to memory.
#pragma once

#include <cstdint>

namespace annulus {

enum class Store : uint8_t {
  kCached,     // ordinary stores
  kStreaming,  // non-temporal: pays where results exceed the caches; needs a fence before they are handed on
};

// How an update writes the new generation. All ranks read the weights, their owner alone the moments, of
// which there may be any number of arrays.
struct UpdateStores {
  Store weights = Store::kCached;
  Store moments = Store::kCached;
};

}  // namespace annulus
