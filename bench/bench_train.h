// `annulus bench train`: steps on synthetic data that is already in memory.
#pragma once

#include <string>

#include "kernels/network_spec.h"
#include "launcher/job.h"
#include "launcher/options.h"

namespace annulus {

// Trains for 10 warm-up steps and `steps` measured ones; prints text or one JSON object. Returns the exit
// code. Throws UserError.
int bench_train(const BenchTrainOptions& options, int64_t began_ns);

// A run of `steps` steps as these options describe it. Throws UserError.
Job plan_bench_run(const BenchTrainOptions& options, const Machine& machine, int64_t steps);

// What stands above the figures, as text: version, run (`length` says how long), notes and warnings.
void print_bench_header(const Job& job, int64_t batch_per_worker, const std::string& length);

// What --data-shape stands for.
ImageShape bench_image(const std::string& data_shape, const std::string& model);

}  // namespace annulus
