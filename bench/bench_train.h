// `annulus bench train`: steps on synthetic data that is already in memory.
#pragma once

#include "kernels/network_spec.h"
#include "launcher/options.h"

namespace annulus {

// Trains for 10 warm-up steps and `steps` measured ones; prints text or one JSON object. Returns the exit
// code. Throws UserError.
int bench_train(const BenchTrainOptions& options, int64_t began_ns);

// What --data-shape stands for.
ImageShape bench_image(const std::string& data_shape, const std::string& model);

}  // namespace annulus
