// What a network costs, counted from its description alone.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/network_spec.h"

namespace annulus {

// Of one layer, or of all together.
struct NetworkCost {
  // Numbers that are trained. A batch norm's running statistics are not among them.
  int64_t parameters = 0;
  // Additions and multiplications of forward for one image, so a multiply-add is 2. A sum that starts at the
  // bias needs no addition for it; batch norm is one multiply-add an element, its statistics left out;
  // comparisons (ReLU, max pooling) are free. Backward takes about twice as many.
  int64_t flops = 0;
  // Of the outputs in single precision, for one image. Of all layers together it is what would be needed if
  // nothing shared memory; a run needs less (plan.json says how much).
  int64_t activation_bytes = 0;

  NetworkCost& operator+=(const NetworkCost& other);
  bool operator==(const NetworkCost&) const = default;
};

// One for each layer. Throws what activation_shapes throws, and UserError where a count is beyond 10^15.
std::vector<NetworkCost> layer_costs(const NetworkSpec& spec);
NetworkCost total_cost(const NetworkSpec& spec);

}  // namespace annulus
