// How a kernel's results go to memory.
#pragma once

#include <cstdint>

namespace annulus {

enum class Store : uint8_t {
  kCached,     // ordinary stores
  kStreaming,  // non-temporal: pays where results exceed the caches; needs a fence before they are handed on
};

}  // namespace annulus
