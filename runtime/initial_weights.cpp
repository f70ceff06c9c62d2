#include "runtime/initial_weights.h"

#include <cmath>
#include <vector>

#include "runtime/data_order.h"
#include "telemetry/check.h"

namespace annulus {

void draw_initial_weights(const ParameterPlan& parameter, uint64_t seed, uint32_t stream,
                          std::span<float> blocked) {
  CHECK(static_cast<int64_t>(blocked.size()) == parameter.layout.padded_elements());
  std::fill(blocked.begin(), blocked.end(), 0.0f);
  switch (parameter.role) {
    case ParameterRole::kShift:
    case ParameterRole::kRunningMean:
      return;
    case ParameterRole::kScale:
    case ParameterRole::kRunningVariance:
      std::fill_n(blocked.begin(), parameter.layout.elements(), 1.0f);  // a vector: its padding is behind it
      return;
    case ParameterRole::kWeight:
    case ParameterRole::kBias:
      break;
  }
  const float bound = 1.0f / std::sqrt(static_cast<float>(parameter.fan_in));
  std::vector<float> plain(parameter.layout.elements());
  uniform_units(seed, stream, 0, plain);
  for (float& value : plain) value = (2 * value - 1) * bound;
  from_plain(parameter.layout, plain.data(), blocked.data());
}

}  // namespace annulus
