// WireUse: what the bridge of a rank, or those of all ranks of a host, took to exchange gradients with other
// hosts.
#pragma once

#include <cstdint>

namespace annulus {

struct WireUse {
  int64_t bytes = 0;  // sent to other hosts, headers included
  // On the way: bytes by the rate at which the kernel has seen them delivered. Of several connections, of the
  // one that took longest; of several ranks, which send at the same time, the mean.
  int64_t link_ns = 0;
  // That bytes were sent and not acknowledged, with room at the other side; likewise. More than link_ns,
  // since acknowledgements may be late, and in the kernel's ticks (1 to 10 ms), so good in sums only.
  int64_t unacknowledged_ns = 0;
  int64_t cpu_ns = 0;                    // processor time of the bridge's thread
  int64_t encode_ns = 0, decode_ns = 0;  // of that, to make gradients smaller and larger

  WireUse& add(const WireUse& other, int sign = 1) {
    bytes += sign * other.bytes;
    link_ns += sign * other.link_ns;
    unacknowledged_ns += sign * other.unacknowledged_ns;
    cpu_ns += sign * other.cpu_ns;
    encode_ns += sign * other.encode_ns;
    decode_ns += sign * other.decode_ns;
    return *this;
  }
  bool operator==(const WireUse&) const = default;
};

// The share of `whole_bytes`, those that whole gradients would have been, which was not sent; negative where
// more was. 0 where nothing is compressed, which `whole_bytes` of 0 stands for.
inline double wire_saved(int64_t bytes, double whole_bytes) {
  return whole_bytes > 0 ? 1 - static_cast<double>(bytes) / whole_bytes : 0;
}

}  // namespace annulus
