#include "launcher/model_command.h"

#include <fmt/format.h>

#include <algorithm>

#include "launcher/network_report.h"
#include "runtime/models.h"
#include "runtime/network_cost.h"
#include "runtime/network_yaml.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// --batch multiplies counts of up to 10^15 for each layer.
constexpr double kMostCount = 9e18;

NetworkSpec network_of(const ModelOptions& options) {
  const bool large = has_stem(options.model) && options.stem == "imagenet";
  const ImageShape input = large ? ImageShape{3, 224, 224} : ImageShape{3, 32, 32};
  const int classes = large ? 1000 : 10;
  if (!is_network_file(options.model)) {
    return make_network(options.model, options.input.value_or(input), options.classes.value_or(classes),
                        options.stem);
  }
  const NetworkFile file = read_network(options.model);
  return resolve_network(file, options.input.value_or(file.input.value_or(input)),
                         options.classes.value_or(file.classes.value_or(classes)));
}

}  // namespace

int model_command(const ModelOptions& options) {
  const NetworkSpec spec = network_of(options);
  const NetworkCost total = total_cost(spec);
  if (static_cast<double>(std::max(total.flops, total.activation_bytes)) * options.batch > kMostCount) {
    throw UserError::format("--batch {}: the counts of so many images do not fit into 64 bits; give fewer",
                            options.batch);
  }
  fmt::print("{}", options.json ? network_json(spec, options.batch) : describe_network(spec, options.batch));
  return 0;
}

}  // namespace annulus
